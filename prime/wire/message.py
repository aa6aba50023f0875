"""`@message`, `@record` and `Ask`: how a class becomes something actors say, and how its instances cross the wire.

A message is a frozen attrs class. With a tag it has a wire form, the positional array `[tag, field, field, …]`;
without one it stays inside its process and may hold anything. A record is a value inside messages: an array without a
tag. A receiver ignores elements after the fields it knows and takes defaults for fields that are missing at the end,
so a new version may add fields with defaults at the end, and nothing else.
"""

from __future__ import annotations

import copy
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Protocol,
    Self,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    overload,
)

import attrs

from prime.errors import DecodeError, LocalProtocolError, MessageError, PrimeError
from prime.wire.cbor import dumps, dumps_closed, encodes_to, loads
from prime.wire.codec import (
    INT_MAX,
    INT_MIN,
    Codec,
    Decode,
    Encode,
    MismatchError,
    Rules,
    atom_of,
    compile_codec,
    refuse_signed,
    rule_name,
)
from prime.wire.flat import PREFIX_BYTES, Read, Write, are_names, encoder, prefix, reader, simple_of, writer
from prime.wire.frame import FrameParser, pack
from prime.wire.limits import DEFAULT_LIMITS, Limits
from prime.wire.signed import Signatory, Signed, seal, unseal
from prime.wire.tags import PRIME_TAG_END

TAG_MAX = 2**32 - 1

T = TypeVar("T")
Reply_co = TypeVar("Reply_co", covariant=True)
Kind_co = TypeVar("Kind_co", covariant=True)

_HINT_VERSION = "the sender speaks another version of the protocol, or is broken or hostile"


class Ask(Generic[Reply_co]):
    """A message that wants an answer: `class Get(Ask[bytes | None])`. It carries the reply's type and does nothing."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __asked__(self) -> tuple[Self, Reply_co]:
            """Exist for type checkers alone: see `Asked`."""
            raise NotImplementedError


class Asked(Protocol[Kind_co, Reply_co]):
    """What a type checker knows of an ask: that it is a `Kind_co`, and that its reply is a `Reply_co`. Never made.

    Python has no intersection of types, so `ref.ask` could ask for an `Ask[R]` or for a message of the ref's protocol,
    not for both. Each ask is an `Asked[itself, its reply]`, by `Self`, and so an `Asked[wider, its reply]` too, which
    says both at once.
    """

    def __asked__(self) -> tuple[Kind_co, Reply_co]:
        """Exist for type checkers alone: no object has it at run time."""
        ...


@overload
def message(cls: type[T], /) -> type[T]: ...


@overload
def message(*, tag: int, signed: bool = False) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def message(
    cls: type[T] | None = None, /, *, tag: int | None = None, signed: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a message: frozen, slotted, compared by value; with a tag it has a wire form.

    With `signed=True` it leaves its node with a signature, and is taken from another only with one: see `Signed`. Such
    a message is no field of another.

    Tags below 0x1000 are Prime's own. Raises `MessageError` for a tag that is out of range or taken by another class,
    and for a field of a tagged message whose type has no wire form.
    """
    scope = _calling_scope()
    if cls is not None:
        return _Form.apply(cls, None, scope, has_wire_form=False)
    if tag is None:
        raise MessageError("@message() without a tag", hint="write @message for a local message, or @message(tag=…)")
    number = tag
    return lambda plain_class: _Form.apply(plain_class, number, scope, has_wire_form=True, signed=signed)


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def record(cls: type[T], /) -> type[T]:
    """Make a class a value that messages can hold: frozen, slotted, an array without a tag on the wire.

    Raises `MessageError` for a field whose type has no wire form.
    """
    return _Form.apply(cls, None, _calling_scope(), has_wire_form=True)


def _calling_scope() -> Mapping[str, Any]:
    """Return the local names around a decorated class, so that a class inside a function may name its neighbours."""
    frame = sys._getframe(2)  # noqa: SLF001 - the decorator's caller is where the annotations were written
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


