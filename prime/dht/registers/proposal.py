"""What is said of a register, under its publisher's signature: ballots, versions and who its electors are. Pure.

Everything that an elector can show was signed by the publisher, so it can hide or hold back, and make nothing up. A
register goes through terms: in each it has one set of electors, and the last proposal of a term names those of the next.
Term 0 has no electors of its own, and decides nothing but who the first are: the creation.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any, ClassVar, Final, TypeVar

import attrs

from prime.actor.contract import PeerId
from prime.dht.key import Key, key_of
from prime.dht.sealed import Signer, seal, unseal
from prime.errors import DecodeError, UsageError
from prime.wire import dumps

CALL_DOMAIN: Final = b"prime-dht-register-call:1:"
PROPOSAL_DOMAIN: Final = b"prime-dht-register-proposal:1:"
VALUE_BYTES_MAX: Final = 16 << 10
SALT_BYTES_MAX: Final = 64
ELECTORS_MAX: Final = 7
STORE_BYTES: Final = 16
NONCE_BYTES: Final = 8
MARK_BYTES: Final = 8
TRAIL_MAX: Final = 8
"""So many versions back can be told from a version: a writer sees from it whether its own was among them."""
DIGEST_BYTES: Final = 32
CALL_BYTES_MAX: Final = 512
PROPOSAL_BYTES_MAX: Final = VALUE_BYTES_MAX + 3072
NUMBER_MAX: Final = 2**63 - 1
_HINT: Final = "its publisher, or who handed it on, is broken or hostile: nothing of it was used"


@attrs.frozen
class Register:
    """Which register: its publisher's, under a salt."""

    publisher: PeerId
    salt: bytes
    key: Key = attrs.field(init=False, repr=False, eq=False)

    @key.default
    def _key(self) -> Key:
        return key_of(b"prime-dht-register:1:" + self.publisher.encode() + b":" + self.salt)


@attrs.frozen
class Seat:
    """An elector: a peer and which store it answers from, a number drawn when that was made.

    One that comes back with an empty store has another, so it is not taken for the elector that promised something.
    """

    peer: PeerId
    store: bytes


@attrs.frozen
class Electors:
    """The electors of a term, nearest first, and how many of them may lie without harm."""

    seats: tuple[Seat, ...]
    liars: int = 0

    @property
    def quorum(self) -> int:
        """How many must agree: any two quorums share more electors than may lie."""
        return quorum_of(len(self.seats), self.liars)

    def holds(self, peer: PeerId, store: bytes) -> bool:
        """Tell whether this peer is one of them, with that store."""
        return Seat(peer, store) in self.seats

    def peers(self) -> tuple[PeerId, ...]:
        """Return who they are."""
        return tuple(seat.peer for seat in self.seats)


def quorum_of(count: int, liars: int) -> int:
    """Return the least number of `count` electors of which two such groups share at least `liars + 1`."""
    return (count + liars) // 2 + 1


@attrs.frozen(order=True)
class Ballot:
    """The number of an attempt, greater than that of each before it in its register; `nonce` makes it one attempt's own."""

    term: int
    counter: int
    nonce: bytes


@attrs.frozen
class Version:
    """A value of a register. `seq` rises by one with each; 0 is the empty register; `value` is `None` where it was removed.

    `created_ms` is its writer's clock (ms since 1970). `mark` is the write's own, `trail` those of the versions before.
    """

    seq: int
    created_ms: int
    value: bytes | None
    mark: bytes
    trail: tuple[bytes, ...] = ()

    def followed_by(self, value: bytes | None, mark: bytes, created_ms: int) -> Version:
        """Return the next version."""
        return Version(self.seq + 1, created_ms, value, mark, (self.mark, *self.trail)[:TRAIL_MAX])


@attrs.frozen
class Call:
    """A ballot, called by the publisher in the term that the proposal `begun` (its content) began; `root` began term 1."""

    domain: ClassVar[bytes] = CALL_DOMAIN
    register: Register
    ballot: Ballot
    root: bytes
    begun: bytes
    sealed: bytes = attrs.field(default=b"", repr=False, eq=False)


