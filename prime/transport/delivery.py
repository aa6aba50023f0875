"""Reliable delivery as a pure core: numbers, a window, and who has what. No I/O, no clock, no entropy lives here.

A *series* is the numbered messages of one node for one actor of another. The sender keeps each message until it is
acknowledged, at most a window of them; after every new link it sends what is left again, in order. The receiver takes
the numbers of a series in order and each of them once, and acknowledges a number when its message is in the mailbox.

Ordering laws. `Sender`: messages are accepted in the order they were told, and `next_number` never passes over one.
`Receiver`: at most one message of a series is on offer at a time, whatever links it came by; what comes meanwhile is
told to wait. A number that leaves a gap is dropped: what is missing comes again, and it behind it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from prime.errors import DeadlineError, PrimeError, RefusedError

SERIES_MAX: Final = 1024
"""Series of one peer that a receiver remembers; the one that was quiet the longest goes first."""
PAUSE_S: Final = 0.1
"""How long a sender waits before it sends again what could not be taken; doubled each time."""
PAUSE_S_MAX: Final = 5.0


@attrs.frozen
class Window:
    """What a sender keeps: messages and bytes told and not acknowledged, for how long, and who may wait for room."""

    messages: int = 256
    size_bytes: int = 16 * 2**20
    give_up_s: float = 60.0
    waiting_max: int = 4096


# -------------------------------------------------------------------------------------------------- the sender's side


@attrs.define
class Tell:
    """A message wants a number. `token` is unique in the series."""

    token: int
    size_bytes: int


@attrs.define
class Flush:
    """Somebody waits until all that was told so far is acknowledged."""

    token: int


@attrs.define
class Withdraw:
    """Who waited under this token waits no more; a message that has its number is sent all the same."""

    token: int


@attrs.define
class Linked:
    """There is a new link: all that is not acknowledged goes again."""


@attrs.define
class Sent:
    """This number was handed to the link."""

    number: int


@attrs.define
class Acknowledged:
    """The peer has taken all numbers up to this one; with `again` it could not take the next, and says why."""

    number: int
    again: str = ""


@attrs.define
class Trouble:
    """There is no link, for this reason: what an error says when the series is given up."""

    why: str


@attrs.define
class Fail:
    """The next message can never be sent: the series is given up now."""

    error: PrimeError


@attrs.define
class Tick:
    """`Sender.due` has come."""


SenderEvent = Tell | Flush | Withdraw | Linked | Sent | Acknowledged | Trouble | Fail | Tick


@attrs.define
class Accepted:
    """The message of this token has this number: the shell keeps its bytes."""

    token: int
    number: int


@attrs.define
class Flushed:
    """All that was told before this token's flush is acknowledged."""

    token: int


@attrs.define
class Rejected:
    """The teller or waiter of this token hears an error."""

    token: int
    error: PrimeError


@attrs.define
class Forget:
    """The message of this number is settled; `lost` says why if it was given up."""

    number: int
    lost: str = ""


SenderCommand = Accepted | Flushed | Rejected | Forget


@attrs.define
class _Kept:
    """A message that is not acknowledged."""

    number: int
    size_bytes: int
    deadline: float


