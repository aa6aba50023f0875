"""How a run looks: a live screen for a terminal, plain lines at a bounded rate elsewhere, one line of JSON a fact for tools."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prime.cli.output import console, say
from prime.cli.words import many, plain
from prime.trainer.facts import (
    CheckpointSaved,
    Evaluated,
    Fact,
    GenerationBegan,
    HostAwaited,
    HostJoined,
    RankLost,
    RunBegan,
    RunStopping,
    StepMade,
    TrackerDropped,
)
from prime.trainer.track.lines import line_of
from prime.trainer.track.report import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prime.trainer.track.course import Course, RankSeen

REDRAW_S: Final = 0.2
TICK_S: Final = 0.25
"""How often a screen is drawn while nothing happens: its clock goes on."""
FACTS_MAX: Final = 100_000
"""Facts that wait to be shown."""
CLOSE_S: Final = 2.0
LINE_EVERY_S: Final[dict[type, float]] = {StepMade: 10.0, Evaluated: 1.0, CheckpointSaved: 1.0}
"""Off a terminal, what comes over and over is told this often; what else happens, at once."""
RANKS_SHOWN: Final = 8
NOTES_SHOWN: Final = 3
_CHART_WIDTH: Final = 72
_CHART_HEIGHT: Final = 6
_LABEL: Final = 8
"""Columns of the values at a chart's left."""
_AROUND_CHART: Final = _LABEL + 4
"""Those, and the panel's border."""
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_BAR_WIDTH: Final = 48
_PARTS: Final = {
    "data": "yellow",
    "compute": "green",
    "reduce": "blue",
    "optimiser": "magenta",
    "checkpoint": "bright_yellow",
    "evaluation": "cyan",
    "start": "white",
    "recovery": "red",
    "other": "bright_black",
}
_PHASES: Final = {
    "starting": "cyan", "training": "green", "recovering": "bold red", "stopping": "yellow", "done": "bold green",
    "stopped": "yellow", "failed": "bold red",
}  # fmt: skip
_STATES: Final = {"training": "green", "ready": "green", "starting": "yellow", "lost": "bold red"}

_URGENCY: Final = ("lost", "starting", "ready", "training")
"""Which ranks are shown where not all can be."""


class View(Protocol):
    """Shows one run. A context: what it holds of the terminal it gives back."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def take(self, fact: Fact) -> None:
        """Show a fact; the course has it already."""
        ...

    def tick(self) -> None:
        """Show that time goes on."""
        ...


def view_of(course: Course, *, as_json: bool) -> View:
    """Return the view that suits where the output goes."""
    if as_json:
        return JsonLines()
    screen = console(error=True)
    live = screen.is_terminal and not screen.is_dumb_terminal and not os.environ.get("NO_COLOR")
    return Screen(course, screen) if live else Lines(course)


class ViewThread:
    """Shows a run in a thread of its own: a terminal that takes no output, as after Ctrl-S, holds up no rank.

    A context: left, it has shown what came, or of a view for people, given up on it after `CLOSE_S`. `on_gone` is called, in
    that thread, when nobody reads the output any more.
    """

    def __init__(self, view: View, course: Course, on_gone: Callable[[], None]) -> None:
        self._view = view
        self._course = course
        self._on_gone = on_gone
        self._facts: queue.SimpleQueue[tuple[Fact, float] | None] = queue.SimpleQueue()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._facts.put(None)
        self._thread.join(None if isinstance(self._view, JsonLines) else CLOSE_S)
        if self._fault is not None:
            raise self._fault

    def take(self, fact: Fact, at_s: float) -> None:
        """Let a fact be shown that came at a time, in seconds since 1970."""
        if self._facts.qsize() < FACTS_MAX:
            self._facts.put((fact, at_s))
        elif isinstance(self._view, JsonLines):  # no line of it may be missing
            self._on_gone()

    def _run(self) -> None:
        try:
            with self._view:
                self._show()
        except BrokenPipeError:
            self._on_gone()
        except OSError:  # the terminal is gone, and with it whoever looked
            pass
        except Exception as error:  # noqa: BLE001 - our own bug: raised where the program can tell it
            self._fault = error

    def _show(self) -> None:
        while True:
            try:
                item = self._facts.get(timeout=TICK_S)
            except queue.Empty:
                self._view.tick()
                continue
            if item is None:
                return
            self._course.take(*item)
            self._view.take(item[0])


class JsonLines:
    """Prints each fact as one line of JSON on standard output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take(self, fact: Fact) -> None:
        """Print the fact."""
        print(line_of(fact, time.time()), flush=True)  # noqa: T201 - the result, line by line

    def tick(self) -> None:
        """Time is no event."""


