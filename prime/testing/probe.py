"""A probe: an actor whose mailbox a test reads. Others tell it, ask it and are watched by it as by any actor."""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import trio

from prime.actor import Down, Forwarder, Ref, Supervisor
from prime.actor.contract import ReplySlot
from prime.actor.mailbox import Envelope
from prime.errors import ActorUsageError, MailboxFullError, NoSuchActorError

M = TypeVar("M")

CAPACITY = 1024
_SHOWN = 20  # messages in an error
_Repr = reprlib.Repr()
_Repr.maxother = _Repr.maxstring = 200


@attrs.frozen
class Heard:
    """One message as the probe got it. `slot` is there for an ask, `sender` is the far node or empty."""

    message: Any
    slot: ReplySlot | None = None
    sender: str = ""


class Probe:
    """A test's own actor: `await probe.expect(Put)` is the next message, `probe.reply(value)` answers the last ask.

    `probe.ref` takes any message. It holds up to `capacity` messages that nobody has expected yet; the next one is a
    dead letter, and each `expect` after it fails, so that no test goes on after losing one. Waits are seconds of the
    test's clock. A broken expectation is an `AssertionError` that shows what came instead.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ActorUsageError(f"a probe for {capacity} messages", hint="capacity must be at least 1")
        self.capacity = capacity
        self._heard: deque[Heard] = deque()
        self._last: Heard | None = None
        self._overflowed = ""
        self._news = trio.Event()
        self._watches: list[Callable[[], None]] = []
        self._supervisor: Supervisor | None = None
        self._ref: Ref[Any] | None = None

    @classmethod
    async def spawn(cls, supervisor: Supervisor, name: str = "probe", *, capacity: int = CAPACITY) -> Probe:
        """Start a probe under a supervisor, which stops it at the latest."""
        probe = cls(capacity)
        probe._supervisor = supervisor
        probe._ref = await supervisor.spawn(lambda: _Ear(probe), name, kind="temporary")
        return probe

    @property
    def ref(self) -> Ref[Any]:
        """Return the ref to hand out."""
        if self._ref is None:
            raise ActorUsageError("this probe was not spawned", hint="probe = await Probe.spawn(supervisor)")
        return self._ref

    @property
    def sender(self) -> str:
        """Return the node that sent the last message expected; empty for a local sender."""
        return self._last.sender if self._last is not None else ""

    def __len__(self) -> int:
        """Return how many messages have come that nobody has expected yet."""
        return len(self._heard)

    # ------------------------------------------------------------- expecting

    async def expect(self, kind: type[M], *, within: float = 1.0, skip: bool = False) -> M:
        """Return the next message, which must come within so many seconds and be a `kind`.

        With `skip=True` messages of other classes before it are passed over and dropped; their asks fail.
        """
        skipped: list[Heard] = []
        with trio.move_on_after(within):
            while True:
                heard = await self._next()
                if isinstance(heard.message, kind):
                    self._last = heard
                    return heard.message
                if not skip:
                    raise AssertionError(f"expected {kind.__name__}, got {shown(heard.message)}{self._and_then()}")
                skipped.append(heard)
                _refuse(heard, f"the probe expected {kind.__name__}")
        got = _listed(skipped) if skipped else "nothing"
        raise AssertionError(f"expected {kind.__name__} within {within:g} s, got {got}")

    async def expect_nothing(self, *, within: float = 1.0) -> None:
        """Wait so many seconds, in which nothing may come; nor may there be anything that came before."""
        with trio.move_on_after(within):
            await self._until_heard()
        self._check_overflow()
        if self._heard:
            raise AssertionError(f"expected nothing within {within:g} s, got {_listed(list(self._heard))}")

    async def expect_down(self, ref: Ref[Any], *, within: float = 1.0) -> Down:
        """Return the `Down` of an actor that this probe watches; it must be the next message."""
        down = await self.expect(Down, within=within)
        if (down.path, down.peer) != (ref.path, ref.peer):
            raise AssertionError(f"expected the Down of {ref!r}, got {shown(down)}{self._and_then()}")
        return down

    # ------------------------------------------------------------ answering

    def reply(self, value: Any) -> None:
        """Answer the ask that `expect` returned last."""
        self._slot().reply(value)

    def fail(self, error: Exception) -> None:
        """Answer the ask that `expect` returned last with an error."""
        self._slot().fail(error)

    def _slot(self) -> ReplySlot:
        last = self._last
        if last is None or last.slot is None:
            what = "nothing was expected yet" if last is None else f"{type(last.message).__name__} was told, not asked"
            raise ActorUsageError(f"there is no ask to answer: {what}", hint="expect the ask first, and answer it once")
        self._last = attrs.evolve(last, slot=None)
        return last.slot

    # ------------------------------------------------------------- watching

    def watch(self, ref: Ref[Any]) -> None:
        """Get the actor's `Down` among the messages when it ends, as an actor that watches it would."""
        supervisor = self._supervisor
        if supervisor is None:
            raise ActorUsageError("this probe was not spawned", hint="probe = await Probe.spawn(supervisor)")
        path, peer = ref.path, ref.peer
        self._watches.append(supervisor.system.watch(ref, lambda reason: self._keep(Heard(Down(path, peer, reason)))))

    # -------------------------------------------------------------- hearing

    def hear(self, entry: Any, path: str) -> str:
        """Take one mailbox entry and return an empty string, or say why not. The probe's actor calls it."""
        heard = Heard(entry.message, entry.slot, entry.sender) if isinstance(entry, Envelope) else Heard(entry)
        if len(self._heard) < self.capacity:
            self._keep(heard)
            return ""
        self._overflowed = f"{path} held {self.capacity} messages nobody expected, and lost {shown(heard.message)}"
        if heard.slot is not None:
            heard.slot.fail(MailboxFullError(f"{path} is full", hint="expect its messages, or raise its capacity"))
        self._news.set()
        return "the probe was full"

    def close(self, path: str) -> None:
        """End the watches and fail the asks that nobody answered. The probe's actor calls it when it stops."""
        for unwatch in self._watches:
            unwatch()
        self._watches.clear()
        unanswered = [*self._heard, *([self._last] if self._last is not None else [])]
        for heard in unanswered:
            if heard.slot is not None:
                heard.slot.fail(
                    NoSuchActorError(f"{path} stopped before the test answered", hint="call probe.reply(...) first")
                )

    def _keep(self, heard: Heard) -> None:
        self._heard.append(heard)
        self._news.set()

    async def _until_heard(self) -> None:
        while not self._heard and not self._overflowed:
            self._news = trio.Event()
            await self._news.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _next(self) -> Heard:
        await self._until_heard()
        self._check_overflow()
        return self._heard.popleft()

    def _check_overflow(self) -> None:
        if self._overflowed:
            raise AssertionError(self._overflowed)

    def _and_then(self) -> str:
        return f"; after it {_listed(list(self._heard))}" if self._heard else ""


class _Ear(Forwarder[Any]):
    """The probe's actor."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def take_entry(self, entry: Any) -> None:
        refused = self._probe.hear(entry, self.ctx.path)
        if refused:
            message = entry.message if isinstance(entry, Envelope) else entry
            self.ctx.system.dead_letter(self.ctx.path, message, refused)

    async def stopping(self) -> None:
        self._probe.close(self.ctx.path)


def shown(message: Any) -> str:
    """Return a message for an error: its repr, cut to a line's length, or its class where the repr itself fails."""
    return _Repr.repr(message)


def _listed(heard: list[Heard]) -> str:
    told = ", ".join(shown(each.message) for each in heard[:_SHOWN])
    return told + (f" and {len(heard) - _SHOWN} more" if len(heard) > _SHOWN else "")


def _refuse(heard: Heard, why: str) -> None:
    if heard.slot is not None:
        heard.slot.fail(NoSuchActorError(why, hint="answer it: expect it, then probe.reply(...)"))
