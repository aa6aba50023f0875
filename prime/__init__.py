"""Prime: supervised actors on Trio, near and far, and on them a decentralised training system.

This is the public face. Every name loads on first use, so that `import prime` stays quick and loads neither torch
nor libp2p.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.actor import Actor as Actor
    from prime.actor import Broadcast as Broadcast
    from prime.actor import ConsistentHash as ConsistentHash
    from prime.actor import Context as Context
    from prime.actor import Down as Down
    from prime.actor import EventStore as EventStore
    from prime.actor import Later as Later
    from prime.actor import LeastLoaded as LeastLoaded
    from prime.actor import Mailbox as Mailbox
    from prime.actor import Persistent as Persistent
    from prime.actor import Portal as Portal
    from prime.actor import Ref as Ref
    from prime.actor import ReliableRef as ReliableRef
    from prime.actor import Restart as Restart
    from prime.actor import RoundRobin as RoundRobin
    from prime.actor import Routees as Routees
    from prime.actor import Router as Router
    from prime.actor import StateMachine as StateMachine
    from prime.actor import Stream as Stream
    from prime.actor import Streaming as Streaming
    from prime.actor import Supervisor as Supervisor
    from prime.actor import System as System
    from prime.actor import applies as applies
    from prime.actor import ask_all as ask_all
    from prime.actor import entered as entered
    from prime.actor import on as on
    from prime.actor import on_timeout as on_timeout
    from prime.actor import open_stream as open_stream
    from prime.actor import pipeline as pipeline
    from prime.actor import streams as streams
    from prime.dht.blob.blobs import Blobs as Blobs
    from prime.dht.blob.blobs import open_blobs as open_blobs
    from prime.dht.dht import Dht as Dht
    from prime.dht.dht import open_dht as open_dht
    from prime.errors import PrimeError as PrimeError
    from prime.node.system import open_system as open_system
    from prime.node.training import open_trainer as open_trainer
    from prime.process.output import ProcessPrinted as ProcessPrinted
    from prime.store import MemoryEventStore as MemoryEventStore
    from prime.store import SqliteEventStore as SqliteEventStore
    from prime.trainer.metadata import ModelMetadata as ModelMetadata
    from prime.trainer.metadata import TrainingConfig as TrainingConfig
    from prime.transport.admission import Admission as Admission
    from prime.transport.admission import AdmissionLimits as AdmissionLimits
    from prime.transport.admission import Caller as Caller
    from prime.transport.identity import KeyPair as KeyPair
    from prime.transport.identity import NodeIdentity as NodeIdentity
    from prime.transport.libp2p import Libp2p as Libp2p
    from prime.transport.memory import Memory as Memory
    from prime.transport.relay.limits import RelayLimits as RelayLimits
    from prime.transport.signing import open_signed as open_signed
    from prime.transport.tcp import Tcp as Tcp
    from prime.transport.unix import Unix as Unix
    from prime.wire import Ask as Ask
    from prime.wire import Payload as Payload
    from prime.wire import Signed as Signed
    from prime.wire import message as message
    from prime.wire import record as record
    from prime.wire import signed as signed
    from prime.wire import signed_bytes as signed_bytes

from prime.version import __version__

_HOMES = {
    "Actor": "prime.actor",
    "Admission": "prime.transport.admission",
    "AdmissionLimits": "prime.transport.admission",
    "Ask": "prime.wire",
    "Blobs": "prime.dht.blob.blobs",
    "Broadcast": "prime.actor",
    "Caller": "prime.transport.admission",
    "ConsistentHash": "prime.actor",
    "Context": "prime.actor",
    "Dht": "prime.dht.dht",
    "Down": "prime.actor",
    "EventStore": "prime.actor",
    "KeyPair": "prime.transport.identity",
    "Later": "prime.actor",
    "LeastLoaded": "prime.actor",
    "Libp2p": "prime.transport.libp2p",
    "Mailbox": "prime.actor",
    "Memory": "prime.transport.memory",
    "MemoryEventStore": "prime.store",
    "ModelMetadata": "prime.trainer.metadata",
    "NodeIdentity": "prime.transport.identity",
    "Payload": "prime.wire",
    "Persistent": "prime.actor",
    "Portal": "prime.actor",
    "PrimeError": "prime.errors",
    "ProcessPrinted": "prime.process.output",
    "Ref": "prime.actor",
    "RelayLimits": "prime.transport.relay.limits",
    "ReliableRef": "prime.actor",
    "Restart": "prime.actor",
    "RoundRobin": "prime.actor",
    "Routees": "prime.actor",
    "Router": "prime.actor",
    "Signed": "prime.wire",
    "SqliteEventStore": "prime.store",
    "StateMachine": "prime.actor",
    "Stream": "prime.actor",
    "Streaming": "prime.actor",
    "Supervisor": "prime.actor",
    "System": "prime.actor",
    "Tcp": "prime.transport.tcp",
    "TrainingConfig": "prime.trainer.metadata",
    "Unix": "prime.transport.unix",
    "applies": "prime.actor",
    "ask_all": "prime.actor",
    "entered": "prime.actor",
    "message": "prime.wire",
    "on": "prime.actor",
    "on_timeout": "prime.actor",
    "open_blobs": "prime.dht.blob.blobs",
    "open_dht": "prime.dht.dht",
    "open_signed": "prime.transport.signing",
    "open_stream": "prime.actor",
    "open_system": "prime.node.system",
    "open_trainer": "prime.node.training",
    "pipeline": "prime.actor",
    "record": "prime.wire",
    "signed": "prime.wire",
    "signed_bytes": "prime.wire",
    "streams": "prime.actor",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are the keys of one table


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'prime' has no attribute {name!r}") from None
    try:
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "torch"):
            raise
        from prime.errors import MissingExtraError

        raise MissingExtraError(f"prime.{name} needs {error.name}", hint="pip install 'prime-actors[train]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
