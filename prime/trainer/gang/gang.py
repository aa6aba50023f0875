"""Who has which rank, who is lost, and what comes next: the gang of one run, as a pure state machine.

A *member* is a process, counted from 1. It is starting, then a spare (all is imported and the model is built, but it has
no rank), then in a generation, then gone. A *generation* is the gang from one start to the next restart: when one rank is
lost all of it is over, because the others wait in a collective for the one that is gone. The next begins when nobody of the
last one can touch the run any more (dead, or idle by its own word) and as many members as ranks are ready; it goes on from
the newest whole checkpoint.

Two signs are watched. Whether a member gives any sign of life at all: `silent_s`. And whether its counter of work done
grows: `step_s`; a rank that waits in a collective still gives signs of life. A member that starts has `start_s` until it
is ready, whatever signs of life it gives: it runs the user's code.

A stop is agreed on in two phases, so that no rank waits in a collective for one that has stopped: each is asked to halt
before it goes past a step, and says whether it still can; only when all of them can is it settled, and until then whoever
reaches the step waits there. One that is past it makes the gang ask again, for a later step.

Over several *hosts* each has as many ranks, and spares of its own. Host 0 is the gang's own and always there; another one
is awaited for `host_s`, at the start and whenever it is lost: meanwhile nothing begins, and then the run has failed.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs

from prime.trainer.facts import LossCause
from prime.trainer.gang.trouble import Trouble

FIRST_STEP_S = 60.0
"""The least that meeting the others, loading, and the first step may take: kernels are compiled and caches filled."""
IDLE_S = 2.0
"""How long a survivor may take to say that it is idle, before it is killed like the others."""
SETTLE_S = 0.5
"""After an error that another rank's end explains: how long to wait to hear of that."""
BACKOFF_S = (0.5, 30.0)
"""The first and the longest pause before a restart, where the generation before it made no step."""
SPARE_LOSSES_MAX = 3
"""After so many processes in a row that were lost before they had a rank, a run that works does without spares."""
LATE_S = 1.0
"""A tick that comes later than this after the one before: this process itself stood still, and nobody is blamed for it."""

State = Literal["starting", "spare", "joining", "training", "finished", "leaving", "dying"]
_RANKED = ("joining", "training", "finished")
"""States of members that have a rank in the generation in hand."""


@attrs.frozen(kw_only=True)
class Rules:
    """What a gang holds to; times in seconds. `steps`: the step at which the run is done.

    `start_s` is for importing torch, building the model and reading the data, on a busy machine.
    `restarts_max`: restarts in a row, without a new checkpoint between them. `spares` are those of each host, and
    `world` is a multiple of `hosts`.
    """

    world: int
    steps: int
    spares: int = 0
    silent_s: float = 10.0
    step_s: float = 300.0
    start_s: float = 600.0
    restarts_max: int = 10
    reusable: bool = True
    """Whether a process can take another rank: not where torch keeps what it has worked out for the first (`DTensor`)."""
    hosts: int = 1
    host_s: float = 300.0


# ------------------------------------------------------------------------------------------------ events


@attrs.frozen
class Opened:
    """The run begins."""


@attrs.frozen
class Ticked:
    """Time has passed."""


@attrs.frozen
class Readied:
    """A member has no rank and can take one: it has started, or left its generation."""

    member: int


@attrs.frozen
class Found:
    """The newest whole checkpoint is of this step; -1: there is none."""

    generation: int
    step: int


@attrs.frozen
class Joined:
    """A rank has met the others and holds the state of the checkpoint."""

    member: int
    generation: int


@attrs.frozen
class Heard:
    """A member lives; `work` counts what it has done in this generation: steps, saves, evaluations."""

    member: int
    generation: int
    step: int
    work: int


@attrs.frozen
class Failed:
    """A rank's training raised an error; its process lives."""

    member: int
    generation: int
    step: int
    trouble: Trouble


