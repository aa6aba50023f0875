"""Functions made for one flat class each: a class whose fields are all numbers, texts, bytes or flags, or None.

Their source is written from the class's own field names and types when the class is compiled, and from nothing else.
A function takes what is usual and nothing that the long way would not take; all else it leaves to the long way, which
decides and has the words. So a limit or a rule lives there alone, and here is only what surely keeps to it: `reader`
looks at each head in turn and takes those alone that RFC 8949, section 4.2.1, has for the value.
"""

from __future__ import annotations

import io
import keyword
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Final, Generic, Union, get_args, get_origin

import attrs
import cbor2

from prime.errors import PrimeError
from prime.wire.cbor import dumps, dumps_closed
from prime.wire.codec import INT_MAX, INT_MIN, Encode, atom_of, compile_codec
from prime.wire.kinds import FiniteMark, Range, Size

Read = Callable[[bytes, int], tuple[Any, int, int] | None]
"""Reads the message at a position of some bytes: the message, where it ends, and its tag; `None` if it is not usual."""

Write = Callable[[list[Any]], bytes]
"""Makes the bytes of a message of its positional array."""

Encoder = Callable[[Any], bytes]

FIELDS_MAX: Final = 22
"""Most fields of a class with a reader: the head of its array is one byte."""
PREFIX_BYTES: Final = 4
"""Length of what a reader is known by: the head of the array, and a tag from 0x100 to 0xFFFF."""

_HEADS: Final[Mapping[int, tuple[Any, int, int]]] = MappingProxyType(
    {
        24: (struct.Struct(">B").unpack_from, 1, 24),
        25: (struct.Struct(">H").unpack_from, 2, 2**8),
        26: (struct.Struct(">I").unpack_from, 4, 2**16),
        27: (struct.Struct(">Q").unpack_from, 8, 2**32),
    }
)
"""What follows a head by its low five bits: how it is read, its length in bytes, and the least that needs so many."""


@attrs.frozen
class Simple:
    """What a field of a flat class holds: values of one plain type for which `holds` is true, or None too.

    `holds` is an expression of the source, about `{v}`; an empty one is always true.
    """

    kind: type
    optional: bool = False
    holds: str = ""


def simple_of(annotation: Any) -> Simple | None:
    """Return what is simple about a type, or `None` for one that is not."""
    kind = atom_of(compile_codec(annotation))
    if kind is not None:
        return Simple(kind)
    if get_origin(annotation) in (Union, UnionType):
        return _optional(get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _marked(get_args(annotation)[0], annotation.__metadata__)
    return None


def _optional(arguments: Sequence[Any]) -> Simple | None:
    others = [simple_of(each) for each in arguments if each is not NoneType]
    if len(others) != 1 or len(arguments) != 2 or others[0] is None or others[0].optional:
        return None
    return attrs.evolve(others[0], optional=True)


def _marked(inner: Any, marks: Sequence[Any]) -> Simple | None:
    holds = [_holds(mark) for mark in marks]
    simple = None if None in holds else simple_of(inner)
    if simple is None or simple.optional:
        return None
    return attrs.evolve(simple, holds=" and ".join(each for each in (simple.holds, *holds) if each))


def _holds(mark: Any) -> str | None:
    if type(mark) is Range and type(mark.low) is type(mark.high) is int:
        return f"{mark.low} <= {{v}} <= {mark.high}"
    if type(mark) is Size and type(mark.low) is type(mark.high) is int:
        return f"{mark.low} <= len({{v}}) <= {mark.high}"
    return "isfinite({v})" if type(mark) is FiniteMark else None


def are_names(names: Sequence[str]) -> bool:
    """Tell whether names can stand in source as they are."""
    return all(name.isidentifier() and not keyword.iskeyword(name) for name in names)


def _made(name: str, source: str, known: Mapping[str, Any]) -> Any:
    scope = dict(known)
    exec(compile(source, f"<{name} of a flat class>", "exec"), scope)  # noqa: S102 - the program's own names and types
    return scope[name]


# ------------------------------------------------------------------------------------------------------------ encoding


def _long_head(major: int, size: int) -> bytes:
    """Return the head of bytes (major type 2) or a text (3) of 256 bytes or more; `struct.error` beyond 32 bits."""
    return struct.pack(">BH", major << 5 | 25, size) if size < 2**16 else struct.pack(">BI", major << 5 | 26, size)


# The refusals: what bytes that end too early raise, text that is no UTF-8, and the validators of a class.
_KNOWN: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "heads": dict(_HEADS),  # a dict itself is asked faster
        "unpack_int32": struct.Struct(">I").unpack_from,
        "unpack_float16": struct.Struct(">e").unpack_from,
        "unpack_float32": struct.Struct(">f").unpack_from,
        "unpack_float64": struct.Struct(">d").unpack_from,
        "isfinite": math.isfinite,
        "heads_2": tuple(dumps(bytes(size))[: -size or None] for size in range(256)),
        "heads_3": tuple(dumps("x" * size)[: -size or None] for size in range(256)),
        "long_head": _long_head,
        "NULL": b"\xf6",
        "TRUE": b"\xf5",
        "FALSE": b"\xf4",
        "refusals": (PrimeError, ValueError, TypeError, LookupError, ArithmeticError, struct.error),
    }
)


