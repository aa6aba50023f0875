"""A node takes part in runs, one at a time: those that others tell of, and those submitted here.

`RunHost` carries out what the board decides, and keeps the training itself, which outlives a failing actor. A run that
this node was in goes on when the node is started again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from prime.actor import System
from prime.config import Config, Places
from prime.errors import (
    ConfigError,
    LocalProtocolError,
    NotFoundError,
    PrimeError,
    RefusedError,
    UnreachableError,
    WorldError,
)
from prime.node.contacts import keep_linked
from prime.node.ending import WISH
from prime.node.links import links_of
from prime.node.run_files import RunLog, run_folder, write_run
from prime.node.runs import RunsActor
from prime.node.succession import JOURNAL, FoundSuccessor, JoinSuccessor, Succession, check_successor, succeed
from prime.node.training import Training, open_trainer, timing_of, training_config
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.messages import ROUND_TAGS, STATE_TAGS
from prime.trainer.round.names import lineage
from prime.trainer.runs import board as runs
from prime.trainer.runs.acceptance import Acceptance
from prime.trainer.runs.messages import (
    BUILDS,
    RUNS_PATH,
    RoundAudit,
    RunEnding,
    RunMember,
    RunNotice,
    RunsKnown,
    ShareRun,
    Standing,
)
from prime.trainer.swarm.report import RunFigures, swarm_report
from prime.trainer.swarm.saved import STATES_FOLDER

KEEP_S: Final = 5.0
"""How often a node looks whether its run's members are still where its record says."""
BEAT_S: Final = 2.0
"""How often a node says again where it stands."""
LOOK_S: Final = 0.2
SEND_S: Final = 5.0
FANOUT_MAX: Final = 32
"""Peers that are told of a run at once."""
LINGER_S: Final = 30.0
"""How long a node that has come to a run's end stays, to serve those that have not."""
RECORD: Final = "run.json"
RUNS: Final = "runs"


