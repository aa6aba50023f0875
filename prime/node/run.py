"""One node from its configuration: identity, transport, control socket, supervision tree, signals.

The tree: `/node` (status), `/state` (the donor of committed state, which outlives a failing trainer) and `/train`
(aggregator and trainer, one_for_all: the two share what a round needs, so they restart together).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from prime.actor import Mailbox, Restart, System
from prime.actor.groups import one_error
from prime.config import Config, Places, derive, places
from prime.errors import ConfigError, UnreachableError, WorldError
from prime.node.control import ControlInbound
from prime.node.describe import describe_node
from prime.node.system import open_system
from prime.observe.log import FactLog
from prime.observe.messages import NodeStatus
from prime.observe.status import StatusActor
from prime.transport.contract import Transport
from prime.transport.identity import KeyPair
from prime.transport.link import LinkLimits
from prime.transport.links import Links
from prime.transport.unix import Unix
from prime.version import __version__

if TYPE_CHECKING:
    from prime.trainer.progress import Progress
    from prime.trainer.state import OuterState

JOIN_RETRY_S = 0.5
_BUSY = Mailbox(4096)
"""An aggregator hears chunks, votes and the trainer; link credit bounds the far ones, this bounds the sum."""


def transport_of(config: Config) -> Transport:
    """Return the transport that the configuration names; `auto` is libp2p where it is installed, else TLS over TCP."""
    kind, listen, dial_s = config.transport.kind, config.transport.listen, derive(config).dial_deadline_s
    if kind == "auto":
        kind = best_transport()
    if kind == "libp2p":
        from prime.transport.libp2p import Libp2p

        return Libp2p(listen, dial_timeout_s=dial_s)
    from prime.transport.tcp import Tcp

    return Tcp(listen, dial_timeout_s=dial_s)


def best_transport() -> str:
    """Return the name of the best transport that is installed."""
    return "libp2p" if importlib.util.find_spec("libp2p") is not None else "tcp"


async def run_node(
    config: Config,
    environ: Mapping[str, str],
    *,
    on_ready: Callable[[NodeStatus], None],
    parent_eof: bool = False,
) -> int:
    """Run one node until it is told to stop; returns the exit status (0, or 130 / 143 after a signal).

    `on_ready` is called once it listens. With `parent_eof` the node also ends when its standard input closes: for a
    program that starts nodes and must leave none behind. Raises `ConfigError`, `AddressInUseError`,
    `UnreachableError`, `WrongPeerError` and what the actors' supervisors give up with.
    """
    found = places(config.node, environ)
    with _sole_owner(found):
        key = KeyPair.load_or_create(found.key_file)
        async with open_system(
            transport=transport_of(config), key=key, limits=_limits(config), version=__version__
        ) as system:
            system.subscribe(FactLog())
            return await _Node(config, found, system).run(on_ready, parent_eof=parent_eof)


class _Node:
    """What one run of a node holds together."""

    def __init__(self, config: Config, found: Places, system: System) -> None:
        self._config = config
        self._places = found
        self._system = system
        self._started_at = trio.current_time()
        self._progress: Progress | None = None
        self._aggregator: Any = None
        self._trainer: Any = None
        self._stop = trio.Event()
        self._left = trio.Event()
        self._exit = 0

    async def run(self, on_ready: Callable[[NodeStatus], None], *, parent_eof: bool) -> int:
        async with one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(self._signals)
            if parent_eof:
                nursery.start_soon(self._until_parent_is_gone)
            async with self._serving_control(nursery), self._system.supervisor("node") as sup:
                await sup.spawn(lambda: StatusActor(self.describe, self._stop.set), "status")
                on_ready(self.describe(-1))
                await self._train()
            nursery.cancel_scope.cancel()
        return self._exit

    def describe(self, rounds_after: int) -> NodeStatus:
        """Return the node's status now."""
        return describe_node(
            self._system,
            name=self._config.node.name,
            uptime_s=trio.current_time() - self._started_at,
            progress=self._progress,
            round_=self._aggregator_now,
            rounds_after=rounds_after,
        )

    # ------------------------------------------------------------------------------------------------ the tree

    async def _train(self) -> None:
        """Join or found the run and train until told to stop."""
        with trio.CancelScope() as joining:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on, self._stop, joining)
                contacts = await self._contacts()
                nursery.cancel_scope.cancel()
        if self._stop.is_set():
            return
        async with self._system.supervisor("state") as states:
            from prime.trainer.donor import Donor

            donor = await states.spawn(Donor, "donor")
            async with self._system.supervisor(
                "train", strategy="one_for_all", restart=Restart(max=3, within=120, backoff=(0.5, 10))
            ) as sup:
                await self._spawn_trainer(sup, donor, contacts)
                await self._stop.wait()
                await self._drain()

    async def _spawn_trainer(self, sup: Any, donor: Any, contacts: tuple[str, ...]) -> None:
        from prime.node.training import member_of, swarm_plan, training_config
        from prime.store.journal import FileJournal
        from prime.trainer.aggregator import Aggregator
        from prime.trainer.progress import Progress
        from prime.trainer.trainer import Trainer

        config = training_config(self._config)
        journal = await FileJournal.open(self._places.state / "rounds.journal")
        founder = not contacts and not journal.records()
        plan = swarm_plan(self._config, member_of(self._system, secrets.randbits(48) + 1), contacts)
        kept = _KeptState()
        progress = self._progress = Progress(config.rounds, config.inner_steps)
        # The trainer hears through its path: its ref does not exist yet when the aggregator starts.
        report = _Reporter(self._system)

        def aggregator() -> Aggregator:
            self._aggregator_now = made = Aggregator(plan, journal, report)
            return made

        self._aggregator = await sup.spawn(aggregator, "aggregator", mailbox=_BUSY)
        self._trainer = await sup.spawn(
            lambda: Trainer(
                config,
                plan.run,
                self._aggregator,
                donor,
                progress,
                founder=founder,
                held=kept.get,
                keep=kept.set,
                on_left=self._left.set,
            ),
            "trainer",
        )

    _aggregator_now: Any = None

    async def _contacts(self) -> tuple[str, ...]:
        """Dial every address to join; return who answered. At least one must, within the deadline."""
        wanted = self._config.transport.join
        if not wanted:
            return ()
        assert self._system.network is not None  # noqa: S101 - a node always has a network
        deadline, told = trio.current_time() + self._config.transport.deadline_s, False
        while True:
            found, errors = [], []
            for address in wanted:
                try:
                    found.append(await self._system.network.dial(address))
                except WorldError as error:
                    errors.append(error)
            if found:
                return tuple(dict.fromkeys(found))
            if not all(isinstance(error, UnreachableError) for error in errors) or trio.current_time() > deadline:
                raise errors[0]
            if not told:
                _say(f"{errors[0]}; trying again for up to {self._config.transport.deadline_s:g} s")
                told = True
            await trio.sleep(JOIN_RETRY_S)

    async def _drain(self) -> None:
        """Finish the round in hand and leave the view, as far as that can be had in a round's deadline."""
        from prime.trainer.trainer import Drain

        await self._trainer.tell(Drain())
        with trio.move_on_after(self._config.train.round_deadline_s):
            await self._left.wait()

    # --------------------------------------------------------------------------------------------- the outside

    @contextlib.asynccontextmanager
    async def _serving_control(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        links = Links(Unix(self._places.control_socket), KeyPair.generate(), emit=lambda _: None)
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
                _say("stopping: the round in hand is finished first; Ctrl-C again stops at once")
                self._stop.set()

    async def _until_parent_is_gone(self) -> None:
        """End at once when standard input closes: whoever started this node is gone."""
        with contextlib.closing(os.fdopen(os.dup(0), "rb", buffering=0)) as source:
            while await trio.to_thread.run_sync(source.read, 1, abandon_on_cancel=True):
                pass
        _say("the program that started this node is gone: ending")
        raise KeyboardInterrupt


class _Reporter:
    """Hands the aggregator's outcomes to whatever trainer lives now."""

    def __init__(self, system: System) -> None:
        self._system = system

    def __call__(self, outcome: Any) -> None:
        ref = self._system.whereis("/train/trainer")
        if ref is not None:
            ref.tell_nowait(outcome)


@attrs.define
class _KeptState:
    """The last committed state, kept beside the actors so that a restarted trainer goes on from it."""

    state: OuterState | None = None

    def get(self) -> OuterState | None:
        return self.state

    def set(self, state: OuterState) -> None:
        self.state = state


async def _serve(
    links: Links, inbound: ControlInbound, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    with scope:
        await links.serve(inbound, task_status=task_status)


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _limits(config: Config) -> LinkLimits:
    link, waits = config.transport, derive(config)
    return LinkLimits(
        heartbeat_interval_s=link.ping_interval_s,
        heartbeat_timeout_s=link.dead_after_s,
        dial_s=waits.dial_deadline_s,
        greeting_s=waits.hello_deadline_s,
    )


@contextlib.contextmanager
def _sole_owner(found: Places) -> Iterator[None]:
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
            raise ConfigError(
                f"another process runs the node in {found.state}",
                hint="stop it with `prime node stop`, or give this one another node.name",
            ) from error
        yield
    finally:
        os.close(handle)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a person at a terminal waits for it
