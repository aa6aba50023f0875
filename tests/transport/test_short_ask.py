"""An ask that is read element by element is the ask that the long way reads, or is left to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from prime.errors import DecodeError
from prime.transport import frames as fr
from prime.transport.carrier import Carrier
from prime.wire import Ask, dumps, from_plain, loads, message, to_plain

PATH = "actor/path"
PATHS = {dumps(PATH): PATH}


@message(tag=0x7E68)
class Question(Ask[int]):
    number: int
    name: str


@message(tag=0x7E69)
class Statement:
    number: int


def short_way(header: bytes) -> Any:
    return Carrier._read_ask(SimpleNamespace(_paths=PATHS), header)  # type: ignore[arg-type]


def long_way(header: bytes) -> Any:
    try:
        ask = fr.read_frame(loads(header))
        assert type(ask) is fr.Ask
        assert ask.sender is None
        assert ask.trace is None
        return ask.target, ask.seq, from_plain(ask.body), ask.body[0], ask.correlation, ask.left_ms
    except DecodeError:
        return None


def header_of(seq: int, body: list[Any], correlation: int, left_ms: int | None) -> bytes:
    return dumps(fr.Ask(PATH, seq, body, correlation, left_ms).plain())


IDS = st.one_of(st.integers(0, 30), st.integers(0, fr.ID_MAX))


@given(IDS, st.integers(-(2**63), 2**64 - 1), st.text(max_size=30), IDS, st.none() | IDS)
def test_an_ask_is_read_at_once(seq: int, number: int, name: str, correlation: int, left_ms: int | None) -> None:
    header = header_of(seq, to_plain(Question(number, name), []), correlation, left_ms)
    assert short_way(header) == (PATH, seq, Question(number, name), 0x7E68, correlation, left_ms)


def test_no_ask_and_no_known_path_are_left_to_the_long_way() -> None:
    assert short_way(header_of(1, to_plain(Statement(1), []), 2, 3)) is None
    assert short_way(dumps(fr.Ask("elsewhere", 1, to_plain(Question(1, ""), []), 2, 3).plain())) is None
    question = header_of(1, to_plain(Question(1, ""), []), 2, 3)
    assert short_way(question) is not None
    assert short_way(fr.with_chain(question, ("a",))) is None
    assert all(short_way(question[:size]) is None for size in range(len(question)))


@settings(max_examples=500)
@given(
    st.sampled_from([None, 0, 23, 24, 70_000]),
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "append"])),
        min_size=1,
        max_size=3,
    ),
)
@example(5, [(13, 0x18, "insert")])
@example(None, [(99, 0xF6, "append")])
def test_changed_bytes_are_read_as_the_long_way_does_or_not_at_all(left_ms: int | None, changes: list[Any]) -> None:
    header = bytearray(header_of(300, to_plain(Question(70_000, "name"), []), 25, left_ms))
    for place, byte, how in changes:
        position = place % len(header)
        if how == "set":
            header[position] = byte
        elif how == "insert":
            header.insert(position, byte)
        elif how == "delete" and len(header) > 2:
            del header[position]
        else:
            header.append(byte)
    if header[:2] == fr.ASK_START:
        read = short_way(bytes(header))
        assert read is None or read == long_way(bytes(header))
