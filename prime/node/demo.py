"""The demo: a swarm on this machine trains, loses a node to SIGKILL in the middle, and gets it back.

`run_demo` drives it and calls `on_change` with what it sees; how that looks is the command line's affair. Every number
comes from the nodes themselves, over their control sockets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import trio

from prime.errors import RunFailedError
from prime.node.swarm import LocalNode, LocalSwarm, open_swarm
from prime.observe.messages import RoundStatus, RunStatus

POLL_S = 0.25
STUCK_S = 180.0
"""Without any progress for this long, the demo gives up and says where the logs are."""
RESTART_S = 3.0
"""The longest that a killed node stays down while the others commit without it."""

Stage = Literal["starting", "training", "one node killed", "node returns", "done"]


@attrs.frozen
class DemoOptions:
    """What `prime demo` was asked for."""

    nodes: int
    rounds: int
    transport: str
    data: str
    kill: bool
    inner_steps: int
    seed: int = 0


@attrs.define
class Demo:
    """The demo so far, as seen from outside its nodes. Times are seconds since the start."""

    options: DemoOptions
    swarm: LocalSwarm
    started_at: float
    ended_at: float | None = None
    stage: Stage = "starting"
    rounds: dict[int, RoundStatus] = attrs.Factory(dict)
    first_round_at: float | None = None
    measured: int = 0
    """The round whose held-out loss came last."""
    killed_at: float | None = None
    killed_round: int = 0
    restarted_at: float | None = None
    rejoined_at: float | None = None
    rejoined_round: int = 0
    hashes: dict[int, dict[str, str]] = attrs.Factory(dict)
    counters: dict[tuple[str, int], tuple[int, int, int]] = attrs.Factory(dict)

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start, up to the end."""
        return (self.ended_at if self.ended_at is not None else trio.current_time()) - self.started_at

    @property
    def victim(self) -> LocalNode:
        """Return the node that is killed: the last one."""
        return self.swarm.nodes[-1]

    def run_of(self, node: LocalNode) -> RunStatus | None:
        """Return a node's last known run status."""
        return node.status.run if node.status is not None else None

    @property
    def round(self) -> int:
        """Return the last committed round that anyone reported."""
        return max(self.rounds, default=0)

    @property
    def first(self) -> RunStatus | None:
        """Return the founder's run."""
        return self.run_of(self.swarm.nodes[0])

    def totals(self) -> tuple[int, int, int]:
        """Return (wire, float32, state) bytes over all lives of all nodes."""
        return tuple(sum(c[i] for c in self.counters.values()) for i in range(3))  # type: ignore[return-value]

    def eta_s(self) -> float | None:
        """Estimate the seconds left from the rounds so far."""
        if self.first_round_at is None or self.round < 2:
            return None
        pace = (self.elapsed_s - self.first_round_at) / (self.round - 1)
        return max(pace * (self.options.rounds - self.round), 0.0)

    def identical(self) -> bool:
        """Tell whether all living nodes hold the same parameter hash after the last common round."""
        return len(set(self.hashes.get(self.common_round, {}).values())) == 1

    @property
    def common_round(self) -> int:
        """Return the last round after which every living node reported its hash."""
        alive = {node.name for node in self.swarm.nodes if node.status is not None}
        return max((r for r, found in self.hashes.items() if alive <= set(found)), default=0)

    @property
    def rejoin_s(self) -> float | None:
        """Return the seconds from SIGKILL to the first commit with the returned node as contributor."""
        if self.rejoined_at is None or self.killed_at is None:
            return None
        return round(self.rejoined_at - self.killed_at, 2)

    def result(self) -> dict[str, Any]:
        """Return the numbers of the whole run."""
        runs = [run for node in self.swarm.nodes if (run := self.run_of(node)) is not None]
        last = next((run.loss_last for run in runs if run.loss_last is not None), None)
        wire, float32, state = self.totals()
        return {
            "event": "demo.result",
            "nodes": self.options.nodes,
            "transport": self.options.transport,
            "rounds": self.round,
            "loss_first": self.first.loss_first if self.first is not None else None,
            "loss_last": last,
            "unigram": self.first.unigram if self.first is not None else None,
            "identical": self.identical(),
            "killed": self.killed_at is not None,
            "rejoined": self.rejoined_at is not None,
            "rejoin_s": self.rejoin_s,
            "wire_bytes": wire,
            "float32_bytes": float32,
            "state_bytes": state,
            "elapsed_s": round(self.elapsed_s, 2),
        }


Change = Callable[[Demo, str], None]
"""Called with the demo and the name of what happened: start, tick, round, measured, killed, restarted, rejoined, done."""


async def run_demo(options: DemoOptions, settings: dict[str, Any], on_change: Change) -> Demo:
    """Run the whole demo. Raises `RunFailedError` when a node fails or nothing moves."""
    with tempfile.TemporaryDirectory(prefix="prime-demo-") as folder:
        async with open_swarm(Path(folder), settings, options.nodes) as swarm:
            demo = Demo(options, swarm, trio.current_time())
            on_change(demo, "start")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tick, demo, on_change)
                await _start_all(demo)
                await _watch(demo, on_change)
                nursery.cancel_scope.cancel()
            demo.stage, demo.ended_at = "done", trio.current_time()
            on_change(demo, "done")
    return demo


