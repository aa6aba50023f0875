"""Field types compiled into codecs, once per type: a check and a conversion in each direction, and a CDDL rule.

A codec's `encode(value, payloads)` returns a plain value (see `cbor`) and may append to `payloads`; `decode(plain,
payloads)` checks and converts back. Both raise `MismatchError`, which the message above turns into an error that names
class and field. No reflection happens after compilation, and nothing here repeats a value it was given.
"""

from __future__ import annotations

import enum
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

import attrs

from prime.errors import MessageError, PrimeError
from prime.wire.cbor import dumps
from prime.wire.kinds import FiniteMark, PayloadMark, Range, Size

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
HASHED_ITEMS_MAX = 1024
"""Most keys in a decoded set or dict whose keys are neither text nor bytes: only those two hash with a secret, so
chosen ints could make each insertion walk all earlier ones."""

Encode = Callable[[Any, list[memoryview]], Any]
Decode = Callable[[Any, Sequence[memoryview]], Any]
NoneType = type(None)
T = TypeVar("T")


class MismatchError(Exception):
    """A value is not of the field's type. `path` grows from the inside out; nothing of the value is kept."""

    def __init__(self, expected: str, value: object = None, *, got: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = got or type(value).__name__
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path))}: expected {self.expected}, got {self.got}"


class Rules(Protocol):
    """Collects CDDL rules while a schema is written."""

    def define(self, name: str, body: Callable[[], str]) -> str:
        """Add a rule unless the name has one, and return the name."""
        ...


@attrs.frozen
class Codec:
    """How one type crosses the wire.

    `plain` is the set of plain types that `decode` may be given, which is how a union tells its members apart;
    `tags` does the same among messages. `python` holds the classes of values that `encode` takes. `hashes_secretly` is
    true when values hash with a per-process secret. `closed` is true when `decode` looks at every plain value inside
    and `encode` makes nothing but plain values, to a depth that the type alone fixes: such values need no second look
    for what CBOR can hold and a plain value cannot. `signed` is true of a signed message, and of a union with one.
    `rule` defines the CDDL rule and returns its name.
    """

    encode: Encode
    decode: Decode
    plain: frozenset[type]
    python: tuple[type, ...]
    rule: Callable[[Rules], str]
    tags: frozenset[int] = frozenset()
    hashes_secretly: bool = False
    closed: bool = False
    signed: bool = False


class ClassForm(Protocol):
    """What `message.py` leaves on a decorated class as `__wire_form__`: how its instances cross."""

    cls: type
    tag: int | None
    has_wire_form: bool
    signed: bool

    def encode(self, value: Any, payloads: list[memoryview]) -> list[Any]:
        """Return the positional array."""
        ...

    def decode(self, plain: Any, payloads: Sequence[memoryview]) -> Any:
        """Check the positional array and build the instance."""
        ...

    def rule(self, rules: Rules) -> str:
        """Define the CDDL rule of the array and return its name."""
        ...


class _Registered:
    """Codecs of classes that bring their own, by class. Filled at import time by the room that owns the class."""

    def __init__(self) -> None:
        self.codecs: dict[type, Codec] = {}


_registered = _Registered()


def register_field(
    cls: type[T],
    to_plain: Callable[[T], Any],
    from_plain: Callable[[Any], T],
    cddl: str,
    *,
    plain_type: type | None = None,
    instances: tuple[type, ...] = (),
) -> None:
    """Teach the wire a class that is neither a message nor a record, such as `Ref`; its generic forms are included.

    `to_plain` returns a plain value; `from_plain` checks one and raises ValueError, TypeError, LookupError or a
    `PrimeError` when it does not fit. `cddl` describes the plain value; `plain_type` (str, list, …) lets the class
    stand in a union with others than None. `instances` are the classes of its values where `cls` is a Protocol. Register before the first message with such a field is decorated.
    """
    kinds: tuple[type[Any], ...] = instances or (cls,)

    def encode(value: Any, _payloads: list[memoryview]) -> Any:
        if not isinstance(value, kinds):
            raise MismatchError(cls.__name__, value)
        return to_plain(value)

    def decode(plain: Any, _payloads: Sequence[memoryview]) -> T:
        if plain_type is not None and type(plain) is not plain_type:
            raise MismatchError(cls.__name__, plain)
        try:
            return from_plain(plain)
        except (PrimeError, ValueError, TypeError, LookupError) as error:
            raise MismatchError(cls.__name__, got=f"a value that it refuses ({type(error).__name__})") from None

    plain = frozenset() if plain_type is None else frozenset({plain_type})
    _registered.codecs[cls] = Codec(
        encode, decode, plain, kinds, lambda rules: rules.define(rule_name(cls), lambda: cddl)
    )
    compile_codec.cache_clear()


