"""Signed messages as bytes: what is signed, that nothing else is taken, and that nothing is used before that is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pycddl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prime
from prime import KeyPair, Payload
from prime.errors import DecodeError, LocalProtocolError, MessageError, SignatureError
from prime.transport.peer import verify
from prime.wire import (
    Ask,
    Limits,
    Signed,
    decode_value,
    dumps,
    encode_value,
    from_plain,
    loads,
    message,
    open_signed,
    record,
    register_scheme,
    signed,
    signed_bytes,
    tag_of,
    to_plain,
)
from prime.wire.cddl import generate
from prime.wire.frame import FrameParser
from prime.wire.message import decode_body, is_signed, sign, unsigned
from prime.wire.signed import DOMAIN, digest

SPEC = Path(__file__).parents[2] / "spec"
COMMITTED = SPEC / "vectors" / "v1" / "signed.json"
KEY = KeyPair.from_seed(bytes(range(32)))
OTHER = KeyPair.from_seed(bytes([7]) * 32)


@attrs.define
class Notary:
    """Signs with fixed numbers and times."""

    key: KeyPair = KEY
    scheme: int = 1
    seq: int = 1_700_000_000_000_001
    sent_at_ms: int = 1_700_000_000_000
    domain: bytes = b""
    """In the place of the right one."""

    @property
    def signer(self) -> str:
        return self.key.peer

    def stamp(self) -> tuple[int, int]:
        return self.seq, self.sent_at_ms

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(self.domain + data.removeprefix(DOMAIN) if self.domain else data)


@message(tag=0x7B10, signed=True)
class Vote:
    proposal: str
    weight: int = 1


@message(tag=0x7B51, signed=True)
class Ballot:
    """Has the shape of a `Vote`."""

    proposal: str
    weight: int = 1


@message(tag=0x7B12, signed=True)
class Gradient:
    step: int
    data: Payload
    rest: tuple[Payload, ...] = ()


@message(tag=0x7B13, signed=True)
class Bare:
    pass


@message(tag=0x7B54)
class Plain:
    proposal: str


@message(tag=0x7B55)
class Poll(Ask[Vote | None]):
    pass


@record
class Spot:
    place: int


@message(tag=0x7B56, signed=True)
class Nested:
    spot: Spot
    spots: dict[str, Spot]
    either: Plain | None = None


VOTE = Vote("raise the limit", 3)


def sealed(value: Any, notary: Notary | None = None, audience: str | None = None) -> Any:
    return sign(value, notary or Notary(), audience)


def refused(data: bytes, kind: type = Vote) -> str:
    with pytest.raises(DecodeError) as caught:
        open_signed(data, kind)
    assert caught.value.hint or not isinstance(caught.value, SignatureError)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- what is signed


def test_a_message_comes_back_with_who_signed_it_and_when() -> None:
    opened = open_signed(signed_bytes(sealed(VOTE, audience=OTHER.peer)), Vote)
    assert opened == VOTE
    what = signed(opened)
    assert (what.signer, what.seq, what.sent_at_ms) == (KEY.peer, Notary().seq, Notary().sent_at_ms)
    assert what.audience == OTHER.peer
    assert verify(KEY.peer, DOMAIN + what.sealed, what.signature)


def test_the_signature_is_no_part_of_the_value() -> None:
    one, two = sealed(VOTE), sealed(VOTE, Notary(seq=5))
    assert one == two == VOTE
    assert hash(one) == hash(VOTE)
    assert repr(one) == repr(VOTE)
    assert attrs.evolve(one, weight=9) == Vote(VOTE.proposal, 9)
    with pytest.raises(LocalProtocolError, match="carries no signature"):
        signed(attrs.evolve(one, weight=9))  # another message: nobody has signed that
    with pytest.raises(LocalProtocolError, match="carries no signature"):
        signed(unsigned(one))
    assert signed(one).seq != 5


@pytest.mark.parametrize(
    "value",
    [Bare(), Nested(Spot(1), {"b": Spot(2), "a": Spot(3)}, Plain("x")), Gradient(1, memoryview(b""), ())],
    ids=lambda value: type(value).__name__,
)
def test_any_fields_can_be_signed(value: Any) -> None:
    assert open_signed(signed_bytes(sealed(value)), type(value)) == value


def test_payloads_travel_beside_and_are_signed_by_their_digests() -> None:
    data = memoryview(bytes(1000))
    made = sealed(Gradient(1, data, (memoryview(b"a"), memoryview(b"b"))))
    assert len(signed(made).sealed) < 400
    opened = open_signed(signed_bytes(made), Gradient)
    assert bytes(opened.data) == bytes(1000)
    assert [bytes(each) for each in opened.rest] == [b"a", b"b"]


def test_a_buffer_that_changed_since_it_was_signed_is_refused() -> None:
    data = bytearray(b"0123")
    made = sealed(Gradient(1, memoryview(data)))
    data[0] = 0
    assert "payload" in refused(signed_bytes(made), Gradient)


def test_what_is_handed_on_keeps_the_bytes_of_its_signer_also_fields_that_are_unknown_here() -> None:
    notary = Notary()
    newer = dumps([1, notary.signer, 9, 8, None, [0x7B10, "p", 2, "a field of tomorrow"], [], "and more"])
    body = [0x7B10, newer, notary.sign(DOMAIN + newer)]
    came = from_plain(body)
    assert came == Vote("p", 2)
    assert to_plain(came, [], Notary(key=OTHER), OTHER.peer) == body


def test_two_payloads_more_than_are_known_here_are_handed_on() -> None:
    notary = Notary()
    views = [memoryview(b"x"), memoryview(b"of tomorrow")]
    newer = dumps([1, notary.signer, 9, 8, None, [0x7B12, 1, 0, [], 1], [digest(view) for view in views]])
    came = from_plain([0x7B12, newer, notary.sign(DOMAIN + newer)], views)
    payloads: list[memoryview] = []
    to_plain(came, payloads)
    assert payloads == views


# ----------------------------------------------------------------------------------------------- what is not taken


FRAMES = {
    "vote": (Vote, signed_bytes(sealed(VOTE, audience=OTHER.peer))),
    "gradient": (Gradient, signed_bytes(sealed(Gradient(1, memoryview(b"some bytes"), (memoryview(b"more"),))))),
}


@given(st.sampled_from(sorted(FRAMES)), st.data())
def test_any_flipped_bit_is_refused(name: str, data: st.DataObject) -> None:
    kind, frame = FRAMES[name]
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    changed = bytearray(frame)
    changed[bit // 8] ^= 1 << bit % 8
    refused(bytes(changed), kind)


@pytest.mark.parametrize("name", FRAMES)
def test_every_truncation_is_refused_and_so_is_what_follows(name: str) -> None:
    kind, frame = FRAMES[name]
    for size in range(len(frame)):
        refused(frame[:size], kind)
    refused(frame + b"\0", kind)
    refused(frame + frame, kind)


@pytest.mark.parametrize("domain", [b"libp2p-tls-handshake:", b"prime-signed-message:2:", b"\0"])
def test_a_signature_of_another_domain_is_none(domain: bytes) -> None:
    assert "is not one of its signer's" in refused(signed_bytes(sealed(VOTE, Notary(domain=domain))))


def test_a_signature_over_the_bare_bytes_is_none() -> None:
    what = signed(sealed(VOTE))
    with pytest.raises(SignatureError):
        from_plain([0x7B10, what.sealed, KEY.sign(what.sealed)])


def test_a_message_is_not_taken_for_another_of_the_same_shape() -> None:
    what = signed(sealed(VOTE))
    with pytest.raises(SignatureError, match="of another message stands on Ballot"):
        from_plain([0x7B51, what.sealed, what.signature])
    assert "it is another message" in refused(signed_bytes(sealed(VOTE)), Ballot)


def test_one_signer_cannot_speak_as_another() -> None:
    @attrs.define
    class Liar(Notary):
        @property
        def signer(self) -> str:
            return OTHER.peer

    assert "is not one of its signer's" in refused(signed_bytes(sealed(VOTE, Liar())))


@pytest.mark.parametrize("scheme", [2, 3, 255])
def test_an_unknown_scheme_is_refused_by_its_number(scheme: int) -> None:
    text = refused(signed_bytes(sealed(VOTE, Notary(scheme=scheme))))
    assert f"scheme {scheme}, which this node does not know" in text


def test_a_scheme_can_be_registered() -> None:
    register_scheme(200, lambda _signer, data, signature: signature == data[-4:])

    @attrs.define
    class Toy(Notary):
        def sign(self, data: bytes) -> bytes:
            return data[-4:]

    assert open_signed(signed_bytes(sealed(VOTE, Toy(scheme=200))), Vote) == VOTE
    assert "is not one of its signer's" in refused(signed_bytes(sealed(VOTE, Notary(scheme=200))))
    with pytest.raises(MessageError, match="no number of a scheme"):
        register_scheme(0, lambda *_: True)
    with pytest.raises(MessageError, match="scheme 1 is taken"):
        register_scheme(1, lambda *_: True)


HEAD = (1, KEY.peer, 5, 6, None, [0x7B10, "p", 2], [])
CHANGES: dict[str, tuple[int, Any]] = {
    "scheme 0": (0, 0),
    "scheme 256": (0, 256),
    "scheme text": (0, "ed25519"),
    "scheme true": (0, True),
    "no signer": (1, None),
    "empty signer": (1, ""),
    "long signer": (1, "1" * 600),
    "signer that is no peer id": (1, "12D3KooW"),
    "negative seq": (2, -1),
    "large seq": (2, 2**63),
    "seq of floats": (2, 1.5),
    "no time": (3, None),
    "audience a number": (4, 7),
    "empty audience": (4, ""),
    "no message": (5, None),
    "empty message": (5, []),
    "tag of another": (5, [0x7B51, "p", 2]),
    "tag true": (5, [True, "p", 2]),
    "digests missing": (6, None),
    "a digest too many": (6, [b"\0" * 32]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_signed_must_have_its_shape_though_the_signature_holds(name: str) -> None:
    place, value = CHANGES[name]
    head = list(HEAD)
    head[place] = value
    data = dumps(head)
    with pytest.raises(SignatureError) as caught:
        from_plain([0x7B10, data, KEY.sign(DOMAIN + data)])
    assert caught.value.hint


def test_fields_must_fit_though_the_signature_holds() -> None:
    data = dumps([*HEAD[:5], [0x7B10, 5, 2], []])
    with pytest.raises(DecodeError, match="Vote.proposal: expected str"):
        from_plain([0x7B10, data, KEY.sign(DOMAIN + data)])


@pytest.mark.parametrize(
    "body",
    [
        [0x7B10],
        [0x7B10, "p", 2],
        [0x7B10, b"", b""],
        [0x7B10, b"\x80", b"\0" * 64],
        [0x7B10, ["p"], b""],
        [0x7B10, b"\xf6", b""],
    ],
    ids=str,
)
def test_a_body_without_its_signature_is_refused(body: list[Any]) -> None:
    with pytest.raises(DecodeError):
        from_plain(body)


def test_bytes_that_another_encoder_would_write_are_refused_though_they_are_signed() -> None:
    data = dumps(list(HEAD)).replace(b"\x05\x06\xf6", b"\x18\x05\x06\xf6")  # seq in two bytes
    with pytest.raises(DecodeError, match="not deterministic"):
        from_plain([0x7B10, data, KEY.sign(DOMAIN + data)])


@given(st.binary(max_size=300), st.binary(max_size=80))
def test_any_bytes_are_refused(data: bytes, signature: bytes) -> None:
    with pytest.raises(DecodeError):
        from_plain([0x7B10, data, signature])


def test_nesting_and_size_are_limited() -> None:
    data = b"\x81" * 100_000 + b"\x80"
    with pytest.raises(DecodeError):
        from_plain([0x7B10, data, b"\0" * 64])
    with pytest.raises(DecodeError, match="limit"):
        open_signed(signed_bytes(sealed(Vote("x" * 5000))), Vote, Limits(header_size_bytes_max=4096))


def test_nothing_is_decoded_before_the_signature_holds() -> None:
    built = []

    @message(tag=0x7B57, signed=True)
    class Watched:
        name: str

        def __attrs_post_init__(self) -> None:
            built.append(self.name)

    frame = signed_bytes(sealed(Watched("a")))
    built.clear()
    refused(frame[:-1] + bytes([frame[-1] ^ 1]), Watched)
    assert not built
    open_signed(frame, Watched)
    assert built == ["a"]


# -------------------------------------------------------------------------------------------------- how it is declared


def test_signing_needs_a_tag_and_a_signed_class() -> None:
    with pytest.raises(MessageError, match="without a tag"):
        message(signed=True)  # type: ignore[call-overload]
    with pytest.raises(LocalProtocolError, match="is no signed message") as caught:
        sign(Plain("p"), Notary())
    assert "signed=True" in caught.value.hint
    with pytest.raises(LocalProtocolError, match="carries no signature") as caught:
        signed(Plain("p"))
    assert "signed=True" in caught.value.hint
    with pytest.raises(LocalProtocolError, match="is no signed message"):
        open_signed(b"", Plain)
    assert is_signed(Vote)
    assert not is_signed(Plain)


def test_what_is_not_signed_yet_has_no_wire_form_of_its_own() -> None:
    with pytest.raises(LocalProtocolError, match="carries no signature") as caught:
        to_plain(VOTE, [])
    assert "system.sign" in caught.value.hint


def test_what_is_signed_for_one_node_is_not_sent_to_another() -> None:
    with pytest.raises(LocalProtocolError, match="would refuse it") as caught:
        to_plain(sealed(VOTE, audience=KEY.peer), [], Notary(), OTHER.peer)
    assert "system.sign" in caught.value.hint
    assert to_plain(sealed(VOTE, audience=OTHER.peer), [], Notary(), OTHER.peer)


def test_a_field_of_the_wrong_type_is_named() -> None:
    with pytest.raises(LocalProtocolError, match="Vote.proposal"):
        sign(Vote(5), Notary())  # type: ignore[arg-type]


def test_a_signed_message_is_no_part_of_another() -> None:
    with pytest.raises(MessageError, match=r"holder: a signed message is no field") as caught:

        @message(tag=0x7B58)
        class Direct:
            holder: Vote

    assert "signed_bytes" in caught.value.hint
    with pytest.raises(MessageError, match="a signed message is no field"):

        @record
        class Many:
            votes: tuple[Vote | None, ...]

    with pytest.raises(MessageError, match="a signed message is no field"):
        encode_value(dict[str, Vote], {}, [])


def test_a_reply_may_be_signed() -> None:
    plain = encode_value(Vote | None, sealed(VOTE), [])
    answer = decode_value(Vote | None, plain)
    assert answer == VOTE
    assert signed(answer).signer == KEY.peer
    plain[2] = bytes(64)
    with pytest.raises(SignatureError):
        decode_value(Vote | None, plain)
    assert decode_value(Vote | None, encode_value(Vote | None, None, [])) is None


def test_the_short_way_leaves_signed_messages_alone() -> None:
    plain = to_plain(sealed(VOTE), [])
    data = dumps(plain)
    assert decode_body(plain, plain, data) is None


def test_a_class_that_is_signed_is_not_redefined_as_one_that_is_not() -> None:
    with pytest.raises(MessageError, match="is taken"):
        message(tag=tag_of(Vote))(type("Vote", (), {"__annotations__": {"proposal": str, "weight": int}, "weight": 1}))


def test_the_public_names_are_there() -> None:
    assert prime.open_signed is open_signed
    assert prime.signed is signed
    assert prime.signed_bytes is signed_bytes
    assert prime.Signed is Signed


# ----------------------------------------------------------------------------------------------------- the specification


def test_the_schema_says_what_is_signed() -> None:
    schema = generate([Vote, Gradient])
    name = next(line.split(" = ")[0] for line in schema.splitlines() if line.endswith("Vote = ["))
    what = signed(sealed(VOTE, audience=KEY.peer))
    pycddl.Schema(f"start = {name}\n{schema}").validate_cbor(dumps([0x7B10, what.sealed, what.signature]))
    inner = pycddl.Schema(f"start = {name}.sealed\n{schema}")
    inner.validate_cbor(what.sealed)
    with pytest.raises(pycddl.ValidationError):
        inner.validate_cbor(dumps([1, KEY.peer, -1, 6, None, [0x7B10, "p", 2], []]))


def test_the_specification_takes_what_is_written_and_nothing_else() -> None:
    schema = (SPEC / "signed.cddl").read_text(encoding="utf-8")
    body, inner = (pycddl.Schema(f"start = {name}\n{schema}") for name in ("signed_message", "content"))
    for value, audience in ((VOTE, None), (VOTE, KEY.peer), (Gradient(1, memoryview(b"x"), ()), None)):
        what = signed(sealed(value, audience=audience))
        body.validate_cbor(dumps([0x7B10, what.sealed, what.signature]))
        inner.validate_cbor(what.sealed)
    for place, value in ((0, 0), (0, 256), (1, 5), (2, -1), (3, "now"), (4, 5), (5, []), (6, [b"short"])):
        head = list(HEAD)
        head[place] = value
        with pytest.raises(pycddl.ValidationError):
            inner.validate_cbor(dumps(head))


VECTORS: dict[str, tuple[Any, str | None]] = {
    "for anyone": (VOTE, None),
    "for one node": (VOTE, OTHER.peer),
    "no fields": (Bare(), None),
    "payloads": (Gradient(7, memoryview(b"first"), (memoryview(b""),)), None),
}


def _vector(value: Any, audience: str | None) -> dict[str, Any]:
    made = sealed(value, audience=audience)
    what = signed(made)
    return {
        "seed": bytes(range(32)).hex(),
        "signer": what.signer,
        "seq": what.seq,
        "sent_at_ms": what.sent_at_ms,
        "audience": audience,
        "signed": (DOMAIN + what.sealed).hex(),
        "signature": what.signature.hex(),
        "frame": signed_bytes(made).hex(),
    }


def _committed() -> dict[str, dict[str, Any]]:
    vectors: dict[str, dict[str, Any]] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return vectors


@pytest.mark.parametrize("name", VECTORS)
def test_signing_gives_the_golden_bytes(name: str) -> None:
    assert _vector(*VECTORS[name]) == _committed()[name]


@pytest.mark.parametrize("name", VECTORS)
def test_the_golden_bytes_are_checked_with_nothing_but_ed25519(name: str) -> None:
    """As another implementation would: the peer id holds the key, the frame what was signed."""
    vector = _committed()[name]
    parser = FrameParser()
    parser.feed(bytes.fromhex(vector["frame"]))
    frame = parser.next()
    assert frame is not None
    tag, body, signature = loads(frame.header)
    assert body == bytes.fromhex(vector["signed"]).removeprefix(b"prime-signed-message:1:")
    assert signature.hex() == vector["signature"]
    assert verify(vector["signer"], bytes.fromhex(vector["signed"]), signature)
    head: Sequence[Any] = loads(body)
    assert head[:5] == [1, vector["signer"], vector["seq"], vector["sent_at_ms"], vector["audience"]]
    assert head[5][0] == tag
    assert open_signed(bytes.fromhex(vector["frame"]), type(VECTORS[name][0])) == VECTORS[name][0]


def test_no_vector_is_without_a_value() -> None:
    assert list(_committed()) == list(VECTORS)


if __name__ == "__main__":
    print(json.dumps({name: _vector(*vector) for name, vector in VECTORS.items()}, indent=1))