def encoder(tag: int | None, names: Sequence[str], fields: Sequence[Simple], long_way: Encode) -> Encode:
    """Return what makes the array of an instance: all fields read and looked at in one expression."""
    tests = [_fits(f"v{index}", field) for index, field in enumerate(fields)]
    values = [*([] if tag is None else [str(tag)]), *(f"v{index}" for index in range(len(names)))]
    lines = [
        "def encode(value, payloads):",
        *(f"    v{index} = value.{name}" for index, name in enumerate(names)),
        f"    if {' and '.join(tests) or 'True'}:",
        f"        return [{', '.join(values)}]",
        "    return long_way(value, payloads)",
    ]
    made: Encode = _made("encode", "\n".join(lines), {"long_way": long_way, "isfinite": math.isfinite})
    return made


def _fits(v: str, field: Simple) -> str:
    if field.kind is NoneType:
        return f"{v} is None"
    test = f"type({v}) is {field.kind.__name__}"
    if field.kind is int:
        test += f" and {INT_MIN} <= {v} <= {INT_MAX}"
    if field.holds:
        test += f" and {field.holds.format(v=v)}"
    return f"({v} is None or {test})" if field.optional else test


def writer(tag: int, fields: Sequence[Simple]) -> Write:
    """Return what makes the bytes of an array that the class's `encoder` made.

    An array is its head and its items, so that they are joined: cbor2 takes longer for a list than for what is in it.
    An encoder is kept for the next message. None is in two hands: two threads with the same one mix up their bytes.
    """
    texts = [f"v{index}" for index, field in enumerate(fields) if field.kind is str and not field.optional]
    items = [item for index, field in enumerate(fields) for item in _written(f"v{index}", field)]
    lines = [
        "def write(plain):",
        f"    {', '.join(['_', *(f'v{index}' for index in range(len(fields)))])}, = plain",
        "    try:",
        "        encode = take() if idle else new_encoder()",
        *(f"        {v} = {v}.encode()" for v in texts),
        f"        written = join(({', '.join(['start', *items])},))",
        "    except refusals:",
        "        return dumps_closed(plain)  # which says why not",
        "    give(encode)",
        "    return written",
    ]
    known: dict[str, Any] = {"start": prefix(tag, len(fields)), "join": b"".join, "dumps_closed": dumps_closed}
    idle: list[Encoder] = []
    known |= {"idle": idle, "take": idle.pop, "give": idle.append, "new_encoder": _new_encoder}
    made: Write = _made("write", "\n".join(lines), {**_KNOWN, **known})
    return made


