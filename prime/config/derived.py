"""The deadlines that follow from the ones set. Pure.

One deadline is set for a request (`transport.deadline_s`) and one for a round (`train.round_deadline_s`); the waits inside
each are parts of it, so that no nest of timeouts can be configured in which an inner wait outlasts the outer one.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from prime.config.schema import Config


@frozen
class Derived:
    """Waits, in seconds, that nobody sets: each is a part of one that is set."""

    dial_deadline_s: float
    hello_deadline_s: float
    seal_deadline_s: float
    reduce_deadline_s: float


FORMULAS: Final[dict[str, tuple[str, str]]] = {
    "dial_deadline_s": ("transport.deadline_s", "a third of transport.deadline_s"),
    "hello_deadline_s": ("transport.deadline_s", "a sixth of transport.deadline_s"),
    "seal_deadline_s": ("train.round_deadline_s", "half of train.round_deadline_s"),
    "reduce_deadline_s": ("train.round_deadline_s", "a sixth of train.round_deadline_s"),
}
"""For each derived wait: the key it follows from, and how, in words."""


def derive(config: Config) -> Derived:
    """Return the waits that follow from a configuration."""
    request, exchange = config.transport.deadline_s, config.train.round_deadline_s
    return Derived(
        dial_deadline_s=request / 3,
        hello_deadline_s=request / 6,
        seal_deadline_s=exchange / 2,
        reduce_deadline_s=exchange / 6,
    )
