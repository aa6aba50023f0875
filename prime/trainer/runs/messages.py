"""What nodes tell each other of runs, and what a node is asked about them. Tags 0x190-0x19f."""

from __future__ import annotations

import hashlib
from typing import Literal

from prime.trainer.metadata import TrainingConfig
from prime.wire import Ask, dumps, encode_value, message, record

RUNS_PATH = "/node/runs"
"""Where every node speaks of runs."""

BUILDS = "builds the model and reads the data"
"""Why a node is on its way: the first thing that it does."""

Standing = Literal["joining", "member", "done", "left", "cannot"]
"""Where a node stands in a run: on its way, in it, at its end, out of it, or unable to take part."""


@record
class RunMember:
    """One node's word on its part in a run.

    `stamp_ms` orders the words of one node (milliseconds of its own clock); `why` says what keeps it out, or what it
    waits for; `round` is the last one decided there. `age_s` is filled by who shows it: how long ago this was heard.
    """

    peer: str
    name: str
    addresses: tuple[str, ...]
    standing: Standing
    why: str
    round: int
    stamp_ms: int
    age_s: float = 0.0


@record
class RunNotice:
    """A run as nodes tell each other of it. `run` is its full name, `NAME@DIGEST`; see `run_name`."""

    run: str
    founder: str
    nonce: str
    settings: TrainingConfig
    members: tuple[RunMember, ...]


@record
class RunsKnown:
    """The runs that a node knows; `taking` is the one that it takes part in now, or empty.

    `folder` is where the node keeps what its runs leave behind, each in a folder of its full name.
    """

    peer: str
    taking: str
    runs: tuple[RunNotice, ...]
    folder: str = ""


@message(tag=0x190)
class ShareRun:
    """What a node knows of one run, to a node that it has a link to."""

    notice: RunNotice


@message(tag=0x191)
class SubmitRun(Ask[RunNotice]):
    """Found a run of this name here. Control socket only; refused where the node takes part in another."""

    name: str
    settings: TrainingConfig


@message(tag=0x192)
class ListRuns(Ask[RunsKnown]):
    """Which runs do you know? Control socket only."""


@message(tag=0x193)
class LeaveRun(Ask[str]):
    """Finish the round in hand and leave the run, this node alone; the answer is its full name. Control socket only."""

    run: str


@record
class RunEnding:
    """How a run ends: with the next round that its members decide, or at once, as it had none yet (`called_off`)."""

    run: str
    called_off: bool


@message(tag=0x194)
class EndRun(Ask[RunEnding]):
    """End the run, for all that take part. Control socket only.

    The members decide it with the round under way, so that all end with one state.
    """

    run: str


@message(tag=0x195)
class RecoverRun(Ask[str]):
    """Go on without the members that are gone for good, in the run's successor; the answer is its name.

    With `as_new` this node joins that successor as a new member instead. Control socket only.
    """

    as_new: str = ""


@record
class PartFinding:
    """What an audit says of one part and of the member that made it; part -1 is the seal, by the round's leader.

    `reason` is empty for one that is right; "not shown" is no proof of anything.
    """

    part: int
    peer: str
    judgement: Literal["right", "wrong", "not shown"]
    reason: str


@record
class RoundAudit:
    """What an audit of one decided round found."""

    run: str
    round: int
    rule: str
    findings: tuple[PartFinding, ...]


@message(tag=0x196)
class AuditRun(Ask[RoundAudit]):
    """Recompute the last decided round from the contributions that its owners show. Control socket only."""

    run: str


def run_name(name: str, founder: str, nonce: str, settings: TrainingConfig) -> str:
    """Return a run's full name, `NAME@DIGEST`: two runs never share it, and nobody can change what one is of.

    A run of a node's own configuration (no `nonce`) has its name alone.
    """
    if not nonce:
        return name
    what = dumps([name, founder, nonce, encode_value(TrainingConfig, settings, [])])
    return f"{name}@{hashlib.sha256(what).hexdigest()[:12]}"