def rule_name(cls: type) -> str:
    """Return the CDDL name of a class: its room and its name, as in `trainer.Contribute`."""
    parts = [part for part in cls.__module__.split(".") if part not in {"prime", "messages"}]
    return ".".join(["".join(c if c.isalnum() else "-" for c in part).strip("-") for part in [*parts, cls.__name__]])


@functools.lru_cache(maxsize=8192)
def compile_codec(annotation: Any) -> Codec:
    """Return the codec of a type; compiled once. Raises `MessageError` for a type with no wire form."""
    if isinstance(annotation, type) and annotation in _registered.codecs:
        return _registered.codecs[annotation]
    if annotation in _ATOMS:
        return _ATOMS[annotation]
    if hasattr(annotation, "__supertype__"):  # NewType
        return compile_codec(annotation.__supertype__)
    origin = get_origin(annotation)
    if origin is not None:
        return _compile_generic(annotation, origin, get_args(annotation))
    form = getattr(annotation, "__wire_form__", None)
    if form is not None and form.cls is annotation:
        return _class_codec(form)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum) and not issubclass(annotation, enum.Flag):
        values = {member.value: member for member in annotation}
        return _choice_codec(rule_name(annotation), annotation.__name__, values, (annotation,))
    raise MessageError(
        f"the type {_name_of(annotation)} has no wire form",
        hint="use None, bool, int, float, str, bytes, Payload, an Enum, a tuple, list, dict or frozenset with its item "
        "types, a @record, a @message with a tag, or a class given to register_field",
    )