class Lines:
    """Says what happens on standard error, and now and then how far the steps are."""

    def __init__(self, course: Course, clock: Callable[[], float] = time.monotonic) -> None:
        self._course = course
        self._clock = clock
        self._next_s: dict[type, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take(self, fact: Fact) -> None:
        """Say a fact, if it is time for one of its kind."""
        kind, now_s = type(fact), self._clock()
        if now_s < self._next_s.get(kind, now_s):
            return
        self._next_s[kind] = now_s + LINE_EVERY_S.get(kind, 0.0)
        if text := words(fact, self._course):
            say(f"[{self._course.elapsed_s():7.1f} s] {text}")

    def tick(self) -> None:
        """Nothing to draw."""


def words(fact: Fact, course: Course) -> str:
    """Return a fact as a sentence, or nothing where it need not be said."""
    if isinstance(fact, StepMade):
        return _step_words(course)
    sentence = _SENTENCES.get(type(fact))
    return sentence(fact) if sentence is not None else ""


def _generation_words(fact: GenerationBegan) -> str:
    over = f", {fact.strategy} over {fact.backend}" if fact.backend else ""
    return f"generation {fact.generation}: {many(fact.world, 'rank')} on {fact.device}{over}, from step {fact.step}"


def _evaluated_words(fact: Evaluated) -> str:
    measured = "".join(f", {name} {value:.3f}" for name, value in fact.measures.items())
    return f"held-out loss {_nats(fact.loss)}{measured} at step {fact.step}"


def _saved_words(fact: CheckpointSaved) -> str:
    return f"checkpoint of step {fact.step}: {size(fact.size_bytes)} in {duration(fact.seconds)}"


def _lost_words(fact: RankLost) -> str:
    return f"rank {fact.rank} was lost after step {fact.step}: {_cause(fact)}; the gang starts again"


def _awaited_words(fact: HostAwaited) -> str:
    why = f": {plain(fact.text)}" if fact.text else ""
    return f"waits for host {fact.host}, for up to {duration(fact.wait_s)}{why}"


def _joined_words(fact: HostJoined) -> str:
    return f"host {fact.host}, {plain(fact.name)}, is there with {many(fact.ranks, 'rank')}"


def _stopping_words(fact: RunStopping) -> str:
    return f"stopping ({fact.reason}): the step in hand is finished and saved; once more stops at once"


def _dropped_words(fact: TrackerDropped) -> str:
    return f"tracker {fact.tracker} was dropped: {plain(fact.error)}"


def _began_words(fact: RunBegan) -> str:
    since = f", on from step {fact.resumed_step}" if fact.resumed_step else ""
    spares = f" and {many(fact.spares, 'spare')}" if fact.spares else ""
    return f"run {fact.name}: {fact.steps} steps on {many(fact.world, 'rank')}{spares}{since}, in {fact.folder}"


def _step_words(course: Course) -> str:
    parts = [f"step {course.step}/{course.began.steps if course.began else '?'}", f"loss {_nats(course.loss.last)}"]
    if (rate := course.rate()) is not None:
        parts.append(f"{rate[0]:,.0f} {rate[1]}")
    if (eta_s := course.eta_s()) is not None:
        parts.append(f"about {duration(eta_s)} left")
    return ", ".join(parts)


def _cause(fact: RankLost) -> str:
    last = (fact.text.strip().splitlines() or [""])[-1]
    return f"{fact.cause} ({plain(last)})" if last else fact.cause


def _nats(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"


_SENTENCES: Final[dict[type, Callable[[Any], str]]] = {
    RunBegan: _began_words,
    GenerationBegan: _generation_words,
    Evaluated: _evaluated_words,
    CheckpointSaved: _saved_words,
    RankLost: _lost_words,
    HostAwaited: _awaited_words,
    HostJoined: _joined_words,
    RunStopping: _stopping_words,
    TrackerDropped: _dropped_words,
}


# --------------------------------------------------------------------------------------------------------- the screen


class Screen:
    """Redraws the run on a terminal, `REDRAW_S` apart at least."""

    def __init__(self, course: Course, screen: Console) -> None:
        self._course = course
        self._console = screen
        self._notes: list[str] = []
        self._drawn_s = 0.0
        self._live = Live(
            console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def take(self, fact: Fact) -> None:
        """Keep what is worth a note, and draw."""
        if isinstance(fact, RankLost | HostAwaited | HostJoined | RunStopping | TrackerDropped):
            self._notes = [*self._notes[1 - NOTES_SHOWN :], words(fact, self._course)]
        self.tick()

    def tick(self) -> None:
        """Draw, unless that was just done."""
        now_s = time.monotonic()
        if now_s - self._drawn_s >= REDRAW_S:
            self._drawn_s = now_s
            size = self._console.size
            shown = frame(self._course, time.time(), size.height, self._notes, width=size.width)
            self._live.update(shown, refresh=True)


def frame(
    course: Course, now_s: float, height: int = 40, notes: list[str] | None = None, *, width: int = 100
) -> RenderableType:
    """Return the whole screen at a time (seconds since 1970), fit for a terminal of so many lines and columns."""
    tall = height >= 24
    parts: list[RenderableType] = [_header(course, now_s), Text("")]
    columns = max(8, min(_CHART_WIDTH, width - _AROUND_CHART))
    parts.append(_loss_panel(course, columns, _CHART_HEIGHT if tall else 2))
    parts.append(_figures(course, now_s))
    parts.append(_ranks(course, RANKS_SHOWN if tall else 2))
    parts += [Text(f"! {note}", style="yellow") for note in notes or ()]
    return Group(*parts)


def _header(course: Course, now_s: float) -> RenderableType:
    began = course.began
    row = Table.grid(padding=(0, 2))
    row.add_row(
        Text(began.name if began else "", style="bold"),
        Text(f"step {course.step:,}/{began.steps if began else 0:,}"),
        ProgressBar(total=began.steps if began else 1, completed=course.step, width=24),
        Text(course.phase, style=_PHASES[course.phase]),
        Text(f"{duration(course.elapsed_s(now_s))}, {_left(course)}", style="dim"),
    )
    return row


def _left(course: Course) -> str:
    if (eta_s := course.eta_s()) is not None:
        return f"about {duration(eta_s)} left"
    texts = {
        "starting": "loading torch takes most of it",
        "recovering": "back to the newest checkpoint",
        "stopping": "the step in hand is finished and saved",
        "done": "writing the report",
        "stopped": "writing the report",
        "failed": "writing the report",
    }
    return texts.get(course.phase, "working out the time left")


def _loss_panel(course: Course, columns: int, height: int) -> RenderableType:
    values = course.loss.resampled(columns)
    rows = chart(values, height) if values else ["no step made yet"]
    text = "\n".join(row.ljust(columns + _LABEL) for row in rows)
    title = f"loss {_nats(course.loss.last)}"
    if course.held_out.last is not None:
        title += f", held out {_nats(course.held_out.last)}"
        title += "".join(f", {name} {value:.3f}" for name, value in course.measures.items())
    if course.generation is not None and course.generation.baseline is not None:
        title += f", without a model {course.generation.baseline:.4f}"
    return Panel(Text(text), title=title, expand=False)


def chart(values: list[float], height: int) -> list[str]:
    """Draw values as columns of blocks, the highest and the lowest named at the left."""
    top, bottom = max(values), min(values)
    span = (top - bottom) or 1.0
    levels = [1 + round((value - bottom) / span * (8 * height - 1)) for value in values]
    rows = []
    for row in range(height - 1, -1, -1):
        cells = "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels)
        label = f"{top:.3f}" if row == height - 1 else f"{bottom:.3f}" if row == 0 else ""
        rows.append(f"{label:>{_LABEL - 1}} {cells}")
    return rows


def _figures(course: Course, now_s: float) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in _figure_rows(course, now_s):
        table.add_row(name, value)
    return table


def _figure_rows(course: Course, now_s: float) -> Iterator[tuple[str, Text]]:
    yield "speed", Text(_speed(course))
    yield "time", _time_bar(course, now_s)
    yield "bytes", Text(_bytes(course))
    yield "checkpoint", Text(_checkpoint(course, now_s))
    yield "generation", Text(_generation(course), style="bold" if course.lost else "")


def _speed(course: Course) -> str:
    rate, last = course.rate(), course.last
    if rate is None or last is None:
        return "-"
    text = f"{rate[0]:,.0f} {rate[1]}, learning rate {last.learning_rate:.3g}"
    return text if last.grad_norm is None else f"{text}, gradient norm {last.grad_norm:.3f}"


def _time_bar(course: Course, now_s: float) -> Text:
    """Return where the time went: a bar of its parts, then each in words."""
    parts = course.split.parts(course.elapsed_s(now_s))
    total = sum(parts.values())
    if course.last is None or total <= 0:
        return Text("-")
    bar = Text()
    for name, value in parts.items():
        bar.append("█" * round(_BAR_WIDTH * value / total), style=_PARTS[name])
    bar.append("\n")
    shown = [(name, 100 * value / total) for name, value in parts.items() if value > total / 200]
    for number, (name, share) in enumerate(shown):
        bar.append(", " if number else "")
        bar.append(f"{name} {share:.0f} %", style=_PARTS[name])
    return bar


def _bytes(course: Course) -> str:
    ratio = course.ratio()
    if ratio is None or course.began is None:
        return "no gradient is sent" if course.generation and course.generation.world == 1 else "-"
    if course.began.codec == "none":
        return f"{size(course.bytes_sent)} of gradients sent as they are"
    sent = f"{size(course.bytes_sent)} of gradients sent as {course.began.codec}"
    return f"{sent}, in float32 {size(course.bytes_exact)} ({ratio:.2f}x)"


def _checkpoint(course: Course, now_s: float) -> str:
    newest = course.newest_checkpoint
    if newest is None or course.checkpoint_at_s is None:
        return "none yet"
    return f"step {newest.step:,}, {size(newest.size_bytes)}, {duration(max(0.0, now_s - course.checkpoint_at_s))} ago"


def _generation(course: Course) -> str:
    number = course.generation.generation if course.generation else 0
    text = f"{number}, {many(course.restarts, 'restart')}"
    if course.lost:
        last = course.lost[-1]
        text += f"; the last one: rank {last.rank} {last.cause} after step {last.step:,}"
    return text


def _ranks(course: Course, shown: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("rank", "process", "host", "device", "state", "lost"):
        table.add_column(column, justify="right" if column in ("rank", "process", "lost") else "left")
    ordered = sorted(course.ranks.values(), key=lambda seen: (_URGENCY.index(seen.state), seen.rank))
    for seen in sorted(ordered[:shown], key=lambda seen: seen.rank):
        table.add_row(*_rank_row(seen))
    parts: list[RenderableType] = [table]
    if len(ordered) > shown:
        parts.append(Text(f"and {many(len(ordered) - shown, 'rank')} more", style="dim"))
    if course.spares:
        parts.append(Text(f"{many(len(course.spares), 'spare')} ready to stand in", style="dim"))
    return Group(*parts)


def _rank_row(seen: RankSeen) -> tuple[Any, ...]:
    return (
        str(seen.rank),
        str(seen.process or ""),
        seen.host or "here",
        seen.device,
        Text(seen.state, style=_STATES[seen.state]),
        str(seen.lost or ""),
    )
