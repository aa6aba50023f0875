"""Hypothesis strategies for message classes: `messages_of(Put)` draws instances that have a wire form.

A class registered with `prime.wire.register_field` is drawn by `hypothesis.strategies.from_type`, so give it a strategy
with `register_type_strategy`. Needs the `hypothesis` package.
"""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs
from hypothesis import reject
from hypothesis import strategies as st

from prime.errors import PrimeError
from prime.wire.codec import INT_MAX, INT_MIN
from prime.wire.kinds import FiniteMark, PayloadMark, Range, Size
from prime.wire.message import field_types

T = TypeVar("T")
_ITEMS_MAX = 4  # in a container without a Size: wide enough for order and duplicates, small enough to nest


def messages_of(cls: type[T], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Draw instances of a `@message` or `@record` class; `fields` replaces the strategy of some of its fields.

    What the class's own validators refuse is rejected, so give a strategy for a field whose validator is narrow. Floats
    are never NaN, so that instances compare equal to themselves.
    """
    types_of_fields = field_types(cls)
    drawn = {
        field.alias or field.name: fields.get(field.name) or values_of(types_of_fields[field.name])
        for field in attrs.fields_dict(cast("type[attrs.AttrsInstance]", cls)).values()
    }
    return st.fixed_dictionaries(drawn).map(functools.partial(_build, cls))


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Draw values of any type that has a wire form."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _marked(arguments[0], annotation.__metadata__)
    if origin in _GENERICS:
        return _GENERICS[origin](arguments)
    if annotation in _ATOMS:
        return _ATOMS[annotation]()
    return _named(annotation)


def _named(annotation: Any) -> st.SearchStrategy[Any]:
    """Draw values of a type with a name: a NewType, an Enum, a record or message, or a registered class."""
    if hasattr(annotation, "__supertype__"):
        return values_of(annotation.__supertype__)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return st.sampled_from(annotation)
    if hasattr(annotation, "__wire_form__"):
        return st.deferred(lambda: messages_of(annotation))
    return st.from_type(annotation)


def _build(cls: type[T], values: dict[str, Any]) -> T:
    try:
        return cls(**values)
    except (PrimeError, ValueError, TypeError):
        reject()


def _marked(inner: Any, marks: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if any(isinstance(mark, PayloadMark) for mark in marks):
        return st.binary(max_size=64).map(memoryview)
    if any(isinstance(mark, FiniteMark) for mark in marks):
        return st.floats(allow_nan=False, allow_infinity=False)
    for mark in marks:
        if isinstance(mark, Range):
            return st.integers(mark.low, mark.high)
        if isinstance(mark, Size):
            return _sized(inner, mark)
    return values_of(inner)


def _sized(inner: Any, size: Size) -> st.SearchStrategy[Any]:
    if inner is str:
        return st.text(min_size=size.low, max_size=size.high)
    if inner is bytes:
        return st.binary(min_size=size.low, max_size=size.high)
    return values_of(inner).filter(lambda value: size.low <= len(value) <= size.high)


def _tuples(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=_ITEMS_MAX).map(tuple)
    return st.tuples(*(values_of(argument) for argument in arguments))


def _unions(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.one_of([values_of(argument) for argument in arguments])


_ATOMS: Mapping[Any, Callable[[], st.SearchStrategy[Any]]] = types.MappingProxyType(
    {
        None: st.none,
        type(None): st.none,
        bool: st.booleans,
        int: functools.partial(st.integers, INT_MIN, INT_MAX),
        float: functools.partial(st.floats, allow_nan=False),
        str: functools.partial(st.text, max_size=32),
        bytes: functools.partial(st.binary, max_size=64),
    }
)
_GENERICS: Mapping[Any, Callable[[tuple[Any, ...]], st.SearchStrategy[Any]]] = types.MappingProxyType(
    {
        tuple: _tuples,
        list: lambda arguments: st.lists(values_of(arguments[0]), max_size=_ITEMS_MAX),
        frozenset: lambda arguments: st.frozensets(values_of(arguments[0]), max_size=_ITEMS_MAX),
        dict: lambda arguments: st.dictionaries(*map(values_of, arguments), max_size=_ITEMS_MAX),
        Literal: st.sampled_from,
        Union: _unions,
        types.UnionType: _unions,
    }
)
