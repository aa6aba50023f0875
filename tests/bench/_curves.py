"""The held-out loss over the steps of several runs, as lines in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves of a bench's results into a file; its ending says which kind."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prime", "font.family": "sans-serif", "font.size": 9})
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        steps, losses = zip(*result["curve"], strict=True)
        name = result["case"].removeprefix("outer_").replace("_", ", ")
        axes.plot(steps, losses, label=f"{name} ({result['off']:+.1%})", linewidth=1.3)
    axes.set_xlabel("inner steps of each member")
    axes.set_ylabel("held-out loss, nats a character")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
