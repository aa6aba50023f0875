"""What a bench of many cases has in common: a case, its pairs in turns, and the options to choose among cases."""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from _blocks import Block, MissingError, Opening
from _page import put
from _report import machine, say, show


@attrs.frozen
class Case:
    """One thing measured: `ours` against `theirs`; `reach` is the ratio Prime wants, or `None` where none is set."""

    name: str
    ours: Opening
    theirs: Opening
    against: str
    reach: float | None = None
    unit: str = "/s"
    better: str = "more"
    value_reach: float | None = None
    """The most that our own value may be, where that is what Prime wants."""
    pairs_max: int = 1000
    warm: bool = True
    """Whether a turn of each comes before the first pair. Long blocks go without."""


def compare(case: Case, pairs: int) -> dict[str, Any]:
    """Measure one case in turns."""
    with case.ours() as ours, case.theirs() as theirs:
        if case.warm:
            ours(), theirs()
        measured = [(_clean(ours), _clean(theirs)) for _ in range(min(pairs, case.pairs_max))]
    ratios = [b / a if case.better == "less" else a / b for a, b in measured]
    result = {
        "case": case.name,
        "value": _rounded(statistics.median(a for a, _ in measured)),
        "unit": case.unit,
        "against": case.against,
        "ratio": _rounded(statistics.median(ratios)),
        "against_value": _rounded(statistics.median(b for _, b in measured)),
        "ratio_low": _rounded(min(ratios)),
        "ratio_high": _rounded(max(ratios)),
        "reach": case.reach,
        "value_reach": case.value_reach,
        "pairs": len(measured),
    }
    say(in_words(result))
    return result


def _clean(block: Block) -> float:
    gc.collect()  # what an earlier block left is not this one's to pay for; the collector itself stays on
    return block()


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def in_words(result: dict[str, Any]) -> str:
    """Return one line for a person."""
    wanted, most = result["reach"], result["value_reach"]
    reach = (
        f", wanted {wanted:g}" if wanted is not None else f", wanted at most {most:g} {result['unit']}" if most else ""
    )
    short = "  SHORT OF IT" if result["ratio"] < (wanted or 0) or result["value"] > (most or float("inf")) else ""
    ours, theirs = (_figure(result[side]) for side in ("value", "against_value"))
    sides = f"{ours:>11} {result['unit']} against {theirs:>11} ({result['against']})"
    spread = f"{result['ratio_low']:g} to {result['ratio_high']:g}"
    return f"{result['case']:23}{sides}: {result['ratio']:g} times ({spread}{reach}){short}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bench(chosen: Sequence[Case], pairs: int) -> list[dict[str, Any]]:
    """Measure all that can run here."""
    results = []
    for case in chosen:
        try:
            results.append(compare(case, pairs))
        except MissingError as missing:
            say(f"{case.name:23}left out: {missing}")
    return results


def add_options(parser: argparse.ArgumentParser, pairs_help: str) -> None:
    """Give a parser the options that every bench of cases has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--cases", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--pairs", type=int, default=5, help=pairs_help)
    parser.add_argument("--page", type=Path, help="put the figures into this page, between its two marks")


def run(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace, known: Sequence[Case]) -> None:
    """Measure the chosen cases and show them."""
    wanted = options.cases.split(",") if options.cases else [case.name for case in known]
    if unknown := set(wanted) - {case.name for case in known}:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in known)}")
    before = machine()
    results = bench([case for case in known if case.name in wanted], options.pairs)
    if getattr(options, "plot", None) is not None:
        from _plot import draw  # matplotlib is wanted only here

        draw(results, before, options.plot)
    if options.page is not None:
        put(name, results, before, options.page)
    show(name, results, before, as_json=options.json)
