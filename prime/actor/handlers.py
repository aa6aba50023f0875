"""Which method of an actor class handles which message: the `@on` decorator and the dispatch table."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Generic, Protocol, TypeVar, Union, get_args, get_origin, overload

import trio

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
_THREAD = "__prime_in_thread__"
_WHEN = "__prime_when__"

States = str | tuple[str, ...]
"""A state of a `StateMachine`, or several."""

Handler = tuple[Callable[[Any, Any], Any], bool]
"""The unbound method, and whether it is a coroutine function."""


class Deferred(Protocol):
    """What a handler of an ask may return in the place of its reply: where the reply will go."""

    def reply(self, value: Any) -> None:
        """Answer with a value of the ask's reply type."""
        ...


class Handles(Generic[K]):
    """What `@on` gives a type checker for messages without a reply, or for several classes: it must take a `K`."""

    def __call__(self, method: Callable[[S, K], X], /) -> Callable[[S, K], X]:
        """Mark the method."""
        raise NotImplementedError


class Answers(Generic[K, R]):
    """What `@on` gives a type checker for an ask: the method takes a `K` and returns an `R`, now or later."""

    @overload
    def __call__(
        self, method: Callable[[S, K], Coroutine[Any, Any, R]], /
    ) -> Callable[[S, K], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, method: Callable[[S, K], Coroutine[Any, Any, R | Deferred]], /
    ) -> Callable[[S, K], Coroutine[Any, Any, R | Deferred]]: ...
    @overload
    def __call__(self, method: Callable[[S, K], R], /) -> Callable[[S, K], R]: ...
    @overload
    def __call__(self, method: Callable[[S, K], R | Deferred], /) -> Callable[[S, K], R | Deferred]: ...
    def __call__(self, method: Callable[[S, K], Any], /) -> Callable[[S, K], Any]:
        """Mark the method."""
        raise NotImplementedError


# The first two overlap, since every ask is also a class: the first that fits is meant. Up to four classes each is known
# to the type checker; past that it believes the method.
@overload
def on(kind: type[Asked[K, R]], /, *, thread: bool = ..., when: States = ...) -> Answers[K, R]: ...  # type: ignore[overload-overlap]
@overload
def on(kind: type[K], /, *, thread: bool = ..., when: States = ...) -> Handles[K]: ...
@overload
def on(kind: type[K], kind2: type[K2], /, *, thread: bool = ..., when: States = ...) -> Handles[K | K2]: ...
@overload
def on(
    kind: type[K], kind2: type[K2], kind3: type[K3], /, *, thread: bool = ..., when: States = ...
) -> Handles[K | K2 | K3]: ...
@overload
def on(
    kind: type[K], kind2: type[K2], kind3: type[K3], kind4: type[K4], /, *, thread: bool = ..., when: States = ...
) -> Handles[K | K2 | K3 | K4]: ...
@overload
def on(*kinds: type[Any], thread: bool = ..., when: States = ...) -> Callable[[F], F]: ...
def on(*kinds: type[Any], thread: bool = False, when: States = ()) -> Any:
    """Mark a method as the handler of a message class, or of several; its return value is the reply of an ask.

    A sync handler is the fast path; an async one may wait, and the actor handles nothing else meanwhile. With
    `thread=True` a sync handler that blocks runs in a worker thread; cancelled, its thread is left to finish alone.
    `when` names the states of a `StateMachine` in which the method is the handler; without it, it is for all others.

    Type checkers see that the method takes each class, and that it returns the reply of an `Ask[R]`, or `ctx.defer()`.
    Raises `MessageError` for what is no class.
    """
    if not kinds or not all(isinstance(kind, type) for kind in kinds):
        raise MessageError("@on takes message classes", hint="write @on(Put), or @on(Put, Get) for several")

    def mark(method: F) -> F:
        if thread and inspect.iscoroutinefunction(method):
            raise MessageError(
                f"{method.__qualname__} is a coroutine function: it cannot run in a thread", hint="write a plain `def`"
            )
        if when:
            states = (when,) if isinstance(when, str) else tuple(when)
            setattr(method, _WHEN, (*getattr(method, _WHEN, ()), *((kind, states) for kind in kinds)))
        else:
            setattr(method, _MARK, (*getattr(method, _MARK, ()), *kinds))
        if thread:
            setattr(method, _THREAD, True)
        return method

    return mark


