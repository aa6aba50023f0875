"""A swarm's run in words: who takes part, where the round stands, who is waited for and why; once, or as it goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from prime.cli.output import console, json_line, say
from prime.cli.words import many, plain
from prime.trainer.metadata import OWN_DATA
from prime.trainer.swarm.report import shape
from prime.trainer.track.report import duration, in_times, size

if TYPE_CHECKING:
    from rich.console import Console

    from prime.observe.messages import MemberStatus, NodeStatus, RunStatus
    from prime.trainer.metadata import TrainingConfig
    from prime.trainer.runs.messages import RunMember, RunNotice, RunsKnown

PEER_SHOWN: Final = 8
"""Characters of a peer id that tell peers of one swarm apart: its last ones."""
NAME_SHOWN: Final = 14
MEMBERS_SHOWN: Final = 24
BAR_WIDTH: Final = 10
LATE_S: Final = 10.0
"""A node that is not heard of for this long is said to be silent."""
_STANDINGS: Final = {
    "joining": "on its way",
    "member": "takes part",
    "done": "done",
    "left": "left",
    "cannot": "cannot take part",
}
_PHASES: Final = {
    "starting": "the model is built",
    "joining": "waits for more nodes, or to be let in",
    "fetching": "the present state is fetched",
    "leaving": "finishes its round and leaves",
    "left": "has left",
    "done": "done",
}
_ROUND: Final = {
    "training": "all train",
    "gathering": "contributions are gathered",
    "reducing": "contributions are summed up",
    "voting": "the sum is voted on",
    "stalled": "stalled",
    "outside": "this node is in no view",
}
_STYLES: Final = {"waits": "yellow", "stalled": "bold red", "hint": "yellow"}


def as_plain(found: NodeStatus, known: RunsKnown) -> dict[str, Any]:
    """Return the runs as the command prints them in JSON."""
    from attrs import asdict

    runs = asdict(known)  # type: ignore[arg-type]  # a @record is an attrs class
    return {**runs, "name": found.name, "run": run_plain(found.run)}


def run_plain(run: RunStatus | None) -> dict[str, Any] | None:
    """Return a run as JSON has it: times by what they went into, and without the rounds one by one."""
    from attrs import asdict

    if run is None:
        return None
    plain_ = asdict(run)  # type: ignore[arg-type]  # a @record is an attrs class
    plain_.pop("history")
    return {**plain_, "spent_s": dict(run.spent_s)}


# --------------------------------------------------------------------------------------------------------- once


def lines(found: NodeStatus, known: RunsKnown) -> Iterator[str]:
    """Yield what a person reads, a line each."""
    if not known.runs:
        yield "no run is known here; `prime train submit` founds one"
    for number, notice in enumerate(known.runs):
        if number:
            yield ""
        yield from run_frame(found, notice, known)


def run_frame(found: NodeStatus, notice: RunNotice, known: RunsKnown) -> Iterator[str]:
    """Yield one run as this node sees it."""
    here = notice.run == known.taking
    settings = notice.settings
    yield f"run {notice.run}" + ("" if here else ", in which this node takes no part now")
    yield (
        f"  {plain(settings.model) or 'charlm'} on {_data(settings)}, "
        f"{shape(settings, settings.rounds)}, {many(settings.nodes_min, 'node')} at least"
    )
    names = {member.peer: member.name for member in notice.members}
    run = found.run if here else None
    if run is not None:
        yield from run_lines(run, names)
    yield from _table(notice, known, run)
    if run is not None:
        yield from _after(run, names)


def _data(settings: TrainingConfig) -> str:
    return "each node's own data" if settings.data == OWN_DATA else plain(settings.data) or "the data of its model"


def run_lines(run: RunStatus, names: Mapping[str, str]) -> Iterator[str]:
    """Yield how the run goes at this node."""
    yield f"  round {run.round} of {run.rounds} is decided{_measured(run)}"
    yield f"  {_doing(run)}"
    if run.ballot and run.round_phase not in ("training", "outside"):
        sealed = ", ".join(shown(peer, names) for peer in run.contributors)
        yield f"  ballot {run.ballot} led by {shown(run.leader, names)}" + (f", sealed with {sealed}" if sealed else "")


def _measured(run: RunStatus) -> str:
    loss = f", loss {run.loss:.3f}" if run.loss is not None else ""
    return loss + (f", held out {run.held_out:.3f}" if run.held_out is not None else "")


def _doing(run: RunStatus) -> str:
    if run.phase in _PHASES:
        return _PHASES[run.phase]
    what = _ROUND.get(run.round_phase, run.round_phase)
    steps = f"step {min(run.round_step, run.inner_steps)} of {run.inner_steps}"
    if (beyond := run.round_step - run.inner_steps) > 0:
        steps += f" and {beyond:,} of the next"
    return f"now {what}: {steps}, {run.tokens_per_s:,.0f} tokens/s"


def _table(notice: RunNotice, known: RunsKnown, run: RunStatus | None) -> Iterator[str]:
    seen = {member.peer: member for member in run.members} if run is not None else {}
    decided = run.committed if run is not None else 0
    counted = run is not None and bool(seen)
    head = f"  {'node, * here':<{NAME_SHOWN + 2}}{'id':<{PEER_SHOWN + 3}}{'round':>6}"
    yield head + (f"  {'contributed':>12}  {'chunks here'}" if counted else "")
    for member in notice.members[:MEMBERS_SHOWN]:
        yield f"  {_row(member, seen.get(member.peer), decided, known, counted=counted)}".rstrip()
    if (more := len(notice.members) - MEMBERS_SHOWN) > 0:
        yield f"  and {more} more"


def _row(member: RunMember, seen: MemberStatus | None, decided: int, known: RunsKnown, *, counted: bool) -> str:
    name = plain(member.name)[:NAME_SHOWN] + (" *" if member.peer == known.peer else "")
    row = f"{name:<{NAME_SHOWN + 2}}…{member.peer[-PEER_SHOWN:]:<{PEER_SHOWN + 2}}{member.round:>6}"
    if counted:
        row += f"  {_share(seen, decided):>12}  {_chunks(seen):<{BAR_WIDTH + 10}}"
    return f"{row}  {_state(member, seen)}"


def _share(seen: MemberStatus | None, decided: int) -> str:
    return f"{seen.contributed} of {decided}" if seen is not None else "-"


def _chunks(seen: MemberStatus | None) -> str:
    if seen is None or not seen.chunks_held:
        return "-"
    return f"{bar(seen.chunks_held, seen.chunks_expected)} {seen.chunks_held}/{seen.chunks_expected}"


def _state(member: RunMember, seen: MemberStatus | None) -> str:
    if member.age_s > LATE_S and member.standing in ("joining", "member"):
        return f"silent for {duration(member.age_s)}"
    if seen is not None and not seen.alive and member.standing in ("joining", "member"):
        return "silent"
    if seen is None or member.standing != "member":
        state = _STANDINGS[member.standing]
        return f"{state}: {plain(member.why)}" if member.why else state
    if seen.left_out:
        return f"left out: {plain(seen.left_out)}"
    return f"score {seen.score:.1f}" if seen.score else ""


def _after(run: RunStatus, names: Mapping[str, str]) -> Iterator[str]:
    if run.results_expected and run.round_phase in ("reducing", "voting"):
        yield f"  result {bar(run.results_held, run.results_expected)} {run.results_held} of {run.results_expected} chunks"
    yield f"  {sent(run)}"
    if time_text := spent(dict(run.spent_s)):
        yield f"  time {time_text}"
    for waited in run.waiting_for:
        yield f"  waits for {named(waited, names)}"
    if run.stalled:
        yield f"  stalled: {named(run.stalled, names)}"
        yield f"  hint: {named(run.hint, names)}"


def sent(run: RunStatus) -> str:
    """Say how much this node sent, and what other ways would have sent."""
    text = f"sent {size(run.wire_bytes)} in rounds"
    if run.wire_bytes and run.float32_bytes:
        text += f", float32 {run.float32_bytes / run.wire_bytes:.2f} times as much"
    if run.wire_bytes and run.every_step_bytes:
        text += f", in each step {in_times(run.every_step_bytes / run.wire_bytes)} times"
    return text


def spent(seconds: Mapping[str, float]) -> str:
    """Say what the time went into, in shares of all of it; what goes on at the same time counts twice."""
    total = sum(seconds.values())
    if total <= 0:
        return ""
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in parts if value / total >= 0.005)


def bar(held: int, expected: int) -> str:
    """Draw how much of something is here."""
    full = round(BAR_WIDTH * held / expected) if expected else 0
    return "█" * full + "·" * (BAR_WIDTH - full)


def shown(peer: str, names: Mapping[str, str]) -> str:
    """Return a node's name where it is known, or the end of its id."""
    return plain(names[peer]) if names.get(peer) else f"…{peer[-PEER_SHOWN:]}"