def _compile_generic(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Codec:
    if origin is Annotated:
        return _annotated_codec(arguments[0], annotation.__metadata__)
    if origin is Union or origin is types.UnionType:
        return _union_codec(annotation, arguments)
    if origin is Literal:
        values = {value: value for value in arguments}
        name = "one-of-" + "-".join(str(value).replace(" ", "-") for value in arguments)
        return _choice_codec(name, "a listed value", values, tuple(dict.fromkeys(type(value) for value in arguments)))
    if origin in _registered.codecs:
        return _registered.codecs[origin]
    build = _CONTAINERS.get(origin)
    if build is None:
        raise MessageError(
            f"the type {_name_of(annotation)} has no wire form", hint="use tuple, list, dict or frozenset"
        )
    for argument in arguments:
        if argument is not Ellipsis:
            refuse_signed(compile_codec(argument))
    return build(arguments)


def refuse_signed(codec: Codec) -> Codec:
    """Return the codec of a part of a message. Raises `MessageError` if it is signed: a frame has one signature at most."""
    if codec.signed:
        raise MessageError(
            "a signed message is no field or item of another",
            hint="carry its bytes, `prime.signed_bytes(message)`, in a field of bytes, and `prime.open_signed` them",
        )
    return codec


def _name_of(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


# ----------------------------------------------------------------------------------------------------------- atoms


def _atom(kind: type, check: Callable[[Any, object], Any], rule: str) -> Codec:
    return Codec(check, check, frozenset({kind}), (kind,), lambda _rules: rule, hashes_secretly=True, closed=True)


def _check_none(value: Any, _payloads: object) -> None:
    if value is not None:
        raise MismatchError("None", value)


def _check_bool(value: Any, _payloads: object) -> bool:
    if value is True or value is False:
        return value
    raise MismatchError("bool", value)


def _check_int(value: Any, _payloads: object) -> int:
    if type(value) is int or (isinstance(value, int) and not isinstance(value, bool)):
        if INT_MIN <= value <= INT_MAX:
            return int(value)
        raise MismatchError("an int of 64 bits", got="a larger one")
    raise MismatchError("int", value)


def _encode_float(value: Any, _payloads: object) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return float(value)
    raise MismatchError("float", value)


def _decode_float(value: Any, _payloads: object) -> float:
    if type(value) is float:
        return value
    raise MismatchError("float", value)


def _check_str(value: Any, _payloads: object) -> str:
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise MismatchError("str", value)


def _encode_bytes(value: Any, _payloads: object) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise MismatchError("bytes", value)


def _decode_bytes(value: Any, _payloads: object) -> bytes:
    if type(value) is bytes:
        return value
    raise MismatchError("bytes", value)


def _encode_payload(value: Any, payloads: list[memoryview]) -> int:
    try:
        view = memoryview(value)
    except TypeError:
        raise MismatchError("a buffer", value) from None
    if not view.c_contiguous:
        raise MismatchError("a contiguous buffer", value)
    payloads.append(view.cast("B") if view.nbytes else memoryview(b""))  # a view with a zero in its shape has no cast
    return len(payloads) - 1


def _decode_payload(value: Any, payloads: Sequence[memoryview]) -> memoryview:
    if type(value) is not int:
        raise MismatchError("the index of a payload", value)
    if not 0 <= value < len(payloads):
        raise MismatchError("the index of a payload", got="an index out of range")
    return payloads[value].toreadonly()


_FLOAT = Codec(_encode_float, _decode_float, frozenset({float}), (float,), lambda _rules: "float", closed=True)
_BYTES = Codec(
    _encode_bytes,
    _decode_bytes,
    frozenset({bytes}),
    (bytes, bytearray, memoryview),
    lambda _rules: "bstr",
    hashes_secretly=True,
    closed=True,
)
_PAYLOAD = Codec(
    _encode_payload,
    _decode_payload,
    frozenset({int}),
    (memoryview, bytes, bytearray),
    lambda rules: rules.define("payload", lambda: "uint  ; the index of the bytes among the frame's payloads"),
    closed=True,
)
_INT = Codec(
    _check_int,
    _check_int,
    frozenset({int}),
    (int,),
    lambda rules: rules.define("int64", lambda: f"int .ge {INT_MIN}"),
    closed=True,
)
_NONE = _atom(NoneType, _check_none, "null")
_ATOMS: Mapping[Any, Codec] = types.MappingProxyType(
    {
        None: _NONE,
        NoneType: _NONE,
        bool: _atom(bool, _check_bool, "bool"),
        int: _INT,
        float: _FLOAT,
        str: _atom(str, _check_str, "tstr"),
        bytes: _BYTES,
    }
)


def atom_of(codec: Codec) -> type | None:
    """Return the one plain type of a codec that neither converts nor checks more than that, and the range of an int."""
    return next((kind for kind, atom in _ATOMS.items() if atom is codec and kind is not None), None)


def _choice_codec(name: str, what: str, values: Mapping[Any, Any], python: tuple[type, ...]) -> Codec:
    """One of a few str or int values, as an Enum (by value) or a Literal."""
    plain = frozenset(type(value) for value in values)
    if not plain or not plain <= {str, int}:
        raise MessageError(f"{what} has values that are neither str nor int", hint="give each one a str or int value")
    back = {(type(value), value): member for value, member in values.items()}
    forth = {member: value for value, member in values.items()}
    body = " / ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)

    def encode(value: Any, _payloads: object) -> Any:
        if isinstance(value, python) and value in forth:
            return forth[value]
        raise MismatchError(what, value)

    def decode(plain_value: Any, _payloads: object) -> Any:
        try:
            return back[type(plain_value), plain_value]
        except (KeyError, TypeError):
            raise MismatchError(what, got="another value") from None

    return Codec(
        encode,
        decode,
        plain,
        python,
        lambda rules: rules.define(name, lambda: body),
        hashes_secretly=True,
        closed=all(type(value) is str or INT_MIN <= value <= INT_MAX for value in values),
    )


def _class_codec(form: ClassForm) -> Codec:
    """Wrap a @record or @message; the form compiles on first use, so classes may refer to themselves."""
    cls, tag = form.cls, form.tag
    if not form.has_wire_form:
        raise MessageError(
            f"the message {cls.__qualname__} has no tag, so it has no wire form", hint="give it one: @message(tag=…)"
        )

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if type(value) is cls:
            return form.encode(value, payloads)
        raise MismatchError(cls.__name__, value)

    return Codec(
        encode,
        form.decode,
        frozenset({list}),
        (cls,),
        form.rule,
        tags=frozenset() if tag is None else frozenset({tag}),
        signed=form.signed,
    )


# ------------------------------------------------------------------------------------------------------- containers


def _sequence_codec(item: Codec, container: type[list[Any] | tuple[Any, ...]], kind: str) -> Codec:
    encode_item, decode_item, name = item.encode, item.decode, container.__name__

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if not isinstance(value, container):
            raise MismatchError(name, value)
        return [encode_item(each, payloads) for each in value]

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not list:
            raise MismatchError(name, plain)
        return container([decode_item(each, payloads) for each in plain])

    def rule(rules: Rules) -> str:
        inner = item.rule(rules)
        return rules.define(f"{kind}-of-{inner}", lambda: f"[* {inner}]")

    return Codec(encode, decode, frozenset({list}), (container,), rule, closed=item.closed)


def _compile_list(arguments: tuple[Any, ...]) -> Codec:
    return _sequence_codec(compile_codec(arguments[0]), list, "list")


def _compile_tuple(arguments: tuple[Any, ...]) -> Codec:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence_codec(compile_codec(arguments[0]), tuple, "list")
    items = [compile_codec(argument) for argument in arguments]
    encoders, decoders = [item.encode for item in items], [item.decode for item in items]
    size = len(items)
    what = f"a tuple of {size}"

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if not isinstance(value, tuple) or len(value) != size:
            raise MismatchError(what, value)
        return [step(each, payloads) for step, each in zip(encoders, value, strict=True)]

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not list or len(plain) != size:
            raise MismatchError(what, plain)
        return tuple([step(each, payloads) for step, each in zip(decoders, plain, strict=True)])

    def rule(rules: Rules) -> str:
        inner = [item.rule(rules) for item in items]
        return rules.define("tuple-" + "-".join(inner), lambda: f"[{', '.join(inner)}]")

    return Codec(
        encode,
        decode,
        frozenset({list}),
        (tuple,),
        rule,
        hashes_secretly=all(item.hashes_secretly for item in items),
        closed=all(item.closed for item in items),
    )


def _compile_frozenset(arguments: tuple[Any, ...]) -> Codec:
    item = _key_codec(arguments[0], "a frozenset's items")
    encode_item, decode_item = item.encode, item.decode

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if not isinstance(value, (frozenset, set)):
            raise MismatchError("frozenset", value)
        _check_hashed_count(len(value), item)
        return sorted((encode_item(each, payloads) for each in value), key=dumps)

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not list:
            raise MismatchError("frozenset", plain)
        _check_hashed_count(len(plain), item)
        _check_ascending(plain)
        return frozenset([decode_item(each, payloads) for each in plain])

    def rule(rules: Rules) -> str:
        inner = item.rule(rules)
        return rules.define(f"set-of-{inner}", lambda: f"[* {inner}]  ; ascending by encoding, no duplicates")

    return Codec(encode, decode, frozenset({list}), (frozenset, set), rule, closed=item.closed)


def _key_codec(annotation: Any, what: str) -> Codec:
    codec = compile_codec(annotation)
    if codec is _PAYLOAD:
        raise MessageError(f"{what} cannot be payloads", hint="use bytes")
    return codec


def _check_hashed_count(count: int, key: Codec) -> None:
    if count > HASHED_ITEMS_MAX and not key.hashes_secretly:
        raise MismatchError(f"at most {HASHED_ITEMS_MAX} keys that are neither str nor bytes", got=str(count))


def _check_ascending(plains: Sequence[Any]) -> None:
    previous = b""
    for plain in plains:
        current = dumps(plain)
        if current <= previous:
            raise MismatchError("ascending keys without duplicates", got="another order")
        previous = current


def _compile_dict(arguments: tuple[Any, ...]) -> Codec:
    key, value = _key_codec(arguments[0], "a dict's keys"), compile_codec(arguments[1])
    if key.plain in (frozenset({str}), frozenset({bytes})):
        return _map_codec(key, value)
    return _pairs_codec(key, value)


def _map_codec(key: Codec, item: Codec) -> Codec:
    """Text or bytes keys: a CBOR map."""
    encode_key, decode_key, encode_item, decode_item = key.encode, key.decode, item.encode, item.decode

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if not isinstance(value, dict):
            raise MismatchError("dict", value)
        return {encode_key(name, payloads): encode_item(each, payloads) for name, each in value.items()}

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not dict:
            raise MismatchError("dict", plain)
        return {decode_key(name, payloads): decode_item(each, payloads) for name, each in plain.items()}

    def rule(rules: Rules) -> str:
        names = key.rule(rules), item.rule(rules)
        return rules.define(f"map-of-{names[0]}-to-{names[1]}", lambda: f"{{* {names[0]} => {names[1]}}}")

    return Codec(encode, decode, frozenset({dict}), (dict,), rule, closed=key.closed and item.closed)


def _pairs_codec(key: Codec, item: Codec) -> Codec:
    """Any other keys: an array of pairs in ascending order of the encoded key."""
    encode_key, decode_key, encode_item, decode_item = key.encode, key.decode, item.encode, item.decode

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        if not isinstance(value, dict):
            raise MismatchError("dict", value)
        _check_hashed_count(len(value), key)
        pairs = [(encode_key(name, payloads), each) for name, each in value.items()]
        pairs.sort(key=lambda pair: dumps(pair[0]))
        return [[name, encode_item(each, payloads)] for name, each in pairs]

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not list or not all(type(pair) is list and len(pair) == 2 for pair in plain):
            raise MismatchError("a dict as pairs", plain)
        _check_hashed_count(len(plain), key)
        _check_ascending([pair[0] for pair in plain])
        return {decode_key(name, payloads): decode_item(each, payloads) for name, each in plain}

    def rule(rules: Rules) -> str:
        names = key.rule(rules), item.rule(rules)
        pair = rules.define(f"tuple-{names[0]}-{names[1]}", lambda: f"[{names[0]}, {names[1]}]")
        return rules.define(f"pairs-of-{names[0]}-to-{names[1]}", lambda: f"[* {pair}]  ; ascending by encoded key")

    return Codec(encode, decode, frozenset({list}), (dict,), rule, closed=key.closed and item.closed)


_CONTAINERS: Mapping[Any, Callable[[tuple[Any, ...]], Codec]] = types.MappingProxyType(
    {list: _compile_list, tuple: _compile_tuple, frozenset: _compile_frozenset, dict: _compile_dict}
)


# ------------------------------------------------------------------------------------------------------------ unions


def _union_codec(annotation: Any, arguments: tuple[Any, ...]) -> Codec:
    members = [compile_codec(argument) for argument in arguments]
    by_plain = _tell_apart(annotation, members)
    by_tag = {tag: member.decode for member in members for tag in member.tags}
    by_class = {cls: member.encode for member in members for cls in member.python}
    what = " | ".join(sorted(cls.__name__ for cls in by_class))
    rest = [(cls, encode) for cls, encode in by_class.items() if cls is not NoneType]

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        step = by_class.get(type(value))
        if step is None:
            step = next((encode_it for cls, encode_it in rest if isinstance(value, cls)), None)
        if step is None and type(value) is int:
            step = by_class.get(float)
        if step is None:
            raise MismatchError(what, value)
        return step(value, payloads)

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if by_tag and type(plain) is list:
            step = by_tag.get(plain[0]) if plain and type(plain[0]) is int else None
        else:
            step = by_plain.get(type(plain))
        if step is None:
            raise MismatchError(what, plain)
        return step(plain, payloads)

    def rule(rules: Rules) -> str:
        names = [member.rule(rules) for member in members]
        return rules.define("-or-".join(names), lambda: " / ".join(names))

    return Codec(
        encode,
        decode,
        frozenset(by_plain) | (frozenset({list}) if by_tag else frozenset()),
        tuple(by_class),
        rule,
        tags=frozenset(by_tag),
        hashes_secretly=all(member.hashes_secretly for member in members),
        closed=all(member.closed for member in members),
        signed=any(member.signed for member in members),
    )


def _tell_apart(annotation: Any, members: Sequence[Codec]) -> dict[type, Decode]:
    """Return the decoder of each plain type; messages are told apart by tag instead, so they share `list`."""
    by_plain: dict[type, Decode] = {}
    tagged = any(member.tags for member in members)
    for member in members:
        if not member.plain and len(members) > 2:
            raise _ambiguous(annotation)
        for kind in member.plain - ({list} if member.tags else frozenset()):
            if kind in by_plain or (tagged and kind is list):
                raise _ambiguous(annotation)
            by_plain[kind] = member.decode
    return by_plain


def _ambiguous(annotation: Any) -> MessageError:
    return MessageError(
        f"the union {annotation} has members that look the same on the wire",
        hint="use one @message with a tag per member, or a @record with a field that says which it is",
    )


# ------------------------------------------------------------------------------------------------------------- marks


def _annotated_codec(inner: Any, marks: tuple[Any, ...]) -> Codec:
    if any(isinstance(mark, PayloadMark) for mark in marks):
        return _PAYLOAD
    codec = compile_codec(inner)
    for mark in marks:
        if isinstance(mark, FiniteMark):
            codec = _checked(
                codec, math.isfinite, "a finite float", lambda _name: ("finite", "float  ; neither NaN nor infinite")
            )
        elif isinstance(mark, Range):
            codec = _range_codec(codec, mark)
        elif isinstance(mark, Size):
            codec = _size_codec(codec, mark)
    return codec


def _range_codec(codec: Codec, mark: Range) -> Codec:
    low, high = mark.low, mark.high
    # The validator in the tests takes ranges of unsigned ints only.
    body = f"{low}..{high}" if low >= 0 else f"int .ge {low}  ; at most {high}"
    rule = (f"int-{low}-to-{high}", body)
    return _checked(codec, lambda value: low <= value <= high, f"an int from {low} to {high}", lambda _name: rule)


def _size_codec(codec: Codec, mark: Size) -> Codec:
    low, high = mark.low, mark.high

    def rule(name: str) -> tuple[str, str]:
        if name == "bstr":
            return f"bstr-{low}-to-{high}", f"bstr .size ({low}..{high})"
        return f"{name}-{low}-to-{high}", f"{name}  ; of {low} to {high}"

    return _checked(codec, lambda value: low <= len(value) <= high, f"{low} to {high} items", rule)


def _checked(
    codec: Codec, holds: Callable[[Any], bool], what: str, describe: Callable[[str], tuple[str, str]]
) -> Codec:
    """Add a check on the Python value to a codec, in both directions."""
    encode_inner, decode_inner = codec.encode, codec.decode

    def encode(value: Any, payloads: list[memoryview]) -> Any:
        plain = encode_inner(value, payloads)
        if not holds(value):
            raise MismatchError(what, got="another value")
        return plain

    def decode(plain: Any, payloads: Sequence[memoryview]) -> Any:
        value = decode_inner(plain, payloads)
        if not holds(value):
            raise MismatchError(what, got="another value")
        return value

    def rule(rules: Rules) -> str:
        name, body = describe(codec.rule(rules))
        return rules.define(name, lambda: body)

    return attrs.evolve(codec, encode=encode, decode=decode, rule=rule)