async def _tick(demo: Demo, on_change: Change) -> None:
    while True:
        on_change(demo, "tick")
        await trio.sleep(POLL_S)


async def _start_all(demo: Demo) -> None:
    founder, *others = demo.swarm.nodes
    await demo.swarm.start(founder)
    async with trio.open_nursery() as nursery:
        for node in others:
            nursery.start_soon(demo.swarm.start, node, (founder.address,))
    demo.stage = "training"


async def _watch(demo: Demo, on_change: Change) -> None:
    """Poll until every living node is done; kill and restart the victim on the way."""
    moved_at, mark = trio.current_time(), None
    restarting = False
    async with trio.open_nursery() as nursery:
        while not _is_done(demo):
            await demo.swarm.poll_all()
            demo.swarm.check_alive(demo.victim if demo.stage == "one node killed" else None)
            _learn(demo, on_change)
            if _should_kill(demo):
                await _kill(demo, on_change)
            if _should_restart(demo) and not restarting:
                restarting = True
                nursery.start_soon(_restart, demo, on_change)
            now_mark = _mark(demo)
            if now_mark != mark:
                moved_at, mark = trio.current_time(), now_mark
            if trio.current_time() - moved_at > STUCK_S:
                raise RunFailedError(_stuck(demo), hint="run it again with --no-kill, and look at the logs above")
            await trio.sleep(POLL_S)


def _learn(demo: Demo, on_change: Change) -> None:
    for node in demo.swarm.nodes:
        run = demo.run_of(node)
        if run is None or not node.alive:
            continue
        demo.counters[node.name, node.starts] = (run.wire_bytes, run.float32_bytes, run.state_bytes)
        if run.state_hash:
            demo.hashes.setdefault(run.round, {})[node.name] = run.state_hash
        for decided in run.history:
            _learn_round(demo, decided, on_change)


def _learn_round(demo: Demo, decided: RoundStatus, on_change: Change) -> None:
    if not decided.committed:
        return
    known = demo.rounds.get(decided.round)
    if known is None:
        demo.rounds[decided.round] = decided
        demo.first_round_at = demo.first_round_at if demo.first_round_at is not None else demo.elapsed_s
        _learn_return(demo, decided, on_change)
        on_change(demo, "round")
    elif known.held_out is None and decided.held_out is not None:
        demo.measured = decided.round
        demo.rounds[decided.round] = attrs.evolve(known, held_out=decided.held_out)  # type: ignore[misc]  # a @record is one
        on_change(demo, "measured")


def _learn_return(demo: Demo, decided: RoundStatus, on_change: Change) -> None:
    back = demo.restarted_at is not None and decided.round > demo.killed_round
    if back and demo.rejoined_at is None and demo.victim.peer in decided.contributors:
        demo.rejoined_at, demo.rejoined_round = demo.elapsed_s, decided.round
        demo.stage = "training"
        on_change(demo, "rejoined")


def _should_kill(demo: Demo) -> bool:
    due = max(2, demo.options.rounds // 3)
    return demo.options.kill and demo.killed_at is None and demo.round >= due


async def _kill(demo: Demo, on_change: Change) -> None:
    await demo.swarm.kill(demo.victim)
    demo.killed_at, demo.killed_round = demo.elapsed_s, demo.round
    demo.victim.status = None
    demo.stage = "one node killed"
    on_change(demo, "killed")


def _should_restart(demo: Demo) -> bool:
    if demo.killed_at is None or demo.restarted_at is not None:
        return False
    return demo.round > demo.killed_round + 1 or demo.elapsed_s > demo.killed_at + RESTART_S


async def _restart(demo: Demo, on_change: Change) -> None:
    others = tuple(node.address for node in demo.swarm.nodes if node is not demo.victim)
    await demo.swarm.start(demo.victim, others)
    demo.restarted_at = demo.elapsed_s
    demo.stage = "node returns"
    on_change(demo, "restarted")


def _is_done(demo: Demo) -> bool:
    runs = [demo.run_of(node) for node in demo.swarm.nodes if node.alive]
    waiting = demo.options.kill and demo.rejoined_at is None
    return bool(runs) and not waiting and all(run is not None and run.phase == "done" for run in runs)


def _mark(demo: Demo) -> tuple[Any, ...]:
    return tuple(
        (node.starts, run.round, run.step, run.phase) for node in demo.swarm.nodes if (run := demo.run_of(node))
    )


def _stuck(demo: Demo) -> str:
    logs = "\n".join(f"--- {node.name}:\n{node.last_words()}" for node in demo.swarm.nodes)
    return f"nothing moved for {STUCK_S:.0f} s in round {demo.round + 1}; the ends of the logs:\n{logs}"
