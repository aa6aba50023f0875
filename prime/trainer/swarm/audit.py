"""The audit of a decided round: whether what an owner made of a part is what the signed contributions give.

An owner's word on its reduction is taken while the round goes on. Afterwards anyone of its members can check it: each
contributor signed the hash of each of its parts, the owners keep the chunks until the next round is decided, and the
reduction of the same chunks under the same shares gives the same bytes everywhere. So an owner that reduced something
else cannot show chunks that both bear the contributors' signatures and give what it said. Where the rule needed a Gram
matrix, that and the leader's coefficients are recomputed too, over all parts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import trio

from prime.actor import Ref, System
from prime.errors import DecodeError, LocalProtocolError, WorldError
from prime.trainer.robust.gram import added, square
from prime.trainer.robust.rules import coefficients
from prime.trainer.round import messages as msg
from prime.trainer.round.view import Share, counted
from prime.trainer.swarm.aggregator import AGGREGATOR_PATH, Aggregator
from prime.trainer.swarm.evidence import AuditCase
from prime.trainer.swarm.offers import offer_fault, open_offer
from prime.trainer.swarm.parts import digest, part_digest
from prime.trainer.swarm.work import compute

ASK_S = 30.0
"""How long an owner may take to show one chunk."""
TOGETHER = 8
"""Chunks that are asked for at the same time."""

Judgement = Literal["right", "wrong", "not shown"]


@attrs.frozen
class Finding:
    """What an audit says of one part and of `peer`, who made it; part -1 is the seal, and `peer` its leader.

    "not shown" is no proof: the owner may have gone, or have gone on to the next round.
    """

    part: int
    peer: str
    judgement: Judgement
    reason: str = ""


class _NotShownError(Exception):
    """The owner did not show what the audit needs."""


class _WrongError(Exception):
    """What the owner shows is not what was signed, or does not give what it said."""


async def audit(system: System, case: AuditCase) -> tuple[Finding, ...]:
    """Recompute every part of a round, and its coefficients, from what the owners show. Takes all contributions' bytes.

    One chunk of each contributor is in memory at a time. An owner that is silent costs at most `ASK_S` for each part.
    """
    done = [await _audit_part(system, case, part, owner) for part, owner in enumerate(case.owners)]
    findings = [finding for finding, _ in done]
    if case.rule.measured and all(finding.judgement == "right" for finding in findings):
        findings.append(_audit_coefficients(case, [products for _, products in done]))
    return tuple(findings)


async def _audit_part(system: System, case: AuditCase, part: int, owner: str) -> tuple[Finding, list[float]]:
    """Return the finding, and the part's share of the Gram matrix where the rule needed one."""
    try:
        products = await _recomputed(_Owner(system, case, part, owner))
    except _NotShownError as error:
        return Finding(part, owner, "not shown", str(error)), []
    except _WrongError as error:
        return Finding(part, owner, "wrong", str(error)), []
    return Finding(part, owner, "right"), products


async def _recomputed(owner: _Owner) -> list[float]:
    case, shares = owner.case, owner.shares
    offers = await owner.offers()
    hashes: list[list[bytes]] = [[] for _ in shares]
    reduced: list[bytes] = []
    products: list[list[float]] = []
    for index, cut in enumerate(case.chunks[owner.part]):
        row = await owner.chunks(index)
        for each, data in zip(hashes, row, strict=True):
            each.append(digest(data))
        work = functools.partial(_chunk_done, case, shares, row, cut)
        size_bytes = case.numbers.size_bytes(cut.stop - cut.start) * len(row)
        hash_, entries = await compute(work, size_bytes)
        reduced.append(hash_)
        products.append(entries)
    for share, offer, each in zip(shares, offers, hashes, strict=True):
        _compare(case, owner.part, share, offer, part_digest(each))
    if part_digest(reduced) != case.value.parts[owner.part]:
        raise _WrongError("the contributions, as their senders signed them, give another reduction than it said")
    return added(len(shares), products) if case.rule.measured else []


