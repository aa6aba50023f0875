"""What a member shows of a round that was decided, so that an owner's reduction can be done again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from prime.errors import NotFoundError, RefusedError
from prime.trainer.robust.rules import Rule
from prime.trainer.round import messages as msg
from prime.trainer.round.round import RoundCore
from prime.trainer.round.view import Value, View
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.stock import Stock


@attrs.frozen(kw_only=True)
class AuditCase:
    """A decided round, as one of its members knows it: `owners[i]` made part i, `chunks[i]` are the cuts of its chunks."""

    run: str
    value: Value
    view: View
    owners: tuple[str, ...]
    leader: str
    rule: Rule
    chunks: tuple[tuple[slice, ...], ...]
    numbers: Numbers[Any]


def case_of(core: RoundCore, rounds: Mapping[int, Stock], rule: Rule, numbers: Numbers[Any]) -> AuditCase | None:
    """Return what an audit of the last decided round needs; `None` where it was aborted, or is not known here."""
    seat = core.previous
    if seat is None or seat.round not in core.decisions or seat.round not in rounds:
        return None
    value, deciding = core.decisions[seat.round], seat.proposal
    if value.aborted:
        return None
    return AuditCase(
        run=core.run,
        value=value,
        view=seat.view,
        owners=deciding.owners if deciding is not None and not deciding.holders else seat.owners,
        leader=deciding.sender if deciding is not None else "",
        rule=rule,
        chunks=rounds[seat.round].chunks,
        numbers=numbers,
    )


def shown_to(asker: str | None, stock: Stock | None, question: msg.ShowPart | msg.ShowChunk) -> Stock:
    """Return the bytes of the round that is asked for. `asker` is `None` for this node itself.

    Raises `NotFoundError` where the round is not kept, `RefusedError` where a stranger asks.
    """
    if stock is None or question.run != stock.view.run:
        raise NotFoundError(
            f"round {question.round} of {question.run} is not kept here", hint="the last decided round is"
        )
    if asker is not None and stock.view.find(asker) is None:
        raise RefusedError("what members contributed is shown to members", hint="ask from a member of the round")
    return stock


def chunk_shown(stock: Stock, question: msg.ShowChunk) -> memoryview:
    """Return a chunk of a contribution that is held here. Raises `NotFoundError`."""
    found = stock.contributions.get((question.part, question.contributor))
    data = None if found is None or not found.is_whole else found.found.get(question.index)
    if data is None:
        where = f"{question.contributor}'s part {question.part} of round {question.round}"
        raise NotFoundError(
            f"no chunk {question.index} of {where} is held here",
            hint="ask the part's owner, before the next round is decided",
        )
    return data
