"""Every message there is, drawn at length: what is sent comes back equal, has one encoding, and bears no byte more."""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import prime
from prime.actor.messages import Items
from prime.errors import DecodeError, SignatureError
from prime.testing.strategies import values_of
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig
from prime.transport.identity import KeyPair
from prime.transport.signing import open_signed
from prime.wire import Ask, Payload, decode_value, dumps, encode_value, from_plain, loads, message, record, to_plain
from prime.wire.codec import rule_name
from prime.wire.frame import FrameParser, pack
from prime.wire.message import is_signed, messages, reply_type, sign, signed_bytes, signed_or_none

ROOT = Path(prime.__file__).parent


def _tagged(module: Path) -> Iterator[str]:
    """Yield the name of each class with `@message(tag=…)` in a module, without running it."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(decorator, ast.Call) and any(keyword.arg == "tag" for keyword in decorator.keywords):
                yield node.name


def _modules() -> dict[str, list[str]]:
    """Return the names of the tagged classes in each module that has some."""
    found = {}
    for module in ROOT.rglob("*.py"):
        if names := list(_tagged(module)):
            found[".".join(("prime", *module.relative_to(ROOT).with_suffix("").parts))] = names
    return found


TAGGED = _modules()
ALL = [getattr(importlib.import_module(module), name) for module, names in sorted(TAGGED.items()) for name in names]
PLAIN = [cls for cls in ALL if not is_signed(cls)]
ASKS = [cls for cls in ALL if issubclass(cls, Ask)]

CONFIGS = st.builds(
    TrainingConfig,
    model=st.text(max_size=9),
    rounds=st.integers(1, 2**62),
    contributors_final_min=st.integers(0, 9),
    context=st.integers(2, 2**40),
    outer_momentum=st.floats(0, 0.99),
    round_deadline_s=st.floats(0.001, 1e9),
    seed=st.integers(0, 2**63 - 1),
)
MODELS = st.lists(st.lists(st.integers(0, 2**20), max_size=2), min_size=1, max_size=3).map(
    lambda shapes: ModelMetadata(
        "model",
        sum(math.prod(shape) for shape in shapes),
        tuple(TensorLayout(str(number), tuple(shape), "float32") for number, shape in enumerate(shapes)),
    )
)


NARROW = {TrainingConfig: CONFIGS, ModelMetadata: MODELS}
"""Classes of which hardly any value that is drawn field by field is one."""


def drawn(annotation: Any) -> st.SearchStrategy[Any]:
    """Draw a message or an answer; where what validators take is narrow, from what they take."""
    return values_of(annotation, kinds=NARROW)


DRAWN = settings(max_examples=25, suppress_health_check=list(HealthCheck))
KEY = KeyPair.from_seed(bytes(range(32)))

st.register_type_strategy(Items, st.lists(st.integers(0, 9), max_size=3).map(lambda values: Items(int, values)))


@record
class Place:
    name: str
    height: float


@message(tag=0x7D12, signed=True)
class Vouched:
    places: tuple[Place, ...]
    more: dict[int, str]
    first: Payload
    second: Payload | None = None


class Signatory:
    """Signs as a node does, but for its clock."""

    scheme = 1
    signer = KEY.peer

    def __init__(self) -> None:
        self.seq = 0

    def stamp(self) -> tuple[int, int]:
        self.seq += 1
        return self.seq, 1_700_000_000_000

    def sign(self, data: bytes) -> bytes:
        return KEY.sign(data)


def _carried(plain: Any, payloads: list[memoryview]) -> tuple[Any, tuple[memoryview, ...]]:
    """Carry a plain value and its payloads over a stream of frames."""
    header = dumps(plain)
    parser = FrameParser()
    parser.feed(b"".join(pack(header, payloads)))
    frame = parser.next()
    assert frame is not None and parser.is_between_frames
    assert dumps(loads(frame.header)) == header
    return loads(frame.header), frame.payloads


def _compared(value: Any) -> Any:
    """Return the fields of an instance, with what streams carry as it is on the wire until its type is known."""
    if not attrs.has(type(value)):
        return value
    fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    return {name: each.to_plain() if isinstance(each, Items) else each for name, each in fields.items()}


@pytest.mark.parametrize("cls", PLAIN, ids=rule_name)
def test_a_message_comes_back(cls: type) -> None:
    @DRAWN
    @given(drawn(cls))
    def holds(sent: Any) -> None:
        payloads: list[memoryview] = []
        came = from_plain(*_carried(to_plain(sent, payloads), payloads))
        assert type(came) is cls
        assert _compared(came) == _compared(sent)

    holds()


@pytest.mark.parametrize("cls", ASKS, ids=rule_name)
def test_its_answer_comes_back(cls: type) -> None:
    kind = reply_type(cls)

    @DRAWN
    @given(drawn(kind))
    def holds(sent: Any) -> None:
        payloads: list[memoryview] = []
        plain, carried = _carried(encode_value(kind, sent, payloads), payloads)
        assert _compared(decode_value(kind, plain, carried)) == _compared(sent)

    holds()


def _signed(cls: type) -> st.SearchStrategy[Any]:
    return drawn(cls).map(lambda drawn: sign(drawn, Signatory()))


@pytest.mark.parametrize("cls", [Vouched, *(cls for cls in ALL if is_signed(cls))], ids=rule_name)
def test_a_signed_message_comes_back_with_its_signature(cls: type) -> None:
    @DRAWN
    @given(_signed(cls), st.data())
    def holds(sent: Any, data: st.DataObject) -> None:
        kept = signed_bytes(sent)
        came = open_signed(kept, cls)
        assert came == sent
        assert signed_bytes(came) == kept
        assert signed_or_none(came) == signed_or_none(sent)
        changed = bytearray(kept)
        changed[data.draw(st.integers(0, len(kept) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(DecodeError):
            open_signed(bytes(changed), cls)

    holds()


@given(_signed(Vouched), _signed(Vouched))
def test_a_signature_stands_for_no_other_message(one: Vouched, other: Vouched) -> None:
    assume(one != other)
    payloads: list[memoryview] = []
    body, others = to_plain(one, payloads), to_plain(other, [])
    with pytest.raises(SignatureError):
        from_plain([body[0], others[1], body[2]], payloads)


@given(
    st.sampled_from(PLAIN).flatmap(drawn),
    st.binary(min_size=1, max_size=8),
)
def test_no_byte_may_follow(sent: Any, more: bytes) -> None:
    header = dumps(to_plain(sent, []))
    with pytest.raises(DecodeError):
        loads(header + more)


@given(st.sampled_from(PLAIN).flatmap(drawn))
def test_no_byte_may_be_missing(sent: Any) -> None:
    header = dumps(to_plain(sent, []))
    for end in range(len(header)):
        with pytest.raises(DecodeError):
            loads(header[:end])


def test_no_message_is_left_out() -> None:
    registered = {cls for cls in messages() if cls.__module__.startswith("prime.")}
    assert registered == set(ALL), "a tagged class is made in another way than by @message(tag=…) on a class"
    assert len(ALL) > 40
