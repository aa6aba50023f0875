"""Which method of an actor class handles which message: the `@on` decorator and the dispatch table."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin, overload

from prime.actor.contract import ReplySlot
from prime.errors import MessageError
from prime.wire import Asked

K = TypeVar("K")
K2 = TypeVar("K2")
K3 = TypeVar("K3")
K4 = TypeVar("K4")
R = TypeVar("R")
S = TypeVar("S")
X = TypeVar("X")
F = TypeVar("F", bound=Callable[..., Any])
M_contra = TypeVar("M_contra", contravariant=True)

_MARK = "__prime_handles__"

Handler = tuple[Callable[[Any, Any], Any], bool]
"""The unbound method, and whether it is a coroutine function."""


class Handles(Generic[K]):
    """What `@on` gives a type checker for messages without a reply, or for several classes: it must take a `K`."""

    def __call__(self, method: Callable[[S, K], X], /) -> Callable[[S, K], X]:
        """Mark the method."""
        raise NotImplementedError


class Answers(Generic[K, R]):
    """What `@on` gives a type checker for an ask: the method takes a `K` and returns an `R`, or a slot for later."""

    @overload
    def __call__(
        self, method: Callable[[S, K], Coroutine[Any, Any, R]], /
    ) -> Callable[[S, K], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, method: Callable[[S, K], Coroutine[Any, Any, ReplySlot]], /
    ) -> Callable[[S, K], Coroutine[Any, Any, ReplySlot]]: ...
    @overload
    def __call__(self, method: Callable[[S, K], ReplySlot], /) -> Callable[[S, K], ReplySlot]: ...
    @overload
    def __call__(self, method: Callable[[S, K], R], /) -> Callable[[S, K], R]: ...
    def __call__(self, method: Callable[[S, K], Any], /) -> Callable[[S, K], Any]:
        """Mark the method."""
        raise NotImplementedError


# The first two overlap, since every ask is also a class: the first that fits is meant. Up to four classes each is known
# to the type checker; past that it believes the method.
@overload
def on(kind: type[Asked[K, R]], /) -> Answers[K, R]: ...  # type: ignore[overload-overlap]
@overload
def on(kind: type[K], /) -> Handles[K]: ...
@overload
def on(kind: type[K], kind2: type[K2], /) -> Handles[K | K2]: ...
@overload
def on(kind: type[K], kind2: type[K2], kind3: type[K3], /) -> Handles[K | K2 | K3]: ...
@overload
def on(kind: type[K], kind2: type[K2], kind3: type[K3], kind4: type[K4], /) -> Handles[K | K2 | K3 | K4]: ...
@overload
def on(*kinds: type[Any]) -> Callable[[F], F]: ...
def on(*kinds: type[Any]) -> Any:
    """Mark a method as the handler of a message class, or of several; its return value is the reply of an ask.

    A sync handler is the fast path; an async one may wait, and the actor handles nothing else meanwhile. Type checkers
    see that the method takes each class, and that it returns the reply of an `Ask[R]`. Raises `MessageError` for what
    is no class.
    """
    if not kinds or not all(isinstance(kind, type) for kind in kinds):
        raise MessageError("@on takes message classes", hint="write @on(Put), or @on(Put, Get) for several")

    def mark(method: F) -> F:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), *kinds))
        return method

    return mark


def table_of(cls: type) -> dict[type, Handler]:
    """Collect the handlers of an actor class, its bases' included; two for one message are an error."""
    table: dict[type, Handler] = {}
    for owner in reversed(cls.__mro__):
        own: dict[type, str] = {}
        for name, method in vars(owner).items():
            for kind in getattr(method, _MARK, ()):
                if kind in own:
                    raise MessageError(
                        f"{owner.__qualname__} handles {kind.__name__} twice: {own[kind]} and {name}",
                        hint="keep one @on method for each message class",
                    )
                own[kind] = name
                table[kind] = (method, inspect.iscoroutinefunction(method))
    return table


def protocol_of(cls: type, root: type) -> tuple[type, ...]:
    """Return the message classes named in `Actor[...]`, as far as they are plain classes."""
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is root:
            (argument,) = get_args(base)
            members = get_args(argument) if isinstance(argument, types.UnionType) else (argument,)
            if get_origin(argument) is Union:
                members = get_args(argument)
            return tuple(member for member in members if isinstance(member, type) and member is not Any)
    return ()


class Handled(Generic[M_contra]):
    """The class-level half of an actor: checks its protocol once, when the class is made."""

    __prime_table__: ClassVar[dict[type, Handler]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__prime_table__ = table_of(cls)
        missing = [kind.__name__ for kind in protocol_of(cls, _actor_root(cls)) if kind not in cls.__prime_table__]
        if missing:
            raise MessageError(
                f"{cls.__qualname__} promises {', '.join(missing)} in its protocol but has no @on handler for it",
                hint="add a method marked with @on, or take the class out of Actor[...]",
            )


def _actor_root(cls: type) -> type:
    """Return the class directly below `Handled` in the bases: `Actor` itself."""
    mro = cls.__mro__
    return mro[mro.index(Handled) - 1]