@attrs.frozen
class Proposal:
    """What a ballot proposes: a version, and with `following` the end of the term, whose successors those are.

    `electors` are those of its term, in term 0 none. `stamp_ms` is the proposer's clock: a register is kept for a time from
    then on. `root` and `begun` as in a `Call`.
    """

    domain: ClassVar[bytes] = PROPOSAL_DOMAIN
    register: Register
    ballot: Ballot
    root: bytes
    begun: bytes
    electors: Electors
    version: Version
    following: Electors | None
    stamp_ms: int
    sealed: bytes = attrs.field(default=b"", repr=False, eq=False)

    @functools.cached_property
    def content(self) -> bytes:
        """The hash of what it says, whatever ballot says it."""
        fields = [self.register.publisher, self.register.salt, self.ballot.term, self.root, self.begun]
        parts = [_electors_fields(self.electors), _version_fields(self.version), _electors_fields(self.following)]
        return hashlib.sha256(dumps([*fields, *parts])).digest()

    @property
    def root_after(self) -> bytes:
        """The root of the term that follows: term 0's proposal is it."""
        return self.root or self.content

    @property
    def voters(self) -> Electors:
        """Who votes on it: in term 0 those that it names."""
        return self.electors if self.ballot.term or self.following is None else self.following


Signed = TypeVar("Signed", Call, Proposal)


def require_fit(register: Register, value: bytes | None) -> None:
    """Refuse what no register can have before anybody is asked. Raises `UsageError`."""
    size = 0 if value is None else len(value)
    if size > VALUE_BYTES_MAX:
        raise UsageError(
            f"a value of {size} bytes, where a register has {VALUE_BYTES_MAX}",
            hint="store it as a blob, and put its key here",
        )
    if len(register.salt) > SALT_BYTES_MAX:
        raise UsageError(
            f"a salt of {len(register.salt)} bytes, where {SALT_BYTES_MAX} are allowed", hint="take a shorter name"
        )


def signed(signer: Signer, draft: Signed) -> Signed:
    """Return a call or a proposal with its signed bytes. Raises `UsageError` for what no elector would take."""
    if signer.peer != draft.register.publisher:
        raise UsageError(
            "only its publisher's key writes a register", hint=f"use the key of {draft.register.publisher}"
        )
    if fault := _fault(draft):
        raise UsageError(f"no register can have that: {fault}", hint="bigger values are stored as blobs")
    return attrs.evolve(draft, sealed=seal(draft.domain, signer, _fields(draft)))


def read_call(data: bytes) -> Call:
    """Return the call in signed bytes. Raises `DecodeError`, `SignatureError`."""
    publisher, fields = unseal(CALL_DOMAIN, data, CALL_BYTES_MAX)
    try:
        register, ballot, root, begun = _head(publisher, fields)
    except (TypeError, ValueError) as error:
        raise DecodeError("a call of another shape", hint=_HINT) from error
    return _sound(Call(register, ballot, root, begun, data))


def read_proposal(data: bytes) -> Proposal:
    """Return the proposal in signed bytes. Raises `DecodeError`, `SignatureError`."""
    publisher, fields = unseal(PROPOSAL_DOMAIN, data, PROPOSAL_BYTES_MAX)
    try:
        register, ballot, root, begun = _head(publisher, fields)
        electors, version, following, stamp_ms = fields[6:10]
        read = Proposal(
            register,
            ballot,
            root,
            begun,
            _read_electors(electors),
            _read_version(version),
            None if following is None else _read_electors(following),
            _whole(stamp_ms),
            data,
        )
    except (TypeError, ValueError) as error:
        raise DecodeError("a proposal of another shape", hint=_HINT) from error
    return _sound(read)


def _fields(draft: Call | Proposal) -> list[Any]:
    ballot = draft.ballot
    head = [draft.register.salt, ballot.term, ballot.counter, ballot.nonce, draft.root, draft.begun]
    if isinstance(draft, Call):
        return head
    following = _electors_fields(draft.following)
    return [*head, _electors_fields(draft.electors), _version_fields(draft.version), following, draft.stamp_ms]


def _electors_fields(electors: Electors | None) -> list[Any] | None:
    return None if electors is None else [[[seat.peer, seat.store] for seat in electors.seats], electors.liars]


