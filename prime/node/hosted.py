"""One run that this node takes part in, from its begin here to its end: trained, followed, reported.

The training itself is `open_trainer`'s. Here is what surrounds it: when it ends, what others are told of it meanwhile, what its
folder keeps of it, and that it goes on in the run's successor where the user says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from prime.actor import System
from prime.config import Config
from prime.errors import NotFoundError, RefusedError, UnreachableError
from prime.node.links import linked_peers
from prime.node.notices import Notices
from prime.node.run_files import RunLog, write_run
from prime.node.run_record import RunRecord
from prime.node.succession import FoundSuccessor, JoinSuccessor, Succession, check_successor, succeed
from prime.node.training import Training, open_trainer, timing_of
from prime.node.waiting import either
from prime.trainer.round.messages import ROUND_TAGS, STATE_TAGS
from prime.trainer.runs.acceptance import at_home
from prime.trainer.runs.board import Succeeded
from prime.trainer.runs.members import is_needed, is_over, members_inside
from prime.trainer.runs.messages import BUILDS, RoundAudit, RunNotice, Standing
from prime.trainer.swarm.report import RunFigures, swarm_report
from prime.trainer.swarm.transfer import Providers, nobody

LOOK_S: Final = 0.2
STALLED_S: Final = 2.0
"""How long a node that leaves waits for a round that stalled."""
LINGER_S: Final = 30.0
"""How long a node that has come to a run's end stays, to serve those that have not."""


@attrs.frozen
class Folders:
    """Where a run's journal and states are, and where its facts, its report and its model go."""

    state: Path
    report: Path


