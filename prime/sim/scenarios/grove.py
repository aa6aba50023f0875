"""Trees of actors and supervisors, drawn, and the books of what they do: those of the supervision scenario (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random

import attrs

from prime.actor.mailbox import Full, OnRestart
from prime.actor.restart import STRATEGIES, ChildKind, Restart, Strategy

STASH = 3


@attrs.frozen
class Leaf:
    """An actor to be: a `worker` with everything an actor can have, or a plain one."""

    path: str
    kind: ChildKind
    worker: bool
    capacity: int
    full: Full
    on_restart: OnRestart
    passivate_s: float | None
    shutdown_s: float

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@attrs.frozen
class Branch:
    """A supervisor to be."""

    path: str
    kind: ChildKind
    strategy: Strategy
    restart: Restart
    children: tuple[Leaf | Branch, ...]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def leaves(self) -> Iterator[tuple[Leaf, bool]]:
        """Return every actor under it, and whether it shall be there whenever its node has been calm for a while."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child, child.kind == "permanent"
            else:
                for leaf, lasts in child.leaves():
                    yield leaf, lasts and child.kind == "permanent"

    def branches(self) -> Iterator[Branch]:
        """Return it and every supervisor under it."""
        yield self
        for child in self.children:
            if isinstance(child, Branch):
                yield from child.branches()


def grow(random: Random, path: str = "/app", depth: int = 2) -> Branch:
    """Draw a tree."""
    strategy = random.choice(STRATEGIES)
    children: list[Leaf | Branch] = []
    for number in range(random.randint(2, 4)):
        if depth and random.random() < 0.35:
            children.append(grow(random, f"{path}/b{number}", depth - 1))
        else:
            children.append(_leaf(random, f"{path}/a{number}", may_pass=strategy == "one_for_one"))
    first_s = random.choice((0.0, 0.02, 0.2))
    restart = Restart(random.choice((1, 3, 10)), random.choice((1.0, 5.0)), (first_s, first_s + random.random()))
    return Branch(path, random.choice(("permanent", "permanent", "transient")), strategy, restart, tuple(children))


def _leaf(random: Random, path: str, *, may_pass: bool) -> Leaf:
    return Leaf(
        path,
        random.choice(("permanent", "permanent", "transient", "temporary")),
        worker=random.random() < 0.75,
        capacity=random.choice((1, 3, 20)),
        full=random.choice(("wait", "wait", "reject", "drop_oldest", "drop_newest")),
        on_restart=random.choice(("keep", "keep", "clear")),
        passivate_s=random.choice((None, 0.3)) if may_pass else None,
        shutdown_s=random.choice((0.1, 2.0)),
    )


@attrs.define(eq=False)
class Tally:
    """Jobs told by one to actors of its own node; each is handled once, a dead letter, or still waits."""

    told: int = 0
    handled: int = 0
    dead: int = 0


@attrs.define(eq=False)
class Record:
    """What one life of a node did."""

    tally: Tally = attrs.Factory(Tally)
    restarts: dict[str, deque[float]] = attrs.Factory(dict)
    """When children of a supervisor failed and were restarted, within its window."""
    decided: dict[str, float] = attrs.Factory(dict)
    """When a supervisor last decided on a restart."""
    made: int = 0
    """How many actors were made."""
    births: dict[str, int] = attrs.Factory(dict)
    """How many incarnations each path had under its present supervisor."""
    beside: dict[str, int] = attrs.Factory(dict)
    """Side tasks and handlers of a path that have not ended, for all its incarnations."""
    last: dict[tuple[str, str], int] = attrs.Factory(dict)
    """The last number that an actor handled, by itself and who told it."""
    late: dict[tuple[str, str, int], None] = attrs.Factory(dict)
    """Jobs that an actor put aside, so that they come out of their turn."""

    def failed(self, branch: Branch, now: float) -> str:
        """Note that a supervisor restarts a child that failed; return what is wrong with that."""
        self.decided[branch.path] = now
        times = self.restarts.setdefault(branch.path, deque())
        while times and times[0] <= now - branch.restart.within:
            times.popleft()
        times.append(now)
        if len(times) > branch.restart.max:
            return f"{branch.path} restarted {len(times)} times in {branch.restart.within:g} s, at most {branch.restart.max}"
        return ""

    def renewed(self, branch: Branch) -> None:
        """Note that a supervisor begins anew."""
        self.restarts.pop(branch.path, None)
        for child in branch.children:
            self.births.pop(child.path, None)

    def born(self, leaf: Leaf) -> str:
        """Note that an actor was made; return what is wrong with that."""
        self.made += 1
        count = self.births[leaf.path] = self.births.get(leaf.path, 0) + 1
        if self.beside.get(leaf.path):
            return f"{leaf.path} lives again, and {self.beside[leaf.path]} tasks of its earlier life have not ended"
        if leaf.kind == "temporary" and leaf.passivate_s is None and count > 1:
            return f"the temporary {leaf.path} came back"
        return ""

    def handled(self, path: str, teller: str, number: int) -> str:
        """Note that an actor handled a numbered job; return what is wrong with that."""
        self.tally.handled += 1
        if (path, teller, number) in self.late:
            del self.late[path, teller, number]
            return ""
        before = self.last.get((path, teller), 0)
        self.last[path, teller] = number
        return "" if number > before else f"{path} handled job {number} of {teller} after {before}"


BUDGET = "a supervisor restarts no more often than it may"
TASKS = "no task outlives its actor"
MAILBOXES = "no mailbox holds more than it may"
ORDER = "who is restarted with others starts before those that were started after it"
JOBS = "the jobs of one teller are handled in order, each once"
ASKS = "an ask is over by its deadline and answered rightly"
WATCHES = "a watch is told exactly once"
NAMES = (BUDGET, TASKS, MAILBOXES, ORDER, JOBS, ASKS, WATCHES)
