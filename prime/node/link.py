"""Measuring a link: time there and back, and goodput each way, through a node's own transport, in bounded time and bytes.

Every node has the actor `/node/link`, which answers others within an allowance, and measures its own links when its user
asks. `measure` is what asks, from a node or from an endpoint that a command opens.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from prime.actor import Actor, System, on
from prime.actor.contract import PeerId
from prime.errors import PrimeError, RefusedError, WorldError
from prime.node.links import links_of
from prime.observe.messages import LINK_PATH, Bulk, GiveBulk, LinkMeasured, MeasureLinks, Ping, TakeBulk

PIECE_BYTES: Final = 256 << 10
"""Bytes of one message: about a chunk of a round in 8 bits."""
WINDOW: Final = 8
"""Messages that are under way at once: more than the credit of one mailbox lets through, so that it is never idle."""
PINGS: Final = 10
PING_S: Final = 5.0
ALLOWED_BYTES: Final = 512 << 20
"""Bytes that one peer may have measured within `ALLOWED_S`, both ways together."""
ALLOWED_S: Final = 600.0
PEERS_MAX: Final = 256
SECONDS_MAX: Final = 60.0


@attrs.define
class Allowance:
    """What measuring may cost this node: so many bytes of each peer in a while, and of so many peers (pure)."""

    used: dict[str, tuple[float, int]] = attrs.Factory(dict)

    def refusal(self, peer: str, size_bytes: int, now: float) -> str:
        """Count bytes of a peer at a time (monotonic seconds); say why they are too many, or nothing."""
        if not 0 <= size_bytes <= PIECE_BYTES:
            return f"a piece has at most {PIECE_BYTES} bytes"
        self.used = {each: (since, used) for each, (since, used) in self.used.items() if now - since < ALLOWED_S}
        if peer not in self.used and len(self.used) >= PEERS_MAX:
            return f"{PEERS_MAX} peers have measured lately"
        since, used = self.used.get(peer, (now, 0))
        if used + size_bytes > ALLOWED_BYTES:
            return f"{ALLOWED_BYTES >> 20} MiB were measured within {ALLOWED_S / 60:.0f} minutes"
        self.used[peer] = (since, used + size_bytes)
        return ""


class LinkActor(Actor[Ping | TakeBulk | GiveBulk | MeasureLinks]):
    """At `/node/link`: lets others measure their link to this node, and measures its own."""

    def __init__(self) -> None:
        self._allowance = Allowance()
        self._busy = False

    @on(Ping)
    def ping(self, _: Ping) -> None:
        """Answer at once."""

    @on(TakeBulk)
    def take_bulk(self, m: TakeBulk) -> None:
        """Forget what came."""
        self._charge(len(m.data))

    @on(GiveBulk)
    def give_bulk(self, m: GiveBulk) -> Bulk:
        """Answer with as many bytes."""
        self._charge(m.size_bytes)
        return Bulk(memoryview(bytes(m.size_bytes)))

    @on(MeasureLinks)
    def measure_links(self, m: MeasureLinks) -> Any:  # its answer comes later
        """Measure this node's own links beside the mailbox, so that others are answered meanwhile."""
        if self.ctx.sender not in (None, self.ctx.system.peer):
            raise RefusedError("a node measures only for its own user", hint="run the command on its machine")
        if self._busy:
            raise RefusedError("this node is measuring already", hint="ask again in a moment")
        self._busy = True
        later = self.ctx.defer()

        async def work() -> None:
            try:
                later.reply(await measure_all(self.ctx.system, m.peers, m.seconds, m.bytes_max))
            finally:
                self._busy = False

        self.ctx.start_soon(work)

    def _charge(self, size_bytes: int) -> None:
        refusal = self._allowance.refusal(str(self.ctx.sender), size_bytes, self.ctx.now())
        if refusal:
            raise RefusedError(f"no more is measured with this peer now: {refusal}", hint="try again later")


async def measure_all(
    system: System, peers: tuple[str, ...], seconds: float, bytes_max: int
) -> tuple[LinkMeasured, ...]:
    """Measure the links to these peers, or all there are, one after the other: together they would share one way."""
    links = links_of(system)
    chosen = peers or (links.peers if links is not None else ())
    return tuple([await measure(system, peer, seconds, bytes_max) for peer in chosen])


async def measure(system: System, peer: str, seconds: float, bytes_max: int) -> LinkMeasured:
    """Measure the link to a peer for `seconds` each way, with at most `bytes_max` each way. What fails is its `error`."""
    links = links_of(system)
    carrier = links.carrier(PeerId(peer)) if links is not None else None
    found = LinkMeasured(
        peer=peer,
        address="",
        transport=links.transport_name if links is not None else "",
        relayed=carrier is not None and carrier.relayed,
        rtt_min_s=0.0, rtt_s=0.0, pings=0, lost=0, up_bytes_s=0.0, down_bytes_s=0.0, up_bytes=0, down_bytes=0,
    )  # fmt: skip
    ref = system.ref(peer, LINK_PATH, LinkActor)
    piece = memoryview(bytes(PIECE_BYTES))
    try:
        times, lost = await _pings(lambda: ref.ask(Ping(), timeout=PING_S))
        found = attrs.evolve(  # type: ignore[misc]  # a @record is an attrs class
            found, rtt_min_s=min(times, default=0.0), rtt_s=statistics.median(times or [0.0]), pings=PINGS, lost=lost
        )
        limit_s = min(seconds, SECONDS_MAX)
        up = await _goodput(lambda: ref.ask(TakeBulk(piece), timeout=limit_s + PING_S), limit_s, bytes_max)
        found = attrs.evolve(found, up_bytes_s=up[0], up_bytes=up[1])  # type: ignore[misc]  # as above
        down = await _goodput(lambda: ref.ask(GiveBulk(PIECE_BYTES), timeout=limit_s + PING_S), limit_s, bytes_max)
        return attrs.evolve(found, down_bytes_s=down[0], down_bytes=down[1])  # type: ignore[misc]  # as above
    except PrimeError as error:
        return attrs.evolve(found, error=str(error))  # type: ignore[misc]  # as above


async def _pings(ask: Callable[[], Awaitable[object]]) -> tuple[list[float], int]:
    times, lost = [], 0
    await ask()  # the first one may have to dial
    for _ in range(PINGS):
        began = trio.current_time()
        try:
            await ask()
            times.append(trio.current_time() - began)
        except WorldError:
            lost += 1
    return times, lost


async def _goodput(ask: Callable[[], Awaitable[object]], seconds: float, bytes_max: int) -> tuple[float, int]:
    """Return the bytes a second, and how many bytes came through, of as many asks as there is time and room for."""
    began = trio.current_time()
    left, moved, last = max(1, bytes_max // PIECE_BYTES), 0, began

    async def keep_asking() -> None:
        nonlocal left, moved, last
        while left > 0 and trio.current_time() - began < seconds:
            left -= 1
            await ask()
            moved, last = moved + PIECE_BYTES, trio.current_time()

    async with trio.open_nursery() as nursery:
        for _ in range(WINDOW):
            nursery.start_soon(keep_asking)
    return moved / max(last - began, 1e-9), moved
