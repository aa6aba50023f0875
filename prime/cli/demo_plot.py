"""`prime demo --plot`: the curves of a run as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prime.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from prime.node.demo import Demo


def draw(demo: Demo, file: Path) -> None:
    """Write loss by round and bytes on the wire against float32 into `file`. Raises `UsageError` if it cannot."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", hint="pip install 'prime-actors[train]'") from None
    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    losses, wires = figure.subplots(1, 2, width_ratios=(2, 1))
    _draw_losses(losses, demo)
    wire, float32, _ = demo.totals()
    bars = wires.bar(["int8 on the wire", "float32"], [wire / 2**20, float32 / 2**20], color=["#2a7", "#bbb"])
    wires.bar_label(bars, fmt="%.1f MiB")
    wires.set_title("bytes of all rounds")
    wires.set_ylabel("MiB")
    try:
        figure.savefig(file, dpi=120, format="png")
    except OSError as error:
        raise UsageError(f"--plot: {file} cannot be written ({error.strerror})", hint="name another file") from None


def _draw_losses(axes: object, demo: Demo) -> None:
    plot = axes  # matplotlib's own types are not checked here
    rounds = sorted(demo.rounds.items())
    held = [(r, d.held_out) for r, d in rounds if d.held_out is not None]
    local = [(r, d.loss) for r, d in rounds if d.loss is not None]
    if demo.first is not None and demo.first.loss_first is not None:
        held = [(0, demo.first.loss_first), *held]
    plot.plot(*zip(*held, strict=True), marker="o", color="#247", label="held-out, shared parameters")  # type: ignore[attr-defined]
    if local:
        plot.plot(*zip(*local, strict=True), color="#9bd", label="training, one node's steps")  # type: ignore[attr-defined]
    if demo.first is not None and demo.first.unigram is not None:
        plot.axhline(demo.first.unigram, color="#999", linestyle="--", label="letter frequencies alone")  # type: ignore[attr-defined]
    if demo.killed_at is not None:
        plot.axvspan(  # type: ignore[attr-defined]
            demo.killed_round, demo.rejoined_round or demo.round, color="#e55", alpha=0.15, label="one node gone"
        )
    plot.set_xlabel("round")  # type: ignore[attr-defined]
    plot.set_ylabel("nats a character")  # type: ignore[attr-defined]
    plot.set_title(f"{demo.options.nodes} nodes over {demo.options.transport}")  # type: ignore[attr-defined]
    plot.legend()  # type: ignore[attr-defined]
