"""One member of a run as a process of its own: the aggregator of production, a stand-in for its trainer, an observer.

`swarm.py` starts it. It hears orders on standard input and tells all that happens on standard output, one JSON object a
line. Its trainer's state is a vector from which each mean is subtracted; one that missed a commit finds it in the folder,
where those who made it put it: how a donor would send it is tested elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from points import AFTER, BEFORE, EVENT, SYNC, TOLD, TORN, MortalFiles, Observer  # type: ignore[import-not-found]

import prime
from prime.actor import Mailbox
from prime.actor.facts import ActorFailed
from prime.store.journal import FileJournal
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member
from prime.trainer.swarm import plans, spooler
from prime.trainer.swarm.aggregator import Aggregator
from prime.trainer.swarm.carry import Frozen, Ledger
from prime.trainer.swarm.float32 import Float32
from prime.trainer.swarm.membership import SwarmPlan
from prime.transport.identity import KeyPair

LOOK_S = 0.02
BUSY = Mailbox(4096)


def say(**fields: Any) -> None:
    """Tell the test something."""
    os.write(1, (json.dumps({"at": time.monotonic(), **fields}) + "\n").encode())


def say_failure(fact: Any) -> None:
    """Tell of an actor that failed: no fault of another process, nor of a disk, may be one here."""
    if isinstance(fact, ActorFailed):
        say(kind="failed", path=fact.path, error=fact.error, traceback=fact.traceback)


def digest(vector: Any) -> str:
    """Return the hash of a vector's bits."""
    return hashlib.sha256(vector.data).hexdigest()


def delta_of(index: int, round_: int, elements: int) -> Any:
    """Return what member `index` contributes to a round, if nothing is carried: float32[D]."""
    return np.random.default_rng([index, round_]).standard_normal(elements, np.float32)


def warmed() -> Float32:
    """Return the numbers of training, compiled: a second of numba would pass for silence in the first round."""
    numbers = Float32()
    cut = slice(0, numbers.grain)
    data = numbers.encode(np.ones(numbers.grain, np.float32), cut)
    numbers.check(data, cut)
    numbers.room(numbers.grain).decode(numbers.reduce([data], [1.0], cut), cut)
    return numbers


def save(path: Path, vector: Any) -> None:
    """Put a vector into a file, whole or not at all."""
    draft = path.with_name(f"draft-{path.name}-{os.getpid()}")
    draft.write_bytes(vector.data)
    draft.replace(path)


def write_frozen(path: Callable[[int], Path]) -> None:
    """Have each ledger of this process put what it freezes into a file before anybody can hear of it."""
    freeze = Ledger.freeze

    def written(self: Ledger[Any], round_: int, delta: Any, weight: float) -> Frozen[Any]:
        is_new = self.frozen is None
        frozen = freeze(self, round_, delta, weight)
        if is_new:
            save(path(round_), frozen.y)
            say(kind="froze", round=round_, weight=frozen.weight)
        return frozen

    Ledger.freeze = written  # type: ignore[method-assign]


class Told:
    """The ref of a peer's aggregator: what is told to it passes the observer."""

    def __init__(self, ref: Any, observer: Observer) -> None:
        self._ref = ref
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ref, name)

    async def tell(self, message: Any) -> None:
        await self._ref.tell(message)
        self._observer.passes(TOLD, message)


class Observed(Aggregator):
    """The aggregator of production; the observer sees each event, command and message."""

    def __init__(self, plan: SwarmPlan, journal: Any, report: Any, numbers: Float32, observer: Observer) -> None:
        super().__init__(plan, journal, report, numbers)
        self._observer = observer

    async def _step(self, event: cmd.Event) -> None:
        if self._observer.is_lost(event):
            return
        self._observer.passes(EVENT, event)
        if isinstance(event, cmd.PeerDown):
            say(kind="down", peer=event.peer)
        await super()._step(event)

    async def _do(self, command: cmd.Command) -> None:
        observer = self._observer
        observer.passes(BEFORE, command)
        observer.writing = observer.is_at(TORN, command) or observer.is_at(SYNC, command)
        try:
            await super()._do(command)
        finally:
            observer.writing = False
        observer.passes(AFTER, command)
        if isinstance(command, cmd.Persist) and isinstance(command.record, msg.Accepted):
            say(kind="voted", round=command.record.round)
        if isinstance(command, cmd.Persist) and isinstance(command.record, msg.Decided):
            say(kind="decided", **_value(command.record.value))

    def _told(self, peer: str) -> Any:
        return Told(super()._told(peer), self._observer)