class Sender:
    """The sender's side of one series. Given up, it is `over`: later messages need a new one."""

    def __init__(self, where: str, window: Window) -> None:
        self._where = where
        self._window = window
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._waiting: OrderedDict[int, int] = OrderedDict()
        self._flushes: OrderedDict[int, int] = OrderedDict()
        self._last = 0
        self._acknowledged = 0
        self._next = 1
        self._linked = False
        self._pause_s = PAUSE_S
        self._paused_until = -math.inf
        self._paused = False
        self._again = ""
        self._over: PrimeError | None = None
        self._commands: list[SenderCommand] = []
        self._steps: Mapping[type, Callable[[Any, float], None]] = {
            Tell: self._tell,
            Flush: self._flush,
            Withdraw: self._withdraw,
            Linked: self._link,
            Sent: self._sent,
            Acknowledged: self._acknowledge,
            Trouble: self._trouble,
            Fail: self._fail,
            Tick: self._tick,
        }

    def step(self, event: SenderEvent, now: float) -> list[SenderCommand]:
        """Take an event at `now` (seconds, monotonic) and return what to do, in order. Never raises for input."""
        self._commands = commands = list[SenderCommand]()
        self._steps[type(event)](event, now)
        return commands

    @property
    def next_number(self) -> int:
        """The number to send next, 0 for none."""
        return self._next if self._linked and not self._paused and self._next <= self._last else 0

    @property
    def oldest(self) -> int:
        """The first number that is kept."""
        return self._acknowledged + 1

    @property
    def due(self) -> float:
        """When the next `Tick` is wanted."""
        oldest = self._kept[0].deadline if self._kept else math.inf
        return min(oldest, self._paused_until) if self._paused else oldest

    @property
    def idle(self) -> bool:
        """Tell whether nothing is kept and nobody waits."""
        return not self._kept and not self._waiting and not self._flushes

    @property
    def over(self) -> bool:
        """Tell whether the series was given up."""
        return self._over is not None

    def sizes(self) -> dict[str, int]:
        """Count what is remembered: what a leak test looks at."""
        return {"kept": len(self._kept), "waiting": len(self._waiting), "flushes": len(self._flushes)}

    def _tell(self, event: Tell, now: float) -> None:
        if self._over is not None:
            self._commands.append(Rejected(event.token, _again(self._over)))
        elif len(self._waiting) >= self._window.waiting_max:
            error = RefusedError(
                f"{len(self._waiting)} callers already wait for {self._where}",
                hint="Wait for earlier messages before sending more.",
            )
            self._commands.append(Rejected(event.token, error))
        else:
            self._waiting[event.token] = event.size_bytes
            self._admit(now)

    def _admit(self, now: float) -> None:
        """Give numbers to those who wait, in order, as far as the window goes; one of any size when it is empty."""
        window = self._window
        while self._waiting:
            token, size_bytes = next(iter(self._waiting.items()))
            if self._kept and (len(self._kept) >= window.messages or self._kept_bytes + size_bytes > window.size_bytes):
                return
            del self._waiting[token]
            self._last += 1
            self._kept.append(_Kept(self._last, size_bytes, now + window.give_up_s))
            self._kept_bytes += size_bytes
            self._commands.append(Accepted(token, self._last))

    def _flush(self, event: Flush, _now: float) -> None:
        if self._over is not None:
            self._commands.append(Rejected(event.token, _again(self._over)))
        elif self._acknowledged == self._last:
            self._commands.append(Flushed(event.token))
        else:
            self._flushes[event.token] = self._last

    def _withdraw(self, event: Withdraw, _now: float) -> None:
        self._waiting.pop(event.token, None)
        self._flushes.pop(event.token, None)

    def _link(self, _event: Linked, _now: float) -> None:
        self._linked = True
        self._paused = False
        self._pause_s = PAUSE_S
        self._next = self._acknowledged + 1

    def _sent(self, event: Sent, _now: float) -> None:
        if event.number == self._next:
            self._next += 1

    def _acknowledge(self, event: Acknowledged, now: float) -> None:
        if not self._acknowledged <= event.number <= self._last:
            return  # of a series that was given up, or overtaken by a later one
        if event.number > self._acknowledged:
            self._pause_s = PAUSE_S
        self._settle(event.number)
        self._next = max(self._next, event.number + 1)
        if event.again and self._kept and not self._paused:
            self._next = event.number + 1
            self._paused, self._paused_until = True, now + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
            self._again = event.again
        self._admit(now)

    def _settle(self, number: int) -> None:
        while self._kept and self._kept[0].number <= number:
            kept = self._kept.popleft()
            self._kept_bytes -= kept.size_bytes
            self._commands.append(Forget(kept.number))
        self._acknowledged = max(self._acknowledged, number)
        while self._flushes and next(iter(self._flushes.values())) <= number:
            self._commands.append(Flushed(self._flushes.popitem(last=False)[0]))

    def _trouble(self, event: Trouble, _now: float) -> None:
        self._again = event.why

    def _fail(self, event: Fail, _now: float) -> None:
        self._give_up(event.error)

    def _tick(self, _event: Tick, now: float) -> None:
        if self._kept and now >= self._kept[0].deadline:
            why = f": {self._again}" if self._again else ""
            text = f"{self._where} did not take {len(self._kept)} messages within {self._window.give_up_s:g} s{why}"
            hint = "Whether the last of them were handled is unknown. Look at that node."
            self._give_up(DeadlineError(text, hint=hint))
        elif self._paused and now >= self._paused_until:
            self._paused = False

    def _give_up(self, error: PrimeError) -> None:
        """End the series: a message after a lost one would break its order."""
        self._over = error
        for kept in self._kept:
            self._commands.append(Forget(kept.number, lost=str(error)))
        for token in (*self._waiting, *self._flushes):
            self._commands.append(Rejected(token, _again(error)))
        self._kept.clear()
        self._waiting.clear()
        self._flushes.clear()
        self._kept_bytes = 0
        self._next = self._last + 1