class _Registry:
    """Which class owns a tag. Filled at import time by the decorators; a process has one, as it has one module table."""

    def __init__(self) -> None:
        self._forms: dict[int, _Form] = {}
        self.readers: dict[bytes, Read] = {}

    def add(self, form: _Form, tag: int) -> None:
        cls = form.cls
        if not 0 < tag <= TAG_MAX:
            raise MessageError(f"the tag {tag:#x} of {_full_name(cls)} is out of range", hint=f"use 1 to {TAG_MAX:#x}")
        if tag < PRIME_TAG_END and not cls.__module__.startswith("prime."):
            raise MessageError(
                f"the tag {tag:#x} of {_full_name(cls)} is reserved",
                hint=f"tags below {PRIME_TAG_END:#x} are Prime's own",
            )
        known = self._forms.get(tag)
        if known is not None and (_full_name(known.cls) != _full_name(cls) or known.signature != form.signature):
            raise MessageError(
                f"the tag {tag:#x} is taken by {_full_name(known.cls)}, so {_full_name(cls)} cannot have it",
                hint="give one of the two another tag; a class defined twice must keep its fields",
            )
        self._forms[tag] = form
        self.learn(form, tag)

    def learn(self, form: _Form, tag: int) -> None:
        """Let the form's reader, if it has one by now, read what begins like its messages."""
        known = prefix(tag, len(_fields_of(form.cls)))
        self.readers.pop(known, None)  # that of a class defined before, with the same fields
        if form.read is not None:
            self.readers[known] = form.read

    def get(self, tag: int) -> _Form | None:
        return self._forms.get(tag)

    def classes(self) -> tuple[type, ...]:
        return tuple(form.cls for _tag, form in sorted(self._forms.items()))


_registry = _Registry()


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_SEAL = "__seal__"
"""The attribute of a signed message that holds its `Signed`, or None for one that no one has signed yet."""


def _add_seal(plain_class: type) -> None:
    """Give instances room for their signature: no argument, no part of what is compared, hashed or shown."""
    plain_class.__annotations__ = {**inspect.get_annotations(plain_class), _SEAL: object}
    setattr(plain_class, _SEAL, attrs.field(init=False, default=None, eq=False, repr=False))


def _fields_of(cls: type) -> tuple[attrs.Attribute[Any], ...]:
    return tuple(field for field in attrs.fields(cls) if field.name != _SEAL)


