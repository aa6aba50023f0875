"""Text as symbols: two alphabets, both fixed, so that a model knows its size before it has seen any text.

`ascii` has 97 symbols: newline, the 95 printable ASCII characters, and one "other" for everything else. `bytes` has
256, the bytes of the text as it lies on disk: nothing is lost, whatever the language, and a file is not even copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.uint8]
"""Text as symbols, each under the size of its alphabet."""

OTHER: Final = 96


def encode_ascii(text: str) -> Symbols:
    """Return the text as symbols: newline 0, printable ASCII 1..95, everything else 96. CR LF counts as newline."""
    points = np.frombuffer(text.replace("\r\n", "\n").encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    symbols = np.where((points >= 32) & (points < 127), points - 31, OTHER)
    return np.where(points == 10, 0, symbols).astype(np.uint8)


def decode_ascii(symbols: Sequence[int] | Symbols) -> str:
    """Return symbols as text; "other" is shown as U+FFFD."""
    return "".join("\n" if s == 0 else "\ufffd" if s == OTHER else chr(int(s) + 31) for s in symbols)


def encode_bytes(text: str) -> Symbols:
    """Return the text as its UTF-8 bytes."""
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def decode_bytes(symbols: Sequence[int] | Symbols) -> str:
    """Return UTF-8 bytes as text; what is none is shown as U+FFFD."""
    return bytes(bytearray(int(s) for s in symbols)).decode("utf-8", "replace")


@attrs.frozen
class Alphabet:
    """A table of symbols. What knowing nothing costs is the logarithm of its size: 4.57 nats for 97, 5.55 for 256."""

    name: str
    size: int
    encode: Callable[[str], Symbols]
    decode: Callable[[Sequence[int] | Symbols], str]


ASCII: Final = Alphabet("ascii", OTHER + 1, encode_ascii, decode_ascii)
BYTES: Final = Alphabet("bytes", 256, encode_bytes, decode_bytes)
ALPHABETS: Final = {alphabet.name: alphabet for alphabet in (ASCII, BYTES)}
"""By name; the first is the default."""
