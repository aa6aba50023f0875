"""What a register's proposer asks its electors. Tags 0x320 to 0x32F."""

from __future__ import annotations

from typing import Annotated, Literal

from prime.dht.key import SIZE_BYTES
from prime.dht.registers.proposal import CALL_BYTES_MAX, PROPOSAL_BYTES_MAX, STORE_BYTES
from prime.wire import Ask, Size, message, record

REGISTERS_PATH = "/dht/registers"

CallBytes = Annotated[bytes, Size(1, CALL_BYTES_MAX)]
ProposalBytes = Annotated[bytes, Size(1, PROPOSAL_BYTES_MAX)]


@record
class ElectorShown:
    """Where an elector stands with a register after the question, and which store it answers from.

    `promised` is the call that it promised last, `accepted` the proposal that it accepted last. `refused`: it promised a
    greater ballot. `unable`: it votes on this register in no case, and `why` says so.
    """

    outcome: Literal["shown", "promised", "accepted", "refused", "unable"]
    store: Annotated[bytes, Size(STORE_BYTES, STORE_BYTES)]
    promised: CallBytes | None = None
    accepted: ProposalBytes | None = None
    why: str = ""


@message(tag=0x320)
class LookAtRegister(Ask[ElectorShown]):
    """Show where you stand with the register of this key (`Register.key`); anybody may ask."""

    key: Annotated[bytes, Size(SIZE_BYTES, SIZE_BYTES)]


@message(tag=0x321)
class PrepareRegister(Ask[ElectorShown]):
    """Take no ballot below this call's any more (CASPaxos 2.1, "prepare"). `newest`: what the term is known by."""

    call: CallBytes
    newest: ProposalBytes | None


@message(tag=0x322)
class AcceptRegister(Ask[ElectorShown]):
    """Accept this proposal, whoever hands it on: its publisher signed it (CASPaxos 2.1, "accept")."""

    proposal: ProposalBytes
