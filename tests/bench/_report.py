"""What every bench prints: lines for people on standard error, and as the last line of `--json` one object."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

SCHEMA = 1


def machine() -> dict[str, Any]:
    """Describe the machine and how busy it is at this moment."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.platform(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_1min": load,
    }


def say(text: str) -> None:
    """Tell a person how it goes."""
    print(text, file=sys.stderr, flush=True)


def show(bench: str, results: Sequence[dict[str, Any]], before: dict[str, Any], *, as_json: bool) -> None:
    """Print the results: a table, or one JSON object (`ratio`: how many times better than `against`, in this run)."""
    if as_json:
        print(json.dumps({"schema": SCHEMA, "bench": bench, "machine": before, "results": results}, allow_nan=False))
        return
    for result in results:
        rest = "" if result["ratio"] is None else f"  {result['ratio']:.2f} times as good as {result['against']}"
        print(f"{result['case']:22} {result['value']:10.4g} {result['unit']}{rest}")
