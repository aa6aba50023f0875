"""What goes out to the other members: letters, and parts chunk by chunk, also while they are still being made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from prime.actor import Ref
from prime.trainer.round import messages as msg
from prime.trainer.swarm.dispatch import Job, Outlet
from prime.trainer.swarm.meter import Meter
from prime.trainer.swarm.parts import Assembly
from prime.trainer.swarm.stock import Stock


class Streams:
    """The ways out of one node. `sent` hears how many elements have left it; `ref_of` finds a peer's aggregator."""

    def __init__(
        self,
        run: str,
        peer: str,
        ref_of: Callable[[str], Ref[Any]],
        start: Callable[[Outlet], None],
        on_fault: Callable[[str], None],
        meter: Meter,
        now: Callable[[], float],
        sent: Callable[[int], None],
    ) -> None:
        self._run = run
        self._peer = peer
        self._ref_of = ref_of
        self._start = start
        self._on_fault = on_fault
        self._meter = meter
        self._now = now
        self._sent = sent
        self._outlets: dict[str, Outlet] = {}

    @property
    def are_sending(self) -> bool:
        """Whether bytes of a part wait to be sent, or are on their way out."""
        return any(outlet.has_bulk for outlet in self._outlets.values())

    def send(self, to: str, letter: Any) -> None:
        """Queue a short message."""
        self._outlet(to).send(letter)

    def start(self, stock: Stock, part: int, seal: bytes, assembly: Assembly, to: str) -> bool:
        """Stream a part for the first time; `False` if it was before, or has no chunks."""
        if not assembly.count or not self._outlet(to).first_time((stock.round, part, seal)):
            return False
        self.stream(stock, part, seal, assembly, to, range(assembly.count))
        return True

    def announce(self, stock: Stock, part: int, seal: bytes, hash_: bytes, to: str) -> None:
        """Say what a part is, so that only what is missing of it travels again."""
        self.send(to, msg.Announce(*self._head(stock), part, seal, hash_))

    def want(self, stock: Stock, part: int, seal: bytes, hash_: bytes, indexes: Collection[int], to: str) -> None:
        """Answer an announcement: these chunks are missing."""
        self.send(to, msg.Missing(*self._head(stock), part, seal, hash_, tuple(indexes)))

    def stream(self, stock: Stock, part: int, seal: bytes, assembly: Assembly, to: str, wanted: Iterable[int]) -> None:
        """Send chunks of a part, in this order, each as soon as it is there."""

        async def send(ref: Ref[Any]) -> None:
            for index in wanted:
                while index not in assembly.hashes:
                    if stock.over or assembly.refused:
                        return
                    await stock.grown()
                if stock.over:
                    return
                await self._tell(ref, msg.Chunk(*self._head(stock), part, seal, index, assembly.found[index]))
                cut = stock.chunks[part][index]
                self._sent(cut.stop - cut.start)

        self._outlet(to).send_bulk(Job((stock.round, part, seal), send))

    async def _tell(self, ref: Ref[Any], chunk: msg.Chunk) -> None:
        self._meter.begin(self._now())
        try:
            await ref.tell(chunk)
            self._meter.sent(len(chunk.data))
        finally:
            self._meter.end(self._now())

    def drop(self, peer: str) -> None:
        """Forget the bulk for a peer that is gone."""
        if peer in self._outlets:
            self._outlets[peer].drop_bulk()

    def keep(self, peers: Collection[str]) -> None:
        """End the ways out to all others that have had everything they were sent."""
        for peer in [p for p, outlet in self._outlets.items() if p not in peers and outlet.is_idle]:
            self._outlets.pop(peer).close()

    def _head(self, stock: Stock) -> tuple[str, int, int, str]:
        return (self._run, stock.view.epoch, stock.round, self._peer)

    def _outlet(self, peer: str) -> Outlet:
        outlet = self._outlets.get(peer)
        if outlet is None:
            outlet = self._outlets[peer] = Outlet(self._ref_of(peer), self._on_fault)
            self._start(outlet)
        return outlet
