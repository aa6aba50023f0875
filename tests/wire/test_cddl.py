"""The schema: what it says of messages, that the encoder keeps to it, and that the committed file is the current one."""

from __future__ import annotations

import enum
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import cbor2
import pycddl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prime.actor.messages import Items
from prime.errors import LocalProtocolError
from prime.testing.strategies import values_of
from prime.trainer.metadata import TrainingConfig
from prime.transport.identity import KeyPair
from prime.transport.signing import KeySignatory
from prime.wire import Ask, Payload, Range, Size, dumps, encode_value, message, record, to_plain
from prime.wire.cddl import generate, room_messages
from prime.wire.codec import rule_name
from prime.wire.message import field_types, is_signed, sign

SIGNATORY = KeySignatory(KeyPair.from_seed(bytes(32)))
COMMITTED = Path(__file__).parents[2] / "spec" / "wire.cddl"


class Mood(enum.Enum):
    CALM = "calm"
    LOUD = "loud"


@record
class Place:
    name: str
    height: float


@message(tag=0x7E30)
class Everything:
    """Holds one of each kind.

    This paragraph stays out of the schema.
    """

    a: bool
    b: int
    c: float
    d: str | None
    e: bytes
    f: Payload
    g: Mood
    h: Place
    i: tuple[Place, ...]
    j: Place | None
    k: dict[str, int]
    m: tuple[int, str]
    n: frozenset[str]
    o: Annotated[bytes, Size(4, 8)]
    p: Annotated[int, Range(0, 9)]
    q: Literal["x", "y"]
    r: dict[int, str]


@message(tag=0x7E31)
class Where(Ask[Place | None]):
    """Ask for a place."""


@record
class Tree:
    branches: tuple[Tree, ...] = ()


@message(tag=0x7E32)
class Forest:
    trees: tuple[Tree, ...]


def _rooted(text: str, root: str) -> pycddl.Schema:
    """Make one rule the root, and leave out what the validator gets wrong.

    It cannot tell arrays of different lengths in a choice apart, nor two fields of one array that are `array / null`: such
    a choice counts as `any` below the root, and is checked as a root of its own.
    """
    rules = re.sub(r"(?m)^message = .*(\n +/ .*)*\n", "", text)
    arrays = set(re.findall(r"(?m)^(\S+) = \[", rules))

    def relaxed(rule: re.Match[str]) -> str:
        holds_array = not arrays.isdisjoint(rule[2].split(" / "))
        return f"{rule[1]} = any" if holds_array and rule[1] != root else rule[0]

    return pycddl.Schema(f"root = {root}\n" + re.sub(r"(?m)^(\S+-or-\S+) = (.*)$", relaxed, rules))


def _classes_in(annotation: Any) -> Iterator[type]:
    """Walk a type and yield each message and record class that it is made of."""
    for argument in get_args(annotation):
        yield from _classes_in(argument)
    if hasattr(annotation, "__wire_form__"):
        yield annotation
        for inner in field_types(annotation).values():
            yield from _classes_in(inner)


NARROW = {
    TrainingConfig: st.builds(
        TrainingConfig,
        model=st.text(max_size=9),
        rounds=st.integers(1, 2**40),
        learning_rate=st.floats(0, 10),
        options=st.text(max_size=9),
    )
}
"""Classes of which hardly any value that is drawn field by field is one."""


def _check(annotation: Any, schema: pycddl.Schema, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(values_of(annotation, kinds=NARROW))
    def holds(value: Any) -> None:
        sent = sign(value, SIGNATORY) if is_signed(type(value)) else value
        schema.validate_cbor(dumps(encode_value(annotation, sent, [])))

    holds()


@pytest.mark.parametrize("cls", [Everything, Where, Place])
def test_what_the_encoder_writes_is_in_the_schema(cls: type) -> None:
    _check(cls, _rooted(generate([Everything, Where]), rule_name(cls)), 100)


def test_a_choice_is_in_the_schema() -> None:
    schema = _rooted(generate([Where]), f"{rule_name(Place)}-or-null")
    _check(Place | None, schema, 30)
    with pytest.raises(pycddl.ValidationError):
        schema.validate_cbor(_cbor("p"))


GOOD = [0x7E30, True, 1, 1.5, None, b"", 0, "calm", ["p", 1.5], [], None, {}, [1, "x"], [], b"1234", 3, "x", []]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 0x7E31),
        (1, 1),
        (2, 2**64 + 1),
        (2, -(2**63) - 1),
        (3, 1),
        (4, 1),
        (5, "text"),
        (6, -1),
        (7, "angry"),
        (8, ["p"]),
        (9, None),
        (11, {"a": "b"}),
        (12, [1]),
        (13, [1]),
        (14, b"123"),
        (15, 10),
        (16, "z"),
    ],
)
def test_the_schema_refuses_what_the_decoder_refuses(position: int, value: Any) -> None:
    schema = _rooted(generate([Everything]), rule_name(Everything))
    schema.validate_cbor(_cbor(GOOD))
    with pytest.raises(pycddl.ValidationError):
        schema.validate_cbor(_cbor([*GOOD[:position], value, *GOOD[position + 1 :]]))


def _cbor(plain: Any) -> bytes:
    return cbor2.dumps(plain)  # ours refuses some of these itself


def test_how_it_reads() -> None:
    text = generate([Where, Everything])
    name = rule_name(Everything)
    assert f"message = {name}\n        / {rule_name(Where)}\n" in text  # by tag, whatever the order given
    assert f"; Holds one of each kind.\n; tag 0x7e30\n{name} = [\n  32304,\n  a: bool,\n  b: int64,\n" in text
    assert "This paragraph" not in text
    assert f"{rule_name(Where)}.reply = {rule_name(Place)}-or-null\n" in text
    assert text.count(f"\n{rule_name(Place)} = ") == 1


def test_a_record_may_hold_itself() -> None:
    text = generate([Forest])
    assert f"{rule_name(Tree)} = [\n  branches: list-of-{rule_name(Tree)}\n]" in text


def test_only_messages_with_a_tag_have_a_schema() -> None:
    with pytest.raises(LocalProtocolError):
        generate([Place])


ROOMS = room_messages()
st.register_type_strategy(Items, st.lists(st.integers(0, 9), max_size=3).map(lambda values: Items(int, values)))
RECORDS = sorted({each for cls in ROOMS for each in _classes_in(cls)} - set(ROOMS), key=rule_name)


@pytest.mark.parametrize("cls", [*ROOMS, *RECORDS], ids=rule_name)
def test_each_of_primes_own_keeps_to_the_schema(cls: type) -> None:
    _check(cls, _rooted(COMMITTED.read_text(encoding="utf-8"), rule_name(cls)), 10)


def test_the_committed_schema_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == generate(ROOMS), (
        "run `python -m prime.wire.cddl > spec/wire.cddl` and read the difference: it is the protocol that changed"
    )


def test_the_command_prints_it_and_loads_nothing_heavy() -> None:
    code = (
        "import runpy, sys; runpy.run_module('prime.wire.cddl', run_name='__main__'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numba', 'libp2p')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == generate(ROOMS)


def test_to_plain_and_encode_value_agree() -> None:
    where = Where()
    assert to_plain(where, []) == encode_value(Where, where, [])
