"""A bar for each case's ratio on a logarithmic axis, with a mark where Prime wants to be."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

ENOUGH, SHORT, OPEN = "#2a7f62", "#c4622d", "#6b7a8f"


def draw(results: Sequence[dict[str, Any]], machine: dict[str, Any], path: Path) -> None:
    """Draw the results into a file; its ending says which kind."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prime", "font.family": "sans-serif", "font.size": 9})
    figure = Figure(figsize=(9.5, 0.34 * len(results) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(results))
    ratios = [result["ratio"] for result in results]
    axes.barh(rows, [r - 1 for r in ratios], left=1, height=0.62, color=[_colour(result) for result in results])
    for row, result in zip(rows, results, strict=True):
        _annotate(axes, row, result)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    marks = ratios + [result["reach"] for result in results if result["reach"] is not None]
    axes.set_xlim(min(*marks, 1) / 1.5, max(*marks, 1) * 6)  # room for words on the right
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(rows, [result["case"] for result in results], family="monospace")
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("times as good as what it is measured against (logarithmic)")
    axes.set_title(f"Prime's actors, {_where(machine)}", loc="left", fontsize=10)
    _explain(axes)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _annotate(axes: Any, row: int, result: dict[str, Any]) -> None:
    ratio, reach = result["ratio"], result["reach"]
    if reach is not None:
        axes.plot([reach, reach], [row - 0.42, row + 0.42], color="black", linewidth=2, solid_capstyle="butt")
    right = max(ratio, 1, reach or 0)
    text = f"{ratio:.3g}  {result['against']}"
    axes.annotate(text, (right, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#333333")


def _colour(result: dict[str, Any]) -> str:
    reach, most = result["reach"], result["value_reach"]
    if reach is None and most is None:
        return OPEN
    enough = result["ratio"] >= (reach or 0) and result["value"] <= (most or float("inf"))
    return ENOUGH if enough else SHORT


def _where(machine: dict[str, Any]) -> str:
    today = dt.datetime.now(tz=dt.UTC).date()
    return f"{machine['cores']} cores {machine['cpu']}, Python {machine['python']}, {today}"


def _explain(axes: Any) -> None:
    colours = ((ENOUGH, "reached"), (SHORT, "short of it"), (OPEN, "nothing set"))
    marks: list[Any] = [Patch(color=colour, label=text) for colour, text in colours]
    marks.append(Line2D([], [], color="black", linewidth=2, label="wanted"))
    axes.legend(handles=marks, loc="lower right", frameon=False, fontsize=8)
