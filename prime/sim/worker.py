"""A process of its own for runs: the seeds come on a pair of sockets, one JSON object a line, the outcomes go back.

The parent writes `{"scenario": "module:name"}` first and is answered `{"ready": true}` or `{"refused": …, "hint": …}`; then
`{"seed": 7, "plan": null, "history": false}` for each run, answered by its history, some events a line, if it was
asked for, and its outcome. Nothing that a scenario prints gets between: it has standard output, which is not the pair.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import attrs

from prime.errors import PrimeError
from prime.sim.history import Event
from prime.sim.notation import from_plain, to_plain
from prime.sim.run import Outcome, Scenario, load, run

EVENTS_PER_LINE: Final = 200
DETAIL_MAX: Final = 2_000
"""Characters of an event's or an error's text that cross the pair."""


def live(descriptor: int) -> NoReturn:
    """Be the process; `descriptor` is its end of the pair. It ends when the other end is closed."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with socket.socket(fileno=descriptor) as ours, ours.makefile("rw", encoding="utf-8", newline="\n") as pair:
        for answer in _answers(iter(pair)):
            pair.write(json.dumps(answer, allow_nan=False) + "\n")
            pair.flush()
    sys.exit(0)


def _answers(requests: Iterator[str]) -> Iterator[dict[str, Any]]:
    first = next(requests, None)
    if first is None:
        return
    try:
        scenario = load(json.loads(first)["scenario"])
    except PrimeError as error:
        yield {"refused": str(error), "hint": error.hint}
        return
    yield {"ready": True}
    for line in requests:
        yield from _run(scenario, json.loads(line))


def _run(scenario: Scenario, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    plan = request["plan"]
    try:
        outcome = run(request["seed"], scenario, None if plan is None else from_plain(plan))
    except PrimeError as error:
        yield {"refused": str(error), "hint": error.hint}
        return
    if request["history"]:
        for first in range(0, len(outcome.history), EVENTS_PER_LINE):
            yield {"events": [_written(event) for event in outcome.history[first : first + EVENTS_PER_LINE]]}
    yield {"outcome": outcome_to_plain(outcome)}


def _written(event: Event) -> list[Any]:
    return [event.at_s, event.node, event.kind, event.subject[:DETAIL_MAX], event.detail[:DETAIL_MAX]]


def outcome_to_plain(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as what JSON can say, without its history."""
    told = attrs.asdict(outcome, filter=lambda field, _: field.name not in {"plan", "history", "cause"})
    return {**told, "error": outcome.error[:DETAIL_MAX], "plan": to_plain(outcome.plan)}


def outcome_of(data: dict[str, Any], history: list[list[Any]]) -> Outcome:
    """Return the outcome that `outcome_to_plain` told of, with the events that came before it."""
    events = tuple(Event(*event) for event in history)
    return Outcome(**{**data, "plan": from_plain(data["plan"]), "history": events})
