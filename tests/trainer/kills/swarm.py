"""A run of real processes, steered by a test: who dies where, who comes back, and what must hold of those who live."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np
from points import LEADER, MEMBER, POINTS_SPOOLED  # type: ignore[import-not-found]

PROGRAM = Path(__file__).with_name("member.py")
ANSWER_S = 60.0
"""How long anything may take on a machine that is busy with other tests."""
START_S = 150.0
"""How long a process may take from its start to its address there: it imports what it needs."""
BUSY_ROUNDS = 3
"""What is left of a round is done beside other tests: so many usual rounds of room."""
LATE_S = 3.0
"""Under the shortest deadline of a round (`reduce_s`): so none has ended it. The bench of kills prints the seconds."""
ROUNDS_MAX = 12
"""How many rounds it may take until all are in again."""
TRIES_MAX = 6
"""In how many rounds a member may be past its point before it comes by: a majority of the others can be faster."""
ERROR_MAX = 0.02
"""Two quantisations to 8 bits of a normal distribution, with room: the error's norm over the mean's."""
TIMING = {
    "resend_s": 0.1,
    "transfer_s": 0.5,
    "suspect_s": 2.0,
    "stagger_s": 0.2,
    "seal_s": 8.0,
    "seal_min_s": 8.0,  # nobody is waited for more briefly because it was killed in rounds before
    "reduce_s": 4.0,
    "deadline_s": 16.0,
}


@attrs.define(eq=False)
class Process:
    """One member, in the life it now has."""

    index: int
    popen: subprocess.Popen[bytes]
    told: list[dict[str, Any]] = attrs.Factory(list)
    pending: bytes = b""
    is_over: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether nothing has ended it."""
        return not self.is_over and self.popen.poll() is None

    def last(self, kind: str, **fields: Any) -> dict[str, Any] | None:
        """Return the last of what it told that has these fields."""
        return next((t for t in reversed(self.told) if _fits(t, kind, fields)), None)

    def order(self, **fields: Any) -> None:
        """Tell it what to do; one that is dead does not hear it."""
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write((json.dumps(fields) + "\n").encode())
            self.popen.stdin.flush()

    def end(self) -> None:
        """End it, however it stands."""
        self.is_over = True
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def _fits(told: dict[str, Any], kind: str, fields: dict[str, Any]) -> bool:
    return told["kind"] == kind and all(told.get(name) == value for name, value in fields.items())


@attrs.frozen
class Strike:
    """Whom a signal met at its point of a round, and how the others ended that round."""

    round: int
    victims: tuple[int, ...]
    outcomes: list[dict[str, Any]]
    tries: int
    struck_at: float
    """When the last of them got it, by `time.monotonic`."""


