"""A node takes part in runs, one at a time: those that others tell of, and those submitted here.

`RunHost` takes the orders of this node's user and takes one run after the other; it keeps the training itself, which outlives
a failing actor. What is told of runs is in `notices.py`, one run's part here in `hosted.py`, and what makes a run that this
node was in go on when it is started again in `run_record.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from prime.actor import System
from prime.config import Config, Places
from prime.errors import NotFoundError, PrimeError, RefusedError, UnreachableError
from prime.node.contacts import keep_linked
from prime.node.finding import RunFinder
from prime.node.hosted import Folders, HostedRun
from prime.node.links import linked_peers
from prime.node.notices import Notices
from prime.node.run_files import run_folder
from prime.node.run_record import RunRecord, remove_working_files
from prime.node.training import Training, training_config
from prime.node.waiting import cancel_on
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.names import lineage
from prime.trainer.runs import board as runs
from prime.trainer.runs.acceptance import Acceptance
from prime.trainer.runs.members import contacts_of
from prime.trainer.runs.messages import RoundAudit, RunEnding, RunNotice, RunsKnown
from prime.trainer.swarm.transfer import Providers, nobody

if TYPE_CHECKING:
    from prime.dht.dht import Dht

KEEP_S: Final = 5.0
"""How often a node looks whether its run's members are still where its record says."""
RUNS: Final = "runs"