def _chunk_done(
    case: AuditCase, shares: Sequence[Share], row: Sequence[memoryview], cut: slice
) -> tuple[bytes, list[float]]:
    """Return the hash of a chunk's reduction, and its inner products where the rule needed them."""
    count = {share.peer for share in counted(case.value.shares)}
    inputs = [data for share, data in zip(shares, row, strict=True) if share.peer in count]
    weights = [share.counts for share in shares if share.peer in count]
    try:
        reduced = digest(case.numbers.reduce(inputs, weights, cut, case.rule))
        return reduced, case.numbers.multiply(row, cut) if case.rule.measured else []
    except (DecodeError, LocalProtocolError) as error:
        raise _WrongError(f"it shows what cannot be reduced: {error}") from error


def _compare(case: AuditCase, part: int, share: Share, offer: msg.SignedOffer, shown: bytes) -> None:
    if part >= len(offer.parts) or offer.parts[part] != shown:
        raise _WrongError(f"what it shows of {share.peer} is not what {share.peer} signed")
    if (offer.weight, offer.base) != (share.weight, case.value.base):
        raise _WrongError(
            f"{share.peer} signed weight {offer.weight:g} on state {offer.base.hex()[:12]}; decided was weight "
            f"{share.weight:g} on {case.value.base.hex()[:12]}, which is the leader's doing ({case.leader or 'not known'})"
        )


def _audit_coefficients(case: AuditCase, products: Sequence[Sequence[float]]) -> Finding:
    """Compare the coefficients that the leader named with those of the contributions themselves."""
    shares = case.value.shares
    gram = square(len(shares), added(len(shares), products))
    verdicts = coefficients(case.rule, gram, [share.weight for share in shares])
    for share, verdict in zip(shares, verdicts, strict=True):
        if not math.isclose(share.counts, verdict.coefficient, rel_tol=1e-6, abs_tol=1e-9):
            reason = (
                f"{share.peer} was given the coefficient {share.counts:g}, its contribution deserves "
                f"{verdict.coefficient:g}: the leader made that up, or an owner told it wrong inner products"
            )
            return Finding(-1, case.leader, "wrong", reason)
    return Finding(-1, case.leader, "right")


class _Owner:
    """Who made one part, and is asked to show on what."""

    def __init__(self, system: System, case: AuditCase, part: int, peer: str) -> None:
        self.case = case
        self.part = part
        self.shares = case.value.shares if case.rule.measured else counted(case.value.shares)
        self._head = (case.run, case.value.round, part)
        self._ref = _aggregator_of(system, peer)
        self._room = trio.CapacityLimiter(TOGETHER)

    async def offers(self) -> list[msg.SignedOffer]:
        """Return the signed offers of the shares, in their order."""
        peers = tuple(share.peer for share in self.shares)
        shown = (await self._ask(msg.ShowPart(*self._head, peers))).offers
        if len(shown) != len(peers):
            raise _NotShownError("it does not show an offer for each contributor")
        where = (self.case.run, self.case.value.epoch, self.case.value.round)
        for peer, data in zip(peers, shown, strict=True):
            if fault := offer_fault(data, *where, peer) if data else "it has none":
                raise _NotShownError(f"of {peer} it shows no offer: {fault}")
        return [open_offer(data) for data in shown]

    async def chunks(self, index: int) -> list[memoryview]:
        """Return that chunk of every share, in their order."""
        found: dict[str, memoryview] = {}
        faults: list[str] = []

        async def one(peer: str) -> None:
            async with self._room:
                try:
                    found[peer] = (await self._ask(msg.ShowChunk(*self._head, peer, index))).data
                except _NotShownError as error:
                    faults.append(str(error))

        async with trio.open_nursery() as nursery:
            for share in self.shares:
                nursery.start_soon(one, share.peer)
        if faults:
            raise _NotShownError(faults[0])
        return [found[share.peer] for share in self.shares]

    async def _ask(self, question: Any) -> Any:
        try:
            return await self._ref.ask(question, timeout=ASK_S)
        except WorldError as error:
            raise _NotShownError(f"{type(error).__name__}: {error}".splitlines()[0]) from error


def _aggregator_of(system: System, peer: str) -> Ref[Any]:
    local = system.whereis(AGGREGATOR_PATH) if peer == system.peer else None
    return local if local is not None else system.ref(peer, AGGREGATOR_PATH, Aggregator)