class Swarm:
    """The processes of one run, in one folder. A context manager: nothing outlives it."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        elements: int = 1_500_000,
        transport: str = "tcp",
        timing: dict[str, float] | None = None,
        spooled: bool = False,
    ) -> None:
        """`spooled` members stage the bytes of a vote beside their journals, as they do where there are many."""
        self.folder = folder
        self.count = count
        self.elements = elements
        self.transport = transport
        self.timing = {**TIMING, **(timing or {})}
        self.spooled = spooled
        self.members: list[Process] = []
        self.addresses: dict[int, str] = {}
        self.peers: dict[int, str] = {}
        self.round = 1
        self.usual_s = 0.0
        """How long a round takes here, now, without a fault."""
        self.outcomes: dict[int, set[int] | None] = {}
        """Who was in C, by round; None after an abort."""
        self.applied: dict[tuple[int, int], int] = {}
        """How often each contribution was applied, by member and round."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.end()

    # --------------------------------------------------------------------------------------------------- processes

    def found(self) -> None:
        """Start all and wait until the first round can begin."""
        self.start(0)
        self.address(0)
        for index in range(1, self.count):
            self.start(index)
        for index in range(1, self.count):
            self.address(index)
        self.until(lambda: all(self._holds(m, 0) for m in self.members))

    def start(self, index: int) -> Process:
        """Start a member: for the first time, or again where it was, with the journal that it had."""
        contacts = [self.addresses[0]] if index and index not in self.addresses else []
        arguments = {
            "index": str(index),
            "elements": str(self.elements),
            "count": str(self.count),
            "folder": str(self.folder),
            "transport": self.transport,
            "listen": self.addresses.get(index, "/ip4/127.0.0.1/tcp/0").partition("/p2p/")[0],
            "timing": json.dumps(self.timing),
        }
        flags = [word for name, value in arguments.items() for word in (f"--{name}", value)]
        if contacts:
            flags += ["--join", *self._contacts(index)]
        flags += ["--found"] * (index == 0) + ["--spooled"] * self.spooled
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        member = Process(index, process)
        if index < len(self.members):
            self.members[index].end()
            self.members[index] = member
        else:
            self.members.append(member)
        return member

    def _contacts(self, index: int) -> list[str]:
        return [a for i, a in self.addresses.items() if i != index and self.members[i].is_alive][:2]

    def address(self, index: int) -> None:
        """Wait for a member's address."""
        self.until(lambda: self.members[index].last("address") is not None or self.members[index].is_over, START_S)
        told = self.heard(index, "address")
        self.addresses[index], self.peers[index] = told["address"], told["peer"]

    def restart(self, *indexes: int) -> None:
        """Start dead members again at once, with their journals."""
        for index in indexes:
            self.start(index)
            self.address(index)

    def resume(self, *indexes: int) -> None:
        """Let stopped members go on."""
        for index in indexes:
            self.members[index].popen.send_signal(signal.SIGCONT)

    def alive(self, *without: int) -> list[Process]:
        """Return the members that live, without these."""
        return [m for m in self.members if m.is_alive and m.index not in without]

    # ----------------------------------------------------------------------------------------------------- hearing

    def hear(self, within_s: float) -> None:
        """Read what is told within that time, at least one line if there is one."""
        readable = {m.popen.stdout: m for m in self.members if not m.is_over}
        for pipe in select.select(list(readable), [], [], within_s)[0]:
            member = readable[pipe]
            found = os.read(pipe.fileno(), 1 << 16)
            *lines, member.pending = (member.pending + found).split(b"\n")
            member.told += [json.loads(line) for line in lines]
            failed = member.last("failed")
            assert failed is None, f"an actor of member {member.index} failed: {failed['error']}\n{failed['traceback']}"
            if not found:
                member.is_over = True
                member.popen.wait()

    def until(self, holds: Callable[[], bool], within_s: float = ANSWER_S) -> None:
        """Hear until that holds."""
        end = time.monotonic() + within_s
        while not holds():
            self.hear(0.1)
            assert time.monotonic() < end, self.story()

    def heard(self, index: int, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait until a member has told this in its present life."""
        member = self.members[index]
        self.until(lambda: member.last(kind, **fields) is not None or member.is_over)
        told = member.last(kind, **fields)
        assert told is not None, f"member {index} ended\n{self.story()}"
        return told

    def story(self) -> str:
        """Return what each told last, for the message of a test that fails."""
        lines = [f"round {self.round} after {self.usual_s:.2f} s a round"]
        for member in self.members:
            lines.append(f"  {member.index} {'lives' if member.is_alive else 'is dead'}")
            lines += [f"    {told}"[:300] for told in member.told[-8:]]
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------------------------ rounds

    def _holds(self, member: Process, state: int) -> bool:
        entered, holds = member.last("entered"), member.last("holds")
        return entered is not None and holds is not None and holds["round"] >= state and entered["round"] > state

    def order(self) -> list[int]:
        """Return the members of the round's view in the order in which they lead it."""
        entered = next(t for m in self.alive() if (t := m.last("entered", round=self.round)) is not None)
        indexes = {peer: index for index, peer in self.peers.items()}
        return [indexes[peer] for peer in entered["order"]]

    def victims(self, points: Sequence[str]) -> tuple[int, ...]:
        """Return who is struck at each of these points: the leader, or one that is no founder if it may be anyone."""
        order = self.order()
        chosen: list[int] = []
        for role in (POINTS_SPOOLED[point].role for point in points):
            by_role = {LEADER: order[:1], MEMBER: order[:0:-1]}.get(role, sorted(order, reverse=True))
            chosen.append(next(index for index in by_role if index not in chosen))
        return tuple(chosen)

    def arm(self, index: int, point: str, signal_: int = signal.SIGKILL) -> None:
        """Make a member get a signal at a point of the coming round."""
        self.members[index].order(do="arm", point=point, round=self.round, signal=int(signal_))
        self.heard(index, "armed", round=self.round)

    def deafen(self, index: int, kind: str) -> None:
        """Let every message of a kind of the coming round be lost on its way to a member."""
        self.members[index].order(do="deafen", kind=kind, round=self.round)
        self.heard(index, "deaf", round=self.round)

    def ready(self) -> list[Process]:
        """Return who could contribute to the coming round now."""
        return [m for m in self.alive() if self._is_ready(m)]

    def _is_ready(self, member: Process) -> bool:
        entered, holds = member.last("entered"), member.last("holds")
        if entered is None or holds is None or entered["round"] != self.round:
            return False
        return bool(entered["state"] <= holds["round"] < self.round)

    def contribute(self, members: Sequence[Process]) -> None:
        """Have these contribute to the coming round."""
        for member in members:
            member.order(do="contribute", round=self.round, weight=float(member.index + 1))

    def decided(self, members: Sequence[Process], within_s: float = ANSWER_S) -> list[dict[str, Any]]:
        """Wait until these know the coming round's outcome and hold what it left; return it as each told it."""
        round_ = self.round
        self.until(lambda: all(m.last("decided", round=round_) for m in members), within_s)
        found = [told for m in members if (told := m.last("decided", round=round_)) is not None]
        self.until(lambda: all(self._is_through(m, round_) for m in members))
        self._check(found)
        return found

    @staticmethod
    def _is_through(member: Process, round_: int) -> bool:
        holds, entered = member.last("holds"), member.last("entered")
        is_outside = entered is None or member.told.index(entered) < max(
            (i for i, told in enumerate(member.told) if told["kind"] == "outside"), default=-1
        )
        is_next = entered is not None and entered["round"] > round_
        return holds is not None and holds["round"] >= round_ and (is_next or is_outside)

    def run_round(self) -> list[dict[str, Any]]:
        """Run a round to which nothing happens, with all who are in it."""
        members = self.ready()
        started = time.monotonic()
        self.contribute(members)
        outcomes = self.decided(members)
        self.usual_s = max(o["at"] for o in outcomes) - started
        return outcomes

    def all_in(self) -> list[dict[str, Any]]:
        """Run rounds until everybody's contribution is in one of them."""
        for index in range(len(self.members)):
            self.heard(index, "address")
        for _ in range(ROUNDS_MAX):
            self.until(lambda: len(self.ready()) >= 2)
            self._wait_for_the_rest()
            outcomes = self.run_round()
            if len(outcomes[0]["shares"]) == len(self.members):
                return outcomes
        raise AssertionError(f"not all are in after {ROUNDS_MAX} rounds\n{self.story()}")

    def _wait_for_the_rest(self) -> None:
        """Give those who are in the view and fetch the state a moment, as a trainer would that is not the fastest."""
        peers = [self.peers[index] for index in self.order()]
        wanted = [m for m in self.alive() if self.peers[m.index] in peers]
        with contextlib.suppress(AssertionError):
            self.until(lambda: all(self._is_ready(m) for m in wanted), 2.0)

    def kill(self, *points: str, back: bool = False) -> Strike:
        """Kill a member at each of these points of a round, which the others end; return how they did.

        They must end it with all their own contributions, and not by a deadline: a broken link tells them of the death.
        With `back` each is started again at once, in the middle of that round. A round that a majority ends before all
        came to their points must end as well as any; another is begun then, with victims by the roles of that one.
        """
        return self._strike(points, signal.SIGKILL, back=back)

    def stop(self, *points: str) -> Strike:
        """Make a member stand still at each of these points instead: only its silence tells of it."""
        return self._strike(points, signal.SIGSTOP)

    def _strike(self, points: Sequence[str], signal_: signal.Signals, *, back: bool = False) -> Strike:
        for tries in range(1, TRIES_MAX + 1):
            round_, victims = self.round, self.victims(points)
            struck, outcomes = self._struck(dict(zip(victims, points, strict=True)), signal_, back=back)
            if len(struck) == len(points):
                return Strike(round_, victims, outcomes, tries, max(struck.values()))
            self._recover([] if back else list(struck), signal_)
        raise AssertionError(f"not all came by {points} in {TRIES_MAX} rounds\n{self.story()}")

    def _recover(self, struck: Sequence[int], signal_: signal.Signals) -> None:
        (self.restart if signal_ == signal.SIGKILL else self.resume)(*struck)
        self.all_in()

    def _struck(
        self, points: dict[int, str], signal_: signal.Signals, *, back: bool
    ) -> tuple[dict[int, float], list[dict[str, Any]]]:
        """Run a round in which these may get a signal; return who got one and when, and how the others ended it."""
        others = [m.index for m in self.ready() if m.index not in points]
        at = self._begun(points, signal_)
        for index in at if back else ():
            self.start(index)
        outcomes = self.decided([self.members[i] for i in (*others, *points) if i not in at])
        committed = {peer for peer, _ in outcomes[0]["shares"]}
        assert committed >= {self.peers[index] for index in others}, self.story()
        if at:
            self._check_in_time(outcomes, max(at.values()), [self.members[i] for i in others], signal_)
        return at, outcomes

    def _check_in_time(
        self, outcomes: Sequence[dict[str, Any]], last: float, survivors: Sequence[Process], signal_: signal.Signals
    ) -> None:
        late_s = max(o["at"] for o in outcomes) - last - self._detected_s(survivors, last, signal_)
        assert late_s < LATE_S + BUSY_ROUNDS * self.usual_s, f"{late_s:.2f} s late\n{self.story()}"

    def begin(self, points: dict[int, str]) -> None:
        """Begin a round in which each of these dies at its point, and wait until all have."""
        assert len(self._begun(points, signal.SIGKILL)) == len(points), self.story()

    def _begun(self, points: dict[int, str], signal_: signal.Signals) -> dict[int, float]:
        """Begin a round in which each of these gets a signal at its point; return when each got it that came by."""
        round_ = self.round
        for index, point in points.items():
            self.arm(index, point, signal_)
        self.contribute(self.ready())
        self.until(lambda: all(self._is_past(self.members[index], round_) for index in points))
        found = {index: self._struck_at(index, round_) for index in points}
        at = {index: struck_at for index, struck_at in found.items() if struck_at is not None}
        self.until(lambda: signal_ == signal.SIGSTOP or not any(self.members[i].is_alive for i in at))
        return at

    def _is_past(self, member: Process, round_: int) -> bool:
        """Tell whether a member came to its point, or to the end of that round."""
        return member.is_over or member.last("point", round=round_) is not None or self._is_through(member, round_)

    def _struck_at(self, index: int, round_: int) -> float | None:
        """Return when a member got its signal; one that did not yet gets none any more."""
        member = self.members[index]
        member.order(do="disarm")
        self.until(lambda: member.is_over or any(member.last(kind, round=round_) for kind in ("point", "disarmed")))
        point = member.last("point", round=round_)
        assert point is not None or not member.is_over, f"member {index} ended\n{self.story()}"
        return None if point is None else float(point["struck_at"])

    def counts(self, index: int) -> dict[str, Any]:
        """Return what a member's process has of tasks, descriptors and memory."""
        member = self.members[index]
        told = len(member.told)
        member.order(do="count")
        self.until(lambda: any(_fits(t, "counts", {}) for t in member.told[told:]))
        return self.heard(index, "counts")

    def _detected_s(self, survivors: Sequence[Process], last: float, signal_: signal.Signals) -> float:
        """Return how long after a strike its detection may have been."""
        if signal_ == signal.SIGSTOP:
            return float(self.timing["suspect_s"] + self.timing["stagger_s"])
        return (
            min((t["at"] for m in survivors for t in m.told if _fits(t, "down", {}) and t["at"] >= last), default=last)
            - last
        )

    # ---------------------------------------------------------------------------------------------- what must hold

    def _check(self, outcomes: Sequence[dict[str, Any]]) -> None:
        """All who decided hold the same, and it is the exact mean of what C contributed, each delta once."""
        one = outcomes[0]
        for other in outcomes[1:]:
            same = {name: other[name] for name in ("round", "value", "shares", "committed")}
            assert same == {name: one[name] for name in same}, self.story()
        means = {told["mean"] for m in self.members if (told := m.last("mean", round=self.round)) is not None}
        assert len(means) == one["committed"], f"members hold different bytes\n{self.story()}"
        indexes = {peer: index for index, peer in self.peers.items()}
        shares = {indexes[peer]: weight for peer, weight in one["shares"]}
        if one["committed"]:
            self._check_mean(shares, next(m.index for m in self.members if m.last("mean", round=self.round)))
        self._settle(shares, committed=one["committed"])
        self.round += 1

    def _check_mean(self, shares: dict[int, float], holder: int) -> None:
        mean, weight = np.zeros(self.elements), sum(shares.values())
        for index, share in shares.items():
            y = np.fromfile(self._contribution(index), np.float32)
            mean += y.astype(np.float64) * (share / weight)
        found = np.fromfile(self.folder / f"mean-{self.round}-{holder}", np.float32)
        error = float(np.linalg.norm(found - mean) / np.linalg.norm(mean))
        assert error < ERROR_MAX, f"the mean of round {self.round} is off by {error:.3g}"

    def _contribution(self, index: int) -> Path:
        return self.folder / f"y-{index}-{self.round}"

    def _settle(self, shares: dict[int, float], *, committed: bool) -> None:
        """Count what is applied now, as each contributor's ledger must have it."""
        self.outcomes[self.round] = set(shares) if committed else None
        for index, weight in shares.items():
            carried = self._carried(index)
            own = float(index + 1)
            assert weight == (own if carried is None else 2 * own), f"member {index} is weighed {weight}, not {own}"
            self._apply(index, self.round)
            if carried is not None:
                self._apply(index, carried)

    def _carried(self, index: int) -> int | None:
        """Return the round whose contribution a member carried into this one: the last one that it missed in this life."""
        for round_ in range(self.round - 1, 0, -1):
            found = self.outcomes[round_]
            if found is not None and index in found:
                return None
            if found is not None and self.members[index].last("contributes", round=round_) is not None:
                return round_
        return None

    def _apply(self, index: int, round_: int) -> None:
        self.applied[index, round_] = self.applied.get((index, round_), 0) + 1
        assert self.applied[index, round_] == 1, f"what {index} contributed to round {round_} was applied twice"

    def states(self) -> set[str]:
        """Return the hashes of the states that the living hold after the last round."""
        members = self.alive()
        self.until(lambda: all(m.last("holds", round=self.round - 1) is not None for m in members))
        return {told["state"] for m in members if (told := m.last("holds", round=self.round - 1)) is not None}


@contextlib.contextmanager
def running(folder: Path, count: int, **options: Any) -> Iterator[Swarm]:
    """Run a swarm whose first round has ended well."""
    with Swarm(folder, count, **options) as swarm:
        swarm.found()
        swarm.run_round()
        yield swarm