@attrs.frozen
class RunComplaint:
    """What an operator should read about runs."""

    text: str


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
        accepted = Acceptance(config.runs.accept, config.runs.accept_functions)
        self._board = runs.Board(system.peer, config.node.name, accepted, _stamp_ms())
        self._outbox: dict[str, dict[str, RunNotice]] = {}
        self._kept: dict[str, RunMember] = {}
        self._kept_run = ""
        self._disk = trio.Lock()
        self._turn = 0
        self._nursery: trio.Nursery | None = None
        self._next: RunNotice | None = None
        self._news = trio.Event()
        self._leave = trio.Event()
        self._called_off = False
        self._why_left = ""
        self._succession: Succession | None = None
        self.training: Training | None = None
        """This node's part in the run that it takes part in now."""

    @property
    def taking(self) -> str:
        """The full name of the run that this node takes part in, or an empty text."""
        return self._board.taking

    # ------------------------------------------------------------------------------------------------- what is asked

    def known(self) -> RunsKnown:
        """Return the runs that this node knows."""
        known = self._board.known(trio.current_time())
        folder = str((self._folder / RUNS).absolute())
        return attrs.evolve(known, folder=folder)  # type: ignore[misc]  # a @record is an attrs class

    def submit(self, name: str, settings: TrainingConfig) -> RunNotice:
        """Found a run. Raises `RefusedError`."""
        if self._nursery is None or self._stop.is_set():
            raise RefusedError("this node does not take part in runs now", hint="ask again, or submit to another node")
        notice = self._board.submit(name, settings, secrets.token_hex(8), trio.current_time())
        if fault := runs.notice_fault(notice):
            raise RefusedError(f"a run called {name!r} cannot be: {fault}", hint="letters, digits, - and _; 64 at most")
        self._go(notice)
        return notice

    def leave(self, name: str) -> str:
        """Leave a run, this node alone, once its round in hand is over. Raises `NotFoundError`, `UsageError`."""
        run = self._own(name)
        self._leave.set()
        return run

    async def end(self, name: str) -> RunEnding:
        """End a run for all, with the round that its members decide next; one that has not begun, at once.

        Raises as `leave`, and `RefusedError` at a node that others have not let in yet.
        """
        run = self._own(name)
        training = self.training
        if training is not None and training.progress.epoch > 0:
            await training.end()
            return RunEnding(run, called_off=False)
        members = [one for one in self._others(run) if one.standing == "member" and one.age_s < runs.STALE_S]
        if members:
            raise RefusedError(
                f"{run} goes on elsewhere, and this node is not in it yet",
                hint=f"ask a node that is in it, such as {members[0].name}; --leave gives up joining",
            )
        self._called_off = True
        self._leave.set()
        return RunEnding(run, called_off=True)

    async def audit(self, name: str) -> RoundAudit:
        """Audit the last decided round of a run. Raises as `leave`, and `NotFoundError` where there is none to audit."""
        run = self._own(name)
        if self.training is None:
            raise NotFoundError(f"{run} has not begun here", hint="`prime train status` says how far it is")
        return await self.training.audit()

    def _own(self, name: str) -> str:
        run = self._board.find(name)
        if run != self._board.taking:
            raise NotFoundError(
                f"this node does not take part in {run}",
                hint="`prime train status` says who does: it is for them to leave it or to end it",
            )
        return run

    def recover(self, as_new: str) -> str:
        """Go on in the successor of the run that this node is in, founded here or joined `as_new`; return its name.

        Raises `NotFoundError` without a run, `RefusedError` where a majority is there, `UsageError` for another name.
        """
        training = self.training
        if training is None:
            raise NotFoundError("this node takes part in no run", hint="`prime status` says what it does")
        if as_new:
            check_successor(training.run, as_new)
            self._succession = JoinSuccessor(as_new)
        else:
            self._succession = training.succession()
        self._leave.set()
        return self._succession.run

    def hear(self, sender: str, notice: RunNotice) -> None:
        """Take what another node tells."""
        self._step(runs.Heard(sender, notice))

    def linked(self, peer: str) -> None:
        """Tell a peer that is new what is known here."""
        self._step(runs.Linked(peer))

    # ------------------------------------------------------------------------------------------------- what is done

    async def serve(self, *, own: bool, contacts: Sequence[str]) -> None:
        """Take part in runs until the node shall stop: first in that of the configuration, if it has one (`own`).

        What keeps the node from its own run is raised, as `open_trainer` says; what keeps it from another's is told to
        the others.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._beat)
            nursery.start_soon(keep_linked, self._system, self._wanted)
            nursery.start_soon(self._keep_members)
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
        self._board.enter(notice, trio.current_time())
        await self._train(notice, contacts, self._folder, stay=True)
        self._step(runs.Freed())

    async def _take_next(self) -> None:
        while self._next is None and not self._stop.is_set():
            self._news = trio.Event()
            await _either(self._news, self._stop)
        notice, self._next = self._next, None
        if notice is None:
            return
        try:
            contacts = self._contacts(notice)
            self._say(f"takes part in the run {notice.run}")
            self._kept, self._kept_run = {member.peer: member for member in notice.members}, notice.run
            await self._keep_record(notice, over=False)
            await self._train(notice, contacts, self._run_folder(notice.run), stay=False)
            await self._tidy(self._board.taking)
        except PrimeError as error:
            again = isinstance(error, UnreachableError)
            self._say(f"cannot take part in {self._board.taking}: {error}")
            self._stand(self._board.taking, "cannot", _first_line(error), again=again)
        self._kept_run = ""
        if not self._stop.is_set():
            await self._try_record(attrs.evolve(notice, run=self._board.taking), over=True)  # type: ignore[misc]  # a @record
        self._step(runs.Freed())

    async def _train(self, notice: RunNotice, contacts: Sequence[str], folder: Path, *, stay: bool) -> None:
        """Train until the run is over, this node leaves it or shall stop; with `stay` its end ends nothing.

        When this node is told to go on in the run's successor, the training ends at once and begins again there.
        """
        await self._train_once(notice, contacts, folder, stay=stay)
        while self._succession is not None and not self._stop.is_set():
            order, self._succession = self._succession, None
            await succeed(folder, order)
            self._say(f"goes on in the run {order.run}")
            others = () if isinstance(order, FoundSuccessor) else (*_linked(self._system), *contacts)
            await self._train_once(notice, others, folder, stay=stay)

    async def _train_once(self, notice: RunNotice, contacts: Sequence[str], folder: Path, *, stay: bool) -> None:
        self._leave, self._called_off, self._why_left = trio.Event(), False, ""
        rounds = attrs.evolve(self._config.train, round_deadline_s=notice.settings.round_deadline_s)
        taking_part = open_trainer(
            self._system,
            notice.settings,
            run=notice.run,
            contacts=contacts,
            folder=folder,
            timing=timing_of(attrs.evolve(self._config, train=rounds)),
            client=self._config.runs.client,
        )
        try:
            with self._recorded(notice):
                async with taking_part as self.training:
                    await self._until_over(await self._settled(notice, self.training.run), self.training, stay=stay)
        finally:
            self.training = None

    async def _settled(self, notice: RunNotice, run: str) -> RunNotice:
        """Return the notice of the run that the node's folder is of: of a successor the others are told, too."""
        if run == self._board.taking:
            return attrs.evolve(notice, run=run)  # type: ignore[misc]  # a @record is an attrs class
        self._step(runs.Succeeded(self._board.taking, run))
        succeeding: RunNotice = attrs.evolve(notice, run=run, members=())  # type: ignore[misc]  # as above
        if self._kept_run:
            self._kept, self._kept_run = {}, run
            await self._try_record(succeeding, over=False)
        return succeeding

    async def _until_over(self, notice: RunNotice, training: Training, *, stay: bool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, notice, training, stay)
            await _either(self._leave, self._stop)
            nursery.cancel_scope.cancel()
        if training.progress.phase == "done" or (self._leave.is_set() and self._succession is not None):
            return
        await training.leave(notice.settings.round_deadline_s)
        if training.progress.committed:
            await self._report(notice, training, "left")
        self._stand(notice.run, "done" if self._called_off else "left", self._why_left, round_=training.round)

    async def _follow(self, notice: RunNotice, training: Training, stay: bool) -> None:  # noqa: FBT001 - passed on by the nursery
        """Say where this node stands, and let go of a run that is over once nobody needs this node any more."""
        run = notice.run
        while training.progress.phase != "done":
            if training.progress.phase == "joining" and self._is_over(run):
                self._why_left = "the run was over before this node was let in"
                self._leave.set()
                return
            standing, why = _standing(training)
            self._stand(run, standing, why, round_=training.round)
            with trio.move_on_after(LOOK_S):
                await training.done()
        await self._report(notice, training, "done")
        self._stand(run, "done", "", round_=training.round)
        if stay:
            return
        with trio.move_on_after(LINGER_S):
            while self._needed(run):  # noqa: ASYNC110 - many may end it, and for seconds at most
                await trio.sleep(LOOK_S)
        self._leave.set()

    @contextlib.contextmanager
    def _recorded(self, notice: RunNotice) -> Iterator[None]:
        """Keep the facts of a run in its folder."""
        log = RunLog(self._run_folder(notice.run))
        unsubscribe = self._system.subscribe(log)
        try:
            yield
        finally:
            unsubscribe()
            log.close()

    async def _report(self, notice: RunNotice, training: Training, outcome: str) -> None:
        figures = RunFigures(
            run=notice.run,
            founder=notice.founder,
            outcome=outcome,
            elapsed_s=training.elapsed_s,
            spent_s=training.spent_s(),
            sent_bytes=training.sent_bytes(ROUND_TAGS),
            float32_bytes=training.float32_bytes,
            state_bytes=training.sent_bytes(STATE_TAGS),
            names={member.peer: member.name for member in self._members(notice.run)},
        )
        report = swarm_report(training.progress, notice.settings, figures)
        await trio.to_thread.run_sync(write_run, report, training, self._run_folder(notice.run))

    def _is_over(self, run: str) -> bool:
        """Tell whether a run has come to its end at others, and nobody is known to be in it still."""
        others = self._others(run)
        lives = any(member.standing == "member" and member.age_s < runs.STALE_S for member in others)
        return not lives and any(member.standing == "done" for member in others)

    def _others(self, run: str) -> list[RunMember]:
        return [member for member in self._members(run) if member.peer != self._system.peer]

    def _members(self, run: str) -> tuple[RunMember, ...]:
        return next((known.members for known in self.known().runs if known.run == run), ())

    def _needed(self, run: str) -> bool:
        """Tell whether a member that lives has not come to the run's end yet."""
        return any(m.standing in runs.ACTIVE and m.age_s < runs.STALE_S for m in self._others(run))

    def _contacts(self, notice: RunNotice) -> tuple[str, ...]:
        """Return who may let this node in: nobody where it founds the run."""
        if notice.founder == self._system.peer and not lineage(notice.run)[1]:
            return ()
        others = [member for member in notice.members if member.peer != self._system.peer]
        active = [member for member in others if member.standing in runs.ACTIVE] or others
        linked = set(_linked(self._system))
        near = [member.peer for member in active if member.peer in linked]
        return (*near, *(address for member in active if member.peer not in linked for address in member.addresses))

    def _wanted(self) -> tuple[str, ...]:
        """Return the addresses that there should be a link to: those of the configuration, and of the run's members."""
        members = self._members_known().values() if self.taking else ()
        return (*self._config.transport.join, *(address for member in members for address in member.addresses))

    def _members_known(self) -> dict[str, RunMember]:
        """Return the others in the run that is taken part in: as they say now, or else as the record has them."""
        said = {member.peer: member for member in self._others(self.taking)}
        merged = {**self._kept, **said}.values()
        there = [m for m in merged if m.standing in runs.ACTIVE and m.addresses and m.peer != self._system.peer]
        latest = sorted(there, key=lambda member: -member.stamp_ms)[: runs.MEMBERS_MAX]
        return {member.peer: member for member in latest}

    async def _keep_members(self) -> None:
        """Keep on the disk where the members of the run are now: whoever is started again has to find one of them."""
        while True:
            await trio.sleep(KEEP_S)
            found = self._members_known()
            notice = next((each for each in self.known().runs if each.run == self._kept_run), None)
            if notice is None or _places(found) == _places(self._kept):
                continue
            self._kept = found
            fresh = attrs.evolve(notice, members=tuple(found.values()))  # type: ignore[misc]  # a @record
            await self._try_record(fresh, over=False)

    # ----------------------------------------------------------------------------------------------------- the board

    def _step(self, event: runs.Event) -> None:
        for command in self._board.step(event, trio.current_time()):
            match command:
                case runs.PassOn(notice, to, besides):
                    self._share(notice, (to,) if to else self._some(besides))
                case runs.Take(notice):
                    self._go(notice)
                case runs.Complain(text):
                    self._system.emit(RunComplaint(text))

    def _stand(self, run: str, standing: Standing, why: str, *, round_: int = 0, again: bool = False) -> None:
        self._step(runs.Stood(run, standing, why, round_, again))

    def _go(self, notice: RunNotice) -> None:
        self._next = notice
        self._news.set()

    async def _beat(self) -> None:
        while True:
            self._step(runs.Beat(_stamp_ms(), self._system.addresses))
            await trio.sleep(BEAT_S)

    def _some(self, besides: Sequence[str]) -> list[str]:
        """Return the linked peers that are told now: all, or of very many some in turn; they pass on what is new."""
        peers = [peer for peer in _linked(self._system) if peer not in besides]
        if len(peers) <= FANOUT_MAX:
            return peers
        self._turn = (self._turn + FANOUT_MAX) % len(peers)
        return [*peers, *peers][self._turn : self._turn + FANOUT_MAX]

    def _share(self, notice: RunNotice, peers: Iterable[str]) -> None:
        """Queue a notice for peers, the latest of each run; one task sends to one peer, so that none keeps others waiting."""
        if self._nursery is None:
            return
        for peer in peers:
            waiting = self._outbox.setdefault(peer, {})
            idle = not waiting
            waiting[notice.run] = notice
            if idle:
                self._nursery.start_soon(self._send, peer)

    async def _send(self, peer: str) -> None:
        waiting = self._outbox[peer]
        ref = self._system.ref(peer, RUNS_PATH, RunsActor)
        while waiting:
            notice = waiting[next(iter(waiting))]
            with trio.move_on_after(SEND_S), contextlib.suppress(WorldError, LocalProtocolError):
                await ref.tell(ShareRun(notice))
            if waiting.get(notice.run) is notice:
                del waiting[notice.run]
        del self._outbox[peer]

    # -------------------------------------------------------------------------------------------------- what is kept

    def _run_folder(self, run: str) -> Path:
        return run_folder(self._folder / RUNS, run)

    async def _keep_record(self, notice: RunNotice, *, over: bool) -> None:
        """Note on the disk that this node is in a run, so that it goes on in it when it is started again."""
        folder = self._run_folder(notice.run)
        contacts = [attrs.asdict(member) for member in notice.members]  # type: ignore[arg-type]  # a @record
        found = {"run": notice.run, "founder": notice.founder, "nonce": notice.nonce, "over": over}
        settings = attrs.asdict(notice.settings)  # type: ignore[arg-type]  # as above
        text = json.dumps({**found, "settings": settings, "members": contacts}, indent=2)
        async with self._disk:
            if over or self._kept_run == notice.run:
                await trio.to_thread.run_sync(_write, folder, text)

    async def _try_record(self, notice: RunNotice, *, over: bool) -> None:
        """As `_keep_record`; a disk that refuses is told of, and ends nothing."""
        try:
            await self._keep_record(notice, over=over)
        except ConfigError as error:
            self._system.emit(RunComplaint(str(error)))

    async def _tidy(self, run: str) -> None:
        """Remove what a member needs as long as a run goes on, once it is done here: its journal and its states."""
        if any(member.peer == self._system.peer and member.standing == "done" for member in self._members(run)):
            await trio.to_thread.run_sync(_remove_working_files, self._run_folder(run))

    def _resume(self) -> None:
        """Go on in the run that this node was in when it was last stopped, if it was in one."""
        for file in sorted((self._folder / RUNS).glob(f"*/{RECORD}"), key=lambda file: -file.stat().st_mtime):
            notice = _read(file)
            if notice is not None:
                known = self._board.enter(notice, trio.current_time())
                self._go(attrs.evolve(known, members=notice.members))  # type: ignore[misc]  # a @record
                return


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


