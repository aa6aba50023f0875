"""Which modules of a model are its repeated blocks: the units that are sharded and recomputed by themselves. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from prime.errors import ConfigError


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that a pattern such as `layers.*` means: a star stands for one part between dots.

    Raises `ConfigError` where there is none.
    """
    known = [name for name in names if name]
    found = [name for name in known if _matches(name, pattern)]
    if not found:
        some = ", ".join(known[:8])
        raise ConfigError(
            f"parallel.blocks: no module of the model is called {pattern!r}",
            hint=f"its modules are {some}{', …' if len(known) > 8 else ''}",
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def outermost(names: Sequence[str]) -> list[str]:
    """Return the names that lie in no other of them: `layers.0`, and not `layers.0.experts.1`."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
