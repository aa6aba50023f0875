"""The compressed all-reduce on CPUs: chunks that are encoded while others are on the wire.

Rank `r` of `W` does three things with chunk `k` of each part, each some rounds after the one before it:

1. *scatter*: encode chunk `k` of every other rank's part and send it to its owner;
2. *reduce*: receive chunk `k` of the own part from everyone, add it up in float32 (the own share, exact, after the others'
   in the order of their ranks), encode the sum, send it to everyone, and decode these bytes, too;
3. *gather*: receive chunk `k` of every other part, reduced, and decode it in place.

So each number is quantised twice, whatever `W` is: once by its sender and once, as part of the sum, by its owner. All
ranks decode the same bytes with one engine kind, hence hold the same bits.

Sends and receives are gloo's asynchronous ones: its own thread moves bytes while this one encodes. All buffers are made
once and used again, because fresh pages cost more than the encoding. A rank waits only for what another, which is not
ahead of it, has yet to send, so the one that is furthest behind never waits for a slower one: no deadlock.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import torch
import torch.distributed as dist

from prime.errors import LinkLostError, PrimeInternalError
from prime.trainer.codec.engine import Encoded, Engine, Vector
from prime.trainer.codec.form import FP16_OVERFLOW, OVERFLOW, Form
from prime.trainer.collective.layout import Layout, layout
from prime.trainer.collective.refusal import ACCEPTED, HEADER_BYTES, Message, Verdict, read_header, refuse, write_header

LAG: Final = 1
"""Rounds between two of the three things: so many chunks may be on the wire before one is waited for."""
SLOTS: Final = 2 * LAG
"""Buffers for each kind of message and peer: as many rounds may be in flight."""
SCATTER_TAG: Final = 0x5052
GATHER_TAG: Final = 0x5053

_Key = tuple[str, int, int]  # kind of message, peer, round


class Pipeline:
    """All-reduces float32 vectors over one group of CPU ranks; keeps its buffers. Used by one thread at a time."""

    def __init__(self, group: dist.ProcessGroup, engine: Engine) -> None:
        self.group = group
        self.rank = group.rank()
        self.world = group.size()
        self.engine = engine
        self.bytes_sent = 0
        self._buffers = Buffers(self.world, self.rank)

    def all_reduce(self, x: Vector, form: Form, weight: float, residual: Vector | None = None) -> Verdict:
        """`x = weight * sum of all ranks' x`, float32[D], in place, the same bits on every rank.

        `residual` (float32[D]) is added to what is encoded and takes what the codec left out: in the own part that of the
        owner, in units of the result, elsewhere that of the sender, in units of `x`. Where the verdict refuses, both
        arrays are undefined. Raises LinkLostError when a peer is gone.
        """
        cut = layout(x.size, self.world)
        self._buffers.fit(HEADER_BYTES + form.encoded_size_bytes(min(cut.chunk, cut.part)))
        exchange = _Exchange(self, self._buffers, x, form, np.float32(weight), residual, cut)
        try:
            return exchange.run()
        except RuntimeError as gone:
            self._buffers = Buffers(self.world, self.rank)  # gloo may still write into the others
            raise LinkLostError(
                f"rank {self.rank}: another rank was lost during an all-reduce ({gone})",
                hint="the ranks of a group end together: start all of them again from the last checkpoint",
            ) from gone


class Buffers:
    """Messages in memory that is used again and again: `SLOTS` for each peer and kind."""

    def __init__(self, world: int, rank: int) -> None:
        self.peers = [peer for peer in range(world) if peer != rank]
        self._size_bytes = -1
        self._kept: dict[_Key, torch.Tensor] = {}

    def fit(self, size_bytes: int) -> None:
        """Make the buffers at least so large."""
        if size_bytes > self._size_bytes:
            self._size_bytes, self._kept = size_bytes, {}

    def take(self, kind: str, peer: int, k: int, size_bytes: int) -> torch.Tensor:
        """Return the buffer of that kind and peer for round `k`, uint8[size_bytes]."""
        key = (kind, peer, k % SLOTS)
        if key not in self._kept:
            self._kept[key] = torch.empty(self._size_bytes, dtype=torch.uint8)
        return self._kept[key][:size_bytes]


@attrs.define
class _Exchange:
    """One all-reduce under way. Shapes: x and residual [D]."""

    pipeline: Pipeline
    buffers: Buffers
    x: Vector
    form: Form
    weight: np.float32
    residual: Vector | None
    cut: Layout
    verdict: Verdict = ACCEPTED
    _under_way: dict[_Key, dist.Work] = attrs.field(factory=dict)
    _arriving: dict[_Key, Message] = attrs.field(factory=dict)

    def run(self) -> Verdict:
        """Do all rounds; return the smallest verdict of all ranks."""
        rounds = self.cut.rounds
        for k in range(min(SLOTS, rounds)):
            self._expect_scattered(k)
            self._expect_reduced(k)
        for k in range(rounds + 2 * LAG):
            if k < rounds:
                self._scatter(k)
            if LAG <= k < rounds + LAG:
                self._reduce(k - LAG)
            if k >= 2 * LAG:
                self._gather(k - 2 * LAG)
        for work in self._under_way.values():
            work.wait()
        return self.verdict

    # ------------------------------------------------------------------------------------------ the three things of a round

    def _scatter(self, k: int) -> None:
        for peer in self._peers:
            chunk = self.cut.chunk_of(peer, k)
            if chunk.start == chunk.stop:
                continue
            message = self._room("scatter", peer, k, chunk)
            left = self._left(chunk)
            flags = self.pipeline.engine.encode(self.form, self.x[chunk], _body(message), left, left)
            self._label(message, self._judged(chunk, flags, self.x[chunk]))
            self._send("scatter", peer, k, message, SCATTER_TAG)

    def _reduce(self, k: int) -> None:
        chunk = self.cut.chunk_of(self.pipeline.rank, k)
        if chunk.start == chunk.stop:
            return
        messages = [self._arrived("scattered", peer, k) for peer in self._peers]
        reduced = self._room("reduced", self.pipeline.rank, k, chunk, *self._peers)
        flags = self._sum(chunk, _rows(messages), _body(reduced))
        verdict = min(map(read_header, messages))
        self._label(reduced, min(verdict, self._judged(chunk, flags, self.x[chunk])))
        for peer in self._peers:
            self._send("reduced", peer, k, reduced, GATHER_TAG)
        self._expect_scattered(k + SLOTS)
        self.verdict = min(self.verdict, read_header(reduced))

    def _gather(self, k: int) -> None:
        for peer in self._peers:
            chunk = self.cut.chunk_of(peer, k)
            if chunk.start < chunk.stop:
                self._accept(chunk, self._arrived("gathered", peer, k))
        self._expect_reduced(k + SLOTS)

    # ---------------------------------------------------------------------------------------------------------- arithmetic

    def _sum(self, chunk: slice, rows_PB: Encoded, reduced: Encoded) -> int:  # noqa: N803 - shape suffix: P peers
        """Encode the weighted sum of a chunk, the own share exact in it, and decode it in place; return the flags."""
        left = self._left(chunk)
        weights = np.full(len(rows_PB), self.weight, np.float32)
        return self.pipeline.engine.fold(self.form, rows_PB, weights, self.x[chunk], self.weight, reduced, left, left)

    def _accept(self, chunk: slice, reduced: Encoded) -> None:
        self.verdict = min(self.verdict, read_header(reduced))
        self.pipeline.engine.decode(self.form, _body(reduced), self.x[chunk])

    def _left(self, chunk: slice) -> Vector | None:
        return None if self.residual is None else self.residual[chunk]

    def _judged(self, chunk: slice, flags: int, values: Vector) -> Verdict:
        """Return the verdict on a chunk: where in it lies what could not be encoded (its start, where a sum overflowed)."""
        if not flags:
            return ACCEPTED
        bad = ~(np.abs(values) < (FP16_OVERFLOW if flags == OVERFLOW else np.inf))
        return refuse(chunk.start + int(np.argmax(bad)), self.pipeline.rank, flags)

    @staticmethod
    def _label(message: Message, verdict: Verdict) -> None:
        """Write the header of a message, and make its body one that can be decoded where it has no meaning."""
        write_header(message, verdict)
        if verdict.refused:
            _body(message)[:] = 0

    # ------------------------------------------------------------------------------------------------------------ messages

    @property
    def _peers(self) -> list[int]:
        return self.buffers.peers

    def _room(self, kind: str, owner: int, k: int, chunk: slice, *readers: int) -> Message:
        """Return the buffer for an outgoing message, once those who were sent what it held have it."""
        for peer in readers or (owner,):
            if (work := self._under_way.pop((kind, peer, k - SLOTS), None)) is not None:
                work.wait()
        return self._buffer(kind, owner, k, chunk).numpy()

    def _send(self, kind: str, peer: int, k: int, message: Message, tag: int) -> None:
        self.pipeline.bytes_sent += message.size
        work = dist.isend(torch.from_numpy(message), group=self.pipeline.group, group_dst=peer, tag=tag)
        self._under_way[kind, peer, k] = _started(work)

    def _expect_scattered(self, k: int) -> None:
        chunk = self.cut.chunk_of(self.pipeline.rank, k)
        for peer in self._peers:
            self._expect("scattered", peer, k, chunk, SCATTER_TAG)

    def _expect_reduced(self, k: int) -> None:
        for peer in self._peers:
            self._expect("gathered", peer, k, self.cut.chunk_of(peer, k), GATHER_TAG)

    def _expect(self, kind: str, peer: int, k: int, chunk: slice, tag: int) -> None:
        if chunk.start == chunk.stop:
            return
        buffer = self._buffer(kind, peer, k, chunk)
        work = dist.irecv(buffer, group=self.pipeline.group, group_src=peer, tag=tag)
        self._under_way[kind, peer, k] = _started(work)
        self._arriving[kind, peer, k] = buffer.numpy()

    def _arrived(self, kind: str, peer: int, k: int) -> Message:
        self._under_way.pop((kind, peer, k)).wait()
        return self._arriving.pop((kind, peer, k))

    def _buffer(self, kind: str, peer: int, k: int, chunk: slice) -> torch.Tensor:
        size_bytes = HEADER_BYTES + self.form.encoded_size_bytes(chunk.stop - chunk.start)
        return self.buffers.take(kind, peer, k, size_bytes)


def _body(message: Message) -> Encoded:
    return message[HEADER_BYTES:]


def _rows(messages: list[Message]) -> Encoded:
    """Return the bodies as the rows of one array, uint8[P, B]: a view where there is one peer, a copy where more."""
    bodies = [_body(message) for message in messages]
    return bodies[0].reshape(1, -1) if len(bodies) == 1 else np.stack(bodies)


def _started(work: dist.Work | None) -> dist.Work:
    if work is None:
        raise PrimeInternalError("this rank is no member of the group it reduces over")
    return work
