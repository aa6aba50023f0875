"""The actor runtime: refs, mailboxes, supervision, registry, system.

Read `actor.py` for what a user subclasses, `cell.py` for what lasts of an actor and `life.py` for one incarnation of it,
`supervisor.py` for what happens when it fails, `contract.py` for what the runtime needs from the rooms above.
"""

from prime.actor.actor import Actor, Context
from prime.actor.contract import EventStore
from prime.actor.down import Down
from prime.actor.facts import ActorFailed, ActorPassivated, ActorStarted, ActorStopped, DeadLetter, SupervisorGaveUp
from prime.actor.forwarder import Forwarder
from prime.actor.handlers import on
from prime.actor.machine import StateMachine, entered, on_timeout
from prime.actor.mailbox import Mailbox
from prime.actor.persistent import Persistent, SnapshotFailed, StateRecovered, applies
from prime.actor.pipeline import ask_all, pipeline
from prime.actor.portal import Portal
from prime.actor.ref import Ref, ReliableRef
from prime.actor.restart import Restart
from prime.actor.router import Routees, Router
from prime.actor.routes import Broadcast, ConsistentHash, LeastLoaded, RoundRobin, Route
from prime.actor.slots import Later
from prime.actor.stream import Stream, Streaming, open_stream, streams
from prime.actor.supervisor import Supervisor
from prime.actor.system import ActorInfo, SupervisorInfo, System

__all__ = [
    "Actor",
    "ActorFailed",
    "ActorInfo",
    "ActorPassivated",
    "ActorStarted",
    "ActorStopped",
    "Broadcast",
    "ConsistentHash",
    "Context",
    "DeadLetter",
    "Down",
    "EventStore",
    "Forwarder",
    "Later",
    "LeastLoaded",
    "Mailbox",
    "Persistent",
    "Portal",
    "Ref",
    "ReliableRef",
    "Restart",
    "RoundRobin",
    "Route",
    "Routees",
    "Router",
    "SnapshotFailed",
    "StateMachine",
    "StateRecovered",
    "Stream",
    "Streaming",
    "Supervisor",
    "SupervisorGaveUp",
    "SupervisorInfo",
    "System",
    "applies",
    "ask_all",
    "entered",
    "on",
    "on_timeout",
    "open_stream",
    "pipeline",
    "streams",
]
