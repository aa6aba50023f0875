"""What a test must not leave behind: actors, timers, asks without an answer, watches."""

from __future__ import annotations

from collections.abc import Mapping

from prime.actor import System


def leftovers(system: System) -> Mapping[str, int]:
    """Count what lives in a system, by name; empty when nothing does. A system of its own has nothing."""
    return {name: count for name, count in system.leftovers().items() if count}


def check_nothing_left(system: System) -> None:
    """Raise `AssertionError` if anything outlived the supervisors that have ended; call it after the last one."""
    left = leftovers(system)
    if left:
        told = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
        raise AssertionError(f"the test leaves behind: {told}. Paths that live: {paths(system) or 'none'}")


def paths(system: System) -> str:
    """Return the paths of the actors that live, a few of them."""
    alive = _living(system)
    return ", ".join(alive[:10]) + (f" and {len(alive) - 10} more" if len(alive) > 10 else "")


def _living(system: System) -> list[str]:
    return [child.path for supervisor in system.tree() for child in supervisor.children]
