"""`open_system`: one call that wires a runtime, an identity and a transport together.

It imports no domain room, so a program that only wants actors pays for actors.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from prime.actor.groups import one_error
from prime.actor.restart import Restart
from prime.actor.system import System
from prime.errors import ActorUsageError
from prime.transport.choice import transport_named
from prime.transport.contract import require_trio
from prime.transport.identity import KeyPair
from prime.transport.links import LinkLimits, Links
from prime.transport.signing import KeySignatory

if TYPE_CHECKING:
    from prime.actor.contract import ProcessOptions, Tracer
    from prime.transport.admission import Admission
    from prime.transport.contract import Transport
    from prime.transport.relay.limits import RelayLimits


@contextlib.asynccontextmanager
async def open_system(
    *,
    transport: Transport | str | None = None,
    key: KeyPair | Path | str | None = None,
    limits: LinkLimits | None = None,
    version: str = "",
    seed: int | None = None,
    tracer: Tracer | None = None,
    statistics: bool = True,
    relay: RelayLimits | None = None,
    via: Sequence[str] = (),
    reachability: bool = False,
    admission: Admission | None = None,
    punch: bool = True,
) -> AsyncIterator[System]:
    """Open a system of actors, reachable from other machines if it has a transport.

    `transport` is one of `Memory`, `Unix`, `Tcp`, `Libp2p` or a package's own, or the name of one (`"tcp"`), which then
    listens where it chooses. `key` is this node's identity: a `KeyPair`, the path of
    its key file (made, mode 0600, if it is not there), or nothing for a fresh identity that ends with the system.
    `limits` bounds each link, `version` is told to peers, `seed` fixes the runtime's randomness (the jitter of
    restarts, and the secret behind narrowed refs: leave it out where strangers may guess). `tracer` follows messages,
    `statistics=False` leaves out the times that introspection shows. `admission` says which peers may link, and how much
    each may use; it can be changed while the system runs. With `relay` the node carries circuits for others,
    within these limits; `via` are addresses of nodes that do so for this one; with `reachability` it finds out whether
    others can dial it, and dials back those who ask; with `punch` it
    leaves a relay where a direct connection can be had. Leaving the block stops everything in order.

    Raises `WrongBackendError` outside Trio, `ConfigError` (key file, name of the transport), `AddressInUseError`, `MissingExtraError`.
    """
    require_trio()
    random = None if seed is None else Random(seed)  # noqa: S311 - repeatable on purpose
    secret = secrets.token_bytes(32) if random is None else random.randbytes(32)
    identity = _key(key)
    signatory = KeySignatory(identity)
    system = System(random=random, secret=secret, tracer=tracer, statistics=statistics, signatory=signatory)
    system.process_host = _LazyProcesses(system, identity)
    links = None
    if transport is not None:
        chosen = transport_named(transport) if isinstance(transport, str) else transport
        links = system.network = Links(
            chosen,
            identity,
            limits=limits,
            emit=system.emit,
            version=version,
            tracer=tracer,
            signatory=signatory,
            admission=admission,
            punch=punch,
        )
    async with serving(system), _reached(system, links, relay, tuple(via), reachability):
        yield system


@contextlib.asynccontextmanager
async def _reached(
    system: System,
    links: Links | None,
    limits: RelayLimits | None,
    via: tuple[str, ...],
    reachability: bool,  # noqa: FBT001 - as in `open_system`
) -> AsyncIterator[None]:
    """Run the actors that see to it that others reach this node, and that it helps others to be reached."""
    if limits is None and not via and not reachability:
        yield
        return
    if links is None:
        raise ActorUsageError(
            "a system without a transport relays nothing, and nobody reaches it",
            hint="open_system(transport=prime.Tcp(...), relay=...)",
        )
    from prime.transport.dialback import ReachabilityActor
    from prime.transport.relay.actors import CircuitsActor, RelayActor

    async with system.supervisor("net", restart=Restart(max=10, within=60)) as sup:
        if limits is not None:
            await sup.spawn(functools.partial(RelayActor, links, limits), "relay")
        if via:
            await sup.spawn(functools.partial(CircuitsActor, links, via), "circuits")
        if reachability:
            await sup.spawn(functools.partial(ReachabilityActor, links), "reachability")
        yield


@contextlib.asynccontextmanager
async def serving(system: System) -> AsyncIterator[None]:
    """Run a system that was put together elsewhere, for the length of the block."""
    async with one_error(), trio.open_nursery() as nursery:
        await nursery.start(system.serve)
        try:
            yield
        finally:
            system.end()
            nursery.cancel_scope.cancel()


class _LazyProcesses:
    """The process host, imported when the first process actor is spawned."""

    def __init__(self, system: System, key: KeyPair) -> None:
        self._system = system
        self._key = key

    def factory(self, actor: str | Callable[..., Any], options: ProcessOptions) -> Callable[[], Any]:
        """See `ProcessHost.factory`."""
        from prime.process.host import Processes

        host = self._system.process_host = Processes(self._system, self._key)
        return host.factory(actor, options)


def _key(key: KeyPair | Path | str | None) -> KeyPair:
    if key is None:
        return KeyPair.generate()
    return key if isinstance(key, KeyPair) else KeyPair.load_or_create(key)
