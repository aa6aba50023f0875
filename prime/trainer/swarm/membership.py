"""How a node comes to be a member of a run: it founds it, joins it, goes on after a restart, or founds its successor (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from prime.errors import RefusedError
from prime.trainer.round import messages as msg
from prime.trainer.round.journal import refounded
from prime.trainer.round.round import RoundCore
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member


@attrs.frozen
class SwarmPlan:
    """How this node takes part in a run: as founder, or through contacts."""

    run: str
    member: Member
    found: bool
    contacts: tuple[str, ...]
    nodes_min: int
    timing: Timing
    terms: Terms = DEFAULT_TERMS

    def core(self, records: Sequence[msg.Record]) -> RoundCore:
        """Return the core that goes on from a journal, or begins where that is empty."""
        who = (self.member, self.run, self.timing)
        if records:
            return RoundCore.recover(*who, records, nodes_min=self.nodes_min, founder=self.found, terms=self.terms)
        if self.found:
            return RoundCore.found(*who, nodes_min=self.nodes_min, terms=self.terms)
        return RoundCore.join(*who, terms=self.terms)


def succession(core: RoundCore | None, records: Sequence[msg.Record]) -> tuple[str, list[msg.Record]]:
    """Return the successor of the run, and the journal of its founder: this node alone, with the state that it holds.

    Raises `RefusedError` where a majority is there, or this node has nothing to go on from.
    """
    if core is None or core.seat is None or core.own_base is None:
        raise RefusedError(
            "this node is in no view of the run, or holds no state of it",
            hint="run the command on a member that trained: `prime status` shows phase and members",
        )
    if not core.stalled:
        raise RefusedError(
            f"run {core.run!r} is not below a majority: there is nothing to recover from",
            hint="wait until `prime status` says that it cannot commit; a node that died is left out by itself",
        )
    return refounded(records, core.me, core.own_base[0])
