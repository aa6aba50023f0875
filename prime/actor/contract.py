"""What the runtime needs from the rooms above it, as Protocols; `System` takes implementations as arguments.

Nothing here does work. A room above implements a Protocol (`transport/links.py` is a `Network`, `store/journal.py`
a `Journal`, `store/events.py` an `EventStore`), and `node/system.py` wires them, so the runtime never imports upwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NewType, Protocol, TypedDict, TypeVar

import attrs
import trio

T = TypeVar("T")

PeerId = NewType("PeerId", str)
"""A libp2p peer id in its base58 text form (`12D3KooW…`), the same over every transport."""


ProcessOutput = Literal["show", "facts"]
"""Where the lines go that a process prints: to this program's standard error, or to observers alone."""


class ProcessOptions(TypedDict, total=False):
    """How an actor's process is run; times in seconds."""

    args: Sequence[Any]
    """What the factory is called with: plain values, and messages that have a tag. None by default."""
    starting: float
    """The longest that the import and `started` may take, 60 by default."""
    silent: float
    """A process without a sign of life for this long is killed, 30 by default. Its event loop gives the sign: a
    handler that computes longer than this is marked `@on(..., thread=True)`, or this is raised, up to `math.inf`."""
    window: int
    """How many messages may be on their way to the actor or wait in its process, 512 (the most) by default: so many are
    in doubt if it is killed. The others wait here, and are kept. With 1, answers take longer and one is in doubt."""
    output: ProcessOutput
    """`show` by default."""
    environment: Mapping[str, str]
    """Environment variables beside this process's own."""


class Clock(Protocol):
    """Monotonic seconds. Trio's own clock by default, virtual time in tests and in the simulator."""

    def current_time(self) -> float:
        """Return monotonic seconds; only differences mean anything."""
        ...


class Tracer(Protocol):
    """Who follows messages through a system, e.g. with OpenTelemetry. Both calls must be quick and must not fail."""

    def sending(self, path: str, kind: str) -> str | None:
        """Hear that a message of class `kind` goes to `path`; return the context that shall travel with it."""
        ...

    def handling(self, path: str, kind: str, trace: str | None) -> AbstractContextManager[object]:
        """Return what surrounds the handling of a message that came with the context `trace`."""
        ...


class ReplySlot(Protocol):
    """Where the one answer to an ask goes. Only the first call counts; later ones are dead letters."""

    def reply(self, value: Any) -> None:
        """Answer with a value of the ask's reply type."""
        ...

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        ...