def _version_fields(version: Version) -> list[Any]:
    return [version.seq, version.created_ms, version.value, version.mark, list(version.trail)]


def _head(publisher: PeerId, fields: list[Any]) -> tuple[Register, Ballot, bytes, bytes]:
    salt, term, counter, nonce, root, begun = fields[:6]
    ballot = Ballot(_whole(term), _whole(counter), _bytes(nonce))
    return Register(publisher, _bytes(salt)), ballot, _bytes(root), _bytes(begun)


def _read_electors(fields: Any) -> Electors:
    seats, liars = _list(fields)
    pairs = [_list(seat) for seat in _list(seats)]
    return Electors(tuple(Seat(PeerId(_text(peer)), _bytes(store)) for peer, store in pairs), _whole(liars))


def _read_version(fields: Any) -> Version:
    seq, created_ms, value, mark, trail = _list(fields)
    kept = None if value is None else _bytes(value)
    return Version(_whole(seq), _whole(created_ms), kept, _bytes(mark), tuple(map(_bytes, _list(trail))))


def _whole(value: Any) -> int:
    return _of(int, value)


def _bytes(value: Any) -> bytes:
    return _of(bytes, value)


def _text(value: Any) -> str:
    return _of(str, value)


def _list(value: Any) -> list[Any]:
    return _of(list, value)


_Plain = TypeVar("_Plain")


def _of(kind: type[_Plain], value: Any) -> _Plain:
    if type(value) is not kind:
        raise TypeError
    return value


def _sound(read: Signed) -> Signed:
    if fault := _fault(read):
        raise DecodeError(f"what no register can have: {fault}", hint=_HINT)
    return read


def _fault(one: Call | Proposal) -> str:
    """Return what cannot be, or an empty text."""
    ballot = one.ballot
    if len(one.register.salt) > SALT_BYTES_MAX:
        return f"a salt of {len(one.register.salt)} bytes, where {SALT_BYTES_MAX} are allowed"
    if not (0 <= ballot.term <= NUMBER_MAX and 0 <= ballot.counter <= NUMBER_MAX and len(ballot.nonce) == NONCE_BYTES):
        return "a ballot out of range"
    size = DIGEST_BYTES if ballot.term else 0
    if not len(one.root) == len(one.begun) == size:
        return "a term without its beginning"
    return _fault_of_proposal(one) if isinstance(one, Proposal) else ""


def _fault_of_proposal(one: Proposal) -> str:
    version, voters = one.version, one.voters
    if version.value is not None and len(version.value) > VALUE_BYTES_MAX:
        return f"a value of {len(version.value)} bytes, where {VALUE_BYTES_MAX} are allowed"
    if not (0 <= version.seq <= NUMBER_MAX and 0 <= version.created_ms < 2**53 and 0 <= one.stamp_ms < 2**53):
        return "a seq or a time out of range"
    if len(version.trail) > TRAIL_MAX or any(len(mark) != MARK_BYTES for mark in (version.mark, *version.trail)):
        return "a version without its mark"
    if not one.ballot.term and (one.following is None or one.electors.seats or version.seq):
        return "a creation that names no electors"
    return _fault_of_electors(voters) or _fault_of_electors(one.following or voters)


def _fault_of_electors(electors: Electors) -> str:
    peers, count = set(electors.peers()), len(electors.seats)
    if not 1 <= count <= ELECTORS_MAX or len(peers) < count:
        return f"{count} electors, where 1 to {ELECTORS_MAX} are allowed, each once"
    if any(len(seat.store) != STORE_BYTES for seat in electors.seats):
        return "an elector without its store"
    return "" if electors.liars >= 0 and electors.quorum <= count else f"{electors.liars} liars of {count} electors"


def outranks(one: Call | Proposal, other: Call | Proposal | None) -> bool:
    """Tell whether `one` is newer than `other`, of the same register.

    Two registers of one key, created on both sides of a partition, have different roots. Everybody settles on the
    smaller one, however far each has come.
    """
    if other is None:
        return True
    if one.ballot.term and other.ballot.term and one.root != other.root:
        return one.root < other.root
    return one.ballot > other.ballot