class _Form:
    """The wire form of one class. Compiled on first use, or when decorated if every name is known by then."""

    def __init__(
        self, cls: type, tag: int | None, scope: Mapping[str, Any], *, has_wire_form: bool, signed: bool = False
    ) -> None:
        self.cls = cls
        self.tag = tag
        self.signed = signed
        self.has_wire_form = has_wire_form
        self._scope = scope
        self._codecs: tuple[Codec, ...] | None = None
        self._hints: Mapping[str, Any] = {}
        self._names: tuple[str, ...] = ()
        self.closed = False
        self.elements = 0
        self.encode: Callable[[Any, list[memoryview]], list[Any]] = self._compile_and_encode
        self.encode_fields: Callable[[Any, list[memoryview]], list[Any]] = self.encode
        self.decode: Callable[[Any, Sequence[memoryview]], Any] = self._compile_and_decode
        self.read: Read | None = None
        self.write: Write = dumps

    @classmethod
    def apply(
        cls,
        plain_class: type[T],
        tag: int | None,
        scope: Mapping[str, Any],
        *,
        has_wire_form: bool,
        signed: bool = False,
    ) -> type[T]:
        """Build the attrs class and leave its form on it."""
        if signed:
            _add_seal(plain_class)
        made = attrs.frozen(plain_class, slots=True, weakref_slot=False)
        form = cls(made, tag, scope, has_wire_form=has_wire_form, signed=signed)
        made.__wire_form__ = form  # type: ignore[attr-defined]
        if has_wire_form:
            form.compile_early()
        if tag is not None:
            _registry.add(form, tag)
        return made

    @property
    def signature(self) -> tuple[tuple[str, str, bool], ...]:
        """Name, type and presence of a default of each field: what must not change under one tag."""
        fields = attrs.fields(self.cls)  # the room for a signature among them: whether it is signed must not change
        return tuple((a.name, str(a.type), a.default is not attrs.NOTHING) for a in fields)

    def compile_early(self) -> None:
        """Compile now, unless an annotation names something that is defined later."""
        try:
            self._compile()
        except NameError:
            return

    def rule(self, rules: Rules) -> str:
        """Define the CDDL rule of the array and return its name."""
        name = rule_name(self.cls)
        return rules.define(name, lambda: self._signed_body(name, rules) if self.signed else self._rule_body(rules))

    def _signed_body(self, name: str, rules: Rules) -> str:
        """Define what is signed, and return the rule of the array around it."""
        message = rules.define(f"{name}.message", lambda: self._rule_body(rules))
        what = "; deterministic CBOR, signed behind the domain of protocols/signed.md"
        audience = rules.define("tstr-or-null", lambda: "tstr / null")
        digests = rules.define("list-of-digest", lambda: "[* bstr .size 32]  ; SHA-256 of each payload")
        rules.define(
            f"{name}.sealed",
            lambda: (
                f"""[  {what}
  scheme: 1..255,
  signer: tstr,
  seq: uint,
  sent_at_ms: uint,
  audience: {audience},
  message: {message},
  digests: {digests}
]"""
            ),
        )
        return f"[\n  {self.tag},\n  sealed: bstr,  ; a {name}.sealed\n  signature: bstr\n]"

    def _rule_body(self, rules: Rules) -> str:
        lines = [] if self.tag is None else [f"{self.tag}"]
        lines += [f"{name}: {codec.rule(rules)}" for codec, name in zip(self.codecs(), self._names, strict=True)]
        return "[" + ",".join(f"\n  {line}" for line in lines) + ("\n]" if lines else "]")

    def codecs(self) -> tuple[Codec, ...]:
        """Return the field codecs in wire order, compiling them if need be."""
        if self._codecs is None:
            self._compile_now()
        return self._codecs or ()

    def hints(self) -> Mapping[str, Any]:
        """Return the resolved type of each field, marks included; a local message's need have no wire form."""
        if self.has_wire_form:
            self.codecs()
        elif not self._hints:
            self._hints = self._resolve()
        return self._hints

    def _compile_now(self) -> None:
        self._resolve()
        self._compile()

    def _resolve(self) -> Mapping[str, Any]:
        try:
            return self._types()
        except NameError as error:
            raise MessageError(
                f"{_full_name(self.cls)} has a field whose type is not defined: {error}",
                hint="import the name where the class is defined, at run time too",
            ) from None

    def _types(self) -> Mapping[str, Any]:
        scope = {**self._scope, self.cls.__name__: self.cls}
        return typing.get_type_hints(self.cls, localns=scope, include_extras=True)

    def _compile(self) -> None:
        fields = _fields_of(self.cls)
        if not all(field.init for field in fields):
            raise MessageError(f"{_full_name(self.cls)} has a field with init=False", hint="compute it in a property")
        hints = {name: hint for name, hint in self._types().items() if name != _SEAL}
        codecs = tuple(self._field_codec(field.name, hints[field.name]) for field in fields)
        self._names = tuple(field.name for field in fields)
        self._codecs = codecs
        self._hints = hints
        self.closed = all(codec.closed for codec in codecs)
        self.write = dumps_closed if self.closed else dumps
        self.elements = len(fields) + (self.tag is not None)
        self._scope = {}
        encode = _array_encoder(self.tag, self._names, [codec.encode for codec in codecs])
        decode = _array_decoder(self.cls, self.tag, fields, [codec.decode for codec in codecs])
        kinds = [kind for codec in codecs if (kind := atom_of(codec)) is not None]
        if kinds and len(kinds) == len(codecs):
            decode = _quick_decoder(self.tag, kinds, _builder(self.cls, fields), decode)
        simples = [simple for name in self._names if (simple := simple_of(hints[name])) is not None]
        if len(simples) == len(fields) and are_names(self._names):
            encode = encoder(self.tag, self._names, simples, encode)
            if self.tag is not None and not self.signed and prefix(self.tag, len(fields)):
                self.write = writer(self.tag, simples)
                self.read = reader(self.cls, self.tag, fields, simples, _builder(self.cls, fields))
        if self.signed:
            self.encode_fields, encode = encode, self._encode_sealed
            decode = _signed_decoder(self.cls.__name__, decode)
        self.encode, self.decode = encode, decode
        if self.tag is not None and _registry.get(self.tag) is self:
            _registry.learn(self, self.tag)

    def encode_signed(
        self, value: Any, payloads: list[memoryview], signatory: Signatory | None, audience: str | None
    ) -> list[Any]:
        """Return the array of a message of a signed class: with the signature it has, else with one made now."""
        known: Signed | None = getattr(value, _SEAL)
        if known is None:
            known = self.seal(value, signatory, audience)
        elif audience is not None and known.audience not in (None, audience):
            raise LocalProtocolError(
                f"this {self.cls.__name__} was signed for {known.audience}, so {audience} would refuse it",
                hint="what is to be handed on is signed for anyone: `await ref.tell(system.sign(message))`",
            )
        payloads.extend(known.payloads)
        return [self.tag, known.sealed, known.signature]

    def seal(self, value: Any, signatory: Signatory | None, audience: str | None) -> Signed:
        """Sign a message."""
        if signatory is None:
            raise LocalProtocolError(
                f"{self.cls.__name__} is a signed message, and this one carries no signature",
                hint="sign it first: `system.sign(message)`",
            )
        if self._codecs is None:
            self._compile_now()
        payloads: list[memoryview] = []
        return seal(self.encode_fields(value, payloads), payloads, signatory, audience)

    def _encode_sealed(self, value: Any, payloads: list[memoryview]) -> list[Any]:
        return self.encode_signed(value, payloads, None, None)

    def _field_codec(self, name: str, annotation: Any) -> Codec:
        try:
            return refuse_signed(compile_codec(annotation))
        except MessageError as error:
            raise MessageError(f"{_full_name(self.cls)}.{name}: {error}", hint=error.hint) from None
        except TypeError:
            raise MessageError(f"{_full_name(self.cls)}.{name}: no wire form", hint="see prime.wire") from None

    def _compile_and_encode(self, value: Any, payloads: list[memoryview]) -> list[Any]:
        self._compile_now()
        return self.encode(value, payloads)

    def _compile_and_decode(self, plain: Any, payloads: Sequence[memoryview]) -> Any:
        self._compile_now()
        return self.decode(plain, payloads)


