"""What a node hears and tells of runs: the board, carried out over its links.

The board decides what is passed on to whom and which run is taken; here are the tasks that send, and the run that waits to be
taken. One task sends to one peer, so that none keeps others waiting, and of each run a peer gets the latest word.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
import trio

from prime.actor import System
from prime.errors import LocalProtocolError, WorldError
from prime.node.links import linked_peers
from prime.node.runs import RunsActor
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs import board as runs
from prime.trainer.runs.acceptance import Acceptance
from prime.trainer.runs.messages import RUNS_PATH, RunMember, RunNotice, RunsKnown, ShareRun, Standing

BEAT_S: Final = 2.0
"""How often a node says again where it stands."""
SEND_S: Final = 5.0
FANOUT_MAX: Final = 32
"""Peers that are told of a run at once."""


@attrs.frozen
class RunComplaint:
    """What an operator should read about runs."""

    text: str


class Notices:
    """The runs that the node called `name` knows, and what it tells others of them while it serves."""

    def __init__(self, system: System, name: str, acceptance: Acceptance) -> None:
        self._system = system
        self._board = runs.Board(system.peer, name, acceptance, _stamp_ms(), waits=True)
        self._outbox: dict[str, dict[str, RunNotice]] = {}
        self._turn = 0
        self._nursery: trio.Nursery | None = None
        self._taken: RunNotice | None = None
        self._news = trio.Event()

    @property
    def taking(self) -> str:
        """The full name of the run that this node takes part in, or an empty text."""
        return self._board.taking

    def known(self) -> RunsKnown:
        """Return the runs that this node knows."""
        return self._board.known(trio.current_time())

    def members(self, run: str) -> tuple[RunMember, ...]:
        """Return what is known of a run's members, this node among them."""
        return next((known.members for known in self.known().runs if known.run == run), ())

    def others(self, run: str) -> list[RunMember]:
        """Return what is known of a run's other members."""
        return [member for member in self.members(run) if member.peer != self._system.peer]

    def find(self, name: str) -> str:
        """Return the full name of the run that a name means. Raises as `Board.find`."""
        return self._board.find(name)

    # ------------------------------------------------------------------------------------------------ which is taken

    def submit(self, name: str, settings: TrainingConfig) -> RunNotice:
        """Found a run here, and take it. Raises `RefusedError`."""
        notice = self._board.submit(name, settings, secrets.token_hex(8), trio.current_time())
        self.take(notice)
        return notice

    def enter(self, notice: RunNotice) -> RunNotice:
        """Note that this node takes part in a run that nobody has to tell it of; return the notice of it."""
        return self._board.enter(notice, trio.current_time())

    def take(self, notice: RunNotice) -> None:
        """Let this be the run that `to_take` returns next."""
        self._taken = notice
        self._news.set()

    async def to_take(self) -> RunNotice:
        """Wait for a run to take part in."""
        while self._taken is None:
            self._news = trio.Event()
            await self._news.wait()
        notice, self._taken = self._taken, None
        return notice

    # ----------------------------------------------------------------------------------------------- what is told

    def step(self, event: runs.Event) -> None:
        """Give the board an event and carry out what it decides."""
        for command in self._board.step(event, trio.current_time()):
            match command:
                case runs.PassOn(notice, to, besides):
                    self._share(notice, (to,) if to else self._some(besides))
                case runs.Take(notice):
                    self.take(notice)
                case runs.Complain(text):
                    self.complain(text)

    def stand(self, run: str, standing: Standing, why: str, *, round_: int = 0, again: bool = False) -> None:
        """Say where this node stands in a run."""
        self.step(runs.Stood(run, standing, why, round_, again))

    def complain(self, text: str) -> None:
        """Say what an operator should read."""
        self._system.emit(RunComplaint(text))

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell others where this node stands, until cancelled; what is to be told before or after is not."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    self.step(runs.Beat(_stamp_ms(), self._system.addresses))
                    await trio.sleep(BEAT_S)
        finally:
            self._nursery = None

    def _some(self, besides: Sequence[str]) -> list[str]:
        """Return the linked peers that are told now: all, or of very many some in turn; they pass on what is new."""
        peers = [peer for peer in linked_peers(self._system) if peer not in besides]
        if len(peers) <= FANOUT_MAX:
            return peers
        self._turn = (self._turn + FANOUT_MAX) % len(peers)
        return [*peers, *peers][self._turn : self._turn + FANOUT_MAX]

    def _share(self, notice: RunNotice, peers: Iterable[str]) -> None:
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


def _stamp_ms() -> int:
    return time.time_ns() // 1_000_000
