"""What goes wrong without anybody's ill will: nobody answers, peers die, callers are cancelled, parts meet late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import prime
from prime.dht.backends.memory import MemoryBackend
from prime.dht.key import key_of
from prime.dht.lookup import Lookup
from prime.dht.peering import SILENT_S, Met
from prime.errors import ActorUsageError, NotFoundError, RefusedError, UnreachableError, UsageError, WorldError
from prime.testing import cancelled_at, virtual_clock
from tests.dht.swarm import LAN, Node, joined, key_pair, open_node, open_nodes

QUICK = attrs.evolve(LAN, refresh_s=30.0, request_s=2.0, lookup_s=10.0)
HANG_S = 500


async def test_where_no_peer_answers_that_is_what_is_said(autojump_clock: trio.abc.Clock) -> None:
    nobody = f"/memory/nobody/p2p/{key_pair(77).peer}"
    async with open_node(1, prime.Memory(), (nobody,), settings=QUICK) as node:
        await trio.sleep(5)
        status = node.dht.status()
        assert (status.joined, status.contacts) == (False, 0)
        with pytest.raises(UnreachableError, match="no peer answered"):
            await node.dht.get(key_of(b"x"))
        with pytest.raises(UnreachableError, match="no peer answered"):
            await node.dht.find_peer(key_pair(77).peer)
        with pytest.raises(UnreachableError, match="no peer answered"):
            await node.dht.closest(key_of(b"x"))


async def test_a_client_without_peers_can_store_nothing(autojump_clock: trio.abc.Clock) -> None:
    async with open_node(1, prime.Memory(), server=False) as node:
        with pytest.raises(UnreachableError, match="nobody can hold"):
            await node.dht.put(b"value")
        with pytest.raises(UnreachableError, match="nobody can remember"):
            await node.dht.provide(key_of(b"x"))
        with pytest.raises(UnreachableError, match="no peer answered"):
            await node.dht.find_providers(key_of(b"x"))


async def test_what_nobody_has_is_not_found(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(3) as nodes:
        with pytest.raises(NotFoundError, match="answered but held nothing: 2 of 2"):
            await nodes[0].dht.get(key_of(b"x"))
        with pytest.raises(NotFoundError, match="answered but held nothing"):
            await nodes[0].dht.find_peer(key_pair(77).peer)
        assert await nodes[0].dht.find_providers(key_of(b"x")) == ()


async def test_what_cannot_be_a_record_is_refused_here(autojump_clock: trio.abc.Clock) -> None:
    async with open_node(1, prime.Memory()) as node:
        with pytest.raises(UsageError, match="a value of 16385 bytes"):
            await node.dht.put(bytes(16385))
        with pytest.raises(UsageError, match="it holds for 0 s"):
            await node.dht.put(b"x", ttl_s=0)


async def test_a_node_of_another_key_is_a_mistake(autojump_clock: trio.abc.Clock) -> None:
    async with prime.open_system(transport=prime.Memory(), key=key_pair(1)) as system:
        with pytest.raises(ActorUsageError, match="and the same key here|of "):
            async with prime.open_dht(system, key_pair(2)):
                pass


async def test_one_whose_first_peer_comes_late_joins_then(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    begin = f"/memory/{key_pair(1).peer[-8:]}/p2p/{key_pair(1).peer}"
    async with open_node(2, memory, (begin,), settings=QUICK) as early:
        await trio.sleep(100)
        async with open_node(1, memory, settings=QUICK) as late:
            await joined([early])
            put = await late.dht.put(b"value")
            assert (await early.dht.get(put.record.key)).value == b"value"


async def test_two_parts_that_were_told_of_one_peer_become_one(autojump_clock: trio.abc.Clock) -> None:
    """Both were told of a peer that was away while each of them found itself another."""
    memory = prime.Memory()
    begin = f"/memory/{key_pair(1).peer[-8:]}/p2p/{key_pair(1).peer}"
    async with (
        open_node(2, memory, (begin,), settings=QUICK) as two,
        open_node(3, memory, (begin, *two.system.addresses), settings=QUICK) as three,
        open_node(4, memory, (begin,), settings=QUICK) as four,
        open_node(5, memory, (begin, *four.system.addresses), settings=QUICK) as five,
    ):
        parts = [two, three, four, five]
        await trio.sleep(100)
        assert [node.dht.status().contacts for node in parts] == [1, 1, 1, 1]
        async with open_node(1, memory, settings=QUICK):
            await trio.sleep(1500)
            assert [node.dht.status().contacts for node in parts] == [4, 4, 4, 4]


async def test_a_peer_that_dies_while_it_is_asked_holds_up_no_lookup(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(6, settings=QUICK) as nodes:
        put = await nodes[0].dht.put(b"value")
        dying = next(node for node in nodes if node.dht.peer in put.holders)
        reader = next(node for node in nodes if node.dht.peer not in put.holders)

        async def die() -> None:
            await trio.lowlevel.checkpoint()
            dying.scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            assert (await reader.dht.get(put.record.key)).value == b"value"


async def test_a_peer_that_is_silent_holds_up_no_lookup(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(6, settings=QUICK) as nodes:
        put = await nodes[0].dht.put(b"value")
        silent = next(node for node in nodes if node.dht.peer in put.holders)
        reader = next(node for node in nodes if node.dht.peer not in put.holders)
        silent.dht._peering.holding.cell.held = True  # it takes nothing from its mailbox any more
        began = trio.current_time()
        assert (await reader.dht.get(put.record.key)).value == b"value"
        assert trio.current_time() - began <= QUICK.request_s


async def test_a_peer_that_is_gone_without_a_word_is_waited_for_once(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4, settings=QUICK) as nodes:
        first, gone = nodes[0].dht, nodes[3].dht
        gone._peering.holding.cell.held = True
        began = trio.current_time()
        with pytest.raises(NotFoundError):
            await first.get(key_of(b"nothing"))
        assert trio.current_time() - began == pytest.approx(QUICK.request_s, abs=0.5)
        for number in range(5):  # the others, who have not asked it anything, name it on
            began = trio.current_time()
            with pytest.raises(NotFoundError):
                await first.get(key_of(b"nothing %d" % number))
            assert trio.current_time() - began < SILENT_S + 0.5
        gone._peering.holding.cell.held = False
        await first.closest(key_of(b"anything"))
        assert gone.peer in (contact.peer for contact in await first.closest(key_of(b"anything")))
        with pytest.raises(NotFoundError):
            await first.get(key_of(b"nothing"))
        assert gone.peer not in first._peering._silent


async def test_a_busy_node_asks_no_peer_more_often_than_it_takes(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(2) as nodes:
        began = trio.current_time()
        for number in range(300):
            assert len(await nodes[0].dht.closest(key_of(b"%d" % number))) == 1
        assert nodes[1].dht.status().refused == 0
        assert 4 < trio.current_time() - began < 8


class Full(MemoryBackend):
    """A disk without room for a record."""

    async def write(self, changes: Any) -> None:
        await super().write([])
        if any(change.kind == "record" for change in changes):
            raise WorldError("no space left", hint="free some")


async def test_full_disks_refuse_and_nothing_fails(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4, backend=lambda number: Full() if number else None, settings=QUICK) as nodes:
        with pytest.raises(RefusedError, match="1 of 4 peers hold it, where 2 are needed; .*its disk refuses"):
            await nodes[0].dht.put(b"value")
        with pytest.raises(NotFoundError):
            await nodes[1].dht.get(key_of(b"x"))


async def test_a_node_that_starts_again_has_what_it_held_and_publishes_on(autojump_clock: trio.abc.Clock) -> None:
    backend = MemoryBackend()
    async with open_node(1, prime.Memory(), backend=backend) as node:
        put = await node.dht.put(b"value", salt=b"salt")
        await node.dht.provide(key_of(b"x"))
    async with open_node(1, prime.Memory(), backend=backend) as node:
        assert (await node.dht.get(put.record.key)).value == b"value"
        assert (node.dht.status().published, node.dht.status().provided) == (1, 1)
        assert (await node.dht.put(b"next", salt=b"salt")).record.seq == put.record.seq + 1


# ------------------------------------------------------------------------------------------------------- cancelled


async def gets(nodes: list[Node]) -> None:
    await nodes[2].dht.get((await nodes[0].dht.put(b"value", salt=b"a")).record.key)


async def provides(nodes: list[Node]) -> None:
    await nodes[0].dht.provide(key_of(b"x"))
    await nodes[1].dht.find_providers(key_of(b"x"))
    await nodes[0].dht.stop_providing(key_of(b"x"))


async def finds(nodes: list[Node]) -> None:
    await nodes[0].dht.find_peer(nodes[2].dht.peer)
    await nodes[0].dht.closest(key_of(b"x"))
    await nodes[1].dht.set_name("name", b"value")
    await nodes[0].dht.resolve(f"{nodes[1].dht.peer}/name")


async def opens(nodes: list[Node]) -> None:
    memory = prime.Memory()
    async with open_node(9, memory) as node:
        await node.dht.joined()
        await node.dht.put(b"value")


def actors(nodes: list[Node]) -> list[list[str]]:
    return [[info.path for each in node.system.tree() for info in each.children] for node in nodes]


async def run_once(scenario: Callable[[list[Node]], Awaitable[None]], step: int, *, late: bool) -> int:
    with trio.fail_after(HANG_S):
        async with open_nodes(3) as nodes:
            await trio.sleep(1)
            before = actors(nodes)
            steps = await cancelled_at(step, scenario, nodes, late=late)
            await trio.sleep(1)
            assert actors(nodes) == before
            put = await nodes[0].dht.put(b"after", salt=b"after")
            assert (await nodes[1].dht.get(put.record.key)).value == b"after"
    return steps


SCENARIOS = [gets, provides, finds, opens]


def cancel_everywhere(scenario: Callable[[list[Node]], Awaitable[None]], at_most: int) -> None:
    def run(step: int, *, late: bool) -> int:
        trio._core._run._r.seed(step)  # the order in which tasks run: another one each time, and the same ones again
        try:
            return trio.run(lambda: run_once(scenario, step, late=late), clock=virtual_clock())
        except BaseException as error:
            error.add_note(f"{scenario.__name__}, cancelled at its await number {step}, late={late}")
            raise

    count = run(0, late=False)
    assert count > 0
    for step in range(1, count + 1, max(1, count // at_most)):
        for late in (False, True):
            run(step, late=late)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_cancelled_anywhere_it_leaves_nothing(scenario: Callable[[list[Node]], Awaitable[None]]) -> None:
    cancel_everywhere(scenario, at_most=10)


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_cancelled_everywhere_it_leaves_nothing(scenario: Callable[[list[Node]], Awaitable[None]]) -> None:
    cancel_everywhere(scenario, at_most=1_000_000)


async def test_a_new_incarnation_asks_whom_the_one_before_knew(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with open_node(1, memory, settings=QUICK) as node, open_node(2, memory, settings=QUICK) as other:
        routing = node.dht._peering.routing
        assert routing is not None
        await routing.tell(Met(other.dht.contact))
        while other.dht.peer not in node.dht.table:
            await trio.lowlevel.checkpoint()
        assert not node.dht._peering.is_linked(other.dht.peer)
        routing.cell.life._fail_beside(WorldError("it is lost"), "a test")  # type: ignore[attr-defined]
        await trio.sleep(5)
        assert [each.peer for each in node.dht.known()] == [other.dht.peer]


@pytest.mark.parametrize("critical", [False, True])
async def test_a_critical_read_goes_more_ways(
    critical: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    made: list[int] = []

    class Counted(Lookup):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(len(self._paths))

    async with open_nodes(10) as nodes:
        put = await nodes[0].dht.put(b"value")
        monkeypatch.setattr("prime.dht.looking.core.Lookup", Counted)
        await nodes[1].dht.get(put.record.key, critical=critical)
        assert made == [LAN.paths_critical if critical else LAN.paths]
