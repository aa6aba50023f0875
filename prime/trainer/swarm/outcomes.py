"""What the trainer hears of a round, and what the outcome does to what this node contributed to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prime.errors import WorldError
from prime.trainer.round import commands as cmd
from prime.trainer.round.view import Value
from prime.trainer.swarm import plans
from prime.trainer.swarm.contribution import Contributions
from prime.trainer.swarm.gather import gather, later
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.stock import Stock


class Outcomes:
    """The outcomes at one node. `report` takes each for the trainer, in their order."""

    def __init__(
        self, report: Callable[[plans.Outcome], None], numbers: Numbers[Any], contributions: Contributions[Any]
    ) -> None:
        self._report = report
        self._numbers = numbers
        self._contributions = contributions
        self._stall: plans.RoundStalled | None = None
        self._refusal: plans.RoundStalled | None = None

    def tell(self, command: cmd.EnterView | cmd.Outside | cmd.Ended | cmd.Stalled | cmd.Resumed) -> None:
        """Tell the trainer how this node stands in the run."""
        match command:
            case cmd.EnterView(round_, view, state_round, chosen):
                self._report(plans.ViewEntered(round_, view, state_round, chosen))
            case cmd.Outside(round_, reason, rejoining):
                self._report(plans.LeftView(round_, reason, rejoining))
            case cmd.Ended(round_):
                self._report(plans.RunEnded(round_))
            case cmd.Stalled(round_, reason, hint):
                self._stall = plans.RoundStalled(round_, reason, hint)
                self._report(self._stall)
            case cmd.Resumed(round_):
                self._stall = None
                self._report(plans.RoundResumed(round_))

    async def settle(
        self, command: cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp, rounds: Mapping[int, Stock]
    ) -> None:
        """Tell the trainer the outcome of a round, and settle what this node contributed to it."""
        if isinstance(command, cmd.Apply):  # first, as it need not wait for what the contribution's bytes left out
            aggregate = await gather(rounds[command.value.round], command.value, self._numbers)
            self._report(plans.RoundCommitted(command.value, aggregate, command.included))
        await self._contributions.settle(command)
        match command:
            case cmd.Keep(value):
                self._report(plans.RoundAborted(value))
            case cmd.CatchUp(round_, view, value, _, reason, base):
                if value is not None:
                    self._keep_commit(value, rounds.get(value.round))
                self._report(plans.StateMissed(round_, view, reason, base))

    def _keep_commit(self, value: Value, stock: Stock | None) -> None:
        """Hand the bytes of a decision on to the trainer, which has to fetch the state before it: it may bring that forward."""
        join = later(stock, value, self._numbers) if stock is not None else None
        if join is not None:
            self._report(plans.CommitKept(value, join))

    @property
    def is_refused(self) -> bool:
        """Whether the round waits for this node's disk."""
        return self._refusal is not None

    def note_refusal(self, round_: int, error: WorldError) -> None:
        """Tell the trainer, once, that the disk takes no record of the round."""
        if self._refusal is None:
            reason = f"round {round_} waits for this node's disk, and the others go on without it: {error}"
            self._refusal = plans.RoundStalled(round_, reason, error.hint)
            self._report(self._refusal)

    def note_accepted(self) -> None:
        """Tell the trainer how the round stands without that, if the disk had refused a record before this one."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            self._report(self._stall if self._stall is not None else plans.RoundResumed(refusal.round))
