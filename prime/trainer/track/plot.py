"""The curves of a run as a PNG: loss, held-out loss, learning rate, gradient norm, speed, and where time and bytes went."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from prime.errors import MissingExtraError
from prime.trainer.track.course import Course
from prime.trainer.track.curve import Curve

_BLUE, _PALE, _GREEN, _RED, _GREY = "#24478f", "#a9c4e8", "#2a9d70", "#d1495b", "#8a8a8a"
_PARTS: Final = {
    "data": "#e9c46a",
    "compute": _GREEN,
    "reduce": _BLUE,
    "optimiser": "#7b5ea7",
    "checkpoint": "#f4a261",
    "evaluation": "#76c7c0",
    "start": "#c9c9c9",
    "recovery": _RED,
    "other": "#e6e6e6",
}
SMOOTHED_POINTS: Final = 40
"""With more points than this, a running mean is drawn over a noisy curve."""


def draw(course: Course, file: Path) -> None:
    """Draw the curves into `file`. Raises `MissingExtraError` without matplotlib, `OSError` where it cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("curves need matplotlib", hint="pip install 'prime-actors[train]'") from None
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "loss"], ["rate", "norm"], ["speed", "split"]], height_ratios=(1.5, 1, 1))
    _losses(axes["loss"], course)
    _curve(axes["rate"], course.learning_rate, "learning rate", smooth=False)
    _curve(axes["norm"], course.grad_norm, "gradient norm", none="no gradient norm: clipping is off")
    _speed(axes["speed"], course)
    _split(axes["split"], course)
    for name in ("rate", "norm", "speed"):
        axes[name].set_xlabel("step")
        _mark(axes[name], course, labels=False)
    figure.savefig(file, dpi=110, format="png")


def draw_rounds(found: Mapping[str, Any], file: Path) -> None:
    """Draw the curves of a swarm's report into `file`. Raises as `draw`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("curves need matplotlib", hint="pip install 'prime-actors[train]'") from None
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "loss"], ["contributors", "time"]], height_ratios=(1.6, 1))
    curves = found["curves"]
    axes["loss"].set_title(f"{found['run']}: {found['shape']}")
    for name, label, color in (("loss", "training, here", _BLUE), ("held_out", "held out, measured here", _GREEN)):
        if curves[name]:
            axes["loss"].plot(*zip(*curves[name], strict=True), color=color, linewidth=1.6, marker=".", label=label)
    if found["loss"]["baseline"] is not None:
        axes["loss"].axhline(found["loss"]["baseline"], color=_GREY, linestyle="--", label="without a model")
    axes["loss"].set_ylabel("loss")
    if axes["loss"].get_legend_handles_labels()[0]:
        axes["loss"].legend()
    axes["contributors"].set_title("contributors", fontsize=10)
    if curves["contributors"]:
        axes["contributors"].step(*zip(*curves["contributors"], strict=True), where="mid", color=_BLUE)
    axes["contributors"].set_ylim(bottom=0)
    for name in ("loss", "contributors"):
        axes[name].set_xlabel("round")
        axes[name].xaxis.get_major_locator().set_params(integer=True)
        axes[name].grid(visible=True, alpha=0.25)
    _shares(axes["time"], found)
    figure.savefig(file, dpi=110, format="png")


def _shares(axes: Any, found: Mapping[str, Any]) -> None:
    """Draw where the time went, and the bytes sent against float32."""
    elapsed_s = found["elapsed_s"] or 1.0
    shares = {name: 100 * seconds / elapsed_s for name, seconds in found["time_s"].items()}
    axes.barh(list(shares), list(shares.values()), color=_GREEN)
    ratio = found["bytes"]["ratio_float32"]
    axes.set_title(f"share of the time, %{_against_float32(ratio)}", fontsize=10)
    axes.invert_yaxis()


def _against_float32(ratio: float | None) -> str:
    """Say how the bytes compare; a tiny model's few are outweighed by what else a round says."""
    if not ratio:
        return ""
    return f"; {ratio:.1f} times fewer bytes than float32" if ratio >= 1 else f"; {1 / ratio:.1f} times float32's bytes"