def _new_encoder() -> Encoder:
    made: Encoder = cbor2.CBOREncoder(io.BytesIO(), canonical=True).encode_to_bytes
    return made


def _written(v: str, field: Simple) -> list[str]:
    """Return expressions for the bytes of one field, in order."""
    if field.kind is NoneType:
        return ["NULL"]
    if field.kind in (bytes, str) and not field.optional:  # a text has become its bytes
        major = 2 if field.kind is bytes else 3
        return [f"(heads_{major}[len({v})] if len({v}) < 256 else long_head({major}, len({v})))", v]
    item = f"(TRUE if {v} else FALSE)" if field.kind is bool else f"encode({v})"
    return [f"(NULL if {v} is None else {item})" if field.optional else item]


# ------------------------------------------------------------------------------------------------------------ decoding


def prefix(tag: int, fields: int) -> bytes:
    """Return what the encoding of a message begins with that has so many fields; empty for one without a reader."""
    if fields > FIELDS_MAX or not 0x100 <= tag <= 0xFFFF:
        return b""
    return dumps([tag, *[None] * fields])[:PREFIX_BYTES]


def reader(
    cls: type, tag: int, fields: Sequence[attrs.Attribute[Any]], simples: Sequence[Simple], build: Callable[..., Any]
) -> Read:
    """Return what reads an instance from its bytes, behind their `prefix`."""
    twin = _twin(cls, fields)
    values = [f"v{index}" for index in range(len(fields))]
    lines = ["def read(data, at):", "    try:", f"        at += {PREFIX_BYTES}"]
    for v, simple in zip(values, simples, strict=True):
        lines += [f"        {line}" for line in _read_field(v, simple)]
    lines += ["        if at > len(data):", "            return None"]
    if twin is None:
        lines.append(f"        made = build({', '.join(values)})")
    else:
        lines.append("        made = twin()")
        lines += [f"        made.{field.name} = {v}" for field, v in zip(fields, values, strict=True)]
        lines.append("        made.__class__ = cls")
    lines += [f"        return made, at, {tag}", "    except refusals:", "        return None"]
    made: Read = _made("read", "\n".join(lines), {**_KNOWN, "build": build, "twin": twin, "cls": cls})
    return made


def _twin(cls: type, fields: Sequence[attrs.Attribute[Any]]) -> type | None:
    """Return a class of the same layout whose instances are not frozen: filled, one becomes an instance of `cls`.

    That takes a third of the time of a frozen class's `__init__`. `None` where `__init__` does more than fill slots.
    """
    names = tuple(field.name for field in fields)
    base: type = cls.__base__ or object
    fills_slots = all(field.validator is None and field.converter is None for field in fields)
    if not fills_slots or vars(cls).get("__slots__") != names or any(hasattr(cls, name) for name in _HOOKS):
        return None
    if type(cls) is not type or any(getattr(base, name) is not getattr(object, name) for name in _OBJECTS):
        return None
    if any(name in vars(each) for each in _own_classes(cls) for name in ("__new__", "__init_subclass__")):
        return None
    twin = type(cls.__name__, (base,), {"__slots__": names})
    try:
        twin().__class__ = cls
    except TypeError:  # another layout
        return None
    return twin


_HOOKS: Final = ("__attrs_init__", "__attrs_pre_init__", "__attrs_post_init__", "__del__")
_OBJECTS: Final = ("__init__", "__setattr__")


def _own_classes(cls: type) -> list[type]:
    return [each for each in cls.__mro__ if each not in (object, Generic)]


def _read_field(v: str, field: Simple) -> list[str]:
    lines = [*_READ[field.kind](v)]
    if field.holds:
        lines += [f"if not ({field.holds.format(v=v)}):", "    return None"]
    if not field.optional:
        return lines
    return ["if data[at] == 0xF6:", f"    {v} = None", "    at += 1", "else:", *(f"    {line}" for line in lines)]


