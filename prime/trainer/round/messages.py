"""What aggregators say to each other, what they write into their journals, and how state is fetched.

Tags 0x100-0x13f belong to the round, 0x140-0x15f to the transfer of state. Every message of a round carries the run,
the epoch (number of the view), the round and its sender. All of them are idempotent: a lost one is sent again on the
next tick, a doubled or late one changes nothing.
"""

from __future__ import annotations

from prime.trainer.round.ballot import Ballot
from prime.trainer.round.settings import Setting
from prime.trainer.round.view import Member, Share, Value, View
from prime.wire import Ask, Payload, message, record

ROUND_TAGS = range(0x100, 0x140)
STATE_TAGS = range(0x140, 0x160)


@record
class Offer:
    """What a member contributes: its weight, the hash of the state it starts from, and the hash of each part's bytes.

    `signed` are the bytes of a `SignedOffer` that says the same.
    """

    weight: float
    base: bytes
    parts: tuple[bytes, ...]
    signed: bytes = b""


@record
class Holding:
    """An owner's word: of this part I hold the whole contribution of these senders; `hashes[i]` is that of the i-th."""

    part: int
    senders: tuple[str, ...]
    hashes: tuple[bytes, ...]


@record
class PartGram:
    """An owner's word: the inner products of a seal's candidates over this part.

    `entries` is the upper triangle, row by row, in the order of the seal's shares.
    """

    part: int
    seal: bytes
    entries: tuple[float, ...]


@record
class Reduction:
    """An owner's word: this part, reduced under this seal, has this hash."""

    part: int
    seal: bytes
    hash: bytes


@message(tag=0x100)
class Report:
    """A member's whole standing in the round, to the leader it follows; each one replaces the one before.

    `boot` counts the member's lives (a later boot forgets the earlier one's holdings). `restarted`: it came back
    during this round, so it votes but owns nothing. `intends`: it will contribute, or has. `rate_bytes_s` is its
    bandwidth, if that is no longer what the view says. `grams` are those of the seal followed.
    """

    run: str
    epoch: int
    round: int
    sender: str
    boot: int
    restarted: bool
    intends: bool
    ballot: Ballot
    offer: Offer | None
    held: tuple[Holding, ...]
    grams: tuple[PartGram, ...]
    reduced: tuple[Reduction, ...]
    rate_bytes_s: int | None


@message(tag=0x101)
class Prepare:
    """Phase 1 from the leader of `ballot`, and its heartbeat; `owners[i]` owns part i under this ballot."""

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot
    owners: tuple[str, ...]


@message(tag=0x102)
class Promise:
    """The answer to `Prepare`, after an fsync: no lower ballot any more, and the highest value accepted so far."""

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot
    accepted_ballot: Ballot | None
    accepted: Value | None


@message(tag=0x103)
class Nack:
    """A ballot came too late: `promised` is higher."""

    run: str
    epoch: int
    round: int
    sender: str
    promised: Ballot


@message(tag=0x104)
class Seal:
    """The leader names the contributors and the owners of one ballot.

    `final` says what the owners do: reduce; or tell the candidates' inner products, after which a final seal comes.
    """

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot
    owners: tuple[str, ...]
    base: bytes
    shares: tuple[Share, ...]
    final: bool


@message(tag=0x105)
class Propose:
    """The one value of a ballot. `holders` have the bytes of all its parts (a value carried on from a lower ballot)."""

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot
    owners: tuple[str, ...]
    holders: tuple[str, ...]
    value: Value


@message(tag=0x106)
class Ready:
    """A vote, after an fsync of the value and of its parts' bytes. A majority of them is the decision."""

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot
    digest: bytes


@message(tag=0x107)
class Commit:
    """The commit record: `value` is decided. The answer to any message of a round that is over.

    `oldest` is the earliest round whose outcome the sender still knows: a member behind that must jump.
    """

    run: str
    sender: str
    value: Value
    oldest: int


@message(tag=0x108)
class Query:
    """A member in doubt, or behind, asks for the outcome of a round."""

    run: str
    epoch: int
    round: int
    sender: str


@message(tag=0x109)
class Stored:
    """An owner tells a sender: I hold all of your part."""

    run: str
    epoch: int
    round: int
    sender: str
    part: int


@message(tag=0x10A)
class Fetch:
    """Send me the reduced bytes of this part; it is answered for the last decided round too."""

    run: str
    epoch: int
    round: int
    sender: str
    part: int
    hash: bytes


@message(tag=0x10B)
class Refuse:
    """Why the sender's message or contribution is not taken. `base` is the state hash that would have been."""

    run: str
    round: int
    sender: str
    reason: str
    base: bytes


@message(tag=0x10C)
class Join:
    """`member` wants to be in the next view of `run`; repeated until a committed view contains it.

    `settings` are those that all members have to have alike; one that has others is refused.
    """

    run: str
    member: Member
    settings: tuple[Setting, ...] = ()


@message(tag=0x10D)
class Leave:
    """`member` wants to be left out of the next view; repeated until it is."""

    run: str
    member: Member


@message(tag=0x10F)
class End:
    """`member` wants the run to end with the round under way; repeated until a round with contributions is decided."""

    run: str
    member: Member