def _losses(axes: Any, course: Course) -> None:
    axes.set_title(_title(course))
    _noisy(axes, course.loss, "training")
    held = list(course.held_out)
    if held:
        axes.plot(*zip(*held, strict=True), color=_GREEN, marker="o", markersize=4, linewidth=1.8, label="held out")
    baseline = course.generation.baseline if course.generation else None
    if baseline is not None:
        axes.axhline(baseline, color=_GREY, linestyle="--", linewidth=1, label="without a model")
    _mark(axes, course, labels=True)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(visible=True, alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _title(course: Course) -> str:
    if course.began is None:
        return "no run"
    began, generation = course.began, course.generation
    how = f", {generation.strategy} on {generation.device}" if generation else ""
    codec = "" if began.codec == "none" else f", gradients as {began.codec}"
    ranks = "1 rank" if began.world == 1 else f"{began.world} ranks"
    return f"{began.name}: {ranks}{how}{codec}"


def _noisy(axes: Any, curve: Curve, label: str) -> None:
    """Draw a curve, and its running mean over it where there are many points."""
    points = list(curve)
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if len(points) <= SMOOTHED_POINTS:
        axes.plot(steps, values, color=_BLUE, linewidth=1.5, label=label)
        return
    axes.plot(steps, values, color=_PALE, linewidth=0.9, label=label)
    axes.plot(steps, smoothed(values), color=_BLUE, linewidth=1.6, label=f"{label}, running mean")


def smoothed(values: tuple[float, ...], share: float = 0.05) -> list[float]:
    """Return the running mean of a curve: each value with its neighbours in a window of that share of the whole."""
    reach = max(1, round(len(values) * share / 2))
    sums = [0.0, *itertools.accumulate(values)]
    windows = ((max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values)))
    return [(sums[to] - sums[since]) / (to - since) for since, to in windows]


def _curve(axes: Any, curve: Curve, title: str, *, smooth: bool = True, none: str = "not measured") -> None:
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, alpha=0.25)
    if not len(curve):
        axes.text(0.5, 0.5, none, ha="center", va="center", color=_GREY, transform=axes.transAxes)
    elif smooth:
        _noisy(axes, curve, title)
    else:
        axes.plot(*zip(*curve, strict=True), color=_BLUE, linewidth=1.5)


def _speed(axes: Any, course: Course) -> None:
    tokens = course.generation.tokens_per_sample if course.generation else 0
    scaled = Curve()
    for step, value in course.samples_per_s:
        scaled.add(step, value * (tokens or 1))
    _curve(axes, scaled, "tokens a second" if tokens else "samples a second", none="no step was made")
    axes.set_ylim(0, 1.15 * max((value for _, value in scaled), default=1.0))


def _split(axes: Any, course: Course) -> None:
    """Draw where the time went, and under it the bytes of gradients."""
    elapsed_s = course.elapsed_s()
    parts = {name: value for name, value in course.split.parts(elapsed_s).items() if value > 0}
    total = sum(parts.values()) or 1.0
    left = 0.0
    for name, value in parts.items():
        share = 100 * value / total
        axes.barh(["time"], [share], left=left, color=_PARTS[name], label=f"{name} {share:.0f} %")
        left += share
    if course.bytes_exact:
        sent = 100 * course.bytes_sent / course.bytes_exact
        axes.barh(["bytes"], [100], color="#e6e6e6")
        axes.barh(["bytes"], [sent], color=_BLUE)
        inside = sent > 60
        axes.text(
            2 if inside else sent + 2, 1, f"{sent:.0f} % of float32 sent", va="center", fontsize=9,
            color="white" if inside else "black",
        )  # fmt: skip
    axes.set_title("where time and bytes went, %", fontsize=10)
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    if parts:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, fontsize=8, frameon=False)


def _mark(axes: Any, course: Course, *, labels: bool) -> None:
    """Mark where a rank was lost, and where a later session went on."""
    lost, resumed = {fact.step for fact in course.lost}, set(course.resumed)
    for steps, color, style, label in ((lost, _RED, ":", "a rank was lost"), (resumed, _GREY, "-.", "resumed")):
        for number, step in enumerate(sorted(steps)):
            text = label if labels and number == 0 else None
            axes.axvline(step, color=color, linestyle=style, linewidth=1.2, label=text)