def _in_thread(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a coroutine function that runs a blocking method in a worker thread."""

    @functools.wraps(method)
    async def run(actor: Any, message: Any) -> Any:
        return await trio.to_thread.run_sync(method, actor, message, abandon_on_cancel=True)

    return run


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
                table[kind] = handler_of(method)
    return table


def handler_of(method: Callable[[Any, Any], Any]) -> Handler:
    """Return how a marked method is called."""
    if getattr(method, _THREAD, False):
        return _in_thread(method), True
    return method, inspect.iscoroutinefunction(method)


def states_of(method: Any) -> tuple[tuple[type, tuple[str, ...]], ...]:
    """Return the message classes a method handles in some states only, each with those."""
    marks: tuple[tuple[type, tuple[str, ...]], ...] = getattr(method, _WHEN, ())
    return marks


def _stateless(cls: type) -> dict[type, Handler]:
    """Return the table of a class that has no states; a handler that names some is a mistake."""
    for name in dir(cls):
        if states_of(getattr(cls, name, None)):
            raise MessageError(
                f"{cls.__qualname__}.{name} names states with when=, but the class has none",
                hint="derive it from StateMachine instead of Actor",
            )
    return table_of(cls)


def protocol_of(cls: type, root: type) -> tuple[type, ...]:
    """Return the message classes named in `Actor[...]` (or a class below it), as far as they are plain classes."""
    for base in getattr(cls, "__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, root) and not hasattr(origin, "take_entry"):
            argument = get_args(base)[0]
            members = get_args(argument) if isinstance(argument, types.UnionType) else (argument,)
            if get_origin(argument) is Union:
                members = get_args(argument)
            return tuple(member for member in members if isinstance(member, type) and member is not Any)
    return ()


class Handled(Generic[M_contra]):
    """The class-level half of an actor: checks its protocol once, when the class is made."""

    __prime_table__: ClassVar[dict[type, Handler]] = {}
    __prime_inline__: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {}
    """The plain functions among the handlers: called without a coroutine."""
    __prime_awaited__: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {}
    """The coroutine functions among them."""
    __prime_starts__: ClassVar[bool] = True
    """Whether its `started` does anything, so that a task must run it."""
    __prime_stops__: ClassVar[bool] = True
    """Whether its `stopping` does anything."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__prime_table__ = cls.handler_table()
        cls.__prime_inline__ = {kind: call for kind, (call, waits) in cls.__prime_table__.items() if not waits}
        cls.__prime_awaited__ = {kind: call for kind, (call, waits) in cls.__prime_table__.items() if waits}
        root = _actor_root(cls)
        cls.__prime_starts__ = getattr(cls, "started", None) is not getattr(root, "started", None)
        cls.__prime_stops__ = getattr(cls, "stopping", None) is not getattr(root, "stopping", None)
        missing = [kind.__name__ for kind in protocol_of(cls, root) if kind not in cls.__prime_table__]
        if missing:
            raise MessageError(
                f"{cls.__qualname__} promises {', '.join(missing)} in its protocol but has no @on handler for it",
                hint="add a method marked with @on, or take the class out of Actor[...]",
            )

    @classmethod
    def handler_table(cls) -> dict[type, Handler]:
        """Return which handler handles which message class."""
        return _stateless(cls)


def inherited(cls: type[Handled[Any]], kind: type) -> Handler | None:
    """Find the handler of the nearest base class of a message, and remember it."""
    for base in kind.__mro__[1:-1]:
        handler = cls.__prime_table__.get(base)
        if handler is not None:
            cls.__prime_table__[kind] = handler
            (cls.__prime_awaited__ if handler[1] else cls.__prime_inline__)[kind] = handler[0]
            return handler
    return None


def _actor_root(cls: type) -> type:
    """Return the class directly below `Handled` in the bases: `Actor` itself."""
    mro = cls.__mro__
    return mro[mro.index(Handled) - 1]
