"""The actor `/node/runs`: hears other nodes tell of runs, and takes this node's own user's orders about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prime.actor import Actor, Later, on
from prime.errors import PrimeError, RefusedError, UsageError
from prime.trainer.runs.messages import (
    AuditRun,
    EndRun,
    LeaveRun,
    ListRuns,
    RecoverRun,
    RunEnding,
    RunNotice,
    RunsKnown,
    ShareRun,
    SubmitRun,
)
from prime.transport.facts import LinkUp

if TYPE_CHECKING:
    from prime.node.hosting import RunHost


class RunsActor(Actor[ShareRun | SubmitRun | ListRuns | LeaveRun | EndRun | RecoverRun | AuditRun]):
    """At `/node/runs`: hears other nodes tell of runs, and answers this node's own user."""

    def __init__(self, host: RunHost) -> None:
        self._host = host
        self._unsubscribe: Callable[[], None] = lambda: None

    async def started(self) -> None:
        """Learn of links as they come."""
        self._unsubscribe = self.ctx.system.subscribe(self._observe)

    async def stopping(self) -> None:
        """Learn no more."""
        self._unsubscribe()

    @on(ShareRun)
    def share_run(self, m: ShareRun) -> None:
        """Take what another node tells."""
        if self.ctx.sender is not None:
            self._host.hear(self.ctx.sender, m.notice)

    @on(SubmitRun)
    def submit_run(self, m: SubmitRun) -> RunNotice:
        """Found a run here."""
        self._check_sender()
        with _told():
            return self._host.submit(m.name, m.settings)

    @on(ListRuns)
    def list_runs(self, _: ListRuns) -> RunsKnown:
        """Answer with the runs known."""
        self._check_sender()
        return self._host.known()

    @on(LeaveRun)
    def leave_run(self, m: LeaveRun) -> str:
        """Leave a run, this node alone."""
        self._check_sender()
        with _told():
            return self._host.leave(m.run)

    @on(EndRun)
    async def end_run(self, m: EndRun) -> RunEnding:
        """End a run for all."""
        self._check_sender()
        with _told():
            return await self._host.end(m.run)

    @on(RecoverRun)
    def recover_run(self, m: RecoverRun) -> str:
        """Go on in the run's successor."""
        self._check_sender()
        with _told():
            return self._host.recover(m.as_new)

    @on(AuditRun)
    def audit_run(self, m: AuditRun) -> Later:
        """Audit the last decided round, beside the actor: owners may take their time."""
        self._check_sender()
        later = self.ctx.defer()
        self.ctx.start_soon(self._audit, m.run, later)
        return later

    async def _audit(self, run: str, later: Later) -> None:
        try:
            with _told():
                later.reply(await self._host.audit(run))
        except PrimeError as error:
            later.fail(error)

    def _observe(self, fact: Any) -> None:
        if isinstance(fact, LinkUp):
            self._host.linked(fact.peer)

    def _check_sender(self) -> None:
        if self.ctx.sender not in (None, self.ctx.system.peer):
            raise RefusedError(
                "a node takes such orders only on its own machine",
                hint="run the command there, as the user that runs the node",
            )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Make of an order that cannot be right a refusal: it is told to the user who gave it, and no fault of this actor."""
    try:
        yield
    except UsageError as error:
        raise RefusedError(str(error), hint=error.hint) from error