class HostedRun:
    """This node's part in a run. `say` tells a person at its terminal.

    Of the run of its configuration a node keeps no `record`, and does not let go when it is over.
    """

    def __init__(
        self,
        system: System,
        config: Config,
        notices: Notices,
        notice: RunNotice,
        folders: Folders,
        say: Callable[[str], None],
        record: RunRecord | None,
        providers: Providers = nobody,
    ) -> None:
        self._system = system
        self._config = config
        self._notices = notices
        self._asked = notice.run
        self._notice = notice
        self._folders = folders
        self._say = say
        self._record = record
        self._providers = providers
        self._over = trio.Event()
        self._called_off = False
        self._why_left = ""
        self._succession: Succession | None = None
        self.training: Training | None = None
        """The training, while it lasts."""

    # ------------------------------------------------------------------------------------------------- what is asked

    def leave(self) -> None:
        """Leave the run, this node alone, once its round in hand is over."""
        self._over.set()

    async def end(self) -> bool:
        """End the run for all: with the round that its members decide next, or at once and True where it has none yet.

        Raises `RefusedError` at a node that the others have not let in yet.
        """
        if self.training is not None and self.training.progress.epoch > 0:
            await self.training.end()
            return False
        if inside := members_inside(self._notices.others(self._notice.run)):
            raise RefusedError(
                f"{self._notice.run} goes on elsewhere, and this node is not in it yet",
                hint=f"ask a node that is in it, such as {inside[0].name}; --leave gives up joining",
            )
        self._called_off = True
        self._over.set()
        return True

    async def audit(self) -> RoundAudit:
        """Audit the run's last decided round. Raises `NotFoundError` where there is none to audit."""
        return await self._begun().audit()

    def recover(self, as_new: str) -> str:
        """Go on in the run's successor, founded here or joined `as_new`; return its name.

        Raises `NotFoundError` before the training begins, `RefusedError` where a majority is there, `UsageError` for
        another name.
        """
        training = self._begun()
        if as_new:
            check_successor(training.run, as_new)
            self._succession = JoinSuccessor(as_new)
        else:
            self._succession = training.succession()
        self._over.set()
        return self._succession.run

    def _begun(self) -> Training:
        if self.training is None:
            raise NotFoundError(
                f"{self._notice.run} has not begun here", hint="`prime train status` says how far it is"
            )
        return self.training

    # ------------------------------------------------------------------------------------------------- what is done

    async def train(self, contacts: Sequence[str], stop: trio.Event) -> None:
        """Train until the run is over, this node leaves it, or it shall `stop`. Raises as `open_trainer` and the record do.

        When this node is told to go on in the run's successor, the training ends at once and begins again there.
        """
        if self._record is not None:
            await self._record.open(self._notice)
        await self._train_once(contacts, stop)
        while self._succession is not None and not stop.is_set():
            order, self._succession = self._succession, None
            self._over, self._called_off, self._why_left = trio.Event(), False, ""
            await succeed(self._folders.state, order)
            self._say(f"goes on in the run {order.run}")
            others = () if isinstance(order, FoundSuccessor) else (*linked_peers(self._system), *contacts)
            await self._train_once(others, stop)

    async def _train_once(self, contacts: Sequence[str], stop: trio.Event) -> None:
        settings = self._notice.settings
        rounds = attrs.evolve(self._config.train, round_deadline_s=settings.round_deadline_s)
        taking_part = open_trainer(
            self._system,
            at_home(settings, self._config.runs.data),
            run=self._asked,
            contacts=contacts,
            folder=self._folders.state,
            timing=timing_of(attrs.evolve(self._config, train=rounds)),
            client=self._config.runs.client,
            founds=self._record is None or self._notice.founder == self._system.peer,
            providers=self._providers,
        )
        try:
            with self._logged():
                async with taking_part as self.training:
                    await self._settle(self.training.run)
                    await self._until_over(self.training, stop)
        except UnreachableError:
            if not self._over.is_set() or self._succession is not None:
                raise
            self._stand("done" if self._called_off else "left", self._why_left, 0)  # told so while it looked for them
        finally:
            self.training = None

    async def _settle(self, run: str) -> None:
        """Take the name of the run that the node's folder is of: where that is a successor, others are told."""
        if run == self._notices.taking:
            self._notice = attrs.evolve(self._notice, run=run)  # type: ignore[misc]  # a @record is an attrs class
            return
        self._notices.step(Succeeded(self._notices.taking, run))
        self._notice = attrs.evolve(self._notice, run=run, members=())  # type: ignore[misc]  # as above
        if self._record is not None:
            await self._record.succeed(self._notice)

    async def _until_over(self, training: Training, stop: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, training)
            await either(self._over, stop)
            nursery.cancel_scope.cancel()
        if training.progress.phase == "done" or (self._over.is_set() and self._succession is not None):
            return
        # below a majority nobody can let it out, and there is no round to finish
        await training.leave(STALLED_S if training.progress.stalled else self._notice.settings.round_deadline_s)
        if training.progress.committed:
            await self._report(training, "left")
        self._stand("done" if self._called_off else "left", self._why_left, training.round)

    async def _follow(self, training: Training) -> None:
        """Say where this node stands, and let go of a run that is over once nobody needs this node any more."""
        run = self._notice.run
        while training.progress.phase != "done":
            if training.progress.phase == "joining" and is_over(self._notices.others(run)):
                self._why_left = "the run was over before this node was let in"
                self._over.set()
                return
            self._stand(*_standing(training), training.round)
            with trio.move_on_after(LOOK_S):
                await training.done()
        await self._report(training, "done")
        self._stand("done", "", training.round)
        if self._record is None:
            return
        with trio.move_on_after(LINGER_S):
            while is_needed(self._notices.others(run)):  # noqa: ASYNC110 - many may end it, and for seconds at most
                await trio.sleep(LOOK_S)
        self._over.set()

    def _stand(self, standing: Standing, why: str, round_: int) -> None:
        self._notices.stand(self._notice.run, standing, why, round_=round_)

    # -------------------------------------------------------------------------------------------------- what is kept

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Keep the facts of the run in its folder."""
        log = RunLog(self._folders.report)
        unsubscribe = self._system.subscribe(log)
        try:
            yield
        finally:
            unsubscribe()
            log.close()

    async def _report(self, training: Training, outcome: str) -> None:
        figures = RunFigures(
            run=self._notice.run,
            founder=self._notice.founder,
            outcome=outcome,
            elapsed_s=training.elapsed_s,
            spent_s=training.spent_s(),
            sent_bytes=training.sent_bytes(ROUND_TAGS),
            float32_bytes=training.float32_bytes,
            state_bytes=training.sent_bytes(STATE_TAGS),
            names={member.peer: member.name for member in self._notices.members(self._notice.run)},
        )
        report = swarm_report(training.progress, self._notice.settings, figures)
        await trio.to_thread.run_sync(write_run, report, training, self._folders.report)


def _standing(training: Training) -> tuple[Standing, str]:
    match training.progress.phase:
        case "starting":
            return "joining", BUILDS
        case "joining":
            return "joining", "waits for more nodes, or to be let in"
        case "fetching":
            return "member", "fetches the present state"
        case _:
            return "member", training.progress.stalled
