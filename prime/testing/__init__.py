"""The public test kit, for tests of your own actors: it stands beside the house, and no room imports it.

Its names load on first use, so that a part needs only what it needs: the probe and the clock need the base install, the
strategies and the machine Hypothesis, the fixtures pytest and pytest-trio (`pip install 'prime-actors[testing]'`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.testing.cancellation import cancelled_at as cancelled_at
    from prime.testing.clock import advance as advance
    from prime.testing.clock import settle as settle
    from prime.testing.clock import virtual_clock as virtual_clock
    from prime.testing.leaks import check_nothing_left as check_nothing_left
    from prime.testing.machine import ActorMachine as ActorMachine
    from prime.testing.machine import initialize as initialize
    from prime.testing.machine import invariant as invariant
    from prime.testing.machine import rule as rule
    from prime.testing.probe import Probe as Probe
    from prime.testing.recorder import Facts as Facts
    from prime.testing.strategies import messages_of as messages_of
    from prime.testing.strategies import protocol_of as protocol_of
    from prime.testing.strategies import values_of as values_of

_HOMES = {
    "ActorMachine": "machine",
    "Facts": "recorder",
    "Probe": "probe",
    "advance": "clock",
    "cancelled_at": "cancellation",
    "check_nothing_left": "leaks",
    "initialize": "machine",
    "invariant": "machine",
    "messages_of": "strategies",
    "protocol_of": "strategies",
    "rule": "machine",
    "settle": "clock",
    "values_of": "strategies",
    "virtual_clock": "clock",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604 - the names are the keys of one table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prime.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"prime.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
