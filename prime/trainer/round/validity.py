"""What can be, of what others say about a round: the one door that a decision, a seal and a wish pass (pure).

Each function says what is wrong, or returns an empty text. The round's protocol assumes that members may die, not that
they lie; this keeps what cannot be true from a disk, from arithmetic and from everyone's memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from prime.trainer.robust.gram import entry_count
from prime.trainer.round.leader import KEPT_MAX
from prime.trainer.round.messages import Report
from prime.trainer.round.partition import RATE_MAX_BYTES_S
from prime.trainer.round.view import Member, Share, Value, View

ADDRESSES_MAX = 8
"""Addresses of one member: they travel in every view."""
ADDRESS_CHARACTERS_MAX = 256
WEIGHT_MAX = 1.0
"""A member's voice in the seal's quorum: at most one, so that nobody has a veto by its own word."""
COUNTER_LEAP_MAX = 1 << 16
"""How far a ballot may be above the highest one known: counting alone never gets that far in a round."""
ROUND_MAX = 1 << 53
HASH_BYTES = 32
SEAL_BYTES = 16
REASON_CHARACTERS_MAX = 200
MEMBERS_MAX = 1024
"""Members of one view: it travels in every decision."""


def member_fault(member: Member) -> str:
    """Say why nobody may join as this member."""
    if not 0 < member.weight <= WEIGHT_MAX:
        return f"a member's weight is above 0 and at most {WEIGHT_MAX:g}, not {member.weight:g}"
    if member.rate_bytes_s is not None and not 0 <= member.rate_bytes_s <= RATE_MAX_BYTES_S:
        return f"a member's bandwidth is from 0 to {RATE_MAX_BYTES_S} bytes a second, not {member.rate_bytes_s}"
    return addresses_fault(member.addresses)


def addresses_fault(addresses: Collection[str]) -> str:
    """Say why these cannot be the addresses of one member."""
    if len(addresses) > ADDRESSES_MAX or any(len(each) > ADDRESS_CHARACTERS_MAX for each in addresses):
        return f"a member has at most {ADDRESSES_MAX} addresses of at most {ADDRESS_CHARACTERS_MAX} characters"
    return ""


def fit_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that others take: so many, and of such a length."""
    return tuple(each for each in addresses if len(each) <= ADDRESS_CHARACTERS_MAX)[:ADDRESSES_MAX]


def view_fault(view: View) -> str:
    """Say why this is no view: empty, not sorted, or with twins."""
    peers = view.peers()
    if len(peers) > MEMBERS_MAX:
        return f"a view has at most {MEMBERS_MAX} members"
    if not peers or any(a >= b for a, b in itertools.pairwise(peers)):
        return "a view has members, sorted, each once"
    return next((fault for member in view.members if (fault := member_fault(member))), "")


def shares_fault(shares: Sequence[Share], peers: Collection[str]) -> str:
    """Say why these cannot be contributors among `peers`."""
    names = [share.peer for share in shares]
    if names != sorted(set(names)) or not set(names) <= set(peers):
        return "contributors are members, sorted, each once"
    if not all(share.weight > 0 and math.isfinite(share.weight) for share in shares):
        return "a contribution's weight is positive and finite"
    if not all(0 <= share.counts < math.inf and math.isfinite(share.score) for share in shares):
        return "a contribution's coefficient and score are finite, the coefficient not negative"
    if any(len(share.reason) > REASON_CHARACTERS_MAX for share in shares):
        return f"a reason has at most {REASON_CHARACTERS_MAX} characters"
    if shares and not any(share.counts > 0 for share in shares):
        return "some contribution counts"
    return ""


def report_fault(report: Report, view: View) -> str:
    """Say why a member of `view` cannot have this standing. What passes is bounded by the view's size and `KEPT_MAX`."""
    parts, peers = len(view.members), set(view.peers())
    if not all(0 <= held.part < parts and peers.issuperset(held.senders) for held in report.held):
        return "an owner holds parts of members"
    if not all([len(hash_) for hash_ in held.hashes] == [HASH_BYTES] * len(held.senders) for held in report.held):
        return "an owner names the hash of each contribution that it holds"
    if report.rate_bytes_s is not None and not 0 <= report.rate_bytes_s <= RATE_MAX_BYTES_S:
        return "no link is as fast as that"
    if report.offer is not None and (len(report.offer.parts) > parts or len(report.offer.base) > HASH_BYTES):
        return "an offer has a hash for each part"
    return _results_fault(report, parts)


def _results_fault(report: Report, parts: int) -> str:
    if len(report.reduced) > KEPT_MAX or len(report.grams) > parts:
        return "an owner has no more results than parts and ballots"
    if not all(0 <= r.part < parts and len(r.hash) == HASH_BYTES and len(r.seal) == SEAL_BYTES for r in report.reduced):
        return "a result is of a part and a seal"
    entries_max = entry_count(parts)
    if not all(
        0 <= g.part < parts and len(g.seal) == SEAL_BYTES and len(g.entries) <= entries_max for g in report.grams
    ):
        return "inner products are of a part's candidates"
    return ""


def owners_fault(owners: Sequence[str], view: View) -> str:
    """Say why these cannot own the parts of a round of `view`: one member for each part."""
    peers = view.peers()
    return "" if len(owners) == len(peers) and set(owners) <= set(peers) else "each part is owned by a member"


def record_fault(value: Value) -> str:
    """Say why this cannot be the decision of any round."""
    if not 0 <= value.round < ROUND_MAX or not 0 <= value.state_round <= value.round:
        return f"no round has the number {value.round}"
    if bool(value.parts) != bool(value.shares) or any(len(part) != HASH_BYTES for part in value.parts):
        return "a sum has a hash for each part, an abort has none"
    if value.last and not value.shares:
        return "an abort ends no run"
    return view_fault(value.next_view)


def value_fault(value: Value, view: View, state_round: int) -> str:
    """Say why this cannot be the decision of a round of `view` that starts from the state after `state_round`."""
    if value.epoch != view.epoch or not _follows(value.next_view, view):
        return "a view follows the one before"
    if value.state_round != (value.round if value.shares else state_round):
        return "a sum makes another state, an abort does not"
    if value.parts and len(value.parts) != len(view.members):
        return "there is one part for each member"
    return record_fault(value) or shares_fault(value.shares, view.peers())


def _follows(following: View, view: View) -> bool:
    return following == view or (following.run == view.run and following.epoch == view.epoch + 1)
