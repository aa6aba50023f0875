"""What follows from where a run's members stand: whether it is over, who still needs this node, who may let one in. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prime.trainer.runs.board import ACTIVE, MEMBERS_MAX, STALE_S
from prime.trainer.runs.messages import RunMember


def members_inside(others: Iterable[RunMember]) -> list[RunMember]:
    """Return those that are in the run, as far as they were heard lately."""
    return [member for member in others if member.standing == "member" and member.age_s < STALE_S]


def is_over(others: Collection[RunMember]) -> bool:
    """Tell whether a run has come to its end at others, and nobody is known to be in it still."""
    return not members_inside(others) and any(member.standing == "done" for member in others)


def is_needed(others: Iterable[RunMember]) -> bool:
    """Tell whether a member that lives has not come to the run's end yet, and may fetch its state."""
    return any(member.standing in ACTIVE and member.age_s < STALE_S for member in others)


def contacts_of(others: Collection[RunMember], linked: Collection[str]) -> tuple[str, ...]:
    """Return who may let a node into a run: peers that it has a link to, and addresses of those that it has none to."""
    asked = [member for member in others if member.standing in ACTIVE] or list(others)
    near = [member.peer for member in asked if member.peer in linked]
    return (*near, *(address for member in asked if member.peer not in linked for address in member.addresses))


def within_reach(members: Iterable[RunMember]) -> list[RunMember]:
    """Return the members that are in a run and can be dialled, who spoke last first, and no more than one notice takes."""
    there = [member for member in members if member.standing in ACTIVE and member.addresses]
    return sorted(there, key=lambda member: -member.stamp_ms)[:MEMBERS_MAX]
