"""A swarm's run in words: which nodes take part, where the round stands, and who is waited for and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.observe.messages import NodeStatus, RunStatus
    from prime.trainer.runs.messages import RunMember, RunNotice, RunsKnown

PEER_SHOWN = 8
"""Characters of a peer id that tell peers of one swarm apart: its last ones."""


def as_plain(found: NodeStatus, known: RunsKnown) -> dict[str, Any]:
    """Return the runs as the command prints them in JSON."""
    from attrs import asdict

    runs = asdict(known)  # type: ignore[arg-type]  # a @record is an attrs class
    return {**runs, "name": found.name, "run": asdict(found.run) if found.run is not None else None}  # type: ignore[arg-type]


def lines(found: NodeStatus, known: RunsKnown) -> Iterator[str]:
    """Yield what a person reads, a line each."""
    if not known.runs:
        yield "no runs are known; `prime train submit` founds one"
    for notice in known.runs:
        names = {member.peer: member.name for member in notice.members}
        yield from _notice_lines(notice, known)
        if notice.run == known.taking and found.run is not None:
            yield from run_lines(found.run, names)


def _notice_lines(notice: RunNotice, known: RunsKnown) -> Iterator[str]:
    settings, here = notice.settings, "  (here)" if notice.run == known.taking else ""
    yield f"run {notice.run}{here}"
    yield (
        f"  {settings.model or 'charlm'} on {settings.data or 'the usual data'}: {settings.rounds} rounds of "
        f"{settings.inner_steps} steps, from {settings.nodes_min} nodes on"
    )
    for member in notice.members:
        yield f"  {_member_line(member, known)}"


def _member_line(member: RunMember, known: RunsKnown) -> str:
    me = ", this node" if member.peer == known.peer else ""
    late = f", not heard of for {member.age_s:.0f} s" if member.age_s > 10 else ""
    why = f": {plain(member.why)}" if member.why else ""
    return (
        f"{plain(member.name):<12} …{member.peer[-PEER_SHOWN:]}  {member.standing}, round {member.round}{me}{late}{why}"
    )


def run_lines(run: RunStatus, names: dict[str, str]) -> Iterator[str]:
    """Yield how the run goes at this node."""
    loss = f", held-out loss {run.loss_last:.3f}" if run.loss_last is not None else ""
    yield f"  round {run.round} of {run.rounds} ({run.phase}), view {run.epoch} of {len(run.members)} members{loss}"
    yield (
        f"  step {run.step} ({run.round_step} of {run.inner_steps} for this round), {run.tokens_per_s:.0f} tokens/s, "
        f"{run.wire_bytes / 2**20:.1f} MiB of rounds sent"
    )
    for waited in run.waiting_for:
        yield f"  waits for {named(waited, names)}"
    if run.stalled:
        yield f"  stalled: {named(run.stalled, names)}"
        yield f"  hint: {named(run.hint, names)}"


def named(text: str, names: dict[str, str]) -> str:
    """Return a text with the nodes' names in the place of their ids."""
    for peer, name in names.items():
        text = text.replace(peer, f"{name} (…{peer[-PEER_SHOWN:]})")
    return plain(text)


def plain(text: str) -> str:
    """Return a text from elsewhere so that no control character of it reaches a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
