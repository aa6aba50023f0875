"""The actor in each process of a gang: it gives signs of life whatever torch does, and hears what the gang wants.

The event loop keeps the process's main thread, torch has one beside it (`training.py`). Torch is imported there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from prime.actor import Actor, on
from prime.errors import PrimeError
from prime.trainer.gang.brake import Brake
from prime.trainer.gang.messages import (
    GetNews,
    Halt,
    HaltAfter,
    HaltSettled,
    Item,
    LeaveRank,
    News,
    Setup,
    TakeRank,
)
from prime.trainer.gang.outbox import Outbox
from prime.trainer.gang.trouble import trouble_of
from prime.trainer.job import Job
from prime.trainer.worker import TorchThread
from prime.wire import message

if TYPE_CHECKING:
    from prime.actor.slots import Later
    from prime.trainer.gang.training import Training

Order = GetNews | TakeRank | LeaveRank | HaltAfter | HaltSettled


@message
class _Beat:
    """It is time for a sign of life."""


class GangWorker(Actor[Order | _Beat]):
    """One member. What torch's thread does is in hand until it comes back; only a kill interrupts it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._asker: Later | None = None
        self._rank: TakeRank | None = None
        self._brake = Brake(0)
        self._training: Training | None = None
        self._is_busy = False
        self._leaves = False

    async def started(self) -> None:
        """Begin to import torch and to build the model; what comes of it is news."""
        self._torch = TorchThread()
        token = trio.lowlevel.current_trio_token()
        self._outbox = Outbox(lambda: token.run_sync_soon(self._answer, idempotent=True))
        self.ctx.every(self._setup.pulse_s, _Beat())
        self._occupy(self._prepare)

    # ------------------------------------------------------------------------------------------------ news

    @on(GetNews)
    def hear_ask(self, _: GetNews) -> Any:
        """Keep the asker until there is something to say."""
        self._asker = self.ctx.defer()
        self._answer()

    @on(_Beat)
    def beat(self, _: _Beat) -> None:
        """Give a sign of life."""
        self._answer(even_empty=True)

    def _answer(self, *, even_empty: bool = False) -> None:
        if self._asker is None:
            return
        items = self._outbox.take()
        if items or even_empty:
            asker, self._asker = self._asker, None
            asker.reply(self._news(items))

    def _news(self, items: tuple[Item, ...]) -> News:
        training, rank = self._training, self._rank
        if rank is None or training is None:
            return News(-1, 0, 0, os.getpid(), items)
        return News(rank.generation, training.step, training.work, os.getpid(), items)

    def _say(self, item: Item) -> None:
        self._outbox.put_now(item)
        self._answer()

    # ------------------------------------------------------------------------------------------------ orders

    @on(TakeRank)
    def take_rank(self, rank: TakeRank) -> None:
        """Train as this rank."""
        training = self._training
        assert training is not None  # noqa: S101 - who has said that it is ready has one
        self._rank, self._leaves = rank, False
        brake = self._brake = Brake(max(rank.step, 0))
        self._occupy(lambda: training.run(rank, brake))

    @on(LeaveRank)
    def leave_rank(self, order: LeaveRank) -> None:
        """Give the rank back, now or when torch's thread comes back from what it does."""
        if self._has_rank_of(order.generation):
            self._leaves = True
            self._brake.release()
            self._leave_if_idle()

    @on(HaltAfter)
    def halt_after(self, order: HaltAfter) -> None:
        """Agree on the last step, or say that a later one was begun."""
        if self._has_rank_of(order.generation) and self._training is not None:
            agreed = self._brake.halt_after(order.step)
            self._say(Item(order.generation, self._training.step, halt=Halt(order.step, agreed)))

    @on(HaltSettled)
    def settle(self, order: HaltSettled) -> None:
        """Let the agreed step be the last."""
        if self._has_rank_of(order.generation):
            self._brake.settle(order.step)

    def _has_rank_of(self, generation: int) -> bool:
        return self._rank is not None and self._rank.generation == generation

    # ------------------------------------------------------------------------------------------------ torch's thread

    def _occupy(self, work: Callable[[], None]) -> None:
        self._is_busy = True
        self._torch.do(work, self._come_back)

    def _come_back(self, _: object, error: PrimeError | None) -> None:
        """Torch's thread has ended its work, and has said itself what came of it, unless that failed."""
        self._is_busy = False
        if error is not None:
            step = 0 if self._training is None else self._training.step
            self._say(Item(-1 if self._rank is None else self._rank.generation, step, trouble=trouble_of(error)))
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._leaves and not self._is_busy:
            self._rank, self._leaves = None, False
            self._occupy(self._prepare)

    def _prepare(self) -> None:
        """Import torch and build the model, or build it again: what a spare has done already."""
        try:
            if self._training is None:
                from prime.trainer.gang.training import Training

                setup = self._setup
                job = Job.from_json(setup.job)
                self._training = Training(job, Path(setup.folder), setup.world, self._outbox.put)
            self._training.prepare()
        except BaseException as error:  # noqa: BLE001 - the border to the user's code: whatever it raises is news
            self._outbox.put(Item(-1, 0, trouble=trouble_of(error)))
        else:
            self._outbox.put(Item(-1, 0, ready=True))
