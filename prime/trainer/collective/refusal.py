"""How all ranks learn alike that one of them cannot send what it was given, and which parameter was to blame. Pure.

Every chunk on the wire starts with a header of two words, int64 in the machine's order:

    place    the first element of the vector that has no wire form, or `FINE`
    blame    4 * rank + flags of the codec, of the rank that found it

The owner of a chunk passes on the smallest header among those that it received and its own, so each rank sees, chunk by
chunk, the smallest of all ranks, and all compute the same minimum. Nobody stops in the middle: the exchange runs to its
end, with bytes that mean nothing, and is then refused everywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import NonFiniteError
from prime.trainer.codec.form import OVERFLOW

HEADER_BYTES: Final = 16
FINE: Final = 2**63 - 1
"""The place in a header that refuses nothing."""

Message = npt.NDArray[np.uint8]


@attrs.frozen(order=True)
class Verdict:
    """What a header says. They are ordered by place, then by rank."""

    place: int = FINE
    blame: int = 0

    @property
    def refused(self) -> bool:
        """Whether some rank could not encode its vector."""
        return self.place != FINE


ACCEPTED: Final = Verdict()


def write_header(message: Message, verdict: Verdict) -> None:
    """Write the header of a message."""
    message[:HEADER_BYTES].view(np.int64)[:] = verdict.place, verdict.blame


def read_header(message: Message) -> Verdict:
    """Return what the header of a message says."""
    place, blame = message[:HEADER_BYTES].view(np.int64)
    return Verdict(int(place), int(blame))


def refuse(place: int, rank: int, flags: int) -> Verdict:
    """Return the verdict of a rank whose element at that place the codec cannot take."""
    return Verdict(place, 4 * rank + flags)


@attrs.frozen
class Names:
    """Which parameter an element belongs to. `starts` ascend from 0; both are empty for a tensor without a name."""

    names: Sequence[str] = ()
    starts: Sequence[int] = ()

    def at(self, place: int) -> str:
        """Return the name of the parameter at that element, or a word for it."""
        return self.names[bisect_right(self.starts, place) - 1] if self.names else f"element {place}"

    @classmethod
    def of(cls, sizes: Sequence[tuple[str, int]]) -> Names:
        """Return the names of parameters that lie one after the other: (name, elements) each."""
        starts, end = [], 0
        for _, elements in sizes:
            starts.append(end)
            end += elements
        return cls([name for name, _ in sizes], starts)


def refusal(verdict: Verdict, names: Names, codec: str) -> NonFiniteError:
    """Return the error that every rank raises."""
    name, rank, flags = names.at(verdict.place), verdict.blame // 4, verdict.blame % 4
    if flags == OVERFLOW:  # and not non-finite beside it
        return NonFiniteError(
            f"the gradient of {name} on rank {rank} is too large for {codec} (65504 at most)",
            parameter=name,
            rank=rank,
            hint="choose int8 or none for it under [[compression.policy]], or clip its loss",
        )
    return NonFiniteError(
        f"the gradient of {name} on rank {rank} is not finite",
        parameter=name,
        rank=rank,
        hint="training diverged: lower the learning rate, warm up longer, or clip the gradients harder",
    )
