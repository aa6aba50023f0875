"""What a node reports about itself, gathered from runtime, links, aggregator and trainer."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any

from prime.actor import System
from prime.node.links import links_of
from prime.observe.messages import MemberStatus, NodeStatus, RoundStatus, RunStatus
from prime.observe.status import supervisor_status
from prime.trainer.round.messages import ROUND_TAGS, STATE_TAGS
from prime.trainer.swarm.tally import NOTHING, Tally
from prime.version import __version__

if TYPE_CHECKING:
    from prime.dht.dht import Dht
    from prime.node.training import Training
    from prime.trainer.swarm.progress import Progress
    from prime.transport.links import Links


def describe_node(
    system: System, *, name: str, uptime_s: float, training: Training | None, rounds_after: int, dht: Dht | None = None
) -> NodeStatus:
    """Return the node's status; `training` is its part in a run, if it has one; `rounds_after` bounds the history."""
    links = links_of(system)
    judge = links.reachability if links is not None else None
    return NodeStatus(
        peer=system.peer,
        name=name,
        version=__version__,
        process=os.getpid(),
        transport=links.transport_name if links is not None else "",
        addresses=system.addresses,
        links=links.peers if links is not None else (),
        uptime_s=round(uptime_s, 3),
        memory_bytes=_memory_bytes(),
        dead_letters=system.dead_letters,
        supervisors=tuple(supervisor_status(info) for info in system.tree()),
        run=_run(training, rounds_after) if training is not None else None,
        reachability=judge.outcome.value if judge is not None else "unknown",
        reachability_why=judge.why if judge is not None else "",
        evidence=tuple(map(str, judge.evidence)) if judge is not None else (),
        relayed=_relayed(links) if links is not None else (),
        turned_away=sum(links.turned_away.values()) if links is not None else 0,
        dht=dht.status() if dht is not None else None,
    )


def _relayed(links: Links) -> tuple[str, ...]:
    carriers = {peer: links.carrier(peer) for peer in links.peers}
    return tuple(peer for peer, carrier in carriers.items() if carrier is not None and carrier.relayed)


def _run(training: Training, rounds_after: int) -> RunStatus:
    progress, aggregator = training.progress, training.aggregator
    status = aggregator.status() if aggregator is not None else None
    tally = aggregator.tally() if aggregator is not None else NOTHING
    return RunStatus(
        phase=progress.phase,
        round=progress.round,
        rounds=progress.rounds,
        epoch=progress.epoch,
        step=progress.step,
        round_step=progress.round_step,
        inner_steps=progress.inner_steps,
        tokens_per_s=round(progress.tokens_per_s, 1),
        members=_members(progress, status, tally),
        waiting_for=_waiting_for(status, aggregator),
        stalled=progress.stalled,
        hint=progress.hint,
        state_hash=progress.state_hash,
        wire_bytes=training.sent_bytes(ROUND_TAGS),
        float32_bytes=training.float32_bytes,
        state_bytes=training.sent_bytes(STATE_TAGS),
        loss_first=progress.loss_first,
        loss_last=progress.loss_last,
        unigram=progress.unigram,
        text_first=progress.text_first,
        text_last=progress.text_last,
        history=tuple(
            RoundStatus(d.round, d.epoch, d.committed, d.contributors, d.loss, d.held_out, d.at_s)
            for d in progress.history
            if d.round > rounds_after
        ),
        run=training.run,
        round_phase=status.phase if status is not None else "",
        ballot=status.ballot if status is not None else "",
        leader=status.leader if status is not None else "",
        contributors=status.contributors if status is not None else (),
        results_held=tally.results_held,
        results_expected=tally.results_expected,
        committed=progress.committed,
        aborted=progress.aborted,
        parameters=progress.elements,
        every_step_bytes=round(progress.every_step_bytes),
        spent_s=tuple((name, round(seconds, 3)) for name, seconds in training.spent_s().items()),
        loss=progress.loss.last,
        held_out=progress.held_out.last,
    )


def _members(progress: Progress, status: Any, tally: Tally) -> tuple[MemberStatus, ...]:
    alive = dict(status.alive) if status is not None else {}
    awaited = dict(status.waiting_for) if status is not None else {}
    judged = {share.peer: (share.score, share.reason) for share in status.judged} if status is not None else {}
    return tuple(
        MemberStatus(
            peer,
            alive.get(peer, True),
            1.0,
            tally.held.get(peer, 0),
            tally.expected,
            progress.contributed.get(peer, 0),
            awaited.get(peer, ""),
            *judged.get(peer, (0.0, "")),
        )
        for peer in progress.members
    )


def _waiting_for(status: Any, aggregator: Any) -> tuple[str, ...]:
    """Say for whom the round waits, in words; before the first round, for how many nodes."""
    if status is None:
        return ()
    missing = aggregator.nodes_min - 1 - len(status.joining)
    if status.round == 0 and status.phase not in ("outside", "starting") and missing > 0:
        return (f"{missing} more to join (nodes_min is {aggregator.nodes_min})",)
    return tuple(f"{peer}: {why}" for peer, why in status.waiting_for)


def _memory_bytes() -> int:
    """Return the peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
