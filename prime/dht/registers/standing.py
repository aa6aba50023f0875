"""What an elector keeps on the disk: which store it is, and where it stands with each register. Pure."""

from __future__ import annotations

from typing import Any, Final

from prime.actor.contract import PeerId
from prime.dht import key as keys
from prime.dht.backend import Entry, Removal
from prime.dht.registers.elector import Elector, Standing
from prime.dht.registers.proposal import STORE_BYTES, Register, Seat, read_call, read_proposal
from prime.errors import DecodeError
from prime.wire import Limits, dumps, loads

KIND: Final = "register"
STORE_KIND: Final = "register-store"
TENDED_KIND: Final = "register-tended"
_LIMITS: Final = Limits()


def standing_entry(standing: Standing) -> Entry:
    """Return what is written for a standing."""
    promised, accepted = standing.promised, standing.accepted
    fields = [
        None if promised is None else promised.sealed,
        None if accepted is None else accepted.sealed,
        standing.promised_ms,
        standing.group,
    ]
    return Entry(KIND, keys.to_bytes(standing.register.key), dumps(fields))


def tended_entry(register: Register) -> Entry:
    """Return what is written for a register of the node's own, which it keeps alive."""
    return Entry(TENDED_KIND, keys.to_bytes(register.key), register.salt)


def standing_removal(register: Register) -> Removal:
    """Return what is written for a register that has ended."""
    return Removal(KIND, keys.to_bytes(register.key))


def read_standing(entry: Entry) -> Standing:
    """Return the standing in an entry. Raises `DecodeError`, `SignatureError`."""
    fields = loads(entry.body, _LIMITS)
    if type(fields) is not list or len(fields) < 4 or [type(each) for each in fields[2:4]] != [int, str]:
        raise DecodeError("a standing of another shape")
    promised = None if fields[0] is None else read_call(_bytes(fields[0]))
    accepted = None if fields[1] is None else read_proposal(_bytes(fields[1]))
    named = promised or accepted
    if named is None or keys.to_bytes(named.register.key) != entry.name:
        raise DecodeError("a standing under another register's name")
    return Standing(named.register, promised, accepted, fields[2], fields[3])


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise DecodeError("a standing of another shape")
    return value


class Restored:
    """The elector that a store holds, read entry by entry. `fresh` names its store where that has no name yet.

    What promised something and is damaged must not vote as if it had promised nothing. So a store in which anything is
    damaged is another one from then on, without standings: its node is seated anew, as one with an empty disk would be.
    """

    def __init__(self, fresh: bytes) -> None:
        self._fresh = fresh
        self._store = b""
        self._names: list[bytes] = []
        self._standings: list[Standing] = []
        self.is_damaged = False

    def take(self, entry: Entry) -> None:
        """Take one entry of either kind. Raises `DecodeError` for a damaged one."""
        if entry.kind == STORE_KIND:
            self._store = entry.body
            return
        self._names.append(entry.name)
        self._standings.append(read_standing(entry))

    def elector(self, peer: PeerId) -> tuple[Elector, tuple[Entry | Removal, ...]]:
        """Return the elector, and what is to be written now."""
        if len(self._store) == STORE_BYTES and not self.is_damaged:
            return Elector(Seat(peer, self._store), self._standings), ()
        forgotten = (Removal(KIND, name) for name in self._names)
        return Elector(Seat(peer, self._fresh)), (Entry(STORE_KIND, b"", self._fresh), *forgotten)
