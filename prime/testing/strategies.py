"""Hypothesis strategies for messages: `messages_of(Put)` draws instances, `protocol_of(Store)` what an actor may hear.

A class that the wire does not know (one given to `register_field`, or any class in a message that stays local) is drawn
by `hypothesis.strategies.from_type`, so give it a strategy with `register_type_strategy`. Needs Hypothesis.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs

from prime.actor import Actor, Down, Ref
from prime.actor.handlers import protocol_of as classes_of
from prime.errors import ActorUsageError, PrimeError
from prime.testing.extras import needed_by
from prime.wire.codec import INT_MAX, INT_MIN
from prime.wire.kinds import FiniteMark, PayloadMark, Range, Size
from prime.wire.message import field_types

with needed_by(__name__):
    from hypothesis import reject
    from hypothesis import strategies as st

T = TypeVar("T")
Refs = st.SearchStrategy[Ref[Any]]
_ITEMS_MAX = 4  # in a container without a Size: wide enough for order and duplicates, small enough to nest


def messages_of(cls: type[T], /, *, refs: Refs | None = None, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Draw instances of a message or record class, tagged or local; `fields` replaces the strategy of some fields.

    Refs in it, at any depth, are drawn from `refs`; without it they are an `ActorUsageError`. What the class's own
    validators refuse is rejected, so give a strategy for a field whose validator is narrow. Floats are never NaN, so
    that instances compare equal to themselves.
    """
    return _Drawing(refs).instances(cls, fields)


def values_of(
    annotation: Any,
    *,
    refs: Refs | None = None,
    kinds: Mapping[type, st.SearchStrategy[Any]] = types.MappingProxyType({}),
) -> st.SearchStrategy[Any]:
    """Draw values of any type that a message may hold; refs in it are drawn from `refs`.

    `kinds` replaces the strategy of a class, wherever it stands: for one whose validators are narrow.
    """
    return _Drawing(refs, kinds).values(annotation)


def protocol_of(
    actor: type[Actor[Any]],
    kinds: Mapping[type, st.SearchStrategy[Any]] = types.MappingProxyType({}),
    *,
    refs: Refs | None = None,
) -> st.SearchStrategy[Any]:
    """Draw any message of an actor's protocol, each class as often as the next; `kinds` replaces some strategies.

    The protocol is what the actor class names in `Actor[...]`, or all that it handles where it names nothing. `Down` is
    the runtime's to send and is not drawn. Raises `ActorUsageError` for an actor without messages, and for a strategy
    of a class outside the protocol.
    """
    named = classes_of(actor, Actor) or tuple(actor.__prime_table__)
    heard = [kind for kind in named if kind is not Down]
    strangers = [kind.__name__ for kind in kinds if kind not in heard]
    if not heard or strangers:
        what = f"{', '.join(strangers)} is not in its protocol" if strangers else "it hears no message"
        raise ActorUsageError(f"cannot draw messages of {actor.__qualname__}: {what}", hint="see its @on methods")
    return st.one_of([kinds[kind] if kind in kinds else messages_of(kind, refs=refs) for kind in heard])