@attrs.frozen
class Died:
    """A member's process is gone; `trouble` is the error with which it ended, if it could say."""

    member: int
    text: str
    trouble: Trouble | None = None


@attrs.frozen
class Answered:
    """A rank says whether it can halt at the end of step `limit`; it has made `step`."""

    member: int
    generation: int
    limit: int
    agreed: bool
    step: int


@attrs.frozen
class Finished:
    """A rank has made its last step, and saved."""

    member: int
    generation: int
    step: int


@attrs.frozen
class StopAsked:
    """Somebody wants the run to end after a step soon."""

    reason: str


@attrs.frozen
class Saved:
    """The checkpoint of a step is whole; rank 0 says it."""

    member: int
    generation: int
    step: int


@attrs.frozen
class HostCame:
    """A host is there, and can start members."""

    host: int


@attrs.frozen
class HostWent:
    """The connection to a host is lost; its members are or will be gone, and `Died` comes of each."""

    host: int
    text: str


Event = (
    Opened
    | Ticked
    | Readied
    | Found
    | Joined
    | Heard
    | Failed
    | Died
    | Saved
    | Answered
    | Finished
    | StopAsked
    | HostCame
    | HostWent
)

# ------------------------------------------------------------------------------------------------ commands


@attrs.frozen
class Spawn:
    """Start a process; `Readied` or `Died` comes of it."""

    member: int
    host: int = 0


@attrs.frozen
class Kill:
    """End a process at once, whatever it does; `Died` comes of it."""

    member: int


@attrs.frozen
class Leave:
    """Let a rank give its rank back if it is idle: `Readied`, or soon a `Kill`."""

    member: int
    generation: int


@attrs.frozen
class Find:
    """Look for the newest whole checkpoint whose step is in none of `without`; `Found` comes of it."""

    generation: int
    without: frozenset[int]


@attrs.frozen
class Begin:
    """Give a member a rank. All of a generation are given theirs in one step, after everybody of the last one is out."""

    member: int
    generation: int
    rank: int
    step: int


@attrs.frozen
class Limit:
    """Ask a rank to halt at the end of a step and to wait there; `Answered` comes of it."""

    member: int
    generation: int
    step: int


@attrs.frozen
class Settle:
    """All agreed: the step is the last. Follows a `Limit` of that step to the same member."""

    member: int
    generation: int
    step: int


@attrs.frozen
class Began:
    """All ranks of a generation go on from `step`; `recovery_s` since the loss that ended the last one."""

    generation: int
    step: int
    recovery_s: float | None


@attrs.frozen
class Lost:
    """A rank is lost, and with it its generation."""

    member: int
    rank: int
    generation: int
    step: int
    cause: LossCause
    text: str
    noticed_s: float | None


@attrs.frozen
class Stopping:
    """A stop was asked for and is being agreed on."""

    reason: str
    step: int


@attrs.frozen
class Awaiting:
    """Nothing begins before a host is there, and it has `wait_s` for that."""

    host: int
    text: str
    wait_s: float


@attrs.frozen
class End:
    """The run is over, always the last command. `trouble` is why a failed one failed; `exhausted`: too many restarts."""

    outcome: Literal["done", "stopped", "failed"]
    step: int
    text: str = ""
    trouble: Trouble | None = None
    exhausted: bool = False


Command = Spawn | Kill | Leave | Find | Begin | Limit | Settle | Began | Lost | Stopping | Awaiting | End

# ------------------------------------------------------------------------------------------------ the gang


@attrs.define
class Member:
    """One process. `heard_s`: its last sign of life; `moved_s`: when its work last grew; `due_s`: by when it has to leave."""

    number: int
    state: State
    heard_s: float
    moved_s: float
    rank: int = -1
    step: int = 0
    work: int = -1
    due_s: float = 0.0
    host: int = 0


