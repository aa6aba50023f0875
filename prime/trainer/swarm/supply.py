"""What one member sends of the bytes that it has: its contribution to the owners, and reduced parts to everyone.

All of it goes out once, each chunk as soon as it is made. Later it is announced, and what of it is missing goes again.
"""

from __future__ import annotations

from collections.abc import Iterable

from prime.trainer.round import messages as msg
from prime.trainer.swarm.parts import Assembly, Encoded, whole
from prime.trainer.swarm.stock import Stock
from prime.trainer.swarm.streams import Streams


class Supply:
    """The supply of the member `me`, by its `streams`."""

    def __init__(self, me: str, streams: Streams) -> None:
        self._me = me
        self._streams = streams

    def send_own(self, stock: Stock, part: int, to: str) -> bool:
        """Give the owner of a part what this member contributes to it, as far as it is made.

        The owner may be this member itself: then that is put into its stock, and the answer is whether it is whole.
        """
        assembly = stock.own.get(part)
        if assembly is None:
            return False
        if to == self._me:
            stock.contributions[part, to] = assembly
            return assembly.is_whole
        self.vouch(stock, (to,))
        if not self._streams.start(stock, part, b"", assembly, to) and assembly.is_whole:
            self._streams.announce(stock, part, b"", assembly.digest(), to)
        return False

    def vouch(self, stock: Stock, owners: Iterable[str]) -> None:
        """Send owners the signed offer, once there is one: it stays beside the chunks that it is of."""
        signed = stock.offers.of(self._me)
        if signed:
            head = (stock.view.run, stock.view.epoch, stock.round, self._me)
            for owner in sorted({*owners} - {self._me}):
                self._streams.send(owner, msg.Vouch(*head, signed))

    def begin_result(self, stock: Stock, part: int, seal: bytes) -> Assembly:
        """Return where the chunks of a part that is reduced here are to be put: from there they go to everyone."""
        result = stock.results[part, seal, self._me] = Assembly(len(stock.chunks[part]))
        for peer in stock.view.peers():
            if peer != self._me and self._streams.start(stock, part, seal, result, peer):
                stock.streaming.add((part, seal, peer))
        return result

    def send_result(self, stock: Stock, part: int, hash_: bytes, to: str) -> None:
        """Send a reduced part, unless it is on its way since it was begun; if it was sent before, what is missing of it."""
        seal, encoded = stock.known.get((part, hash_), (b"", None))
        if encoded is None:
            return
        if (part, seal, to) in stock.streaming:
            stock.streaming.discard((part, seal, to))
        elif not self._streams.start(stock, part, seal, _served(stock, part, hash_, encoded), to):
            self._streams.announce(stock, part, seal, hash_, to)

    def send_missing(self, stock: Stock, missing: msg.Missing) -> None:
        """Send the chunks that the other side still wants, if all of the part is here."""
        part, seal = missing.part, missing.seal
        assembly = stock.own.get(part)
        if seal:
            _, encoded = stock.known.get((part, missing.hash), (b"", None))
            assembly = None if encoded is None else _served(stock, part, missing.hash, encoded)
        if assembly is not None and assembly.is_whole:
            wanted = sorted(set(missing.indexes) & set(range(assembly.count)))
            self._streams.stream(stock, part, seal, assembly, missing.sender, wanted)


def _served(stock: Stock, part: int, hash_: bytes, encoded: Encoded) -> Assembly:
    """Return a reduced part as it is sent: it came from here or from another, or lay on the disk."""
    for key in stock.keys_of(part, hash_):
        return stock.results[key]
    return whole(encoded)
