"""A watch gives exactly one `Down`, whatever dies: the actor, its supervisor, the system's block, the link.

That a process dies (SIGKILL) is with the other tests of process actors, in `tests/process`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import attrs
import trio
from hypothesis import event, given
from hypothesis import strategies as st

import prime
from prime.actor import Actor, Down, Ref, Restart, Supervisor, System, on
from prime.errors import RestartLimitError
from prime.node.system import open_system
from prime.testing import virtual_clock

Death = Literal["stop", "crash", "leave", "supervisor", "branch", "give_up", "system", "link"]


@prime.message(tag=0x7141)
class End:
    how: str


@attrs.frozen
class Watch:
    ref: Any


@attrs.frozen
class Unwatch:
    pass


class Mortal(Actor[End]):
    @on(End)
    def end(self, m: End) -> None:
        if m.how == "crash":
            raise ValueError("as told")
        self.ctx.stop()


class Mourner(Actor[Watch | Unwatch | Down]):
    """Watches as often as it is told, and keeps the notices in a list of the test's."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard
        self.ends: list[Callable[[], None]] = []

    @on(Watch)
    def watch(self, m: Watch) -> None:
        self.ends.append(self.ctx.watch(m.ref))

    @on(Unwatch)
    def unwatch(self, _: Unwatch) -> None:
        self.ends.pop()()

    @on(Down)
    def down(self, m: Down) -> None:
        self.heard.append(m.reason)


@attrs.frozen
class Watcher:
    """One watch: from where, by whom, when (before or after the death), and whether it is ended before that."""

    far: bool
    by_actor: bool
    late: bool
    ended: bool


WATCHERS = st.lists(st.builds(Watcher, st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=6)


@attrs.define
class Stage:
    """Where the mortal lives, and from where it is watched."""

    home: System
    away: System
    near_ref: Ref[Any]
    far_ref: Ref[Any]
    heard: list[list[str]] = attrs.field(factory=list)


async def place(stage: Stage, watcher: Watcher, sup: Supervisor, name: str) -> None:
    """Begin a watch, and end it again if it shall be ended."""
    heard: list[str] = []
    stage.heard.append(heard)
    ref = stage.far_ref if watcher.far else stage.near_ref
    if watcher.by_actor:
        mourner = await sup.spawn(lambda: Mourner(heard), name)
        await mourner.tell(Watch(ref))
        await trio.sleep(0.1)
        if watcher.ended and not watcher.late:
            await mourner.tell(Unwatch())
            await trio.sleep(0.1)
        return
    end = sup.system.watch(ref, heard.append)
    await trio.sleep(0.1)
    if watcher.ended and not watcher.late:
        end()


async def kill(death: Death, stage: Stage, sup: Supervisor, parent: Supervisor) -> None:
    match death:
        case "stop":
            await sup.stop(stage.near_ref)
        case "crash" | "leave":
            await stage.near_ref.tell(End(death))
        case "give_up":
            for _ in range(3):
                await stage.near_ref.tell(End("crash"))
        case "branch":
            await parent.stop_supervisor("nested")
        case "link":
            carrier = stage.away.network.carrier(stage.home.peer)  # type: ignore[union-attr]
            if carrier is not None:
                carrier._channel.close_nowait()


@attrs.define
class Play:
    """The home of the mortal, from its beginning to its end, and the far system that watches it."""

    death: Death
    watchers: list[Watcher]
    memory: prime.Memory = attrs.field(factory=prime.Memory)
    home_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    supervisor_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    stages: list[Stage] = attrs.field(factory=list)

    async def run(self) -> Stage:
        async with open_system(seed=2, transport=self.memory) as away, away.supervisor("mourning") as mourning:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.live, away, mourning)
            await trio.sleep(300)
            assert away.leftovers()["watches"] == 0
        return self.stages[0]

    async def live(self, away: System, mourning: Supervisor) -> None:
        with self.home_scope:
            async with open_system(seed=1, transport=self.memory) as home, home.supervisor("mourning") as near:
                away.learn(home.peer, home.addresses)
                with self.supervisor_scope, contextlib.suppress(RestartLimitError):
                    async with home.supervisor("s", restart=Restart(max=1)) as parent:
                        await self.die(home, away, parent, near, mourning)
                await self.place_all(near, mourning, late=True)
                await trio.sleep(300)

    async def die(self, home: System, away: System, parent: Supervisor, near: Supervisor, far: Supervisor) -> None:
        kind: Any = "temporary" if self.death in {"crash", "leave"} else "permanent"
        owners = [parent]

        async def start(nested: Supervisor) -> None:
            owners.append(nested)
            await nested.spawn(Mortal, "mortal", kind=kind)

        await (parent.spawn_supervisor("nested", start) if self.death == "branch" else start(parent))
        path = f"{owners[-1].path}/mortal"
        ref = home.whereis(path)
        assert ref is not None
        stage = Stage(home, away, ref, away.ref(home.peer, path, Mortal))
        self.stages.append(stage)
        await self.place_all(near, far, late=False)
        await kill(self.death, stage, owners[-1], parent)
        if self.death == "supervisor":
            self.supervisor_scope.cancel()
        await trio.sleep(30)
        if self.death == "system":
            self.home_scope.cancel()
        await trio.sleep(1)

    async def place_all(self, near: Supervisor, far: Supervisor, *, late: bool) -> None:
        for watcher in self.watchers:
            if watcher.late == late:
                await place(self.stages[0], watcher, far if watcher.far else near, f"w{len(self.stages[0].heard)}")


@given(
    death=st.sampled_from(["stop", "crash", "leave", "supervisor", "branch", "give_up", "system", "link"]),
    watchers=WATCHERS,
)
def test_a_watch_gives_one_down_whatever_dies(death: Death, watchers: list[Watcher]) -> None:
    if death in {"system", "link"}:  # nobody is left to watch from there, or it lives on there
        watchers = [attrs.evolve(watcher, late=False, far=True) for watcher in watchers]
    stage = trio.run(Play(death, watchers).run, clock=virtual_clock())
    order = [w for w in watchers if not w.late] + [w for w in watchers if w.late]
    for watcher, heard in zip(order, stage.heard, strict=True):
        expected = 0 if watcher.ended and not watcher.late else 1
        assert len(heard) == expected, (death, watcher, heard)
    event(death)
