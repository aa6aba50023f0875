"""A portal: how other threads reach actors. A call becomes a task of Trio's, and its thread waits for the outcome.

Every wait has two ends: the deadline on Trio's clock, and one in the thread itself a little later, so that a blocked
event loop does not block the threads that call into it for ever.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from prime.actor.ref import Ref
from prime.errors import ActorUsageError, DeadlineError

if TYPE_CHECKING:
    from prime.wire import Asked

M = TypeVar("M")
R = TypeVar("R")

GRACE_S = 1.0
"""How much longer than the deadline a thread waits for the event loop to say that the deadline has passed."""
TELL_S = 30.0
"""How long a tell waits for room, unless the caller says otherwise."""


class Portal:
    """Tell and ask from any thread but Trio's own. Get one from `System.portal`; any number of threads may share it."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self._scopes: set[trio.CancelScope] = set()
        self._ended = False

    def tell(self, ref: Ref[M], message: M, *, timeout: float = TELL_S) -> None:
        """Send without an answer; blocks this thread while the mailbox has no room, at most `timeout` seconds.

        Raises what `Ref.tell` raises, `DeadlineError`, and `ActorUsageError` in Trio's own thread or once the system
        has ended.
        """
        self._run(lambda: ref.tell(message), timeout, f"telling {ref.path}")

    def ask(self, ref: Ref[M], message: Asked[M, R], *, timeout: float) -> R:
        """Send and wait for the reply, at most `timeout` seconds. Raises what `Ref.ask` raises, and as `tell`."""
        answer: R = self._run(lambda: ref.ask(message, timeout=timeout), timeout, f"asking {ref.path}")
        return answer

    def close(self) -> None:
        """End the calls in progress and refuse new ones. The system does it when it ends; call it in Trio's thread."""
        self._ended = True
        for scope in self._scopes:
            scope.cancel()

    # ------------------------------------------------------------ in the calling thread

    def _run(self, call: Callable[[], Awaitable[Any]], timeout_s: float, what: str) -> Any:
        if threading.get_ident() == self._thread:
            raise ActorUsageError(
                f"{what} through a portal in Trio's own thread: it would wait for itself",
                hint="await ref.tell(...) or ref.ask(...) here; a portal is for other threads",
            )
        if self._ended:
            raise _ended(what)
        if not isinstance(timeout_s, int | float) or math.isnan(timeout_s):  # type: ignore[redundant-expr]  # not every caller has a type checker
            raise ActorUsageError(f"{what} with timeout={timeout_s!r}", hint="give seconds; math.inf for no limit")
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        scope = trio.CancelScope()
        try:
            self._token.run_sync_soon(self._spawn, call, scope, outcome, timeout_s, what)
        except trio.RunFinishedError:
            raise _ended(what) from None
        try:
            return outcome.result(min(timeout_s + GRACE_S, threading.TIMEOUT_MAX))
        except concurrent.futures.TimeoutError:
            self._give_up(scope)
            raise DeadlineError(
                f"{what}: the event loop said nothing within {timeout_s + GRACE_S:g} s",
                hint="something blocks it: a sync handler that takes long belongs in a thread or a process",
            ) from None
        except BaseException:  # a KeyboardInterrupt among them: nobody waits any more
            self._give_up(scope)
            raise

    def _give_up(self, scope: trio.CancelScope) -> None:
        try:
            self._token.run_sync_soon(scope.cancel)
        except trio.RunFinishedError:
            return

    # ------------------------------------------------------------------ in Trio's thread

    def _spawn(
        self,
        call: Callable[[], Awaitable[Any]],
        scope: trio.CancelScope,
        outcome: concurrent.futures.Future[Any],
        timeout_s: float,
        what: str,
    ) -> None:
        if self._ended:
            outcome.set_exception(_ended(what))
            return
        self._scopes.add(scope)
        trio.lowlevel.spawn_system_task(self._work, call, scope, outcome, timeout_s, what, name=f"portal: {what}")

    async def _work(
        self,
        call: Callable[[], Awaitable[Any]],
        scope: trio.CancelScope,
        outcome: concurrent.futures.Future[Any],
        timeout_s: float,
        what: str,
    ) -> None:
        """Make the call and say how it ended, whatever that is: a system task must not raise."""
        error: BaseException = DeadlineError(f"{what}: not within {timeout_s:g} s", hint="its mailbox may be full")
        scope.deadline = trio.current_time() + timeout_s
        try:
            with scope:
                outcome.set_result(await call())
        except trio.Cancelled:
            error = _ended(what)
            raise
        except Exception as failed:  # noqa: BLE001 - it is raised in the calling thread
            error = failed
        finally:
            self._scopes.discard(scope)
            if not outcome.done():
                outcome.set_exception(_ended(what) if self._ended else error)


def _ended(what: str) -> ActorUsageError:
    return ActorUsageError(f"{what}: the system has ended", hint="end the threads that use its portal first")
