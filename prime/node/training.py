"""From the node's configuration to what the trainer room takes."""

from __future__ import annotations

import attrs

from prime.actor import System
from prime.config import Config, derive
from prime.trainer.aggregator import SwarmPlan
from prime.trainer.metadata import TrainingConfig
from prime.trainer.timing import Timing
from prime.trainer.view import Member


def training_config(config: Config) -> TrainingConfig:
    """Return the [train] section as the trainer takes it; keys that both have are equal by name."""
    names = {field.name for field in attrs.fields(TrainingConfig)}  # type: ignore[arg-type]  # a @record is an attrs class
    return TrainingConfig(**{k: v for k, v in attrs.asdict(config.train).items() if k in names})


def timing_of(config: Config) -> Timing:
    """Derive every wait of a round from the round's deadline and the link's."""
    waits = derive(config)
    return Timing(
        suspect_s=config.transport.dead_after_s,
        seal_s=waits.seal_deadline_s,
        reduce_s=waits.reduce_deadline_s,
        deadline_s=config.train.round_deadline_s,
        join_ttl_s=max(config.transport.dead_after_s, 5.0),
    )


def member_of(system: System, incarnation: int) -> Member:
    """Return this node as a member; `incarnation` names this life of its disk unless its journal knows better."""
    return Member(system.peer, system.addresses, 1.0, incarnation)


def swarm_plan(config: Config, member: Member, contacts: tuple[str, ...]) -> SwarmPlan:
    """Return how this node takes part in the run."""
    return SwarmPlan(
        run=config.train.run,
        member=member,
        found=not contacts,
        contacts=contacts,
        nodes_min=config.train.nodes_min,
        timing=timing_of(config),
    )
