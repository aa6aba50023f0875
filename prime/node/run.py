"""One node from its configuration: identity, transport, control socket, supervision tree, signals.

The tree: `/node` (status, runs, link, dht, models), `/dht` and `/blobs` where it is in the DHT, and while it takes part in a run what
`open_trainer` adds: `/state` (the donor of committed state) and `/train`. A node of the role dht alone takes part in none.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import attrs
import trio

from prime.actor import System
from prime.actor.groups import one_error
from prime.config import Config, Places, derive, places
from prime.errors import ConfigError, MissingExtraError
from prime.node.control import CONTROL_LIMITS, ControlInbound
from prime.node.describe import describe_node
from prime.node.dht import open_node_dht
from prime.node.link import LinkActor
from prime.node.models import Models, ModelsActor, open_models
from prime.node.neighbourhood import Neighbourhood, open_neighbourhood
from prime.node.orders import DhtActor
from prime.node.runs import RunsActor
from prime.node.system import open_system
from prime.node.waiting import cancel_on
from prime.observe.log import FactLog
from prime.observe.messages import NodeStatus
from prime.observe.status import StatusActor
from prime.transport.admission import Admission, AdmissionLimits
from prime.transport.choice import transport_named
from prime.transport.contract import Transport
from prime.transport.frames import Allowance
from prime.transport.identity import KeyPair
from prime.transport.link import LinkLimits
from prime.transport.links import Links
from prime.transport.reachability import Reachability
from prime.transport.relay.limits import RelayLimits
from prime.transport.unix import Unix
from prime.transport.upnp import Mapped
from prime.version import __version__

if TYPE_CHECKING:
    from prime.dht.dht import Dht
    from prime.node.hosting import RunHost

REACHABLE_POLL_S: Final = 0.05


def transport_of(config: Config, found: Places) -> Transport:
    """Return the transport that the configuration names; `auto` is libp2p where it is installed, else TLS over TCP.

    Without an address to listen on, `unix` has its socket in the node's state folder, others choose for themselves.
    Raises `ConfigError` for a name that nothing installed offers.
    """
    kind, listen = config.transport.kind, config.transport.listen
    if kind == "auto":
        kind = best_transport()
    if kind == "unix" and not listen:
        listen = f"/unix{found.state.absolute()}/peers.sock"
    transport = transport_named(kind, listen, dial_timeout_s=derive(config).dial_deadline_s)
    if config.transport.via_libp2p:
        transport = _relayed(transport, config.transport.via_libp2p)
    return Mapped(transport, on_change=_say) if config.transport.upnp else transport


def _relayed(transport: Transport, relays: tuple[str, ...]) -> Transport:
    from prime.transport.libp2p import Libp2p

    if isinstance(transport, Libp2p):
        return attrs.evolve(transport, via=relays)
    raise ConfigError(
        f"transport.via_libp2p is of use to libp2p only, not to {transport.name}.",
        hint="Set transport.kind to libp2p, or use transport.via: Prime's own relays, over any transport.",
    )


def best_transport() -> str:
    """Return the name of the best transport that is installed."""
    return "libp2p" if importlib.util.find_spec("libp2p") is not None else "tcp"


async def run_node(
    config: Config,
    environ: Mapping[str, str],
    *,
    on_ready: Callable[[NodeStatus], None],
    parent_eof: bool = False,
    own_run: bool = True,
) -> int:
    """Run one node until it is told to stop; returns the exit status (0, or 130 / 143 after a signal).

    `on_ready` is called once it listens. With `parent_eof` the node also ends when its standard input closes: for a
    program that starts nodes and must leave none behind. With `own_run` the node founds or joins the run of its [train]
    section; without, it waits for runs that are submitted. Raises `ConfigError`, `AddressInUseError`,
    `UnreachableError`, `WrongPeerError` and what the actors' supervisors give up with.
    """
    if "trainer" in config.node.roles:
        _check_extras()
    found = places(config.node, environ)
    with sole_owner(found):
        key = KeyPair.load_or_create(found.key_file)
        async with open_system(
            transport=transport_of(config, found),
            key=key,
            limits=_limits(config),
            version=__version__,
            relay=RelayLimits() if config.transport.relay else None,
            via=config.transport.via,
            reachability=True,
            admission=admission_of(config),
        ) as system:
            system.subscribe(FactLog())
            return await _Node(config, found, system, key, own_run=own_run).run(on_ready, parent_eof=parent_eof)


def _check_extras() -> None:
    """Refuse before anything listens: a node without the trainer's packages could only fail later."""
    missing = [name for name in ("numpy", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"a node needs {' and '.join(missing)}", hint="pip install 'prime-actors[train]'")


class _Node:
    """What one run of a node holds together."""

    def __init__(self, config: Config, found: Places, system: System, key: KeyPair, *, own_run: bool) -> None:
        self._config = config
        self._places = found
        self._system = system
        self._key = key
        self._own_run = own_run
        self._started_at = trio.current_time()
        self._stop = trio.Event()
        self._host = self._new_host() if "trainer" in config.node.roles else None
        self._dht: Dht | None = None
        self._exit = 0

    def _new_host(self) -> RunHost:
        from prime.node.hosting import RunHost

        return RunHost(self._system, self._config, self._places, _say, self._stop)

    async def run(self, on_ready: Callable[[NodeStatus], None], *, parent_eof: bool) -> int:
        async with one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(self._signals)
            if parent_eof:
                nursery.start_soon(self._until_parent_is_gone)
            async with self._serving_control(nursery), self._system.supervisor("node") as sup:
                await sup.spawn(lambda: StatusActor(self.describe, self._stop.set), "status")
                if (host := self._host) is not None:
                    await sup.spawn(lambda: RunsActor(host), "runs")
                await sup.spawn(LinkActor, "link")
                async with self._in_dht() as self._dht, self._with_models() as models:
                    await sup.spawn(lambda: DhtActor(self._dht), "dht")
                    await sup.spawn(lambda: ModelsActor(models), "models")
                    on_ready(self.describe(-1))
                    await self._serve()
            nursery.cancel_scope.cancel()
        return self._exit

    def describe(self, rounds_after: int) -> NodeStatus:
        """Return the node's status now."""
        return describe_node(
            self._system,
            name=self._config.node.name,
            uptime_s=trio.current_time() - self._started_at,
            training=self._host.training if self._host is not None else None,
            rounds_after=rounds_after,
            dht=self._dht,
        )

    # ------------------------------------------------------------------------------------------------ the tree

    async def _until_reachable(self) -> None:
        """Give relays a moment to keep a slot: the run hears this node's addresses once, when it joins."""
        links = self._system.network
        if not self._config.transport.via or not isinstance(links, Links):
            return
        with trio.move_on_after(derive(self._config).dial_deadline_s):
            # A poll, as three actors may end it, and for seconds at most.
            while not (self._stop.is_set() or links.announced("circuits") or _is_public(links)):  # noqa: ASYNC110
                await trio.sleep(REACHABLE_POLL_S)
            return
        _say("no relay keeps a slot yet: nodes that cannot be dialled either will not reach this one")

    @contextlib.asynccontextmanager
    async def _in_dht(self) -> AsyncIterator[Dht | None]:
        if not self._config.dht.enabled:
            yield None
            return
        async with open_node_dht(self._system, self._key, self._config, self._places) as dht:
            yield dht

    @contextlib.asynccontextmanager
    async def _with_models(self) -> AsyncIterator[Models | None]:
        if self._dht is None:
            yield None
            return
        said = self._config.dht
        bytes_per_s = said.blob_bytes_per_s or math.inf
        async with open_models(
            self._system, self._dht, self._places.state, size_bytes_max=said.blob_bytes_max, bytes_per_s=bytes_per_s
        ) as models:
            yield models

    async def _serve(self) -> None:
        """Find others, and do until told to stop what this node's roles are: take part in runs, or serve the DHT alone."""
        async with one_error(), self._neighbourhood() as neighbours, trio.open_nursery() as nursery:
            contacts = await self._find_contacts(neighbours) if self._host is not None else ()
            await self._until_reachable()
            if not self._stop.is_set():
                if neighbours is not None:
                    await neighbours.announce(member=True)
                    nursery.start_soon(neighbours.listen)
                await self._serve_roles(contacts)
            nursery.cancel_scope.cancel()

    async def _serve_roles(self, contacts: tuple[str, ...]) -> None:
        if self._host is None:
            await self._stop.wait()
        else:
            await self._host.serve(own=self._own_run, contacts=contacts, dht=self._dht)

    def _neighbourhood(self) -> contextlib.AbstractAsyncContextManager[Neighbourhood | None]:
        if not self._config.transport.mdns:
            return contextlib.nullcontext()
        dht = self._dht
        return open_neighbourhood(self._system, self._config, (lambda _: None) if dht is None else dht.begin_with)

    async def _find_contacts(self, neighbours: Neighbourhood | None) -> tuple[str, ...]:
        """Return who may let this node into the run; nobody if it shall found it, or is told to stop meanwhile."""
        from prime.node.contacts import Contacts, find_contacts

        link, contacts = self._config.transport, Contacts()
        with trio.CancelScope() as joining:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_on, self._stop, joining)
                known = link.join
                if neighbours is not None and not known:
                    known = await neighbours.look(_say)
                contacts = await find_contacts(self._system, known, link.deadline_s, _say)
                nursery.cancel_scope.cancel()
        return (*contacts.peers, *contacts.silent)

    # --------------------------------------------------------------------------------------------- the outside

    @contextlib.asynccontextmanager
    async def _serving_control(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        links = Links(Unix(self._places.control_socket), KeyPair.generate(), limits=CONTROL_LIMITS, emit=lambda _: None)
        scope = trio.CancelScope()
        await nursery.start(_serve, links, ControlInbound(self._system), scope)
        try:
            yield
        finally:
            scope.cancel()

    async def _signals(self) -> None:
        """Stop in order on the first signal, at once on the second."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                if self._stop.is_set():
                    raise KeyboardInterrupt
                self._exit = 128 + number
                first = "the round in hand is finished first; " if self._host is not None else ""
                _say(f"stopping: {first}Ctrl-C again stops at once")
                self._stop.set()

    async def _until_parent_is_gone(self) -> None:
        """End at once when standard input closes: whoever started this node is gone."""
        with contextlib.closing(os.fdopen(os.dup(0), "rb", buffering=0)) as source:
            while await trio.to_thread.run_sync(source.read, 1, abandon_on_cancel=True):
                pass
        _say("the program that started this node is gone: ending")
        raise KeyboardInterrupt


def _is_public(links: Links) -> bool:
    return links.reachability is not None and links.reachability.outcome is Reachability.PUBLIC


async def _serve(
    links: Links, inbound: ControlInbound, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    with scope:
        await links.serve(inbound, task_status=task_status)


def admission_of(config: Config) -> Admission:
    """Return who may link with the node, and how fast each may send."""
    said = config.admission
    limits = AdmissionLimits(
        messages_per_s=said.messages_per_s or math.inf,
        bytes_per_s=said.bytes_per_s or math.inf,
        source_connects_per_s=said.connects_per_s,
    )
    return Admission(allow=said.allow, deny=said.deny, limits=limits)


def _limits(config: Config) -> LinkLimits:
    link, waits, said = config.transport, derive(config), config.admission
    allowance = Allowance()
    return LinkLimits(
        allowance=attrs.evolve(
            allowance,
            link_bytes=said.memory_bytes_max,
            frame_bytes_max=min(allowance.frame_bytes_max, said.memory_bytes_max // 2),
            targets_max=said.targets_max,
        ),
        links_max=said.links_max,
        heartbeat_interval_s=link.ping_interval_s,
        heartbeat_timeout_s=link.dead_after_s,
        dial_s=waits.dial_deadline_s,
        greeting_s=waits.hello_deadline_s,
    )


@contextlib.contextmanager
def sole_owner(found: Places) -> Iterator[None]:
    """Hold the lock on a node's state folder: two processes of one node would speak in one name."""
    try:
        found.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(found.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{found.state}: cannot be used as the node's state folder ({error.strerror})",
            hint="set node.state_dir to a folder that you may write to",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            raise ConfigError(
                f"another process{f' ({holder})' if holder else ''} runs the node in {found.state}, and holds its lock",
                hint="stop it with `prime node stop`, or give this one another node.name",
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a person at a terminal waits for it
