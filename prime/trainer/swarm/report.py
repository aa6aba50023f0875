"""The report of a swarm's run as one node saw it: in figures and in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.names import base_name
from prime.trainer.swarm.progress import Progress
from prime.trainer.track.report import duration, in_times, size

SCHEMA = 1
PEER_SHOWN = 8
CONTRIBUTORS_SHOWN = 8


@attrs.frozen
class RunFigures:
    """What of a run is not in its progress: names, times in seconds, and the bytes that this node sent.

    `spent_s` is what the time went into: start, compute and encode, and beside them the phases of the rounds: send (until the
    contributions were gathered), reduce, vote. `names` are those of nodes, by peer.
    """

    run: str
    founder: str
    outcome: str
    elapsed_s: float
    spent_s: Mapping[str, float]
    sent_bytes: int
    float32_bytes: int
    state_bytes: int
    names: Mapping[str, str]


def shape(settings: TrainingConfig, rounds: int) -> str:
    """Say in words what so many rounds of a run are: what a node does for each of them."""
    text, parts = f"{rounds:,} round" + ("s" if rounds != 1 else ""), settings.fragments
    if settings.local_epochs:
        passes = "a pass" if settings.local_epochs == 1 else f"{settings.local_epochs:,} passes"
        return f"{text} of {passes} over each node's own data" + (f" in {parts} parts" if parts > 1 else "")
    least, rest = divmod(settings.inner_steps, parts)
    steps = f"{least:,} or {least + 1:,} steps" if rest else f"{least:,} step" + ("s" if least != 1 else "")
    return f"{text} of {steps}" + (f" for one of {parts} fragments" if parts > 1 else "")


def swarm_report(progress: Progress, settings: TrainingConfig, figures: RunFigures) -> dict[str, Any]:
    """Return the report as an object for JSON."""
    return {
        "schema": SCHEMA,
        "run": figures.run,
        "name": base_name(figures.run),
        "founder": figures.founder,
        "outcome": figures.outcome,
        "round": progress.round,
        "rounds": progress.rounds,
        "shape": shape(settings, progress.committed),
        "committed": progress.committed,
        "aborted": progress.aborted,
        "state_hash": progress.state_hash,
        "parameters": progress.elements,
        "steps": progress.steps,
        "tokens": progress.tokens,
        "elapsed_s": round(figures.elapsed_s, 3),
        "time_s": _times(figures),
        "loss": {
            "first": progress.loss_first,
            "last": progress.loss_last if progress.loss_last is not None else progress.held_out.last,
            "training": progress.loss.last,
            "baseline": progress.unigram,
        },
        "contributors": _contributors(progress, figures.names),
        "bytes": _bytes(progress, figures),
        "curves": {
            "loss": list(progress.loss),
            "held_out": [*_before(progress), *progress.held_out],
            "contributors": list(progress.contributors),
        },
        "settings": attrs.asdict(settings),  # type: ignore[arg-type]  # a @record is an attrs class
    }


def _before(progress: Progress) -> list[tuple[int, float]]:
    """Return what was measured before the first round, as the founder does."""
    return [] if progress.loss_first is None else [(0, progress.loss_first)]


def _times(figures: RunFigures) -> dict[str, float]:
    busy = sum(figures.spent_s.get(name, 0.0) for name in ("start", "compute", "encode"))
    spent = {**figures.spent_s, "wait": max(0.0, figures.elapsed_s - busy)}
    return {name: round(seconds, 3) for name, seconds in spent.items()}


def _contributors(progress: Progress, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"peer": peer, "name": names.get(peer, ""), "rounds": rounds}
        for peer, rounds in sorted(progress.contributed.items(), key=lambda item: (-item[1], item[0]))
    ]


def _bytes(progress: Progress, figures: RunFigures) -> dict[str, Any]:
    sent = figures.sent_bytes
    return {
        "sent": sent,
        "float32": figures.float32_bytes,
        "every_step": round(progress.every_step_bytes),
        "state": figures.state_bytes,
        "ratio_float32": round(figures.float32_bytes / sent, 3) if sent else None,
        "ratio_every_step": round(progress.every_step_bytes / sent, 1) if sent else None,
    }


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the report as a person reads it: what, and how much."""
    yield "run", f"{found['run']}, {found['outcome']} at round {found['round']} of {found['rounds']}"
    yield "loss", _loss(found["loss"])
    rounds = f"{found['committed']} committed, {found['aborted']} without a result"
    yield "rounds", f"{rounds}, in {duration(found['elapsed_s'])}"
    yield "contributors", _contributors_text(found)
    yield "bytes", _bytes_text(found["bytes"])
    if found["bytes"]["state"]:
        yield "state", f"{size(found['bytes']['state'])} to others that fetched it"
    yield "time", _time_text(found)
    yield "model", f"{found['parameters']:,} parameters, state {found['state_hash'][:16]}"


def _loss(loss: Mapping[str, float | None]) -> str:
    shown = {"first": "at first", "last": "held out", "training": "training", "baseline": "no model"}
    parts = [f"{value:.3f} {shown[name]}" for name, value in loss.items() if value is not None]
    return ", ".join(parts) or "not measured here"


def _contributors_text(found: Mapping[str, Any]) -> str:
    decided, contributors = found["committed"], found["contributors"]
    parts = [
        f"{one['name'] or '…' + one['peer'][-PEER_SHOWN:]} in {one['rounds']}"
        for one in contributors[:CONTRIBUTORS_SHOWN]
    ]
    more = len(contributors) - CONTRIBUTORS_SHOWN
    text = ", ".join(parts) + (f" and {more} more" if more > 0 else "")
    return f"{text} of {decided} rounds" if parts else "nobody"


def _bytes_text(sent: Mapping[str, Any]) -> str:
    text = f"{size(sent['sent'])} sent"
    if sent["ratio_float32"]:
        text += f", float32 {sent['ratio_float32']:.2f} times that"
    if sent["ratio_every_step"]:
        text += f", in each step {in_times(sent['ratio_every_step'])} times"
    return text


def _time_text(found: Mapping[str, Any]) -> str:
    elapsed_s = found["elapsed_s"] or 1.0
    order = ("start", "compute", "encode", "wait", "send", "reduce", "vote", "stalled")
    times = [(name, found["time_s"].get(name, 0.0)) for name in order]
    shares = [f"{name} {100 * seconds / elapsed_s:.0f} %" for name, seconds in times if seconds > 0]
    return ", ".join(shares) or "none"
