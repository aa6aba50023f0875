"""A store of one's own for what a DHT node holds: a text file, one line an entry, written anew at each change.

Run: python examples/10_dht_backend.py

It keeps what `prime.dht.backend.Backend` promises, and the suite in `prime.testing.backend` shows it: what a write returned
from is there after SIGKILL, a full disk changes nothing, a flipped bit is named. It is simple and slow: for a few records.
"""

import fcntl
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import trio

from prime.dht.backend import Entry, Loaded, Removal
from prime.dht.key import key_of
from prime.dht.record import make_record
from prime.dht.settings import DhtSettings
from prime.dht.shelf import Shelf
from prime.errors import ActorUsageError, CorruptedError, WorldError
from prime.transport.identity import KeyPair

HINT = "free space on that disk, or move the file"


class TextBackend:
    """A `prime.dht.backend.Backend`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.bodies: dict[tuple[str, bytes], bytes] = {}
        self.lock: int | None = None

    async def open(self) -> Loaded:
        return await trio.to_thread.run_sync(self._open)

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        if self.lock is None:
            raise ActorUsageError(f"{self.path} is not open", hint="open it first")
        bodies = dict(self.bodies)
        for change in changes:
            bodies.pop((change.kind, change.name), None)
            if isinstance(change, Entry):
                bodies[change.kind, change.name] = bytes(change.body)
        with trio.CancelScope(shield=True):  # once it has begun it ends, and is remembered
            await trio.to_thread.run_sync(self._write, bodies)
        self.bodies = bodies

    async def aclose(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
        self.lock = None

    def _open(self) -> Loaded:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + "-lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise WorldError(f"{self.path}: {error.strerror}", hint="another program has it: end that first") from error
        self.lock = lock
        return self._read(self.path.read_bytes() if self.path.exists() else b"")

    def _read(self, text: bytes) -> Loaded:
        lines = text.split(b"\n")
        count = counted(lines[0]) if text else 0
        found = {name: body for line in lines[1:] if (entry := parsed(line)) for name, body in [entry]}
        damaged = count is None or count != len(found)
        if damaged:
            self.path.replace(self.path.with_name(self.path.name + "-damaged"))
        self.bodies = found
        if damaged and not found:
            raise CorruptedError(f"{self.path}: no line is as it was written", hint="open it again: it begins empty")
        entries = tuple(Entry(kind, name, body) for (kind, name), body in found.items())
        if damaged:
            self._write(found)
        return Loaded(entries, lost_writes=int(damaged))

    def _write(self, bodies: dict[tuple[str, bytes], bytes]) -> None:
        """Write another file and let it take the name of this one: after a crash there is the one or the other, whole."""
        draft = self.path.with_name(self.path.name + "-draft")
        lines = [checked(b"%d" % len(bodies)), *(line_of(*place, body) for place, body in bodies.items())]
        try:
            with draft.open("wb") as file:
                file.write(b"\n".join(lines))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise WorldError(f"{self.path}: {error.strerror}", hint=HINT) from error


def checked(words: bytes) -> bytes:
    return b"%08x " % zlib.crc32(words) + words


def words_of(line: bytes) -> list[bytes] | None:
    return line[9:].split(b" ") if line == checked(line[9:]) else None


def counted(line: bytes) -> int | None:
    words = words_of(line)
    return int(words[0]) if words else None


def line_of(kind: str, name: bytes, body: bytes) -> bytes:
    return checked(b" ".join(part.hex().encode() for part in (kind.encode(), name, body)))


def parsed(line: bytes) -> tuple[tuple[str, bytes], bytes] | None:
    words = words_of(line)
    if words is None:
        return None
    kind, name, body = (bytes.fromhex(word.decode()) for word in words)
    return (kind.decode(), name), body


async def main() -> None:
    ann, now_ms = KeyPair.from_seed(b"a" * 32), 1_800_000_000_000
    record = make_record(ann, b"a value", salt=b"greeting", seq=1, created_ms=now_ms, ttl_s=3600)
    with tempfile.TemporaryDirectory() as folder:
        backend = TextBackend(Path(folder) / "records.txt")
        await backend.open()
        shelf = Shelf(key_of(b"this node"), DhtSettings())
        plan = shelf.hold(record, "192.0", now_ms)
        await backend.write(plan.writes)  # first the disk,
        shelf.commit(plan)  # then the shelf: nobody reads what a crash could take back
        print("held:", shelf.get(record.key, now_ms) == record)
        await backend.aclose()
        loaded = await TextBackend(backend.path).open()
        print("there again:", [entry.kind for entry in loaded.entries])


if __name__ == "__main__":
    trio.run(main)
