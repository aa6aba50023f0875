"""`prime version`: what is installed."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

from prime.cli.options import AsJson
from prime.cli.output import emit

PARTS: Final = ("trio", "cbor2", "libp2p", "torch", "numba", "numpy")
"""The packages whose version matters when something is reported."""


def version(as_json: AsJson = False) -> None:
    """Print the versions of Prime, of Python, and of the parts that matter in a report."""
    import prime

    parts = {part: installed_version(part) for part in PARTS}
    rows = [f"prime {prime.__version__}", f"python {platform.python_version()}"]
    rows += [f"{part} {found or 'not installed'}" for part, found in parts.items()]
    emit(
        {"prime": prime.__version__, "python": platform.python_version(), "parts": parts},
        "\n".join(rows),
        as_json=as_json,
    )


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
