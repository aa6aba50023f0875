"""Golden bytes: `spec/vectors/v1/wire.json` pins the encoding. A vector that changes is a break of the protocol.

To add one, declare it in `VECTORS` and run `python tests/wire/test_vectors.py > spec/vectors/v1/wire.json`; the file's
difference must then hold added lines only, unless the protocol's version moves with it.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from prime.wire import Ask, Finite, Payload, Range, Size, from_plain, loads, message, record, to_plain
from prime.wire.cbor import dumps
from prime.wire.frame import FrameParser, pack

COMMITTED = Path(__file__).parents[2] / "spec" / "vectors" / "v1" / "wire.json"


class Grade(enum.Enum):
    LOW = "low"
    HIGH = "high"


@record
class Pair:
    name: str
    weight: float = 1.0


@message(tag=0x7E40)
class Empty:
    pass


@message(tag=0x7E41)
class Atoms:
    nothing: None
    flag: bool
    count: int
    ratio: float
    text: str
    raw: bytes


@message(tag=0x7E42)
class Nested:
    pair: Pair
    maybe: Pair | None
    pairs: tuple[Pair, ...]
    by_name: dict[str, int]
    by_number: dict[int, str]
    names: frozenset[str]
    grade: Grade
    either: Empty | Atoms | None


@message(tag=0x7E43)
class Chunks:
    first: Payload
    rest: tuple[Payload, ...]


@message(tag=0x7E49)
class Marked:
    place: tuple[int, str]
    mood: Literal["calm", "loud"]
    percent: Annotated[int, Range(0, 100)]
    digest: Annotated[bytes, Size(4, 4)]
    finite: Finite
    numbers: frozenset[int]
    by_name: dict[str, tuple[Pair, ...]]
    by_pair: dict[tuple[int, int], bool]


@message(tag=0x7E4A)
class Question(Ask[Pair | None]):
    of: str


VECTORS: dict[str, Any] = {
    "empty": Empty(),
    "atoms zero": Atoms(None, False, 0, 0.0, "", b""),
    "atoms small": Atoms(None, True, -1, 1.5, "a", b"\x00"),
    "atoms highest": Atoms(None, True, 2**64 - 1, 1.7976931348623157e308, "\U0010ffff", b"\xff" * 24),
    "atoms lowest": Atoms(None, False, -(2**63), -0.0, "ü" * 12, bytes(range(24))),
    "atoms single float": Atoms(None, True, 23, 3.4028234663852886e38, "x" * 23, b"x" * 23),
    "atoms double float": Atoms(None, True, 24, 0.1, "x" * 24, b"x" * 256),
    "atoms infinite": Atoms(None, True, 65_536, float("-inf"), "zero \0 inside", b""),
    "nested empty": Nested(Pair(""), None, (), {}, {}, frozenset(), Grade.LOW, None),
    "nested sorted": Nested(
        Pair("p", 2.0),
        Pair("q"),
        (Pair("r", 0.5), Pair("s", -1.0)),
        {"b": 1, "a": 2, "aa": 3, "": 4},
        {300: "c", -1: "b", 0: "a", 24: "d"},
        frozenset({"b", "a", "aa"}),
        Grade.HIGH,
        Atoms(None, True, 1, 1.0, "in", b"side"),
    ),
    "chunks": Chunks(memoryview(b"first"), (memoryview(b""), memoryview(b"third"))),
    "chunk alone": Chunks(memoryview(b"\x00" * 8), ()),
    "marked": Marked(
        (-1, "x"),
        "loud",
        100,
        b"1234",
        0.1,
        frozenset({300, -1, 0}),
        {"b": (Pair("p"),), "": ()},
        {(1, 2): True, (0, 9): False},
    ),
    "question": Question("what"),
}


def _frame(value: Any) -> bytes:
    payloads: list[memoryview] = []
    header = dumps(to_plain(value, payloads))
    return b"".join(pack(header, payloads))


def _written() -> str:
    return json.dumps({name: _frame(value).hex() for name, value in VECTORS.items()}, indent=1) + "\n"


def _committed() -> dict[str, str]:
    vectors: dict[str, str] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return vectors


@pytest.mark.parametrize("name", VECTORS)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    assert _frame(VECTORS[name]).hex() == _committed()[name]


@pytest.mark.parametrize("name", VECTORS)
def test_golden_bytes_give_the_message(name: str) -> None:
    parser = FrameParser()
    parser.feed(bytes.fromhex(_committed()[name]))
    frame = parser.next()
    assert frame is not None
    assert from_plain(loads(frame.header), frame.payloads) == VECTORS[name]
    assert parser.is_between_frames


def test_no_vector_was_dropped() -> None:
    assert list(_committed()) == list(VECTORS)


if __name__ == "__main__":
    print(_written(), end="")
