"""Messages as classes: frozen values, tags and their owners, reply types, encoding and decoding by field."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable
from typing import Any, Generic, NewType, TypeVar

import attrs
import pytest

from prime.errors import DecodeError, LocalProtocolError, MessageError
from prime.wire import (
    Ask,
    Payload,
    decode_value,
    encode_value,
    from_plain,
    is_message,
    message,
    message_for,
    messages,
    record,
    register_field,
    reply_type,
    tag_of,
    to_plain,
)

Name = NewType("Name", str)
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Text:
    """Stands for a class that another room owns, as `Ref` is."""

    def __init__(self, text: str) -> None:
        self.text = text


def _text_from(plain: Any) -> Text:
    if type(plain) is not str:
        raise TypeError("text wanted, got a secret")
    return Text(plain)


register_field(Text, lambda value: value.text, _text_from, "tstr", plain_type=str)


@record
class Member:
    name: Name
    weight: float = 1.0
    children: tuple[Member, ...] = ()


@message(tag=0x7E00)
class Put:
    key: str
    value: bytes
    owner: Member | None = None


@message(tag=0x7E01)
class Get(Ask[bytes | None]):
    key: str


@message(tag=0x7E02)
class Blob:
    name: str
    data: Payload
    more: tuple[Payload, ...] = ()


@message(tag=0x7E03)
class Colours:
    first: Colour
    either: Put | Get


@message(tag=0x7E04)
class Short:
    text: str = attrs.field(validator=attrs.validators.max_len(3))


@message(tag=0x7E05)
class WithText:
    text: Text


@message
class Sweep:
    anything: Any = None
    call: Callable[[], None] | None = None


@message(tag=0x7E06)
class Later(Ask["Member | None"]):
    """Its reply is written as text."""


def test_messages_are_frozen_slotted_values() -> None:
    put = Put("a", b"1")
    assert put == Put("a", b"1")
    assert hash(put) == hash(Put("a", b"1"))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        put.key = "b"  # type: ignore[misc]
    assert not hasattr(put, "__dict__")


def test_positional_array_behind_its_tag() -> None:
    assert to_plain(Put("a", b"1", Member(Name("m"))), []) == [0x7E00, "a", b"1", ["m", 1.0, []]]
    assert to_plain(Get("k"), []) == [0x7E01, "k"]


def test_payloads_travel_beside_the_array_without_a_copy() -> None:
    first, second = bytearray(b"first"), bytearray(b"second")
    payloads: list[memoryview] = []
    plain = to_plain(Blob("n", memoryview(first), (memoryview(second), memoryview(b""))), payloads)
    assert plain == [0x7E02, "n", 0, [1, 2]]
    assert [bytes(view) for view in payloads] == [b"first", b"second", b""]
    assert payloads[0].obj is first
    blob = from_plain(plain, payloads)
    assert blob.data.obj is first
    assert blob.data.readonly
    assert blob.more[0] == second


def test_a_payload_of_other_items_becomes_bytes() -> None:
    payloads: list[memoryview] = []
    to_plain(Blob("n", memoryview(b"12345678").cast("I")), payloads)
    assert payloads[0].format == "B"
    assert payloads[0].nbytes == 8


@pytest.mark.parametrize("value", [memoryview(b"abcd")[::2], "text", 3])
def test_a_payload_that_is_no_contiguous_buffer(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"Blob\.data"):
        to_plain(Blob("n", value), [])


@pytest.mark.parametrize("index", [-1, 1, 2**70, True, "0", None, 0.0])
def test_a_payload_index_that_names_nothing(index: Any) -> None:
    with pytest.raises(DecodeError, match=r"Blob\.data: expected the index of a payload"):
        from_plain([0x7E02, "n", index], [memoryview(b"x")])


def test_unknown_fields_at_the_end_are_ignored() -> None:
    assert from_plain([0x7E01, "k", "from the future", [1, 2]]) == Get("k")


def test_missing_fields_at_the_end_take_their_defaults() -> None:
    assert from_plain([0x7E00, "a", b"1"]) == Put("a", b"1", None)
    with pytest.raises(DecodeError, match="expected Put as an array of at least 3"):
        from_plain([0x7E00, "a"])


@pytest.mark.parametrize(
    ("plain", "where"),
    [
        ([0x7E00, 1, b"1"], r"Put\.key: expected str, got int"),
        ([0x7E00, "a", "1"], r"Put\.value: expected bytes, got str"),
        ([0x7E00, "a", b"", ["m", 1.0, [["n", 2]]]], r"Put\.owner\.children\.weight: expected float, got int"),
        ([0x7E03, "green", [0x7E01, "k"]], r"Colours\.first: expected Colour"),
        ([0x7E03, ["red"], [0x7E01, "k"]], r"Colours\.first: expected Colour"),
        ([0x7E03, "red", [0x7E02, "k"]], r"Colours\.either"),
        ([0x7E03, "red", []], r"Colours\.either"),
        ([0x7E03, "red", [[], "k"]], r"Colours\.either"),
        ([0x7E03, "red", [True, "k"]], r"Colours\.either"),
        ([0x7E04, "long"], r"expected a valid Short"),
        ([0x7E05, 3], r"WithText\.text: expected Text"),
    ],
)
def test_a_value_that_does_not_fit_names_class_and_field(plain: list[Any], where: str) -> None:
    with pytest.raises(DecodeError, match=where):
        from_plain(plain)


@pytest.mark.parametrize("plain", [None, 5, "x", {}, [], [None], ["a"], [[1]], [True], [1.5], [0x7EFF], [-1], [2**64]])
def test_what_is_no_known_message(plain: Any) -> None:
    with pytest.raises(DecodeError):
        from_plain(plain)


def test_errors_never_repeat_the_body() -> None:
    secret = "kept out of logs"  # noqa: S105 - it stands for one
    for plain in ([0x7E00, secret, secret], [0x7E04, secret], [0x7E03, secret, None], [0x7E05, [secret]], [secret]):
        with pytest.raises(DecodeError) as caught:
            from_plain(plain)
        assert secret not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_wrong_value_is_refused_before_it_is_sent() -> None:
    with pytest.raises(LocalProtocolError, match=r"Put\.key: expected str, got int"):
        to_plain(Put(1, b""), [])  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match=r"Put\.owner"):
        to_plain(Put("a", b"", "nobody"), [])  # type: ignore[arg-type]


def test_a_message_without_a_tag_stays_here() -> None:
    assert Sweep(object()).anything is not None
    for attempt in (lambda: to_plain(Sweep(), []), lambda: tag_of(Sweep), lambda: tag_of(Sweep())):
        with pytest.raises(LocalProtocolError, match="Sweep has no tag"):
            attempt()


def test_what_is_no_message_is_refused() -> None:
    class Child(Put):
        """Not decorated: it would silently lose its own fields."""

    for value in (object(), Child("a", b""), 3):
        with pytest.raises(LocalProtocolError, match="is not a message"):
            to_plain(value, [])
    with pytest.raises(LocalProtocolError, match="has no tag"):
        to_plain(Member(Name("m")), [])


def test_tags_and_classes_find_each_other() -> None:
    assert tag_of(Put) == tag_of(Put("a", b"")) == 0x7E00
    assert message_for(0x7E00) is Put
    assert message_for(0x7EFF) is None
    assert {Put, Get, Blob} <= set(messages())
    assert [is_message(cls) for cls in (Put, Sweep, Member, int)] == [True, True, False, False]


def test_a_taken_tag_names_both_classes() -> None:
    with pytest.raises(MessageError, match=r"test_message\.Put, so .*Other cannot have it"):

        @message(tag=tag_of(Put))
        class Other:
            key: str


def _define(name: str, module: str, tag: int, **fields: type) -> type:
    body = {"__annotations__": fields, "__module__": module, "__qualname__": name}
    return message(tag=tag)(types.new_class(name, (), {}, lambda namespace: namespace.update(body)))


def test_a_module_imported_twice_may_define_its_message_again() -> None:
    first = _define("Again", "somewhere", 0x7E10, key=str)
    second = _define("Again", "somewhere", 0x7E10, key=str)
    assert message_for(0x7E10) is second
    assert to_plain(first("k"), []) == to_plain(second("k"), [])


@pytest.mark.parametrize(
    ("name", "module", "fields"),
    [
        ("Once", "somewhere", {"key": bytes}),
        ("Once", "somewhere", {"key": str, "more": int}),
        ("Once", "elsewhere", {"key": str}),
        ("Twice", "somewhere", {"key": str}),
    ],
)
def test_another_definition_under_the_same_tag(name: str, module: str, fields: dict[str, type]) -> None:
    original = _define("Once", "somewhere", 0x7E11, key=str)
    with pytest.raises(MessageError, match=rf"somewhere\.Once, so {module}\.{name}"):
        _define(name, module, 0x7E11, **fields)
    assert message_for(0x7E11) is original


@pytest.mark.parametrize("tag", [0, -1, 2**32])
def test_a_tag_out_of_range(tag: int) -> None:
    with pytest.raises(MessageError, match="out of range"):
        _define("Far", "somewhere", tag)


@pytest.mark.parametrize("module", ["somewhere", "primed.messages", "prime_extra"])
def test_low_tags_are_reserved(module: str) -> None:
    with pytest.raises(MessageError, match="reserved"):
        _define("Low", module, 0xFFF)


def test_decorating_with_an_empty_call() -> None:
    with pytest.raises(MessageError, match="without a tag"):
        message()  # type: ignore[call-overload]


def test_fields_with_no_wire_form_are_named() -> None:
    for annotation in (object, Any, set[int], complex, tuple, list[object], Sweep, Callable[[], None], type):
        with pytest.raises(MessageError, match=r"Bad\.field") as caught:
            _define("Bad", "somewhere", 0x7E12, field=annotation)
        assert caught.value.hint
    assert message_for(0x7E12) is None


@pytest.mark.parametrize(
    "annotation",
    [
        str | Name,
        int | Payload,
        tuple[int, ...] | list[str],
        Member | list[int],
        Put | list[int],
        Put | Member,
        Colour | str,
    ],
)
def test_unions_that_look_the_same_on_the_wire(annotation: Any) -> None:
    if annotation is str:
        pytest.skip("the two are one type")
    with pytest.raises(MessageError, match="look the same"):
        _define("Same", "somewhere", 0x7E12, field=annotation)


def test_a_computed_field_has_no_place_on_the_wire() -> None:
    with pytest.raises(MessageError, match="init=False"):

        @record
        class Computed:
            value: int = attrs.field(init=False, default=3)


def test_keyword_fields_and_private_names() -> None:
    @message(tag=0x7E13)
    class Keyed:
        _first: int
        second: int = attrs.field(default=2, kw_only=True)

    assert from_plain(to_plain(Keyed(1, second=5), [])) == Keyed(1, second=5)
    assert from_plain([0x7E13, 1]) == Keyed(1)


def test_names_defined_later_are_found_at_first_use() -> None:
    @message(tag=0x7E14)
    class Early:
        held: tuple[Late, ...]  # noqa: F821 - that is the case

    with pytest.raises(MessageError, match=r"Early has a field whose type is not defined: .*Late"):
        to_plain(Early(()), [])


def test_local_names_are_found() -> None:
    @record
    class Inner:
        value: int

    @message(tag=0x7E15)
    class Outer:
        inner: Inner

    assert from_plain(to_plain(Outer(Inner(3)), [])) == Outer(Inner(3))


def test_reply_types() -> None:
    assert reply_type(Get) == bytes | None
    assert reply_type(Later) == Member | None
    with pytest.raises(MessageError, match="Put is no Ask"):
        reply_type(Put)

    class Open(Ask[T], Generic[T]):
        """Its reply type was never chosen."""

    with pytest.raises(MessageError, match="leaves its reply type open"):
        reply_type(Open)


def test_replies_by_their_type() -> None:
    payloads: list[memoryview] = []
    plain = encode_value(Blob | None, Blob("n", memoryview(b"x")), payloads)
    assert decode_value(Blob | None, plain, payloads) == Blob("n", memoryview(b"x"))
    assert decode_value(reply_type(Get), None) is None
    with pytest.raises(LocalProtocolError, match="a value: expected"):
        encode_value(reply_type(Get), "text", [])
    with pytest.raises(DecodeError, match="a value: expected"):
        decode_value(reply_type(Get), "text")


def test_a_registered_class_crosses_by_its_own_codec() -> None:
    assert from_plain(to_plain(WithText(Text("t")), [])).text.text == "t"
    with pytest.raises(LocalProtocolError, match=r"WithText\.text: expected Text, got str"):
        to_plain(WithText("t"), [])  # type: ignore[arg-type]


def test_a_record_nested_beyond_reason_is_refused_here() -> None:
    deep = Member(Name("leaf"))
    for _ in range(5000):
        deep = Member(Name("m"), 1.0, (deep,))
    with pytest.raises(LocalProtocolError, match="nested too deeply"):
        to_plain(Put("a", b"", deep), [])
    while deep.children:  # freed from the outside in: the interpreter would recurse
        deep = deep.children[0]