@message(tag=0x10E)
class Beat:
    """The sender lives and follows `ballot`: from the leader to all, from all to the leader, while a round is under way."""

    run: str
    epoch: int
    round: int
    sender: str
    ballot: Ballot


# ------------------------------------------------------------------------------------------------- chunks of a part


@message(tag=0x110)
class Chunk:
    """One chunk of the sender's contribution to a part, or (with a `seal`) of that part as reduced under that seal.

    `index` is its place among the part's chunks. A sender has one set of bytes for each (round, part, seal).
    """

    run: str
    epoch: int
    round: int
    sender: str
    part: int
    seal: bytes
    index: int
    data: Payload


@message(tag=0x111)
class Announce:
    """Before a part is sent a second time, and of one without chunks: its hash. Answered with `Missing`, if anything is."""

    run: str
    epoch: int
    round: int
    sender: str
    part: int
    seal: bytes
    hash: bytes


@message(tag=0x112)
class Missing:
    """The answer to `Announce`: only the chunks with these numbers are still wanted."""

    run: str
    epoch: int
    round: int
    sender: str
    part: int
    seal: bytes
    hash: bytes
    indexes: tuple[int, ...]


# ------------------------------------------------------------------------------------------------------- evidence


@message(tag=0x130, signed=True)
class SignedOffer:
    """An `Offer` under the contributor's signature: from its chunks, an owner's reduction can be recomputed by anyone."""

    run: str
    epoch: int
    round: int
    weight: float
    base: bytes
    parts: tuple[bytes, ...]


@message(tag=0x131)
class Vouch:
    """To an owner, beside a part: the sender's `SignedOffer`, as bytes. The owner keeps it as long as the chunks."""

    run: str
    epoch: int
    round: int
    sender: str
    offer: bytes


@record
class ShownPart:
    """What an owner can show for a part: the signed offers of these contributors, empty where it has none."""

    offers: tuple[bytes, ...]


@record
class ShownChunk:
    """One chunk of a contribution, as the owner of its part holds it."""

    data: Payload


@message(tag=0x132)
class ShowPart(Ask[ShownPart]):
    """On what did you reduce this part? Answered to members, for the last decided round."""

    run: str
    round: int
    part: int
    contributors: tuple[str, ...]


@message(tag=0x133)
class ShowChunk(Ask[ShownChunk]):
    """Show a chunk that you hold of a contribution to a part of the last decided round."""

    run: str
    round: int
    part: int
    contributor: str
    index: int


# ------------------------------------------------------------------------------------------------------ the journal


@message(tag=0x120)
class Born:
    """The first record of a journal: which life of the disk this is."""

    member: Member


@message(tag=0x121)
class Booted:
    """This member started for the `boot`-th time on this journal."""

    boot: int


@message(tag=0x122)
class Entered:
    """`view` decides `round`: written by a founder and by an operator's recovery.

    `state_round` is the last round that changed the state.
    """

    round: int
    view: View
    state_round: int


@message(tag=0x123)
class Promised:
    """No ballot of `round` below this one will be answered any more."""

    round: int
    ballot: Ballot


@message(tag=0x124)
class Accepted:
    """A Ready was given to this value under this ballot; the parts' bytes lie beside the record."""

    round: int
    ballot: Ballot
    value: Value


@message(tag=0x125)
class Decided:
    """The outcome of the value's round."""

    value: Value


Record = Born | Booted | Entered | Promised | Accepted | Decided
"""What a journal holds."""


# ------------------------------------------------------------------------------------------------ transfer of state


@record
class StateManifest:
    """One state that a donor holds: parameters and the outer optimiser's slots after `round`.

    `state_hash` stands for `page_hashes`, each for a page of chunk hashes, each for a chunk (`swarm/state.py`).
    """

    run: str
    epoch: int
    round: int
    state_hash: bytes
    elements: int
    slots: int
    page_hashes: tuple[bytes, ...]


@record
class StatesHeld:
    """The states of the run that a donor holds, the newest first; none at all where it holds none yet."""

    states: tuple[StateManifest, ...]


@record
class StatePage:
    """The chunk hashes of one page, 32 bytes each, one after the other."""

    page: int
    hashes: bytes


@record
class StateChunk:
    """One chunk of a donor's state."""

    index: int
    data: Payload


@message(tag=0x140)
class DescribeState(Ask[StatesHeld]):
    """Ask which committed states of `run` a donor holds."""

    run: str


@message(tag=0x141)
class FetchStateChunk(Ask[StateChunk]):
    """Send chunk `index` of the state with this hash; refused if the donor has moved on."""

    run: str
    state_hash: bytes
    index: int


@message(tag=0x142)
class FetchStatePage(Ask[StatePage]):
    """Send the chunk hashes of one page of the state with this hash; refused if the donor has moved on."""

    run: str
    state_hash: bytes
    page: int


RoundMessage = Report | Prepare | Promise | Nack | Seal | Propose | Ready | Query | Stored | Fetch | Beat
"""What is said within one round: each has run, epoch, round and sender."""

PeerMessage = RoundMessage | Commit | Refuse | Join | Leave | End
"""What the round's core hears from other members and would-be members."""