def named(text: str, names: Mapping[str, str]) -> str:
    """Return a text with the nodes' names in the place of their ids."""
    for peer, name in names.items():
        text = text.replace(peer, f"{name} (…{peer[-PEER_SHOWN:]})")
    return plain(text)


def fact_words(fact: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a fact of a run's log as a line: when, what, and its fields in short, nodes by their `names` by peer."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(fact.get("at_s", 0))))
    if fact["event"] == "RoundDecided":
        return plain(f"{when}  {_round_words(fact, names)}")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(fact["event"])).lower()
    rest = (
        f"{key} {_brief(value, names)}"
        for key, value in fact.items()
        if key not in ("at_s", "event") and value is not None
    )
    return plain(f"{when}  {name}: {', '.join(rest)}".rstrip(": "))


def _round_words(fact: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if not fact.get("committed"):
        return f"round {fact.get('round')} ended without a result: all that was sent is kept"
    loss = f", loss {fact['loss']:.3f}" if isinstance(fact.get("loss"), float) else ""
    return f"round {fact.get('round')} decided{loss}, of {_brief(fact.get('contributors', []), names)}"


def _brief(value: object, names: Mapping[str, str]) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_brief(item, names) for item in value) or "none"
    text = str(value)
    return shown(text, names) if text.startswith("12D3KooW") and " " not in text else text


