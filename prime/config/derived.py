"""The deadlines that follow from the ones set, and the orders between deadlines that cannot work. Pure.

One deadline is set for a request (`transport.deadline_s`) and one for a round (`train.round_deadline_s`); the waits inside
each are parts of it, so that no nest of timeouts can be configured in which an inner wait outlasts the outer one.
"""

from __future__ import annotations

from collections.abc import Iterator
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


Order = tuple[tuple[str, ...], str, str]
"""The keys of a broken order, what is wrong with it, and what to do."""


def order_faults(config: Config) -> Iterator[Order]:
    """Yield every order between deadlines that cannot work."""
    link = config.transport
    if link.dead_after_s < 2 * link.ping_interval_s:
        yield (
            ("transport.dead_after_s", "transport.ping_interval_s"),
            (
                f"transport.dead_after_s ({link.dead_after_s:g} s) is under twice transport.ping_interval_s "
                f"({link.ping_interval_s:g} s): one lost ping would take a link down"
            ),
            "raise transport.dead_after_s or lower transport.ping_interval_s",
        )
    if link.dead_after_s > link.deadline_s:
        yield (
            ("transport.dead_after_s", "transport.deadline_s"),
            (
                f"transport.dead_after_s ({link.dead_after_s:g} s) is over transport.deadline_s ({link.deadline_s:g} s): "
                "requests would be given up before a dead link is noticed"
            ),
            "raise transport.deadline_s or lower transport.dead_after_s",
        )
    if config.train.round_deadline_s <= link.dead_after_s:
        yield (
            ("train.round_deadline_s", "transport.dead_after_s"),
            (
                f"train.round_deadline_s ({config.train.round_deadline_s:g} s) is not over transport.dead_after_s "
                f"({link.dead_after_s:g} s): a round would end before a dead member is noticed"
            ),
            "raise train.round_deadline_s or lower transport.dead_after_s",
        )
