"""The figures of a bench as a table in a page of the documentation, between two marks that the page has."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = "| case | ours | theirs | against | ratio | lowest to highest | wanted |"


def put(bench: str, results: Sequence[dict[str, Any]], machine: dict[str, Any], page: Path) -> None:
    """Replace what stands between the marks of a page."""
    begin, end = (f"% figures {which}: {bench}" for which in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise SystemExit(f"{page} has no two lines {begin!r} and {end!r}")
    rows = [HEAD, "|---|---|---|---|---|---|---|", *map(_row, results)]
    body = "\n".join([_where(machine), "", *rows])
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def _row(result: dict[str, Any]) -> str:
    unit = result["unit"] if result["unit"].startswith("/") else f" {result['unit']}"
    ours, theirs = (f"{_figure(result[side])}{unit}" for side in ("value", "against_value"))
    if result["reach"] is not None:
        wanted = f"{result['reach']:g}"
    else:
        wanted = f"at most {result['value_reach']:,.0f}{unit}" if result["value_reach"] is not None else ""
    low, high = (f"{result[side]:.3g}" for side in ("ratio_low", "ratio_high"))
    case, against = f"`{result['case']}`", result["against"]
    return f"| {case} | {ours} | {theirs} | {against} | **{result['ratio']:.3g}** | {low} to {high} | {wanted} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _where(machine: dict[str, Any]) -> str:
    today = dt.datetime.now(tz=dt.UTC).date()
    load = "" if machine["load_1min"] is None else f", load {machine['load_1min']:.1f} at the start"
    return f"On {today}, {machine['cores']} cores {machine['cpu']}, {machine['system'].split('-')[0]}, Python {machine['python']}{load}."
