"""State machines: actors whose handlers depend on the state they are in, after Erlang/OTP's `gen_statem`.

A handler belongs to some states (`@on(Coin, when="locked")`) or to all others. `become` changes the state; a state may
have a timeout, which leaving it cancels. What a state has no handler for is refused, or postponed until the state changes.
The tables are made and checked once, when the class is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import attrs

from prime.actor.actor import Actor, Once
from prime.actor.facts import kind_of
from prime.actor.handlers import Handler, handler_of, states_of, table_of
from prime.errors import ActorUsageError, MailboxFullError, MessageError, RefusedError

M_contra = TypeVar("M_contra", contravariant=True)
F = TypeVar("F", bound=Callable[[Any], Any])

_ENTERED = "__prime_entered__"
_TIMEOUT = "__prime_timeout__"

CHAIN_MAX = 100
"""States that `@entered` methods may pass through without a message in between."""


def entered(*states: str) -> Callable[[F], F]:
    """Mark a method `(self)` that runs when one of the states has been entered, before the next message."""
    return _marker(_ENTERED, states)


def on_timeout(*states: str) -> Callable[[F], F]:
    """Mark a method `(self)` that runs when one of the states has lasted as long as `become` allowed it."""
    return _marker(_TIMEOUT, states)


def _marker(mark: str, states: tuple[str, ...]) -> Callable[[F], F]:
    if not states or not all(isinstance(state, str) for state in states):
        raise MessageError("a state is named by text", hint='write @entered("open"), or @entered("open", "ajar")')

    def apply(method: F) -> F:
        setattr(method, mark, (*getattr(method, mark, ()), *states))
        return method

    return apply


@attrs.frozen
class _StateTimeout:
    serial: int


@attrs.frozen
class _States:
    """What a class says about its states."""

    names: frozenset[str]
    handlers: dict[type, dict[str, Handler]]
    everywhere: dict[type, Handler]
    entered: dict[str, Handler]
    timeouts: dict[str, Handler]

    @property
    def waits(self) -> bool:
        """Tell whether entering a state may need to wait."""
        return any(waits for _, waits in self.entered.values())


async def _call(handler: Handler, actor: Any, message: Any) -> Any:
    return await handler[0](actor, message) if handler[1] else handler[0](actor, message)


def _dispatcher(known: _States, kind: type) -> Handler:
    """Make the handler of one message class: it chooses by the state, then enters what was become."""
    by_state = known.handlers.get(kind, {})
    everywhere = known.everywhere.get(kind)
    every = [*by_state.values(), *([everywhere] if everywhere is not None else [])]

    def plain(actor: StateMachine[Any], message: Any) -> Any:
        handler = by_state.get(actor.state, everywhere)
        if handler is None:
            return actor._handle_otherwise(message)  # noqa: SLF001 - the other half of the class, made with it
        value = handler[0](actor, message)
        if actor._to_enter:  # noqa: SLF001 - the same
            actor._enter_now()  # noqa: SLF001 - the same
        return value

    async def waiting(actor: StateMachine[Any], message: Any) -> Any:
        handler = by_state.get(actor.state, everywhere)
        if handler is None:
            return actor._handle_otherwise(message)  # noqa: SLF001 - the same
        value = await _call(handler, actor, message)
        await actor._enter()  # noqa: SLF001 - the same
        return value

    if known.waits or any(waits for _, waits in every):
        return waiting, True
    return plain, False


def _collect(cls: type[StateMachine[Any]]) -> _States:
    handlers: dict[type, dict[str, Handler]] = {}
    entered_: dict[str, Handler] = {}
    timeouts: dict[str, Handler] = {}
    for owner in reversed(cls.__mro__):
        own: dict[object, str] = {}
        for name, method in vars(owner).items():
            for kind, states in states_of(method):
                for state in states:
                    _once(owner, own, (kind, state), name, f"{kind.__name__} in the state {state!r}")
                    handlers.setdefault(kind, {})[state] = handler_of(method)
            for mark, found, what in ((_ENTERED, entered_, "the entry to"), (_TIMEOUT, timeouts, "the timeout of")):
                for state in getattr(method, mark, ()):
                    _once(owner, own, (mark, state), name, f"{what} {state!r}")
                    found[state] = _without_message(method)
    named = {state for by_state in handlers.values() for state in by_state} | entered_.keys() | timeouts.keys()
    everywhere = {kind: each for kind, each in table_of(cls).items() if kind is not _StateTimeout}
    return _States(frozenset(cls.states) or frozenset(named), handlers, everywhere, entered_, timeouts)


def _without_message(method: Callable[[Any], Any]) -> Handler:
    _, waits = handler_of(method)  # type: ignore[arg-type]
    return (lambda actor, _message: method(actor)), waits


def _once(owner: type, own: dict[object, str], what: object, name: str, words: str) -> None:
    if what in own:
        raise MessageError(
            f"{owner.__qualname__} handles {words} twice: {own[what]} and {name}", hint="keep one of them"
        )
    own[what] = name


def _check(cls: type[StateMachine[Any]], known: _States) -> None:
    """Refuse a class whose states do not fit together."""
    if not cls.initial:
        raise MessageError(f"{cls.__qualname__} has states but no initial one", hint='write initial = "…" in the class')
    used = {state: f"@on({kind.__name__})" for kind, by_state in known.handlers.items() for state in by_state}
    used |= dict.fromkeys(known.entered, "@entered") | dict.fromkeys(known.timeouts, "@on_timeout")
    used[cls.initial] = "initial"
    for state, where in used.items():
        if state not in known.names:
            raise MessageError(
                f"{cls.__qualname__} has no state {state!r} ({where} names it); it has {_listed(known.names)}",
                hint="mend its name, or add it to `states`, or give it a handler",
            )
    if cls.otherwise not in ("refuse", "postpone"):
        raise MessageError(f"{cls.__qualname__}.otherwise is {cls.otherwise!r}", hint="refuse or postpone")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _unknown(cls: type, state: str, names: frozenset[str]) -> ActorUsageError:
    return ActorUsageError(
        f"{cls.__qualname__} cannot become {state!r}: it has the states {_listed(names)}",
        hint="mend its name, or add it to `states`",
    )


def _endless(cls: type) -> ActorUsageError:
    return ActorUsageError(
        f"{cls.__qualname__} went through {CHAIN_MAX} states without a message in between",
        hint="its @entered methods become each other in a circle",
    )


class StateMachine(Actor[M_contra]):
    """An actor with states. `initial` names the first; `states` may list all, so that a misspelt one is found early.

    `otherwise` says what becomes of a message that has no handler in the present state: `"refuse"` (an ask fails with
    `RefusedError`, a tell is a dead letter) or `"postpone"`: it waits until the state changes, in its order, and at
    most `Mailbox(stash=...)` of them; more are refused.
    """

    initial: ClassVar[str] = ""
    states: ClassVar[tuple[str, ...]] = ()
    otherwise: ClassVar[Literal["refuse", "postpone"]] = "refuse"
    __prime_states__: ClassVar[_States]

    _state: str = ""
    _due: Once | None = None
    _serial: int = 0
    _to_enter: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """Return the present state."""
        return self._state or self.initial

    async def started(self) -> None:
        """Enter the initial state; a class that overrides this calls it."""
        if not self._state:
            self._state = self.initial
            self._to_enter = (self.initial, *self._to_enter)
        await self._enter()

    def become(self, state: str, *, timeout: float | None = None) -> None:
        """Go to a state, from a handler (or an `@entered` or `@on_timeout` method).

        It holds at once; the state's `@entered` method runs when the handler has returned, and then what was postponed
        is tried again, before anything newer. After `timeout` seconds without another `become` the state's
        `@on_timeout` method runs. To become what one is already only sets the timeout anew. Raises `ActorUsageError`
        for a state that the class does not know, or a timeout that nobody handles.
        """
        known = type(self).__prime_states__
        if state not in known.names:
            raise _unknown(type(self), state, known.names)
        if timeout is not None and state not in known.timeouts:
            raise ActorUsageError(
                f"{type(self).__qualname__} becomes {state!r} for {timeout:g} s, and then?",
                hint=f'add a method marked with @on_timeout("{state}")',
            )
        self._cancel_timeout()
        if state != self.state:
            self._state = state
            self._to_enter = (*self._to_enter, state)
            self.ctx.unstash_all()
        if timeout is not None:
            self._due = self.ctx.after(timeout, _StateTimeout(self._serial), overtake=True)

    def _cancel_timeout(self) -> None:
        self._serial += 1
        if self._due is not None:
            self._due.cancel()
            self._due = None

    # ------------------------------------------------------------- dispatching

    def _handle_otherwise(self, message: Any) -> None:
        if self.otherwise == "postpone":
            try:
                self.ctx.stash()
            except MailboxFullError:
                self._refuse(message, f"too many messages are postponed in its state {self.state!r}")
            return
        self._refuse(message, f"no handler for it in its state {self.state!r}")

    def _refuse(self, message: Any, reason: str) -> None:
        try:
            later = self.ctx.defer()
        except ActorUsageError:  # a tell: nobody waits
            self.ctx.system.dead_letter(self.ctx.path, message, reason)
            return
        later.fail(RefusedError(f"{self.ctx.path} refuses {kind_of(message)}: {reason}", hint="ask again later"))

    def _next_entered(self) -> Handler | None:
        """Take the next state that was entered, and return what runs for it."""
        while self._to_enter:
            state, *rest = self._to_enter
            self._to_enter = tuple(rest)
            handler = type(self).__prime_states__.entered.get(state)
            if handler is not None:
                return handler
        return None

    def _enter_now(self) -> None:
        """As `_enter`, for a class whose `@entered` methods are plain functions."""
        for _ in range(CHAIN_MAX):
            handler = self._next_entered()
            if handler is None:
                return
            handler[0](self, None)
        raise _endless(type(self))

    async def _enter(self) -> None:
        for _ in range(CHAIN_MAX):
            handler = self._next_entered()
            if handler is None:
                return
            await _call(handler, self, None)
        raise _endless(type(self))

    async def _on_timeout(self, message: _StateTimeout) -> None:
        if message.serial != self._serial:
            return
        self._due = None
        await _call(type(self).__prime_states__.timeouts[self.state], self, None)
        await self._enter()

    # ------------------------------------------------------- making the class

    @classmethod
    def handler_table(cls) -> dict[type, Handler]:
        """Return the dispatch table: for each message class, what looks at the state first."""
        known = cls.__prime_states__ = _collect(cls)
        if known.names or cls.initial:
            _check(cls, known)
        kinds = known.handlers.keys() | known.everywhere.keys()
        table = {kind: _dispatcher(known, kind) for kind in kinds}
        table[_StateTimeout] = (cls._on_timeout, True)
        return table
