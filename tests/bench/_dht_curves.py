"""What the simulated DHT does as one thing grows: hops over the nodes, right reads over liars and over crashes.

Each point is a run of its own, in a process of its own, as many at a time as there are cores: none depends on how busy the
machine is. A point is a dict with `x` and what was measured there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs
from _report import say

from prime.sim.scenarios import lookups, replicas

SIZES: Final = (100, 300, 1000, 3000, 10_000)
LIARS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
CRASHES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
FEW: Final = attrs.evolve(lookups.SWARM, replicas=3, refresh_s=3600.0)
"""Three holders of a record rather than twenty: fewer crashes lose one that nobody cares for."""

Point = dict[str, Any]
Curve = list[Point]


def hops() -> dict[str, Curve]:
    """Return the hops of 300 lookups at each size."""
    return _curves({"hops": [(size, functools.partial(lookups.measure_hops, size)) for size in SIZES]})


def liars() -> dict[str, Curve]:
    """Return what careful and plain reads bring, by the share of 1,000 nodes that lies."""
    measure = functools.partial(lookups.measure_liars, records=50, reads=300)
    return _curves(
        {
            name: [(share, functools.partial(measure, share=share, critical=critical)) for share in LIARS]
            for name, critical in (("careful", True), ("plain", False))
        }
    )


def churn() -> dict[str, Curve]:
    """Return what reads bring with and without repair, by the share of 40 nodes that crashes each hour, for eight hours."""
    measure = functools.partial(replicas.measure_churn, 40, hours=8.0, records=30, reads=400, settings=FEW)
    return _curves(
        {
            name: [(share, functools.partial(measure, share=share, repairs=repairs)) for share in CRASHES]
            for name, repairs in (("repaired", True), ("left alone", False))
        }
    )


def _curves(wanted: dict[str, Sequence[tuple[float, Callable[[], Any]]]]) -> dict[str, Curve]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = {name: [(x, pool.submit(measure)) for x, measure in points] for name, points in wanted.items()}
        return {name: [_point(name, x, run.result()) for x, run in points] for name, points in runs.items()}


def _point(name: str, x: float, found: Any) -> Point:
    say(f"{name} at {x:g}: {found}")
    share = {"share": found.share} if hasattr(found, "share") else {}
    return {"x": x, **attrs.asdict(found), **share}


# ------------------------------------------------------------------------------------------------------------- drawing

GOOD, PLAIN, MARK = "#2a7f62", "#c4622d", "#6b7a8f"


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves of the results that have some into a file; its ending says which kind."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prime", "font.family": "sans-serif", "font.size": 9})
    drawn = [(_PANELS[result["case"]], result["curves"]) for result in results if "curves" in result]
    figure = Figure(figsize=(3.4 * len(drawn), 3.4), layout="constrained")
    for axes, (panel, curves) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        panel(axes, curves)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _hops(axes: Any, curves: dict[str, Curve]) -> None:
    points = curves["hops"]
    sizes = [point["x"] for point in points]
    axes.plot(sizes, [point["limit"] for point in points], color=MARK, linestyle="--", label="limit, ⌈log₂ n⌉/2 + 2")
    axes.plot(sizes, [point["greatest"] for point in points], color=PLAIN, marker="o", markersize=4, label="longest")
    axes.plot(sizes, [point["mean"] for point in points], color=GOOD, marker="o", markersize=4, label="mean")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes, n (logarithmic)")
    axes.set_title("hops of a lookup", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _shares(axes: Any, curves: dict[str, Curve], names: dict[str, str], title: str, x: str) -> None:
    for (name, label), colour in zip(names.items(), (GOOD, PLAIN), strict=True):
        points = curves[name]
        shares = [100 * point["share"] for point in points]
        axes.plot([100 * point["x"] for point in points], shares, color=colour, marker="o", markersize=4, label=label)
    axes.axhline(99, color=MARK, linestyle="--", label="wanted, 99 %")
    axes.set_ylim(top=100.5)
    axes.set_xlabel(x)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


_PANELS: Final[dict[str, Callable[[Any, dict[str, Curve]], None]]] = {
    "hops_1000": _hops,
    "liars_20": functools.partial(
        _shares,
        names={"careful": "careful, 8 paths", "plain": "plain, 3 paths"},
        title="right reads beside liars, %",
        x="nodes that lie, %",
    ),
    "churn_25": functools.partial(
        _shares,
        names={"repaired": "repaired", "left alone": "not repaired"},
        title="right reads while nodes crash, %",
        x="nodes that crash each hour, %",
    ),
}