@attrs.frozen
class _Drawing:
    """From a type to its strategy, with what stands for refs."""

    refs: Refs | None
    kinds: Mapping[type, st.SearchStrategy[Any]] = types.MappingProxyType({})

    def instances(
        self, cls: type[T], fields: Mapping[str, st.SearchStrategy[Any]] = types.MappingProxyType({})
    ) -> st.SearchStrategy[T]:
        annotations = _annotations(cls)
        drawn = {
            field.alias or field.name: fields[field.name]
            if field.name in fields
            else self.values(annotations[field.name])
            for field in attrs.fields_dict(cast("type[attrs.AttrsInstance]", cls)).values()
            if field.init
        }
        unknown = sorted(set(fields) - set(annotations))
        if unknown:
            raise ActorUsageError(f"{cls.__qualname__} has no field {', '.join(unknown)}", hint="name its own fields")
        return st.fixed_dictionaries(drawn).map(functools.partial(_build, cls))

    def values(self, annotation: Any) -> st.SearchStrategy[Any]:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if annotation is Ref or origin is Ref:
            return self._some_ref(annotation)
        if origin is Annotated:
            return self._marked(arguments[0], annotation.__metadata__)
        if origin is not None:
            drawn = self._generic(origin, arguments)
            return st.from_type(annotation) if drawn is None else drawn
        atom = _atom(annotation)
        return self._named(annotation) if atom is None else atom

    def _some_ref(self, annotation: Any) -> st.SearchStrategy[Any]:
        if self.refs is None:
            raise ActorUsageError(f"a field is a {annotation}", hint="say which: refs=st.sampled_from([...])")
        return self.refs

    def _named(self, annotation: Any) -> st.SearchStrategy[Any]:
        """Draw values of a type with a name: a NewType, an Enum, a record or message, or another class."""
        if hasattr(annotation, "__supertype__"):
            return self.values(annotation.__supertype__)
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return st.sampled_from(annotation)
        if annotation in self.kinds:
            return self.kinds[annotation]
        if hasattr(annotation, "__wire_form__"):
            return st.deferred(lambda: self.instances(annotation))
        return st.from_type(annotation)

    def _generic(self, origin: Any, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any] | None:
        makers: Mapping[Any, Callable[[tuple[Any, ...]], st.SearchStrategy[Any]]] = {
            tuple: self._tuples,
            list: lambda of: st.lists(self.values(of[0]), max_size=_ITEMS_MAX),
            frozenset: lambda of: st.frozensets(self.values(of[0]), max_size=_ITEMS_MAX),
            dict: lambda of: st.dictionaries(*map(self.values, of), max_size=_ITEMS_MAX),
            Literal: st.sampled_from,
            Union: self._unions,
            types.UnionType: self._unions,
        }
        return makers[origin](arguments) if origin in makers else None

    def _unions(self, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
        return st.one_of([self.values(argument) for argument in arguments])

    def _tuples(self, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return st.lists(self.values(arguments[0]), max_size=_ITEMS_MAX).map(tuple)
        return st.tuples(*(self.values(argument) for argument in arguments))

    def _marked(self, inner: Any, marks: tuple[Any, ...]) -> st.SearchStrategy[Any]:
        if any(isinstance(mark, PayloadMark) for mark in marks):
            return st.binary(max_size=64).map(memoryview)
        if any(isinstance(mark, FiniteMark) for mark in marks):
            return st.floats(allow_nan=False, allow_infinity=False)
        for mark in marks:
            if isinstance(mark, Range):
                return st.integers(mark.low, mark.high)
            if isinstance(mark, Size):
                return self._sized(inner, mark)
        return self.values(inner)

    def _sized(self, inner: Any, size: Size) -> st.SearchStrategy[Any]:
        if inner is str:
            return st.text(min_size=size.low, max_size=size.high)
        if inner is bytes:
            return st.binary(min_size=size.low, max_size=size.high)
        return self.values(inner).filter(lambda value: size.low <= len(value) <= size.high)


def _annotations(cls: type) -> Mapping[str, Any]:
    """Return the resolved type of each field: of a message or record, or of any other attrs class."""
    if hasattr(cls, "__wire_form__"):
        return field_types(cls)
    if not attrs.has(cls):
        raise ActorUsageError(f"{cls.__qualname__} is no message class", hint="decorate it with @prime.message")
    return typing.get_type_hints(cls, include_extras=True)


def _build(cls: type[T], values: dict[str, Any]) -> T:
    try:
        return cls(**values)
    except (PrimeError, ValueError, TypeError):
        reject()


def _atom(annotation: Any) -> st.SearchStrategy[Any] | None:
    if annotation is None or annotation is types.NoneType:
        return st.none()
    if annotation is int:
        return st.integers(INT_MIN, INT_MAX)
    if annotation is float:
        return st.floats(allow_nan=False)
    if annotation is str:
        return st.text(max_size=32)
    if annotation is bytes:
        return st.binary(max_size=64)
    return st.booleans() if annotation is bool else None