class Gang:
    """The gang of one run. `step` is its only way in: same state, same event, same `now`, same commands."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.members: dict[int, Member] = {}
        self.generation = -1
        self.restarts = 0
        """How many generations were lost and followed by another."""
        self.over = False
        self._now = 0.0
        self._ticked_s: float | None = None
        self._commands: list[Command] = []
        self._count = 0
        self._begun_step = 0
        self._whole = False
        """Whether all of the generation have joined."""
        self._gathering = True
        """Between two generations."""
        self._found: int | None = None
        self._asked = False
        self._unreadable: set[int] = set()
        self._lost_s: float | None = None
        self._losses = 0
        """Losses since the last new checkpoint."""
        self._fruitless = 0
        """Losses in a row of generations that made no step."""
        self._pause_until_s = 0.0
        self._suspect: Failed | None = None
        self._suspect_due_s = 0.0
        self._last_trouble: tuple[int, Trouble] | None = None
        self._unstarted: tuple[Trouble, int] | None = None
        """The last error of a process that was starting, and how many had been started by then."""
        self._spare_losses = 0
        self._stop_reason: str | None = None
        self._limit: int | None = None
        self._margin = 1
        self._agreed: set[int] = set()
        self._settled = False
        self._absent: dict[int, float] = {}
        """Hosts that are not there, and by when they have to be."""

    def step(self, event: Event, now: float) -> list[Command]:
        """Take one event at `now` (seconds, never less than before) and return what is to be done, in this order."""
        if self.over:
            return []
        self._now, self._commands = now, []
        self._take(event)
        if not self.over:
            self._go_on()
        return self._commands

    @property
    def newest_step(self) -> int:
        """Return the newest step that a rank of this generation says it has made."""
        return max((each.step for each in self._ranked()), default=self._begun_step)

    def _take(self, event: Event) -> None:
        match event:
            case Opened():
                for host in range(1, self.rules.hosts):
                    self._await_host(host, "it has not come yet")
            case Ticked():
                self._tick()
            case Found(generation, step):
                if self._gathering and generation == self.generation + 1:
                    self._found = step
            case StopAsked(reason):
                self._ask_to_stop(reason)
            case Died(member, text, trouble):
                self._died(member, text, trouble)
            case Readied(member):
                self._readied(member)
            case HostCame() | HostWent():
                self._see_host(event)
            case _:
                self._hear(event)

    def _hear(self, event: Joined | Heard | Failed | Saved | Answered | Finished) -> None:
        """Take the word of a rank; of one that belongs to another generation only that it lives."""
        member = self.members.get(event.member)
        if member is None:
            return
        member.heard_s = self._now
        if event.generation != self.generation or member.state not in _RANKED:
            return
        match event:
            case Joined():
                self._joined(member)
            case Heard(_, _, step, work):
                self._moved(member, step, work)
            case Failed(_, _, step, trouble):
                self._failed(event, member, step, trouble)
            case Saved(_, _, step):
                self._losses = 0 if step > self._begun_step else self._losses
            case Answered():
                self._answered(member, event)
            case Finished(_, _, step):
                self._finished(member, step)

    # ------------------------------------------------------------------------------------------ between generations

    def _go_on(self) -> None:
        """Start processes that are missing, and the next generation as soon as it can be."""
        if self._gathering and self._stop_reason is not None:
            self._end("stopped", max(self._begun_step, 0))
            return
        if self._now < self._pause_until_s:
            return
        self._fill()
        if not self._gathering or any(each.state in ("dying", "leaving", *_RANKED) for each in self._ours()):
            return
        if not self._asked:
            self._asked = True
            self._commands.append(Find(self.generation + 1, frozenset(self._unreadable)))
        ready = [chosen for host in range(self.rules.hosts) for chosen in self._ready_on(host)]
        if self._found is not None and not self._absent and len(ready) == self.rules.world:
            self._begin(ready, self._found)

    def _ready_on(self, host: int) -> list[Member]:
        """Return who can be the ranks of a host, as far as they are ready: neighbours have ranks side by side."""
        ready = [each for each in self._ours() if each.state == "spare" and each.host == host]
        return ready[: self.rules.world // self.rules.hosts]

    def _fill(self) -> None:
        """Start what is missing. New spares wait until the generation works: they would take the time of its start."""
        spares = self.rules.spares if self._works() and self._spare_losses < SPARE_LOSSES_MAX else 0
        wanted = self.rules.world // self.rules.hosts + spares
        for host in range(self.rules.hosts):
            living = sum(each.state != "dying" and each.host == host for each in self._ours())
            for _ in range(0 if host in self._absent else wanted - living):
                self._count += 1
                self.members[self._count] = Member(self._count, "starting", self._now, self._now, host=host)
                self._commands.append(Spawn(self._count, host))

    def _works(self) -> bool:
        return not self._gathering and self._whole and self.newest_step > self._begun_step

    def _begin(self, chosen: list[Member], found: int) -> None:
        self.generation += 1
        self._gathering, self._whole, self._asked, self._found = False, False, False, None
        self._begun_step = max(found, 0)
        self._suspect = None
        for rank, member in enumerate(chosen):
            member.state, member.rank, member.step, member.work = "joining", rank, self._begun_step, -1
            member.heard_s = member.moved_s = self._now
            self._commands.append(Begin(member.number, self.generation, rank, found))

    def _readied(self, number: int) -> None:
        member = self.members.get(number)
        if member is not None and member.state in ("starting", "leaving"):
            if member.state == "starting":
                self._spare_losses = 0
            member.state, member.rank, member.heard_s = "spare", -1, self._now

    # ------------------------------------------------------------------------------------------------ in a generation

    def _joined(self, member: Member) -> None:
        if member.state != "joining":
            return
        member.state, member.moved_s = "training", self._now
        if not self._whole and all(each.state != "joining" for each in self._ranked()):
            self._whole = True
            recovery_s = None if self._lost_s is None else self._now - self._lost_s
            self._commands.append(Began(self.generation, self._begun_step, recovery_s))

    def _moved(self, member: Member, step: int, work: int) -> None:
        if work > member.work:
            member.work, member.moved_s = work, self._now
        member.step = max(member.step, step)
        if member.step > self._begun_step:
            self._fruitless = 0

    def _finished(self, member: Member, step: int) -> None:
        member.state, member.step = "finished", step
        if all(each.state == "finished" for each in self._ranked()):
            self._end("done" if step >= self.rules.steps else "stopped", step)

    # ------------------------------------------------------------------------------------------------ losses

    def _died(self, number: int, text: str, trouble: Trouble | None) -> None:
        member = self.members.pop(number, None)
        if member is None or member.state == "dying":
            return
        if member.state in _RANKED:
            self._lose(member, "died", text, None)
        elif member.host in self._absent or member.state == "leaving":
            return
        elif trouble is None or not self._fails_to_start(trouble, number):
            self._lose_spare(text)

    def _fails_to_start(self, trouble: Trouble, number: int) -> bool:
        """End the run if a process that was started after one had failed fails in the same way."""
        last, self._unstarted = self._unstarted, (trouble, self._count)
        again = last is not None and last[0].same_as(trouble) and number > last[1]
        if trouble.hopeless:
            self._end("failed", self.newest_step, str(trouble), trouble)
        elif again and self._gathering:
            text = f"a rank failed twice to start, with the same error: {trouble}"
            self._end("failed", self.newest_step, text, trouble)
        return self.over

    def _lose_spare(self, text: str) -> None:
        """Count a process that was lost without a rank; a run that works goes on without spares rather than end of them."""
        self._spare_losses += 1
        if self._gathering:
            if self._count_loss(text, fruitless=True):
                self._suspend()
        else:
            self._pause_until_s = self._now + _pause_s(self._spare_losses)

    def _failed(self, event: Failed, member: Member, step: int, trouble: Trouble) -> None:
        if trouble.of_peer:
            if self._suspect is None:
                self._suspect, self._suspect_due_s = event, self._now + SETTLE_S
            return
        if trouble.loading:
            self._unreadable.add(self._begun_step)
        elif self._comes_again(step, trouble):
            return
        self._lose(member, "failed", str(trouble), None, trouble)

    def _comes_again(self, step: int, trouble: Trouble) -> bool:
        """End the run on an error that would only come again: of a kind that says so, or that came at this step before."""
        last, self._last_trouble = self._last_trouble, (step, trouble)
        if trouble.hopeless:
            self._end("failed", step, str(trouble), trouble)
        elif last is not None and last[0] == step and last[1].same_as(trouble):
            self._end("failed", step, f"a rank failed twice after step {step}, with the same error: {trouble}", trouble)
        return self.over

    def _lose(
        self, member: Member, cause: LossCause, text: str, noticed_s: float | None, trouble: Trouble | None = None
    ) -> None:
        """Note that a rank is lost, and end its generation: the lost one is killed, the others leave or are killed."""
        step = self.newest_step if member.number in self.members else max(self.newest_step, member.step)
        self._commands.append(Lost(member.number, member.rank, self.generation, step, cause, text, noticed_s))
        self._suspect = None
        fruitless = step <= self._begun_step
        self._gathering, self._lost_s = True, self._now
        self._let_go(member)
        if self._stop_reason is not None:
            self._end("stopped", self._begun_step)
        elif self._count_loss(text, fruitless=fruitless, trouble=trouble):
            self.restarts += 1
            if fruitless:
                self._suspend()

    def _let_go(self, lost: Member) -> None:
        spares = sum(len(self._ready_on(host)) for host in range(self.rules.hosts))
        survive = self.rules.reusable and spares < self.rules.world
        for each in self._ranked():
            if each is lost or not survive:
                self._kill(each)
            else:
                each.state, each.due_s = "leaving", self._now + IDLE_S
                self._commands.append(Leave(each.number, self.generation))

    def _kill(self, member: Member) -> None:
        member.state = "dying"
        self._commands.append(Kill(member.number))

    def _count_loss(self, text: str, *, fruitless: bool, trouble: Trouble | None = None) -> bool:
        """Count a loss against the budget; end the run and return False if it is used up."""
        self._losses += 1
        self._fruitless = self._fruitless + 1 if fruitless else 0
        if self._losses <= self.rules.restarts_max:
            return True
        self._end("failed", self._begun_step, text, trouble, exhausted=True)
        return False

    def _suspend(self) -> None:
        """Pause before the next try, longer each time, where the last one came to nothing."""
        self._pause_until_s = self._now + _pause_s(self._fruitless)

    # ------------------------------------------------------------------------------------------------ the watch

    def _tick(self) -> None:
        before_s, self._ticked_s = self._ticked_s, self._now
        late_s = 0.0 if before_s is None else self._now - before_s
        if late_s > LATE_S:
            self._forgive(late_s)
            return
        for each in self._ours():
            if each.state == "leaving" and self._now >= each.due_s:
                self._kill(each)
        late = [host for host, due_s in self._absent.items() if self._now >= due_s]
        if late and self._gathering:
            text = f"host {late[0]} did not come within {self.rules.host_s:g} s"
            self._end("failed", self._begun_step, text)
            return
        if self._suspect is not None and self._now >= self._suspect_due_s:
            self._blame(self._suspect)
        else:
            self._watch()

    def _forgive(self, late_s: float) -> None:
        for each in self._ours():
            each.heard_s += late_s
            each.moved_s += late_s
        self._absent = {host: due_s + late_s for host, due_s in self._absent.items()}

    def _blame(self, suspect: Failed) -> None:
        member = self.members.get(suspect.member)
        if member is not None:
            self._lose(member, "failed", str(suspect.trouble), None, suspect.trouble)

    def _watch(self) -> None:
        """Look for who is silent, and then for who is stuck: of those, the one that is the furthest behind is lost."""
        silent = [each for each in self._ours() if self._silence(each) > self._allowed_s(each)]
        self._watch_starts()
        for each in silent:
            if each.state not in _RANKED and not self.over:
                self._kill(each)
                self._lose_spare("a process without a rank gave no sign of life")
        ranked = [each for each in silent if each.state in _RANKED]
        if ranked and not self.over:
            text = f"no sign of life for {self.rules.silent_s:g} s"
            self._lose(ranked[0], "silent", text, self._silence(ranked[0]))
            return
        stuck = [each for each in self._ranked() if self._stands(each) > self._patience(each)]
        if stuck and not self.over:
            worst = min(stuck, key=lambda each: (each.step, each.work, each.rank))
            text = f"no progress for {self._patience(worst):g} s after step {worst.step}"
            self._lose(worst, "stuck", text, self._stands(worst))

    def _watch_starts(self) -> None:
        """End processes that do not become ready, as if each had said so itself."""
        late = [each for each in self._ours() if each.state == "starting" and self._stands(each) > self.rules.start_s]
        for each in late:
            if not self.over:
                self._kill(each)
                trouble = _unready(self.rules.start_s)
                if not self._fails_to_start(trouble, each.number):
                    self._lose_spare(str(trouble))

    def _allowed_s(self, member: Member) -> float:
        return self.rules.silent_s if member.state in ("spare", *_RANKED) else math.inf

    def _silence(self, member: Member) -> float:
        return self._now - member.heard_s

    def _stands(self, member: Member) -> float:
        return 0.0 if member.state == "finished" else self._now - member.moved_s

    def _patience(self, member: Member) -> float:
        fresh = member.state == "joining" or member.step <= self._begun_step
        return max(self.rules.step_s, FIRST_STEP_S) if fresh else self.rules.step_s

    def _see_host(self, event: HostCame | HostWent) -> None:
        if isinstance(event, HostWent):
            self._await_host(event.host, event.text)
        else:
            self._absent.pop(event.host, None)

    def _await_host(self, host: int, text: str) -> None:
        if host not in self._absent:
            self._absent[host] = self._now + self.rules.host_s
            self._commands.append(Awaiting(host, text, self.rules.host_s))

    # ------------------------------------------------------------------------------------------------ the agreed stop

    def _ask_to_stop(self, reason: str) -> None:
        if self._stop_reason is not None:
            return
        self._stop_reason = reason
        self._commands.append(Stopping(reason, self.newest_step))
        if not self._gathering:
            self._propose()

    def _propose(self) -> None:
        self._limit = min(self.newest_step + self._margin, self.rules.steps)
        self._agreed = set()
        for each in self._ranked():
            self._commands.append(Limit(each.number, self.generation, self._limit))

    def _answered(self, member: Member, answer: Answered) -> None:
        member.step = max(member.step, answer.step)
        if answer.limit != self._limit or self._settled:
            return
        if not answer.agreed:
            self._margin *= 2
            self._propose()
            return
        self._agreed.add(member.number)
        if self._agreed == {each.number for each in self._ranked()}:
            self._settled = True
            for each in self._ranked():
                self._commands.append(Settle(each.number, self.generation, self._limit))

    # ------------------------------------------------------------------------------------------------ the rest

    def _end(
        self,
        outcome: Literal["done", "stopped", "failed"],
        step: int,
        text: str = "",
        trouble: Trouble | None = None,
        *,
        exhausted: bool = False,
    ) -> None:
        self.over = True
        self._commands.append(End(outcome, step, text, trouble, exhausted))

    def _ours(self) -> list[Member]:
        return list(self.members.values())

    def _ranked(self) -> list[Member]:
        return [each for each in self.members.values() if each.state in _RANKED]


def _unready(start_s: float) -> Trouble:
    return Trouble(
        "TimeoutError",
        f"a process was not ready within {start_s:g} s: it imports torch, builds the model and reads the data",
        hint="look for what waits in the model's or the data's function, or raise supervision.start_s",
    )


def _pause_s(losses: int) -> float:
    first_s, longest_s = BACKOFF_S
    return min(first_s * 2.0 ** min(max(losses - 1, 0), 32), longest_s)