class Inbound(Protocol):
    """The runtime as a network sees it: the local actors, by path. `System` implements it."""

    def deliver_nowait(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> bool:
        """Put a message into the mailbox of the actor at `path`; `False` if a `wait` mailbox has no room now.

        `deadline` is on Trio's clock; an ask whose deadline has passed is never run. `trace` is the context that
        the sender's tracer gave it: text, whoever sent it. Raises
        `NoSuchActorError` (after counting a dead letter), `MailboxFullError` (policy `reject`), and `AskCycleError` where
        the actor waits for the answer of one in `chain`: who waits for the answer of this ask, the first to ask first.
        """
        ...

    async def deliver(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        """As `deliver_nowait`, but waits for room."""
        ...

    def decoded(self, decode: Callable[..., T], *args: Any) -> T:
        """Return `decode(*args)`, a decoding of what came over the network, with the refs in it bound to this system."""
        ...

    def watch_path(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` exactly once when the actor at `path` ends (at once if there is none).

        Returns a function that ends the watch.
        """
        ...


class Network(Protocol):
    """How the runtime reaches actors on other machines. One per system; `transport/links.py` implements it."""

    @property
    def peer(self) -> PeerId:
        """This node's own id."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node listens, as multiaddrs with `/p2p/<id>`; empty before `serve` has started."""
        ...

    async def serve(self, inbound: Inbound, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and keep links until cancelled; `task_status.started()` once the listener is open."""
        ...

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Remember where a peer may be dialled. Later knowledge replaces earlier."""
        ...

    async def dial(self, address: str) -> PeerId:
        """Connect to a multiaddr (its `/p2p/` part, if any, is enforced) and return who answered.

        Raises `UnreachableError`, `WrongPeerError`.
        """
        ...

    async def tell(self, peer: PeerId, path: str, message: Any) -> None:
        """Hand a message to the link of `peer` (dialling if needed); waits for credit of that far mailbox.

        Raises `UnreachableError`, `LinkLostError`, `LocalProtocolError` (no tag, over the size limit).
        """
        ...

    async def tell_reliably(self, peer: PeerId, path: str, message: Any) -> None:
        """As `tell`, but the message is kept, and sent again after a lost link, until the peer has taken it.

        Returns when it is kept; waits while as many as may be kept for that actor are. Raises what earlier messages
        were given up for (`DeadlineError`), once, and `RefusedError`, `LocalProtocolError`.
        """
        ...

    async def flush(self, peer: PeerId, path: str, *, timeout_s: float) -> None:
        """Wait until all that was told reliably is in the far mailbox. Raises as `tell_reliably`."""
        ...

    async def ask(self, peer: PeerId, path: str, message: Any, *, timeout_s: float, chain: tuple[str, ...] = ()) -> Any:
        """Send an ask and wait for its reply; the time left travels with it, and so does who waits for it (`chain`).

        Raises what `tell` raises, `DeadlineError`, and what the far side failed with.
        """
        ...

    def watch(self, peer: PeerId, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` exactly once when the far actor ends or its link is lost; returns an unwatch."""
        ...


class ProcessHost(Protocol):
    """How the runtime starts actors in processes of their own. One per system; `process/host.py` implements it."""

    def factory(self, actor: str | Callable[..., Any], options: ProcessOptions) -> Callable[[], Any]:
        """Return a factory of forwarders, each of which is one child process in which `actor(*args)` lives.

        Raises `ActorUsageError` for a name that no child could import, and for arguments that cannot be sent.
        """
        ...


@attrs.frozen
class Staged:
    """Bytes that lie beside a journal: in which of its spools, from where on, how many, and their SHA-256."""

    spool: int
    at: int
    size_bytes: int
    hash: bytes


@attrs.frozen
class StagedRecord:
    """A record whose end was staged before: it is read back as `body` and the bytes of `pieces`, one after the other."""

    body: bytes
    pieces: tuple[Staged, ...]


Entry = bytes | memoryview | StagedRecord
"""What a journal is given to keep as one record."""


class Journal(Protocol):
    """An append-only log that survives a crash: what `append` returned from is on the disk."""

    def append(self, record: Entry) -> Awaitable[None]:
        """Write one record and fsync it, with what it has staged."""
        ...

    def stage(self, group: int, pieces: Sequence[tuple[bytes | memoryview, bytes]]) -> Awaitable[tuple[Staged, ...]]:
        """Write bytes, each with its SHA-256, for a record to come, which then has little left to fsync.

        They are on the disk once the `append` of a record that has them returned. What no record has goes with the next
        `replace`, or a crash, and when a record of another `group` than the last two would have it.
        """
        ...

    def records(self) -> Sequence[bytes]:
        """Return every whole record, oldest first; a torn last record is left out."""
        ...

    def replace(self, records: Sequence[Entry]) -> Awaitable[None]:
        """Put these records in the place of all, whole or not at all, even across a crash."""
        ...

    @property
    def size_bytes(self) -> int:
        """Return how much it takes."""
        ...


@attrs.frozen
class SavedSnapshot:
    """A state that was saved for a key, and the sequence number of the last event that is in it."""

    sequence: int
    body: bytes


class EventStore(Protocol):
    """Events by key, in order, on something that survives a crash: what a call returned from is kept.

    The events of a key are numbered from 1. Each call happens whole or not at all, also when it is cancelled or fails;
    `last` tells which. All raise `CorruptedError` for what is not as it was stored, and `WorldError` where the disk
    refuses. No two calls on one store overlap.
    """

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        """Store events behind number `expected`, all or none, and return the number of the last one.

        Raises `ConflictError` when the last event of the key has another number: someone else has written.
        """
        ...

    async def last(self, key: str) -> int:
        """Return the number of the key's last event; 0 for a key that has none."""
        ...

    async def events(
        self, key: str, after: int, *, count_max: int = 256, size_bytes_max: int = 4 << 20
    ) -> Sequence[bytes]:
        """Return the events numbered `after + 1`, `after + 2`, …: one page, empty only if there are none.

        A page ends before it has more than `count_max` events or `size_bytes_max` bytes, but holds one event at least.
        Raises `NotFoundError` when the first of them was deleted, and `ConflictError` for an `after` beyond the last.
        """
        ...

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        """Keep the state after event number `sequence` in the place of the snapshot before it.

        Raises `ConflictError` when that event is not there, or a later snapshot is.
        """
        ...

    async def snapshot(self, key: str) -> SavedSnapshot | None:
        """Return the latest snapshot of the key."""
        ...

    async def delete_events(self, key: str, up_to: int) -> None:
        """Delete the events up to number `up_to`, which its snapshot must reach; their numbers are not given again."""
        ...

    async def forget(self, key: str) -> None:
        """Delete all of a key: events, snapshot and numbers."""
        ...