# ----------------------------------------------------------------------------------------------------- as it goes on


class RunView(Protocol):
    """Shows a run as it goes on. A context: what it holds of the terminal it gives back."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, found: NodeStatus, notice: RunNotice, known: RunsKnown) -> None:
        """Show it as it is now."""
        ...


def view_of(*, as_json: bool) -> RunView:
    """Return the view that suits where the output goes."""
    if as_json:
        return RunEvents()
    screen = console()
    live = screen.is_terminal and not screen.is_dumb_terminal and not os.environ.get("NO_COLOR")
    return RunScreen(screen) if live else RunWords()


class RunScreen:
    """Draws a run on a terminal again and again, in one place. A context: what it holds of the terminal it gives back."""

    def __init__(self, screen: Console) -> None:
        self._live = Live(console=screen, auto_refresh=False, transient=False, redirect_stdout=False)
        self._width = screen.width

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, found: NodeStatus, notice: RunNotice, known: RunsKnown) -> None:
        """Draw it as it is now."""
        texts = [_styled(line) for line in run_frame(found, notice, known)]
        self._live.update(Group(*texts), refresh=True)


def _styled(line: str) -> Text:
    word = line.split(maxsplit=1)[0].rstrip(":") if line.strip() else ""
    style = "bold" if not line.startswith(" ") else "dim" if word == "node," else _STYLES.get(word, "")
    return Text(line, style=style, no_wrap=True, overflow="ellipsis")


class RunWords:
    """Says what changes in a run, a line each: for a terminal that is none, or a log."""

    def __init__(self) -> None:
        self._last = ""
        self._gone: set[str] = set()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, found: NodeStatus, notice: RunNotice, known: RunsKnown) -> None:
        """Say it if something has changed."""
        run = found.run if notice.run == known.taking else None
        names = {member.peer: member.name for member in notice.members}
        gone = {_said_of(m, names) for m in notice.members if m.standing in ("left", "cannot")}
        said, text = sorted(gone - self._gone), in_short(run, notice, names)
        if text == self._last and not said:
            return
        self._last, self._gone = text, gone
        say(f"[{time.monotonic() - self._began:7.1f} s] {'; '.join([text, *said])}")


def _said_of(member: RunMember, names: Mapping[str, str]) -> str:
    why = f": {plain(member.why)}" if member.why else ""
    return f"{shown(member.peer, names)} {_STANDINGS[member.standing]}{why}"


class RunEvents:
    """Prints a line of JSON for each round that was decided, and one for each change in how the run goes."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()
        self._round = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, found: NodeStatus, notice: RunNotice, known: RunsKnown) -> None:
        """Print what is new."""
        from attrs import asdict

        run = found.run if notice.run == known.taking else None
        for decided in run.history if run is not None else ():
            if decided.round > self._round:
                self._round = decided.round
                self._print("run.round", notice, asdict(decided))  # type: ignore[arg-type]  # a @record is an attrs class
        members = [{"peer": m.peer, "name": m.name, "standing": m.standing, "why": m.why} for m in notice.members]
        news = (members, run and (run.phase, run.round_phase, run.round, run.stalled))
        if news != self._last:
            self._last = news
            self._print("run.status", notice, {"members": members, "status": run_plain(run)})

    def _print(self, event: str, notice: RunNotice, what: Mapping[str, Any]) -> None:
        print(json_line({"event": event, "run": notice.run, **what}), flush=True)  # noqa: T201 - the result, line by line


def in_short(run: RunStatus | None, notice: RunNotice, names: Mapping[str, str]) -> str:
    """Return a run in one line."""
    if run is None:
        return "; ".join(f"{shown(m.peer, names)} {_STANDINGS[m.standing]}" for m in notice.members)
    text = f"round {run.round} of {run.rounds}, {len(run.members)} members{_measured(run)}"
    if run.phase in _PHASES:
        text += f": {_PHASES[run.phase]}"
    return f"{text}; {named(run.stalled, names)}" if run.stalled else text
