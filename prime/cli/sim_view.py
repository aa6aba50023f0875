"""What `prime sim` says: an outcome in a few lines, the faults that it met, and how a search gets on."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from prime.cli.output import console, say
from prime.cli.words import many
from prime.sim.history import VIOLATES
from prime.sim.notation import special
from prime.sim.plan import nodes_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prime.sim.history import Event
    from prime.sim.plan import Action, Plan
    from prime.sim.run import Outcome

FAILURES_SHOWN: Final = 20
"""A search prints so many failures; those after are counted."""
_CHANCES: Final = ("loss", "duplication", "reordering", "corruption")
_OF_DATAGRAMS: Final = frozenset({"duplication", "reordering"})
_LINE_EVERY_S: Final = 10.0
_TEXT_MAX: Final = 200


def told(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as `--json` prints it."""
    result: dict[str, Any] = {name: getattr(outcome, name) for name in ("seed", "scenario", "events", "trace", "ok")}
    if not outcome.ok:
        result |= {"violated": outcome.violated, "error": outcome.error, "at_s": outcome.at_s}
    return result


def lines(outcome: Outcome, plan: Path | None = None) -> Iterator[str]:
    """Yield an outcome for a person."""
    about = f"{outcome.scenario}, seed {outcome.seed}"
    if outcome.ok:
        yield f"ok: {about}: {_events(outcome)} in {outcome.at_s:g} virtual seconds"
    else:
        yield f"violated at {outcome.at_s:g} s: {outcome.error}"
        yield f"  {about}: {_events(outcome)}"
    yield f"  trace {outcome.trace or '(none)'}"
    met = list(faults(outcome.plan, outcome.at_s))
    yield "  faults:" if met else "  faults: none"
    yield from (f"    {fault}" for fault in met)
    if outcome.plan.params:
        yield f"  chosen: {', '.join(f'{name} {value}' for name, value in outcome.plan.params.items())}"
    if not outcome.ok:
        yield f"  again: {command('replay', outcome, plan)}"
        yield f"  smaller: {command('shrink', outcome, plan)}"


def _events(outcome: Outcome) -> str:
    return many(outcome.events, "event")


def command(verb: str, outcome: Outcome, plan: Path | None = None) -> str:
    """Return the command that does something with a run."""
    words = outcome.command.replace(" replay ", f" {verb} ", 1)
    return words if plan is None else words.removesuffix(" PLAN.json") + f" {shlex.quote(str(plan))}"


def faults(plan: Plan, until_s: float) -> Iterator[str]:
    """Yield the faults of a plan until a time, in words; not those of datagrams, of which a scenario's nodes send none."""
    for name, amount in _network(plan).items():
        yield f"{name} {amount:.3g}" if name in _CHANCES else f"{_spoken(name)} {amount:g}"
    for name, value in special(plan.disk).items():
        yield f"disk {name}" if value is True else f"disk {_spoken(name)} {value:g}"
    for node in plan.without:
        yield f"without {node}"
    yield from (_happens(action) for action in plan.actions if action.at_s <= min(until_s, plan.storm_s))


def size(plan: Plan) -> str:
    """Return how much goes wrong in a plan, in words."""
    settings = len(_network(plan)) + len(special(plan.disk))
    without = f", {many(len(plan.without), 'node')} left out" if plan.without else ""
    return f"{many(len(plan.actions), 'action')}, {many(settings, 'setting')} of network and disk{without}"


def _network(plan: Plan) -> dict[str, Any]:
    """Return what is special about the network for streams."""
    return {name: amount for name, amount in special(plan.network).items() if name not in _OF_DATAGRAMS}


def _spoken(name: str) -> str:
    return name.replace("_bytes_per_s", " (bytes/s)").replace("_s", " (s)")


def _happens(action: Action) -> str:
    kind = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(action).__name__).strip()
    return f"{kind} of {'+'.join(nodes_of(action))} at {action.at_s:g} s"


def event_line(event: Event) -> str:
    """Return one event of a history as a line."""
    text = f"{event.at_s:10.4f} s  {event.node or '(world)':<10} {event.kind} {event.subject} {event.detail}".rstrip()
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"


