"""The frames of a link: golden bytes of each form, and that whatever the encoder writes is in `spec/link.cddl`.

To add a vector, declare it in `VECTORS` and run `python tests/transport/test_link_vectors.py > spec/vectors/v1/link.json`; the
file's difference must then hold added lines only, unless the protocol's version moves with it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pycddl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prime.transport import frames as fr
from prime.wire import dumps, loads
from prime.wire.frame import FrameParser, pack

SPEC = Path(__file__).parents[2] / "spec"
COMMITTED = SPEC / "vectors" / f"v{fr.PROTOCOL_VERSION}" / "link.json"
BODY = [0x7E40, "x"]

VECTORS: dict[str, tuple[fr.Frame, Sequence[bytes]]] = {
    "hello least": (fr.Hello(1, "", (), fr.Allowance(1, 1, 1, 1, 1, 1, 1, 1, 1), (), 0, 0, 0), ()),
    "hello": (
        fr.Hello(1, "0.1.0", ("reliable",), fr.Allowance(), ("/ip4/192.0.2.1/tcp/4001",), 2**62, 2**62 + 1, 7),
        (),
    ),
    "hello highest": (
        fr.Hello(1, "v" * 64, ("f",), fr.Allowance(*[fr.ID_MAX] * 9), (), fr.ID_MAX, fr.ID_MAX, fr.ID_MAX),
        (),
    ),
    "tell": (fr.Tell("/a", 1, BODY), ()),
    "tell with payloads": (fr.Tell("/a", 2, [0x7E43, 0, [1, 2]]), (b"first", b"", b"third")),
    "tell to a path of 24 characters": (fr.Tell("/" + "a" * 23, 24, BODY), ()),
    "tell from somebody": (fr.Tell("/a", 256, BODY, "/b"), ()),
    "tell with a trace": (fr.Tell("/a", 65_536, BODY, None, "00-1"), ()),
    "tell numbered": (fr.Tell("/a", 2**32, BODY, None, None, (5, 9, 4)), ()),
    "ask": (fr.Ask("/a", 1, BODY, 0), ()),
    "ask with a deadline": (fr.Ask("/a", 1, BODY, 23, 30_000), ()),
    "ask from somebody": (fr.Ask("/a", 1, BODY, 24, None, "/b"), ()),
    "ask with a trace": (fr.Ask("/a", 1, BODY, 255, None, None, "00-1"), ()),
    "ask with a chain": (fr.Ask("/a", 1, BODY, 256, 100, None, None, ("p/a#1f", "q/b#2")), ()),
    "reply of nothing": (fr.Reply(7, None), ()),
    "reply with a payload": (fr.Reply(fr.ID_MAX, [0]), (b"\x00\xff",)),
    "fail": (fr.Fail(7, "DeadlineError", "late", "wait longer", "Traceback …"), ()),
    "credit": (fr.Credit("/a", 128, 8 * 2**20), ()),
    "watch": (fr.Watch(1, "/a"), ()),
    "unwatch": (fr.Unwatch(1), ()),
    "down": (fr.Down(1, "stopped"), ()),
    "ping": (fr.Ping(), ()),
    "pong": (fr.Pong(), ()),
    **{f"bye {reason.name.lower()}": (fr.Bye(reason, "why"), ()) for reason in list(fr.Reason)[:7]},
    "blocked": (fr.Blocked("/a"), ()),
    "cancel": (fr.Cancel(7), ()),
    "ack": (fr.Ack(5, 9), ()),
    "ack again": (fr.Ack(5, 0, "no actor there"), ()),
    "bulk": (fr.Bulk(1, (70_000, 0, 5), dumps(fr.Tell("/a", 3, [0x7E43, 0, [1, 2]]).plain())), ()),
    "piece": (fr.Piece(1), (b"the next bytes",)),
    "piece across payloads": (fr.Piece(24), (b"the end of one", b"and the beginning of another")),
    "abandon": (fr.Abandon(256), ()),
}


def _frame(frame: fr.Frame, payloads: Sequence[bytes]) -> bytes:
    return b"".join(pack(dumps(frame.plain()), [memoryview(payload) for payload in payloads]))


def _committed() -> dict[str, str]:
    vectors: dict[str, str] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return vectors


@pytest.mark.parametrize("name", VECTORS)
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    assert _frame(*VECTORS[name]).hex() == _committed()[name]


@pytest.mark.parametrize("name", VECTORS)
def test_golden_bytes_give_the_frame(name: str) -> None:
    parser = FrameParser()
    parser.feed(bytes.fromhex(_committed()[name]))
    found = parser.next()
    assert found is not None
    frame, payloads = VECTORS[name]
    assert fr.read_frame(loads(found.header)) == frame
    assert [bytes(payload) for payload in found.payloads] == list(payloads)
    assert parser.is_between_frames


def test_no_vector_was_dropped() -> None:
    assert list(_committed()) == list(VECTORS)


def test_each_kind_has_a_vector() -> None:
    assert {frame.kind for frame, _ in VECTORS.values()} == set(fr.Kind)


# ------------------------------------------------------------------------------------------------- the encoder's range

IDS = st.integers(0, fr.ID_MAX)
COUNTS = st.integers(1, fr.ID_MAX)
PATHS = st.text(min_size=1, max_size=20) | st.just("x" * fr.PATH_CHARS_MAX)
WORDS = st.text(max_size=20)
MAYBE = st.none() | WORDS
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | WORDS | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
NUMBERED = st.tuples(IDS, COUNTS, COUNTS).map(lambda drawn: (drawn[0], max(drawn[1:]), min(drawn[1:])))
DRAWN: dict[fr.Kind, st.SearchStrategy[Any]] = {
    fr.Kind.HELLO: st.builds(
        fr.Hello,
        st.just(fr.PROTOCOL_VERSION),
        st.text(max_size=64),
        st.lists(WORDS, max_size=4).map(tuple),
        st.builds(fr.Allowance, *[COUNTS] * 9),
        st.lists(PATHS, max_size=4).map(tuple),
        IDS,
        IDS,
        IDS,
    ),
    fr.Kind.TELL: st.builds(fr.Tell, PATHS, COUNTS, BODIES, MAYBE, MAYBE, st.none() | NUMBERED),
    fr.Kind.ASK: st.builds(
        fr.Ask, PATHS, COUNTS, BODIES, IDS, st.none() | IDS, MAYBE, MAYBE, st.lists(WORDS, max_size=4).map(tuple)
    ),
    fr.Kind.REPLY: st.builds(fr.Reply, IDS, BODIES),
    fr.Kind.FAIL: st.builds(fr.Fail, IDS, st.text(max_size=64), WORDS, WORDS, WORDS),
    fr.Kind.CREDIT: st.builds(fr.Credit, PATHS, COUNTS, COUNTS),
    fr.Kind.WATCH: st.builds(fr.Watch, IDS, PATHS),
    fr.Kind.UNWATCH: st.builds(fr.Unwatch, IDS),
    fr.Kind.DOWN: st.builds(fr.Down, IDS, WORDS),
    fr.Kind.PING: st.just(fr.Ping()),
    fr.Kind.PONG: st.just(fr.Pong()),
    fr.Kind.BYE: st.builds(fr.Bye, st.sampled_from(fr.Reason), WORDS),
    fr.Kind.BLOCKED: st.builds(fr.Blocked, PATHS),
    fr.Kind.CANCEL: st.builds(fr.Cancel, IDS),
    fr.Kind.ACK: st.builds(fr.Ack, IDS, IDS, MAYBE),
    fr.Kind.BULK: st.builds(
        fr.Bulk,
        COUNTS,
        st.lists(st.integers(0, fr.PAYLOAD_BYTES_MAX), min_size=1, max_size=4).map(tuple),
        st.binary(max_size=40),
    ),
    fr.Kind.PIECE: st.builds(fr.Piece, COUNTS),
    fr.Kind.ABANDON: st.builds(fr.Abandon, COUNTS),
}


@functools.cache
def _schema(kind: fr.Kind) -> pycddl.Schema:
    return pycddl.Schema(f"start = {kind.name.lower()}\n" + (SPEC / "link.cddl").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", fr.Kind, ids=lambda kind: kind.name)
def test_what_the_encoder_writes_is_in_the_schema_and_is_read_back(kind: fr.Kind) -> None:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(DRAWN[kind])
    def holds(frame: Any) -> None:
        header = dumps(frame.plain())
        _schema(kind).validate_cbor(header)
        assert fr.read_frame(loads(header)) == frame

    holds()


@pytest.mark.parametrize("kind", fr.Kind, ids=lambda kind: kind.name)
def test_no_kind_fits_the_rule_of_another(kind: fr.Kind) -> None:
    plain = next(frame.plain() for frame, _ in VECTORS.values() if frame.kind is kind)
    for other in set(fr.Kind) - {kind}:
        with pytest.raises(pycddl.ValidationError):
            _schema(other).validate_cbor(dumps(plain))


if __name__ == "__main__":
    print(json.dumps({name: _frame(*vector).hex() for name, vector in VECTORS.items()}, indent=1))