class RunHost:
    """What a node does about runs. `say` tells a person at its terminal; `stop` is set when the node shall end."""

    def __init__(
        self, system: System, config: Config, found: Places, say: Callable[[str], None], stop: trio.Event
    ) -> None:
        self._system = system
        self._config = config
        self._folder = found.state
        self._say = say
        self._stop = stop
        accepted = Acceptance(config.runs.accept, config.runs.accept_functions, config.runs.data)
        self._notices = Notices(system, config.node.name, accepted)
        self._record = RunRecord(system.peer, self._folder / RUNS, self._notices.complain)
        self._hosted: HostedRun | None = None
        self._serves = False
        self._providers: Providers = nobody

    @property
    def taking(self) -> str:
        """The full name of the run that this node takes part in, or an empty text."""
        return self._notices.taking

    @property
    def training(self) -> Training | None:
        """This node's part in the run that it takes part in now."""
        return self._hosted.training if self._hosted is not None else None

    # ------------------------------------------------------------------------------------------------- what is asked

    def known(self) -> RunsKnown:
        """Return the runs that this node knows."""
        folder = str((self._folder / RUNS).absolute())
        return attrs.evolve(self._notices.known(), folder=folder)  # type: ignore[misc]  # a @record is an attrs class

    def submit(self, name: str, settings: TrainingConfig) -> RunNotice:
        """Found a run. Raises `RefusedError`."""
        if not self._serves or self._stop.is_set():
            raise RefusedError("this node does not take part in runs now", hint="ask again, or submit to another node")
        return self._notices.submit(name, settings)

    def leave(self, name: str) -> str:
        """Leave a run, this node alone, once its round in hand is over. Raises `NotFoundError`, `UsageError`."""
        run, hosted = self._own(name)
        hosted.leave()
        return run

    async def end(self, name: str) -> RunEnding:
        """End a run for all, with the round that its members decide next; one that has not begun, at once.

        Raises as `leave`, and `RefusedError` at a node that others have not let in yet.
        """
        run, hosted = self._own(name)
        return RunEnding(run, called_off=await hosted.end())

    async def audit(self, name: str) -> RoundAudit:
        """Audit the last decided round of a run. Raises as `leave`, and `NotFoundError` where there is none to audit."""
        return await self._own(name)[1].audit()

    def recover(self, as_new: str) -> str:
        """Go on in the successor of the run that this node is in, founded here or joined `as_new`; return its name.

        Raises `NotFoundError` without a run, `RefusedError` where a majority is there, `UsageError` for another name.
        """
        if self._hosted is None:
            raise NotFoundError("this node takes part in no run", hint="`prime status` says what it does")
        return self._hosted.recover(as_new)

    def _own(self, name: str) -> tuple[str, HostedRun]:
        run = self._notices.find(name)
        if run != self._notices.taking or self._hosted is None:
            raise NotFoundError(
                f"this node does not take part in {run}",
                hint="`prime train status` says who does: it is for them to leave it or to end it",
            )
        return run, self._hosted

    def hear(self, sender: str, notice: RunNotice) -> None:
        """Take what another node tells."""
        self._notices.step(runs.Heard(sender, notice))

    def linked(self, peer: str) -> None:
        """Tell a peer that is new what is known here."""
        self._notices.step(runs.Linked(peer))

    # ------------------------------------------------------------------------------------------------- what is done

    def notice(self) -> RunNotice | None:
        """Return the run that others find this node in: that it is a member of, or founds and waits for members of."""
        run = self._notices.taking
        found = next((known for known in self._notices.known().runs if known.run == run), None)
        if found is None or self.training is None:
            return None
        me = self._system.peer
        own = next((member for member in found.members if member.peer == me), None)
        inside = own is not None and (own.standing == "member" or (own.standing == "joining" and found.founder == me))
        return found if inside else None

    async def serve(self, *, own: bool, contacts: Sequence[str], dht: Dht | None = None) -> None:
        """Take part in runs until the node shall stop: first in that of the configuration, if it has one (`own`).

        In a `dht` it says in which it is, and finds those of others. What keeps the node from its own run is raised, as `open_trainer` says; what keeps it from another's is told to
        the others.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._notices.serve)
            nursery.start_soon(keep_linked, self._system, self._wanted)
            nursery.start_soon(self._keep_members)
            if dht is not None:
                finder = RunFinder(self._system, dht, self)
                self._providers = finder.state_providers
                nursery.start_soon(finder.run)
            self._serves = True
            if own:
                await self._take_own(contacts)
            else:
                self._resume()
            while not self._stop.is_set():
                await self._take_next()
            nursery.cancel_scope.cancel()

    async def _take_own(self, contacts: Sequence[str]) -> None:
        settings, run = training_config(self._config), self._config.train.run
        notice = RunNotice(run, self._system.peer if not contacts else "", "", settings, ())
        self._notices.enter(notice)
        await self._host(notice, self._folder, contacts)
        self._notices.step(runs.Freed())

    async def _take_next(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on, self._stop, nursery.cancel_scope)
            notice = await self._notices.to_take()
            nursery.cancel_scope.cancel()
        if self._stop.is_set():
            return
        again = is_done = False
        try:
            self._say(f"takes part in the run {notice.run}")
            await self._host(notice, self._run_folder(notice.run), self._contacts(notice), self._record)
            is_done = self._is_done(self.taking)
        except PrimeError as error:
            again = isinstance(error, UnreachableError)
            self._say(f"cannot take part in {self.taking}: {error}")
            self._notices.stand(self.taking, "cannot", _first_line(error), again=again)
        self._record.close()
        # who could not be reached today may be there at the next start; a run that is done is, also for who stops now
        if is_done or not (again or self._stop.is_set()):
            is_noted = await self._record.end(attrs.evolve(notice, run=self.taking))  # type: ignore[misc]  # a @record is an attrs class
            if is_done and is_noted:  # else it would found the run anew, when it is started again without its journal
                await trio.to_thread.run_sync(remove_working_files, self._run_folder(self.taking))
        self._notices.step(runs.Freed())

    async def _host(
        self, notice: RunNotice, state: Path, contacts: Sequence[str], record: RunRecord | None = None
    ) -> None:
        folders = Folders(state, self._run_folder(notice.run))
        self._hosted = HostedRun(
            self._system, self._config, self._notices, notice, folders, self._say, record, self._providers
        )
        try:
            await self._hosted.train(contacts, self._stop)
        finally:
            self._hosted = None

    def _contacts(self, notice: RunNotice) -> tuple[str, ...]:
        """Return who may let this node in: nobody where it founds the run."""
        if notice.founder == self._system.peer and not lineage(notice.run)[1]:
            return ()
        others = [member for member in notice.members if member.peer != self._system.peer]
        return contacts_of(others, linked_peers(self._system))

    def _wanted(self) -> tuple[str, ...]:
        """Return the addresses that there should be a link to: those of the configuration, and of the run's members."""
        members = self._record.members(self._notices.others(self.taking)) if self.taking else ()
        return (*self._config.transport.join, *(address for member in members for address in member.addresses))

    # -------------------------------------------------------------------------------------------------- what is kept

    def _run_folder(self, run: str) -> Path:
        return run_folder(self._folder / RUNS, run)

    def _resume(self) -> None:
        """Go on in the run that this node was in when it was last stopped, if it was in one."""
        if notice := self._record.newest():
            known = self._notices.enter(notice)
            self._notices.take(attrs.evolve(known, members=notice.members))  # type: ignore[misc]  # a @record
        else:
            self._notices.step(runs.Freed())

    async def _keep_members(self) -> None:
        """Keep on the disk where the members of the run are now."""
        while True:
            await trio.sleep(KEEP_S)
            notice = next((each for each in self.known().runs if each.run == self._record.run), None)
            if notice is not None:
                await self._record.refresh(notice, self._notices.others(notice.run))

    def _is_done(self, run: str) -> bool:
        """Tell whether a run has come to its end here, so that nothing is needed any more of what a member keeps."""
        own = (member for member in self._notices.members(run) if member.peer == self._system.peer)
        return any(member.standing == "done" for member in own)


def _first_line(error: PrimeError) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