def up_to_failure(history: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return what came before a failure, and itself; what the same step still did comes after it."""
    for index, event in enumerate(history):
        if event.kind == VIOLATES and not event.node:
            return history[: index + 1]
    return history


def difference(one: tuple[Event, ...], other: tuple[Event, ...]) -> str:
    """Return where two histories part, in words."""
    for first, second in zip(one, other, strict=False):
        if first != second:
            return f"first difference:\n  {event_line(first)}\n  {event_line(second)}"
    if len(one) != len(other):
        longer = max(one, other, key=len)
        return f"one goes on where the other ends:\n  {event_line(longer[min(len(one), len(other))])}"
    return "the events are the same; bytes that crossed the network, or text that is not kept, differ"


@attrs.define
class Tally:
    """What a search has found so far."""

    seeds: int
    scenario: str
    done: int = 0
    failures: int = 0
    seconds: float = 0.0
    ended_by: str = ""
    """`first`, a signal's name, or nothing where all seeds were run."""
    shown: list[Outcome] = attrs.Factory(list)
    kinds: Counter[str] = attrs.Factory(Counter)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.done += 1
        if outcome.ok:
            return
        self.failures += 1
        if outcome.violated in self.kinds or len(self.kinds) < FAILURES_SHOWN:
            self.kinds[outcome.violated] += 1
        if len(self.shown) < FAILURES_SHOWN:
            self.shown.append(outcome)

    @property
    def per_min(self) -> float:
        """Seeds a minute of real time."""
        return 60 * self.done / self.seconds if self.seconds else 0.0

    def result(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        failed = [{**told(outcome), "command": outcome.command} for outcome in self.shown]
        return {
            "scenario": self.scenario,
            "seeds": self.done,
            "asked": self.seeds,
            "failures": self.failures,
            "failed": failed,
            "violated": dict(self.kinds),
            "seconds": round(self.seconds, 3),
            "seeds_per_min": round(self.per_min, 1),
            "ended_by": self.ended_by,
            "ok": not self.failures and self.done == self.seeds,
        }

    def text(self) -> str:
        """Return it for a person."""
        how = f"ended by {self.ended_by}: " if self.ended_by.startswith("SIG") else ""
        ran = f"{how}{self.done:,} of {self.seeds:,} seeds" if self.done < self.seeds else f"{self.done:,} seeds"
        rate = f"{self.seconds:.1f} s, {self.per_min:,.0f} seeds a minute"
        if not self.failures:
            return f"{ran}: none failed ({rate})"
        kinds = ", ".join(f"{name} ({count:,})" for name, count in self.kinds.most_common())
        return f"{ran}: {self.failures:,} failed: {kinds} ({rate})"


def failure_line(outcome: Outcome) -> str:
    """Return a failure as one line that replays it."""
    error = " ".join(outcome.error.split())
    short = error if len(error) <= _TEXT_MAX else f"{error[:_TEXT_MAX]}…"
    return f"seed {outcome.seed}: {short}, at {outcome.at_s:g} s: {outcome.command}"


@contextlib.contextmanager
def progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """Show how a search gets on: a bar on a terminal, else a line now and then. Call what is given after each outcome."""
    if not console(error=True).is_terminal:
        yield _Lines(tally).show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} seeds a minute, {task.fields[failures]:,} failed"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console(error=True), redirect_stdout=sys.stdout.isatty(), transient=True)
    with bar:
        task = bar.add_task("", total=tally.seeds, rate=0.0, failures=0)
        yield lambda: bar.update(task, completed=tally.done, rate=tally.per_min, failures=tally.failures)


class _Lines:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._next_s = _LINE_EVERY_S

    def show(self) -> None:
        tally = self._tally
        if tally.seconds >= self._next_s:
            self._next_s = tally.seconds + _LINE_EVERY_S
            left_s = (tally.seeds - tally.done) * tally.seconds / max(tally.done, 1)
            say(f"{tally.text()}, {left_s:.0f} s to go")