def _linked(system: System) -> tuple[str, ...]:
    links = links_of(system)
    return links.peers if links is not None else ()


def _places(members: dict[str, RunMember]) -> dict[str, tuple[str, ...]]:
    return {peer: member.addresses for peer, member in members.items()}


def _stamp_ms() -> int:
    return time.time_ns() // 1_000_000


def _first_line(error: PrimeError) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


async def _either(first: trio.Event, second: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        for event in (first, second):
            nursery.start_soon(_cancel_on, event, nursery.cancel_scope)


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _write(folder: Path, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = folder / f"{RECORD}.new"
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(folder / RECORD)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror})",
            hint="node.state_dir names a folder that you may write to",
        ) from error


def _remove_working_files(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / JOURNAL).unlink(missing_ok=True)
        (folder / WISH).unlink(missing_ok=True)
    shutil.rmtree(folder / STATES_FOLDER, ignore_errors=True)


def _read(file: Path) -> RunNotice | None:
    """Return the run of a record, unless it is over, or the record is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["over"]:
            return None
        members = tuple(RunMember(**{**member, "addresses": tuple(member["addresses"])}) for member in found["members"])
        settings = TrainingConfig(**found["settings"])
        return RunNotice(found["run"], found["founder"], found["nonce"], settings, members)
    except (OSError, ValueError, LookupError, TypeError, PrimeError):
        return None
