"""What was sent and what came in a run, and what that may be: the books of the delivery scenario (pure).

A line is what one life of a sender tells one actor of another node, numbered from 1. What must hold is checked as things
happen, and `verdict` says the first thing that is wrong; at the end, `unaccounted` says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import attrs

from prime.sim.invariants import require

Life = tuple[str, int]
"""A node's name and the number of its life."""
Told = Literal["begun", "kept", "refused"]


@attrs.define(eq=False)
class Line:
    """The numbered messages of one life of a sender to one node; `reliable` or not."""

    sender: Life
    target: str
    reliable: bool
    told: list[Told] = attrs.Factory(list)
    told_at: list[float] = attrs.Factory(list)
    came: dict[int, list[int]] = attrs.Factory(dict)
    """What each life of the receiver handled, in order."""
    _given_up: dict[tuple[float, int], int] = attrs.Factory(dict)

    def begin(self, now: float) -> int:
        """Give the next message its number."""
        self.told.append("begun")
        self.told_at.append(now)
        return len(self.told)

    def settle(self, number: int, outcome: Told) -> None:
        """Note what `tell` said."""
        self.told[number - 1] = outcome

    def give_up(self, now: float) -> None:
        """Note that one kept message was reported as given up: as many as are at one moment are the last ones told."""
        moment = now, len(self.told)
        self._given_up[moment] = self._given_up.get(moment, 0) + 1

    def lost(self) -> set[int]:
        """Return the numbers that were reported as given up; of two that may be meant, both."""
        found: set[int] = set()
        for (_, last), count in self._given_up.items():
            kept = [number for number in range(1, last + 1) if self.told[number - 1] != "refused"]
            sure = self.told[last - 1] != "begun" if last else True
            found.update(kept[-count if sure else -count - 1 :])
        return found

    def handle(self, life: int, number: int) -> str:
        """Note that a life of the receiver handled a message; return what is wrong with that."""
        before = self.came.setdefault(life, [])
        wrong = self._wrong(life, before, number)
        before.append(number)
        return wrong

    def _wrong(self, life: int, before: list[int], number: int) -> str:
        where = (
            f"{'reliable' if self.reliable else 'plain'} tell {number} of {self.sender} to {self.target}, life {life}"
        )
        if not 1 <= number <= len(self.told):
            return f"{where} was never sent"
        if number in before:
            return f"{where} came twice"
        lost = self.lost() if self.reliable else set[int]()
        last = max((each for each in before if each not in lost), default=0)
        if number < last and number not in lost:
            return f"{where} came after {last}"
        if not self.reliable:
            others = [n for other, numbers in self.came.items() if other != life for n in numbers]
            return f"{where} came twice, over a restart" if number in others else ""
        missing = [n for n in range(last + 1, number) if last and n not in lost and self.told[n - 1] == "kept"]
        return f"{where} came, and {missing} before it did not" if missing else ""

    def handled(self) -> set[int]:
        """Return what any life of the receiver handled."""
        return {number for numbers in self.came.values() for number in numbers}

    def unaccounted(self, crashes: Iterable[tuple[int, float]], mailbox: int) -> list[int]:
        """Return the kept messages that nobody handled, none reported and no crash (life, time) excuses."""
        handled, lost = self.handled(), self.lost()
        kept = [n for n, outcome in enumerate(self.told, 1) if outcome == "kept" and n not in lost]
        excused: set[int] = set()
        for life, at_s in crashes:
            reached = max((n for r, numbers in self.came.items() if r <= life for n in numbers), default=0)
            behind = [n for n in kept if n > reached and self.told_at[n - 1] <= at_s]
            excused.update(behind[: mailbox + 1])  # in the mailbox, or in hand
        return [n for n in kept if n not in handled and n not in excused]


@attrs.define(eq=False)
class Books:
    """All lines, asks, watches and streams of a run."""

    mailbox: int
    lines: dict[tuple[Life, str, bool], Line] = attrs.Factory(dict)
    crashes: dict[str, list[tuple[int, float]]] = attrs.Factory(dict)
    asked: dict[str, int] = attrs.Factory(dict)
    """How often each question was handled, by its name."""
    notices: dict[int, int] = attrs.Factory(dict)
    """How often each watch was told; a watch that ended is -1."""
    link_down_at: float = 0.0
    may_drop: bool = False
    """Whether a full mailbox drops a plain tell."""
    wrong: dict[str, str] = attrs.Factory(dict)
    """What was found wrong first, by the name of what must hold."""

    def line(self, sender: Life, target: str, *, reliable: bool) -> Line:
        """Return a line, made on first use."""
        key = sender, target, reliable
        if key not in self.lines:
            self.lines[key] = Line(sender, target, reliable)
        return self.lines[key]

    def blame(self, name: str, text: str) -> None:
        """Note what is wrong, if anything."""
        if text:
            self.wrong.setdefault(name, text)

    def check(self, name: str) -> None:
        """Raise `AssertionError` if something under that name is wrong."""
        require(name not in self.wrong, self.wrong.get(name, ""))

    def letter_came(self, sender: Life, target: Life, number: int, *, reliable: bool) -> None:
        """Note that a told message was handled."""
        line = self.line(sender, target[0], reliable=reliable)
        self.blame(RELIABLE if reliable else PLAIN, line.handle(target[1], number))

    def question_came(self, name: str) -> None:
        """Note that an ask was handled."""
        self.asked[name] = self.asked.get(name, 0) + 1
        if self.asked[name] > 1:
            self.blame(ASKS, f"the ask {name} was handled {self.asked[name]} times")

    def watch(self) -> int:
        """Begin a watch and return its number."""
        self.notices[len(self.notices)] = 0
        return len(self.notices) - 1

    def unwatch(self, number: int) -> None:
        """Note that a watch was ended before it was told."""
        if self.notices[number] == 0:
            self.notices[number] = -1

    def notified(self, number: int) -> None:
        """Note that a watch was told."""
        if self.notices[number]:
            ended = "after it had ended" if self.notices[number] < 0 else "twice"
            self.blame(WATCHES, f"watch {number} was told {ended}")
        self.notices[number] = 1

    def missing(self, living: Iterable[Life]) -> Iterator[str]:
        """Say what living senders told and what became of it nobody knows."""
        for life in living:
            for (sender, target, reliable), line in self.lines.items():
                if sender != life:
                    continue
                crashes = self.crashes.get(target, ())
                if reliable:
                    gone = line.unaccounted(crashes, self.mailbox)
                elif self.may_drop:
                    continue
                else:
                    gone = [
                        n
                        for n, outcome in enumerate(line.told, 1)
                        if outcome == "kept" and line.told_at[n - 1] > self.link_down_at and n not in line.handled()
                    ]
                if gone:
                    yield f"{'reliable' if reliable else 'plain'} tells {gone[:5]} of {sender} to {target} are lost"


RELIABLE = "a reliable tell comes once and in order within a life of the receiver, and leaves no gap"
PLAIN = "a tell comes at most once and in order"
ASKS = "an ask is handled at most once, answered rightly, and over by its deadline"
WATCHES = "a watch is told exactly once"
STREAMS = "the items of a stream come in order, each once, and all if it ends well"
NAMES = (RELIABLE, PLAIN, ASKS, WATCHES, STREAMS)