def _array_encoder(
    tag: int | None, names: Sequence[str], encoders: Sequence[Encode]
) -> Callable[[Any, list[memoryview]], list[Any]]:
    steps = [(attrgetter(name), encode) for name, encode in zip(names, encoders, strict=True)]
    offset = 0 if tag is None else 1

    def encode_array(value: Any, payloads: list[memoryview]) -> list[Any]:
        out: list[Any] = [] if tag is None else [tag]
        append = out.append
        try:
            for get, encode in steps:
                append(encode(get(value), payloads))
        except MismatchError as error:
            error.path.append(names[len(out) - offset])
            raise
        return out

    return encode_array


def _array_decoder(
    cls: type, tag: int | None, fields: Sequence[attrs.Attribute[Any]], decoders: Sequence[Decode]
) -> Callable[[Any, Sequence[memoryview]], Any]:
    names = [field.name for field in fields]
    offset = 0 if tag is None else 1
    known = len(names) + offset
    required = max((i + 1 for i, field in enumerate(fields) if field.default is attrs.NOTHING), default=0) + offset
    build = _builder(cls, fields)

    def decode_array(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is not list or len(plain) < required:
            raise MismatchError(f"{cls.__name__} as an array of at least {required}", plain)
        if offset and (plain[0] != tag or type(plain[0]) is not int):
            raise MismatchError(f"the tag of {cls.__name__}", got="another one")
        values: list[Any] = []
        append = values.append
        try:
            for decode, each in zip(decoders, islice(plain, offset, known)):  # noqa: B905 - naming `strict` costs 0.2 µs
                append(decode(each, payloads))
            return build(*values)
        except MismatchError as error:
            error.path.append(names[len(values)])
            raise
        except (PrimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            # Only the class's own validators end here; their words may hold the value, so they are dropped.
            what = f"one that it refuses ({type(error).__name__})"
            raise MismatchError(f"a valid {cls.__name__}", got=what) from None

    return decode_array


def _quick_decoder(
    tag: int | None, kinds: list[type], build: Callable[..., Any], decode: Callable[[Any, Sequence[memoryview]], Any]
) -> Callable[[Any, Sequence[memoryview]], Any]:
    """Look at all elements in one step, where each has a simple type; anything unusual is `decode`'s to judge."""
    offset = 0 if tag is None else 1
    wanted = [*[int] * offset, *kinds]
    count = len(wanted)
    numbers = [index for index, kind in enumerate(wanted) if kind is int][offset:]

    def decode_quickly(plain: Any, payloads: Sequence[memoryview]) -> Any:
        if type(plain) is list and len(plain) == count and [*map(type, plain)] == wanted:
            for index in numbers:
                if not INT_MIN <= plain[index] <= INT_MAX:
                    break
            else:
                try:
                    if not offset or plain[0] == tag:
                        return build(*plain[offset:])
                except (PrimeError, ValueError, TypeError, LookupError, ArithmeticError):
                    pass  # `decode` says so, by the field
        return decode(plain, payloads)

    return decode_quickly


def _signed_decoder(name: str, decode: Decode) -> Callable[[Any, Sequence[memoryview]], Any]:
    """Return what verifies first and decodes then; the signature stays with the instance."""

    def decode_signed(plain: Any, payloads: Sequence[memoryview]) -> Any:
        signed, body = unseal(name, plain, payloads)
        value = decode(body, payloads)
        object.__setattr__(value, _SEAL, signed)
        return value

    return decode_signed


def _builder(cls: type, fields: Sequence[attrs.Attribute[Any]]) -> Callable[..., Any]:
    """Return what builds the class from its values in wire order."""
    if not any(field.kw_only for field in fields):
        return cls
    aliases = [field.alias or field.name for field in fields]
    return lambda *values: cls(**dict(zip(aliases, values, strict=False)))


def _form_of(cls: Any) -> _Form:
    form = getattr(cls, "__wire_form__", None)
    if type(form) is not _Form or form.cls is not cls:
        name = _full_name(cls) if isinstance(cls, type) else type(cls).__name__
        raise LocalProtocolError(f"{name} is not a message", hint="decorate the class itself with @message(tag=…)")
    return form


def is_message(cls: type) -> bool:
    """Say whether the class itself was decorated with `@message` (tagged or not)."""
    form = getattr(cls, "__wire_form__", None)
    return isinstance(form, _Form) and form.cls is cls and (form.tag is not None or not form.has_wire_form)


def tag_of(message_or_class: Any) -> int:
    """Return the tag of a message or its class; raises `LocalProtocolError` where there is none."""
    cls = message_or_class if isinstance(message_or_class, type) else type(message_or_class)
    tag = _form_of(cls).tag
    if tag is None:
        raise LocalProtocolError(
            f"{_full_name(cls)} has no tag: it cannot leave its process",
            hint="give it one: @message(tag=0x1000 or above)",
        )
    return tag


def message_for(tag: int) -> type | None:
    """Return the class that owns a tag, or None for a tag that no imported class has."""
    form = _registry.get(tag)
    return None if form is None else form.cls


def messages() -> tuple[type, ...]:
    """Return every message class with a tag that has been imported, by tag."""
    return _registry.classes()


def field_types(cls: type) -> Mapping[str, Any]:
    """Return the resolved type of each field of a message or a record, with its marks (`Payload`, `Range`, …)."""
    return _form_of(cls).hints()


def to_plain(
    value: Any, payloads: list[memoryview], signatory: Signatory | None = None, audience: str | None = None
) -> list[Any]:
    """Return the positional array of a message and append its payloads to `payloads`.

    A message of a signed class that carries no signature is signed by `signatory` for the node `audience`, or for
    anyone. Raises `LocalProtocolError` for a message without a tag, for a field whose value is not of its type, and for
    a signed message that has no signature and no signatory, or was signed for another node than `audience`.
    """
    try:
        form: _Form = value.__wire_form__  # of a class that inherits one too
    except AttributeError:
        form = _form_of(type(value))
    if form.cls is not type(value) or form.tag is None:
        tag_of(value)  # which says why not
    try:
        if form.signed:
            return form.encode_signed(value, payloads, signatory, audience)
        return form.encode(value, payloads)
    except MismatchError as error:
        raise _cannot_send(type(value).__name__, error) from None
    except RecursionError:
        raise LocalProtocolError(
            f"{type(value).__name__} is nested too deeply to encode", hint="send it in parts"
        ) from None


def from_plain(plain: Any, payloads: Sequence[memoryview] = (), limits: Limits = DEFAULT_LIMITS) -> Any:
    """Check a positional array against the message class of its tag and build the message.

    Raises `DecodeError` for an unknown tag, and naming class and field for a value that does not fit.
    """
    if type(plain) is not list or not plain:
        raise DecodeError("a message is a non-empty array", hint=_HINT_VERSION)
    _check_count(payloads, limits)
    form = _registry.get(plain[0]) if type(plain[0]) is int else None
    if form is None:
        what = f"the tag {plain[0]:#x}" if type(plain[0]) is int else "a tag that is no int"
        raise DecodeError(f"unknown message: {what}", hint="import the module that defines it, or update this node")
    try:
        return form.decode(plain, payloads)
    except MismatchError as error:
        raise _refused(form.cls.__name__, error) from None


def encode_body(cls: type, plain: list[Any]) -> bytes:
    """As `dumps(plain)`, for what `to_plain` made of a message of this class."""
    written: bytes = cls.__wire_form__.write(plain)  # type: ignore[attr-defined]
    return written


def read_body(data: bytes, at: int = 0) -> tuple[Any, int, int] | None:
    """Read a message that begins at a position: the message, where it ends and its tag.

    `None` for one that is not of a flat class, or not usual in each respect, and for whatever `loads` or `from_plain`
    would refuse: `decode_body` and they decide then. What it reads is no deeper than one array, and has few items.
    """
    read = _registry.readers.get(data[at : at + PREFIX_BYTES])
    return None if read is None else read(data, at)


def decode_body(plain: Any, whole: Any, data: bytes, bound: Callable[..., Any] | None = None) -> Any:
    """Build the message without payloads that is `plain`, a part of `whole`, which `peek` made of `data`.

    `bound(decode, ...)` decodes where the class may hold values of registered classes, such as refs.

    Returns `None`, which is no message, for anything that `loads` or `from_plain` would refuse; they say why. So it
    does for signed messages, which take the longer way. The caller has checked that what else `whole` holds is None, ints and text.
    """
    if type(plain) is not list or not plain or type(plain[0]) is not int:
        return None
    form = _registry.get(plain[0])
    if form is None or form.signed:
        return None
    try:
        built = form.decode(plain, ()) if bound is None or form.closed else bound(form.decode, plain, ())
    except MismatchError:
        return None
    closed = form.closed and len(plain) == form.elements
    return built if encodes_to(whole, data, closed=closed) else None


# -------------------------------------------------------------------------------------------------- signed messages


def is_signed(cls: type) -> bool:
    """Say whether messages of the class leave their node with a signature."""
    form = getattr(cls, "__wire_form__", None)
    return isinstance(form, _Form) and form.cls is cls and form.signed


def signed_or_none(value: Any) -> Signed | None:
    """Return the signature that a message carries, if it is of a signed class and has one."""
    return getattr(value, _SEAL, None)


def signed(value: Any) -> Signed:
    """Return the signature of a message that carries one: every one that came from another node, and what `sign` made.

    Raises `LocalProtocolError` where there is none; in a handler `ctx.signed(message)` has one always.
    """
    known = signed_or_none(value)
    if known is None:
        name = type(value).__name__
        raise LocalProtocolError(
            f"this {name} carries no signature",
            hint="sign it: `system.sign(message)`"
            if is_signed(type(value))
            else f"make the class a signed one: @message(tag=…, signed=True) class {name}",
        )
    return known


def sign(value: T, signatory: Signatory, audience: str | None = None) -> T:
    """Return an equal message that carries a new signature; raises `LocalProtocolError` for a class that is not signed."""
    form = _form_of(type(value))
    if not form.signed:
        raise LocalProtocolError(
            f"{form.cls.__name__} is no signed message", hint="declare it so: @message(tag=…, signed=True)"
        )
    try:
        made = form.seal(value, signatory, audience)
    except MismatchError as error:
        raise _cannot_send(form.cls.__name__, error) from None
    copied = copy.copy(value)
    object.__setattr__(copied, _SEAL, made)
    return copied


def unsigned(value: T) -> T:
    """Return an equal message that carries no signature."""
    copied = copy.copy(value)
    object.__setattr__(copied, _SEAL, None)
    return copied


def signed_bytes(value: Any) -> bytes:
    """Return a message with its signature as the bytes of one frame: what `open_signed` verifies, anywhere, at any time.

    Raises `LocalProtocolError` for a message that carries no signature.
    """
    known = signed(value)
    return b"".join(pack(dumps([tag_of(value), known.sealed, known.signature]), known.payloads))


def open_signed(data: bytes, kind: type[T], limits: Limits = DEFAULT_LIMITS) -> T:
    """Verify what `signed_bytes` made and return the message. Nothing is said of its age, or of whom it was for.

    Raises `SignatureError`, and `DecodeError` for bytes that are no message of this class.
    """
    if not is_signed(kind):
        raise LocalProtocolError(
            f"{kind.__name__} is no signed message", hint="declare it so: @message(tag=…, signed=True)"
        )
    parser = FrameParser(limits)
    parser.feed(bytes(data))
    frame = parser.next()
    if frame is None or frame.size_bytes != len(data):
        raise DecodeError(f"no {kind.__name__}: it is not exactly one frame", hint="keep the bytes as they were")
    plain = loads(frame.header, limits)
    if type(plain) is not list or not plain or type(plain[0]) is not int or plain[0] != tag_of(kind):
        raise DecodeError(f"no {kind.__name__}: it is another message", hint="open it as the class that it is of")
    value: T = from_plain(plain, frame.payloads, limits)
    return value


def _check_count(payloads: Sequence[memoryview], limits: Limits) -> None:
    if len(payloads) > limits.payload_count_max:
        raise DecodeError(f"{len(payloads)} payloads, the limit is {limits.payload_count_max}", hint=_HINT_VERSION)


def encode_value(annotation: Any, value: Any, payloads: list[memoryview]) -> Any:
    """Return the plain form of a value of the given type; raises `LocalProtocolError` when it is not of that type."""
    try:
        return compile_codec(annotation).encode(value, payloads)
    except MismatchError as error:
        raise _cannot_send("a value", error) from None


def decode_value(
    annotation: Any, plain: Any, payloads: Sequence[memoryview] = (), limits: Limits = DEFAULT_LIMITS
) -> Any:
    """Check a plain value against a type and convert it; raises `DecodeError` when it does not fit."""
    _check_count(payloads, limits)
    try:
        return compile_codec(annotation).decode(plain, payloads)
    except MismatchError as error:
        raise _refused("a value", error) from None


def _cannot_send(name: str, error: MismatchError) -> LocalProtocolError:
    return LocalProtocolError(f"cannot send {_where(name, error)}", hint="make the value fit the field's type")


def _refused(name: str, error: MismatchError) -> DecodeError:
    return DecodeError(f"refused {_where(name, error)}", hint=_HINT_VERSION)


def _where(name: str, error: MismatchError) -> str:
    path = ".".join([name, *reversed(error.path)])
    return f"{path}: expected {error.expected}, got {error.got}"


def reply_type(cls: type) -> Any:
    """Return `R` of a message that derives from `Ask[R]`; raises `MessageError` for any other class."""
    form = getattr(cls, "__wire_form__", None)
    scope = {**vars(sys.modules.get(cls.__module__, types)), cls.__name__: cls}
    for each in inspect.getmro(cls):
        for base in getattr(each, "__orig_bases__", ()):
            if get_origin(base) is Ask:
                return _resolved(get_args(base)[0], cls, scope)
    raise MessageError(f"{_full_name(cls)} is no Ask{'' if form else ' and no message'}", hint="derive it from Ask[R]")


def _resolved(argument: Any, cls: type, scope: dict[str, Any]) -> Any:
    """Resolve a reply type that was written as text; type variables have no meaning here."""
    if isinstance(argument, TypeVar):
        raise MessageError(
            f"{_full_name(cls)} leaves its reply type open", hint="derive it from Ask[R] with a real type"
        )
    if isinstance(argument, typing.ForwardRef):
        return eval(argument.__forward_code__, scope)  # noqa: S307 - the code is the program's own annotation
    return argument