def _again(error: PrimeError) -> PrimeError:
    """Return a new exception for each of those who hear it."""
    return type(error)(str(error), hint=error.hint)


# ------------------------------------------------------------------------------------------------ the receiver's side


class Verdict(Enum):
    """What to do with a numbered message that came."""

    OFFER = "offer"
    """Offer it to the mailbox, then say `took`, `put_off` or `left`."""
    SKIP = "skip"
    """It was taken before, or leaves a gap: drop it."""
    WAIT = "wait"
    """The series has a message on offer: ask again when that is settled."""


@attrs.define
class _Heard:
    """A series of the peer's: all numbers up to `taken` are in the mailbox."""

    taken: int
    offered: int = 0
    again: str = ""


class Receiver:
    """The receiver's side of every series of one peer; a new run of the peer (`instance`) begins afresh."""

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self._series_max = series_max
        self._heard: OrderedDict[tuple[int, int], _Heard] = OrderedDict()
        self._due: dict[tuple[int, int], None] = {}
        self._instance = 0

    def __len__(self) -> int:
        return len(self._heard)

    def renew(self, instance: int) -> None:
        """Forget what earlier runs of the peer sent: nothing of it can come again."""
        self._instance = instance
        for key in [key for key in self._heard if key[0] != instance]:
            del self._heard[key]
            self._due.pop(key, None)

    def came(self, instance: int, series: int, number: int, oldest: int) -> Verdict:
        """Judge a message; `oldest` is the first of its series that its sender still keeps."""
        if self._instance not in {0, instance}:
            return Verdict.SKIP
        key = instance, series
        heard = self._heard.get(key)
        if heard is None:
            self._sweep()
            heard = self._heard[key] = _Heard(oldest - 1)
        self._heard.move_to_end(key)
        if heard.offered:
            return Verdict.WAIT
        if number == heard.taken + 1:
            heard.offered = number
            return Verdict.OFFER
        gap = number > heard.taken
        self._acknowledge(key, heard, heard.again or ("one before it is missing" if gap else ""))
        return Verdict.SKIP

    def took(self, instance: int, series: int, number: int) -> None:
        """Hear that the message is in the mailbox, or will never be."""
        heard = self._offered(instance, series, number)
        if heard is not None:
            heard.taken = number
            self._acknowledge((instance, series), heard, "")

    def put_off(self, instance: int, series: int, number: int, why: str) -> None:
        """Hear that the message could not be taken now: its sender shall send it again."""
        heard = self._offered(instance, series, number)
        if heard is not None:
            self._acknowledge((instance, series), heard, why)

    def left(self, instance: int, series: int, number: int) -> None:
        """Hear that the link ended while the message waited for room: it is not in the mailbox."""
        self._offered(instance, series, number)

    @property
    def owes(self) -> bool:
        """Tell whether there is anything to acknowledge."""
        return bool(self._due)

    def acknowledgements(self) -> list[tuple[int, int, int, str]]:
        """Return, once, what is to be told the peer: instance, series, the last number taken, why not the next."""
        told = [(*key, self._heard[key].taken, self._heard[key].again) for key in self._due]
        self._due.clear()
        return told

    def _offered(self, instance: int, series: int, number: int) -> _Heard | None:
        heard = self._heard.get((instance, series))
        if heard is None or heard.offered != number:
            return None
        heard.offered = 0
        return heard

    def _acknowledge(self, key: tuple[int, int], heard: _Heard, again: str) -> None:
        heard.again = again
        self._due[key] = None

    def _sweep(self) -> None:
        """Forget the quietest series that has nothing on offer."""
        if len(self._heard) >= self._series_max:
            quiet = next((key for key, heard in self._heard.items() if not heard.offered), None)
            if quiet is not None:
                del self._heard[quiet]
                self._due.pop(quiet, None)