def _read_int(v: str) -> list[str]:
    return [
        "head = data[at]",
        "at += 1",
        "if head < 24:",
        f"    {v} = head",
        "elif head == 0x1A:",  # as the table has it, in half the time
        f"    {v}, = unpack_int32(data, at)",
        "    at += 4",
        f"    if {v} < {2**16}:",
        "        return None",
        "elif head < 0x20:",
        *(f"    {line}" for line in _read_argument(v, "head")),
        "elif head < 0x38:",
        f"    {v} = 0x1F - head",
        "elif head < 0x40:",
        *(f"    {line}" for line in _read_argument(v, "head - 0x20")),
        f"    {v} = -1 - {v}",
        f"    if {v} < {INT_MIN}:",
        "        return None",
        "else:",
        "    return None",
    ]


def _read_argument(v: str, head: str) -> list[str]:
    return [
        f"unpack, size, least = heads[{head}]",
        f"{v}, = unpack(data, at)",
        "at += size",
        f"if {v} < least:",
        "    return None",
    ]


def _read_size(major: int) -> list[str]:
    return [
        "size = data[at]",
        f"if {major << 5} <= size < {(major << 5) + 24}:",
        "    start = at + 1",
        f"    at = start + size - {major << 5}",
        f"elif size == {(major << 5) + 24}:",
        "    size = data[at + 1]",
        "    if size < 24:",
        "        return None",
        "    start = at + 2",
        "    at = start + size",
        "else:",
        f"    unpack, width, least = heads[size - {major << 5}]",
        "    size, = unpack(data, at + 1)",
        "    if size < least:",
        "        return None",
        "    start = at + 1 + width",
        "    at = start + size",
    ]


def _read_bytes(v: str) -> list[str]:
    return [*_read_size(2), f"{v} = data[start:at]"]


def _read_text(v: str) -> list[str]:
    return [*_read_size(3), f"{v} = data[start:at].decode()"]


def _read_float(v: str) -> list[str]:
    """Take a float of 16 bits that is no NaN, and one of more bits that surely has no shorter form.

    Adding and subtracting a multiple rounds to the bits of the shorter form (Veltkamp's splitting): what that changes,
    and is finite, does not fit it. A value that is not changed may still not fit; the long way looks closer.
    """
    return [
        "head = data[at]",
        "if head == 0xFB:",
        f"    {v}, = unpack_float64(data, at + 1)",
        "    at += 9",
        f"    far = {v} * {2.0**29 + 1!r}",
        f"    if far - (far - {v}) == {v} or {v} - {v} != 0.0:",
        "        return None",
        "elif head == 0xFA:",
        f"    {v}, = unpack_float32(data, at + 1)",
        "    at += 5",
        f"    far = {v} * {2.0**42 + 1!r}",
        f"    if far - (far - {v}) == {v} or {v} - {v} != 0.0:",
        "        return None",
        "elif head == 0xF9:",
        f"    {v}, = unpack_float16(data, at + 1)",
        "    at += 3",
        f"    if {v} != {v}:",
        "        return None",
        "else:",
        "    return None",
    ]


def _read_bool(v: str) -> list[str]:
    return [
        "head = data[at]",
        "at += 1",
        "if head == 0xF5:",
        f"    {v} = True",
        "elif head == 0xF4:",
        f"    {v} = False",
        "else:",
        "    return None",
    ]


def _read_none(v: str) -> list[str]:
    return ["if data[at] != 0xF6:", "    return None", "at += 1", f"{v} = None"]


_READ: Final[Mapping[type, Callable[[str], list[str]]]] = MappingProxyType(
    {int: _read_int, float: _read_float, str: _read_text, bytes: _read_bytes, bool: _read_bool, NoneType: _read_none}
)
