"""Runs found through the DHT by nodes that have no link with a member: what members say, and what others make of it."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from prime.actor import System
from prime.config import Config
from prime.dht.dht import Dht, open_dht
from prime.dht.name import run_key
from prime.dht.settings import PRESETS
from prime.errors import NotFoundError, UnreachableError
from prime.node import finding, hosted, meeting
from prime.node.finding import SOME_RUN, RunFinder, state_key
from prime.node.hosting import RunHost
from prime.node.messages import ShowRecord
from prime.node.orders import carry_out
from prime.node.system import open_system
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs.messages import RunNotice
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from prime.transport.multiaddr import parse_address

NOTICE = RunNotice("chess@0123456789ab", "", "00", TrainingConfig(rounds=7), ())


class Host:
    """What a finder sees of a node's runs."""

    def __init__(self) -> None:
        self.taking = ""
        self.training: Any = None
        self.run: RunNotice | None = None

    def notice(self) -> RunNotice | None:
        return self.run

    def join(self, run: str, asked: list[str]) -> None:
        """Wait to be let in: whom it asks is noted."""

        async def ask_too(peers: tuple[str, ...]) -> int:
            new = [peer for peer in peers if peer not in asked]
            asked.extend(new)
            return len(new)

        self.taking = run
        self.training = SimpleNamespace(run=run, progress=SimpleNamespace(epoch=0), ask_too=ask_too)


@attrs.frozen
class Node:
    system: System
    dht: Dht
    host: Host
    finder: RunFinder


@asynccontextmanager
async def network(count: int) -> AsyncIterator[list[Node]]:
    """Open nodes that know of the first alone; only those after it take part in runs."""
    hub, nodes = Memory(), list[Node]()
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            for _ in range(count):
                key = KeyPair.generate()
                system = await stack.enter_async_context(open_system(transport=hub, key=key))
                told_of = nodes[0].system.addresses if nodes else ()
                settings = PRESETS["lan"]
                dht = await stack.enter_async_context(open_dht(system, key, settings=settings, bootstrap=told_of))
                host: Any = Host()
                nodes.append(Node(system, dht, host, RunFinder(system, dht, host)))
            for node in nodes[1:]:
                await node.dht.joined()
            nursery = await stack.enter_async_context(trio.open_nursery())
            for node in nodes[1:]:
                nursery.start_soon(node.finder.run)
            yield nodes
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what happens in several nodes has no one event
        await trio.sleep(0.01)


async def provided(node: Node, key: Any, by: set[str]) -> None:
    while {contact.peer for contact in await node.dht.find_providers(key)} != by:  # noqa: ASYNC110 - as above
        await trio.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "SAY_S", 0.05)
    monkeypatch.setattr(finding, "LOOK_S", 0.05)
    monkeypatch.setattr(finding, "LOOK_S_MAX", 0.1)
    monkeypatch.setattr(meeting, "LOOK_S", 0.05)
    monkeypatch.setattr(meeting, "LOOK_S_MAX", 0.1)


async def test_a_member_says_so_under_the_names_of_its_run_and_no_more_when_it_leaves() -> None:
    async with network(3) as (_, member, other):
        member.host.run = NOTICE
        for key in (SOME_RUN, run_key("chess"), run_key(NOTICE.run), state_key(NOTICE.run)):
            await provided(other, key, {member.system.peer})
        assert await other.finder.state_providers(NOTICE.run) == (member.system.peer,)
        told: dict[str, Any] = {}
        while not told:
            try:
                told = json.loads((await carry_out(other.dht, ShowRecord("run:chess"))).value)
            except NotFoundError:
                await trio.sleep(0.02)
        assert (told["run"], told["nonce"], told["settings"]["rounds"]) == (NOTICE.run, "00", 7)
        member.host.run = None
        for key in (SOME_RUN, run_key("chess"), run_key(NOTICE.run), state_key(NOTICE.run)):
            await provided(other, key, set())
        with pytest.raises(NotFoundError, match="nobody takes part in a run chess"):
            await carry_out(other.dht, ShowRecord("run:chess"))


async def test_a_node_that_is_let_into_no_view_asks_the_members_that_it_finds() -> None:
    async with network(4) as (_, member, other, newcomer):
        asked: list[str] = []
        newcomer.host.join(NOTICE.run, asked)
        member.host.run, member.host.taking = NOTICE, NOTICE.run
        await until(lambda: asked)
        assert asked == [member.system.peer]
        other.host.run, other.host.taking = NOTICE, NOTICE.run
        await until(lambda: len(asked) == 2)
        newcomer.host.training.progress.epoch = 1
        assert set(asked) == {member.system.peer, other.system.peer}


async def test_a_node_that_stops_says_so_no_more() -> None:
    async with network(3) as (_, member, other), trio.open_nursery() as nursery:
        member.host.run = NOTICE
        stops = trio.CancelScope()

        async def serve() -> None:
            with stops:
                await member.finder.run()

        nursery.start_soon(serve)
        await provided(other, run_key("chess"), {member.system.peer})
        await until(lambda: member.finder._said is not None)
        member.host.run = None
        stops.cancel()
        await provided(other, run_key("chess"), set())
        await provided(other, SOME_RUN, set())


async def test_a_node_that_waits_for_runs_links_with_who_takes_part_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []
    monkeypatch.setattr(meeting, "linked_peers", lambda _: ())
    async with network(3) as (_, member, waiting):
        network_of: Any = waiting.system.network
        monkeypatch.setattr(network_of, "dial", lambda address: note(dialled, address))
        member.host.run, member.host.taking = NOTICE, NOTICE.run
        await until(lambda: dialled)
        assert set(dialled) <= set(member.system.addresses)


async def test_a_training_is_given_the_providers_of_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def open_trainer(*_: Any, providers: Any, **__: Any) -> Any:
        given.append(providers)
        raise UnreachableError("no trainer is needed here", hint="none")

    monkeypatch.setattr(hosted, "open_trainer", open_trainer)
    async with network(2) as (first, node), trio.open_nursery() as nursery:
        await first.dht.provide(state_key("chess"))
        found: Any = SimpleNamespace(state=tmp_path)
        host = RunHost(node.system, Config(), found, lambda _: None, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=(), dht=node.dht))
        await trio.testing.wait_all_tasks_blocked()
        host.submit("chess", TrainingConfig(nodes_min=1))
        await until(lambda: given)
        assert await given[0]("chess") == (first.system.peer,)
        nursery.cancel_scope.cancel()


async def test_those_who_meet_under_a_name_link_with_each_other_and_with_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: dict[str, list[str]] = {}
    monkeypatch.setattr(meeting, "linked_peers", lambda _: ())
    async with network(4) as nodes, trio.open_nursery() as nursery:
        for node, name in zip(nodes, ("chess", "go", "chess", "go"), strict=True):
            network_of, seen = cast("Any", node.system.network), dialled.setdefault(node.system.peer, [])
            monkeypatch.setattr(network_of, "dial", functools.partial(note, seen))
            nursery.start_soon(meeting.meet, node.system, node.dht, name)
        await until(lambda: all(dialled.values()))
        nursery.cancel_scope.cancel()
    for node, other in ((nodes[0], nodes[2]), (nodes[1], nodes[3]), (nodes[2], nodes[0]), (nodes[3], nodes[1])):
        assert {parse_address(address).peer for address in dialled[node.system.peer]} == {other.system.peer}


async def note(dialled: list[str], address: str) -> str:
    dialled.append(address)
    return ""
