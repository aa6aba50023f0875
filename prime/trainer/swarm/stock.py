"""The bytes of one round that a member holds: its own contribution, what others sent it, and reduced parts.

A contribution is named by (part, contributor): one boot of a member sends one set of bytes in a round, so its chunks can
come before anybody has said what they add up to. A reduced part is named by (part, seal, sender): whoever sends one says
under which seal it was reduced, and sends one set of bytes for it. What is kept of one sender is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import trio

from prime.errors import DecodeError
from prime.trainer.round.partition import cuts
from prime.trainer.round.view import View
from prime.trainer.swarm.numbers import Numbers, Room
from prime.trainer.swarm.offers import Offers
from prime.trainer.swarm.parts import Assembly, Encoded, chunks, digest_of
from prime.trainer.swarm.tally import Tally, tally_of

SEALS_MAX = 4
"""Results of one part that are kept of one sender: each is of another seal."""

Key = tuple[int, bytes, str]
"""Part, seal and sender; without a seal it is a contribution."""


Standing = Literal["known", "whole", "contradicted", "partial", "pending", "unwanted"]


class Ahead:
    """The aggregate in the making: reduced chunks are decoded as they come. Nothing of it counts before the decision.

    Used from several threads: the part that one decodes is another's only under the lock.
    """

    def __init__(self, room: Room[Any]) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._claims: dict[int, Key] = {}
        self._done: dict[int, set[int]] = {}
        self._closed = False

    def decode(self, key: Key, index: int, data: memoryview, cut: slice) -> None:
        """Decode a chunk if its part is decoded from this sender, else check it. Raises `DecodeError`."""
        with self._lock:
            if self._closed or self._claims.setdefault(key[0], key) != key:
                self._room.check(data, cut)
                return
            self._room.decode(data, cut)
            self._done.setdefault(key[0], set()).add(index)

    def finish(self, parts: Sequence[tuple[set[Key], Encoded, tuple[slice, ...]]]) -> Any:
        """Return the vector of these parts, each known under some keys; only what was not yet is decoded."""
        with self._lock:
            self._closed = True
            for part, (keys, encoded, cuts) in enumerate(parts):
                done = self._done.get(part, set()) if self._claims.get(part) in keys else set()
                for index, (data, cut) in enumerate(zip(encoded, cuts, strict=True)):
                    if index not in done:
                        self._room.decode(data, cut)
            return self._room.vector()


@attrs.define(eq=False)
class Stock:
    """Everything that one round needs, by part. `chunks[part]` are the slices of the vector that a part travels in."""

    round: int
    view: View
    state_round: int
    elements: int
    chunks: tuple[tuple[slice, ...], ...]
    own: dict[int, Assembly] = attrs.Factory(dict)
    contributions: dict[tuple[int, str], Assembly] = attrs.Factory(dict)
    results: dict[Key, Assembly] = attrs.Factory(dict)
    known: dict[tuple[int, bytes], tuple[bytes, Encoded]] = attrs.Factory(dict)
    """Reduced parts that are whole, by their hash, with the seal under which each came first."""
    streaming: set[tuple[int, bytes, str]] = attrs.Factory(set)
    """Results that are on their way while they are reduced: part, seal, to whom."""
    offers: Offers = attrs.Factory(lambda self: Offers(self.round, self.view), takes_self=True)
    ahead: Ahead | None = None
    over: bool = False
    _news: trio.Event = attrs.Factory(trio.Event)

    @classmethod
    def of(cls, round_: int, view: View, state_round: int, elements: int, numbers: Numbers[Any]) -> Stock:
        """Return the empty stock of a round that starts from the state after `state_round`, and carries `elements`."""
        parts = cuts(elements, view.members, numbers.grain)
        return cls(round_, view, state_round, elements, tuple(chunks(part, numbers.chunk_elements) for part in parts))

    @property
    def parts(self) -> int:
        """Return how many parts the vector is cut into: one for each member."""
        return len(self.chunks)

    def assembly(self, key: Key) -> Assembly | None:
        """Return where the chunks that `key` names are put together; `None` where they are not wanted."""
        part, seal, sender = key
        if not seal:
            return self.contributions.setdefault((part, sender), Assembly(len(self.chunks[part])))
        if key not in self.results and not self._has_room(part, sender):
            return None
        return self.results.setdefault(key, Assembly(len(self.chunks[part])))

    def _has_room(self, part: int, sender: str) -> bool:
        """Make room for one more result of a part from one sender; what is whole stays, as it may be voted for."""
        rivals = [key for key in self.results if key[0] == part and key[2] == sender]
        if len(rivals) >= SEALS_MAX:
            rivals = [key for key in rivals if not self.results[key].is_whole]
            if not rivals:
                return False
            self.results.pop(rivals[0]).refuse()
        return True

    def standing(self, key: Key, hash_: bytes) -> Standing:
        """Tell how a part stands that its sender says has this hash.

        "known" is a reduced part that is here, from whomever; "whole" is here from this sender, and "contradicted" if it
        has another hash; of a "partial" one chunks are missing, of a "pending" one hashes; others are "unwanted".
        """
        part, seal, _ = key
        if seal and ((part, hash_) in self.known or self.learn_empty(part, seal, hash_)):
            return "known"
        assembly = self.assembly(key)
        if assembly is None or assembly.refused:
            return "unwanted"
        if not assembly.is_whole:
            return "partial" if assembly.missing else "pending"
        return "whole" if assembly.digest() == hash_ else "contradicted"

    def held(self, key: Key) -> Assembly:
        """Return the chunks of a part that stands as whole or partial."""
        assembly = self.assembly(key)
        assert assembly is not None  # noqa: S101 - it stands so
        return assembly

    def ahead_in(self, numbers: Numbers[Any]) -> Ahead:
        """Return the aggregate in the making; it begins with the first who asks."""
        if self.ahead is None:
            self.ahead = Ahead(numbers.room(self.elements))
        return self.ahead

    def pieces(self, found: Mapping[int, Assembly]) -> Iterator[tuple[slice, memoryview]]:
        """Yield the chunks of a whole vector, by part, each with its place."""
        for part, places in enumerate(self.chunks):
            yield from zip(places, found[part].encoded(), strict=True)

    def tally(self, peer: str) -> Tally:
        """Count what is here of the round, at the member `peer`."""
        whole = [key for key, one in self.contributions.items() if one.is_whole]
        partial = [(part, sender, len(one.found)) for (part, sender), one in self.contributions.items()]
        partial += [(part, "", len(one.found)) for (part, _, _), one in self.results.items()]
        own = self.view.peers().index(peer)
        return tally_of([len(places) for places in self.chunks], own, whole, partial, [part for part, _ in self.known])

    def put(self, key: Key, index: int, data: memoryview) -> bool:
        """Store a chunk that came; `False` if it is of no use. Raises `DecodeError` for one that its part has not."""
        if not 0 <= index < len(self.chunks[key[0]]):
            raise DecodeError(f"part {key[0]} has no chunk {index}")
        assembly = self.assembly(key)
        return assembly is not None and assembly.add(index, data)

    def learn(self, part: int, seal: bytes, encoded: Encoded, hash_: bytes) -> None:
        """Know a reduced part that is whole."""
        self.known.setdefault((part, hash_), (seal, encoded))

    def learn_empty(self, part: int, seal: bytes, hash_: bytes) -> bool:
        """Know a reduced part that has no chunks, if that is what the hash says."""
        if self.chunks[part] or hash_ != digest_of(()):
            return False
        self.learn(part, seal, (), hash_)
        return True

    def keys_of(self, part: int, hash_: bytes) -> set[Key]:
        """Return under which keys a reduced part came."""
        found = ((key, one) for key, one in self.results.items() if key[0] == part and one.is_whole)
        return {key for key, one in found if one.digest() == hash_}

    def hashes_of(self, parts: Sequence[bytes]) -> list[bytes] | None:
        """Return the hashes of all chunks of these parts, in order; `None` where they are not all known."""
        found: list[bytes] = []
        for part, hash_ in enumerate(parts):
            keys = self.keys_of(part, hash_)
            if self.chunks[part] and not keys:
                return None
            found += [self.results[key].hashes[index] for key in [*keys][:1] for index in range(len(self.chunks[part]))]
        return found

    def grow(self) -> None:
        """Wake those who wait for the next chunk of what is being made here."""
        self._news.set()
        self._news = trio.Event()

    async def grown(self) -> None:
        """Wait until something was made here, or the round is over."""
        await self._news.wait()

    def close(self) -> None:
        """Let nobody wait for anything more of this round."""
        self.over = True
        self.grow()