@attrs.define
class Learner:
    """The stand-in for a trainer."""

    index: int
    folder: Path
    elements: int
    aggregator: Any = None
    theta: Any = None
    round: int = -1
    wanted: int | None = None
    outcomes: list[Any] = attrs.Factory(list)
    news: trio.Event = attrs.Factory(trio.Event)

    def report(self, outcome: plans.Outcome) -> None:
        """Take an outcome from the aggregator: only told on, as the handler of an actor must not wait."""
        if isinstance(outcome, plans.RoundCommitted):
            say(kind="mean", round=outcome.value.round, mean=digest(outcome.aggregate), included=outcome.included)
        self.outcomes.append(outcome)
        self.news.set()

    async def live(self) -> None:
        """Take outcomes one after the other."""
        while True:
            while self.outcomes:
                await self._take(self.outcomes.pop(0))
            self.news = trio.Event()
            await self.news.wait()

    async def _take(self, outcome: plans.Outcome) -> None:
        match outcome:
            case plans.ViewEntered(round_, view, state_round):
                say(kind="entered", round=round_, members=view.peers(), order=view.order(round_), state=state_round)
                if round_ == 1 and self.round < 0:
                    await self._hold(0, np.zeros(self.elements, np.float32))
            case plans.RoundCommitted(value, aggregate) if self.round < value.round:
                self._keep_mean(value.round, aggregate)
                await self._hold(value.round, self.theta - aggregate)
            case plans.RoundAborted(value) if value.state_round <= self.round < value.round:
                await self._hold(value.round, self.theta)
            case plans.StateMissed(round_):
                await self._fetch(round_)
            case plans.LeftView(_, reason, rejoining):
                say(kind="outside", reason=reason, rejoining=rejoining)
            case plans.RoundStalled(round_, reason, hint):
                say(kind="stalled", round=round_, reason=reason, hint=hint)
            case plans.RoundResumed(round_):
                say(kind="resumed", round=round_)

    def _keep_mean(self, round_: int, aggregate: Any) -> None:
        save(self.folder / f"mean-{round_}-{self.index}", aggregate)

    async def _fetch(self, round_: int) -> None:
        """Take the state after a round from one who made it: the newest that is there, which may be a later one."""
        while True:
            found = sorted(int(path.name.partition("-")[2]) for path in self.folder.glob("state-*[0-9]"))
            if (found and found[-1] >= round_) or round_ == 0:
                break
            await trio.sleep(LOOK_S)
        newest = found[-1] if found else 0
        theta = (
            np.fromfile(self.folder / f"state-{newest}", np.float32) if found else np.zeros(self.elements, np.float32)
        )
        await self._hold(newest, theta)

    async def _hold(self, round_: int, theta: Any) -> None:
        self.theta, self.round = theta, round_
        if not (self.folder / f"state-{round_}").exists():
            save(self.folder / f"state-{round_}", theta)
        say(kind="holds", round=round_, state=digest(theta))
        await self.aggregator.tell(plans.StateHeld(round_, bytes.fromhex(digest(theta))))

    async def obey(self, order: dict[str, Any], observer: Observer) -> None:
        """Do what the test orders."""
        match order:
            case {"do": "arm", "point": point, "round": round_, "signal": signal_}:
                observer.arm(point, round_, signal_)
                say(kind="armed", round=round_)
            case {"do": "disarm"}:
                say(kind="disarmed", round=observer.disarm())
            case {"do": "deafen", "kind": kind, "round": round_}:
                observer.deaf = (kind, round_)
                say(kind="deaf", round=round_)
            case {"do": "contribute", "round": round_, "weight": weight}:
                delta = await trio.to_thread.run_sync(delta_of, self.index, round_, self.elements)
                say(kind="contributes", round=round_)
                await self.aggregator.tell(plans.Contribute(round_, delta, weight))
            case {"do": "leave"}:
                await self.aggregator.tell(plans.LeaveSwarm())
            case {"do": "count"}:
                say(kind="counts", **counts())


def _value(value: Any) -> dict[str, Any]:
    return {
        "round": value.round,
        "value": value.digest().hex(),
        "shares": [[share.peer, share.weight] for share in value.shares],
        "committed": not value.aborted,
        "next": value.next_view.peers(),
    }


def counts() -> dict[str, int]:
    """Return what a process may leak."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "kib": int(resident.split()[1]),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
    }


async def orders() -> Any:
    """Yield orders until standard input ends, which is also how this process learns that the test is gone."""
    pending = b""
    while True:
        await trio.lowlevel.wait_readable(0)
        found = os.read(0, 65536)
        if not found:
            return
        *lines, pending = (pending + found).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _transport(name: str, listen: str) -> Any:
    return prime.Libp2p(listen) if name == "libp2p" else prime.Tcp(listen)


async def run(options: argparse.Namespace) -> None:
    """Be a member until standard input ends."""
    observer, numbers = Observer(say), warmed()
    if options.spooled:
        spooler.SPOOLED_BYTES_MIN = 0
    write_frozen(lambda round_: options.folder / f"y-{options.index}-{round_}")
    folder: Path = options.folder
    learner = Learner(options.index, folder, options.elements)
    with contextlib.closing(
        await FileJournal.open(folder / str(options.index) / "journal", MortalFiles(observer))
    ) as journal:
        key = KeyPair.from_seed(bytes([options.index + 1]) * 32)
        transport = _transport(options.transport, options.listen)
        async with prime.open_system(transport=transport, key=key) as system, system.supervisor("train") as sup:
            assert system.network is not None
            system.subscribe(say_failure)
            contacts = [await system.network.dial(address) for address in options.join]
            incarnation = time.time_ns() if not journal.records() else 0
            member = Member(system.peer, system.addresses, 1.0, incarnation)
            timing = Timing(**json.loads(options.timing))
            plan = SwarmPlan("kills", member, options.found, tuple(contacts), options.count, timing)

            def aggregator() -> Observed:
                return Observed(plan, journal, learner.report, numbers, observer)

            learner.aggregator = await sup.spawn(aggregator, "aggregator", mailbox=BUSY)
            await learner.aggregator.tell(plans.Begin(options.elements))
            say(kind="address", address=system.addresses[0], peer=system.peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(learner.live)
                async for order in orders():
                    await learner.obey(order, observer)
                nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    for name in ("index", "elements", "count"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--found", action="store_true")
    parser.add_argument("--spooled", action="store_true")
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("--listen", default="/ip4/127.0.0.1/tcp/0")
    parser.add_argument("--timing", default="{}")
    parser.add_argument("--join", nargs="*", default=[])
    trio.run(partial(run, parser.parse_args()))


if __name__ == "__main__":
    main()
