"""A time of day that was wrong and is set right: what has expired is shown to nobody, and what is kept alive stays so."""

from __future__ import annotations

import attrs
import pytest
import trio

import prime
from prime.dht.archive import open_archive
from prime.dht.backends.memory import MemoryBackend
from prime.dht.key import key_of
from prime.dht.providers import TTL_S_MAX, Providers
from prime.dht.publications import Provided, Publications, Published
from prime.dht.record import make_record
from prime.dht.registers.elector import Prepare
from prime.dht.registers.proposal import Ballot, Call, Register, signed
from prime.dht.settings import DhtSettings
from prime.errors import NotFoundError, UnreachableError
from tests.dht.strangers import contact
from tests.dht.swarm import LAN, WALL_S, key_pair, open_node, open_nodes

NOW_MS = int(WALL_S * 1000)
DAY_MS = 24 * 3600 * 1000
KEY = key_of(b"x")


class Clock:
    """The time of day, which may be set."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return WALL_S + trio.current_time() + self.ahead_s


async def test_a_node_shows_itself_none_of_its_own_records_that_have_expired(autojump_clock: trio.abc.Clock) -> None:
    clock = Clock()
    async with open_node(1, prime.Memory(), wall_s=clock) as node:
        put = await node.dht.put(b"value", salt=b"salt")
        clock.ahead_s = 3 * 24 * 3600
        with pytest.raises(UnreachableError, match="no peer answered"):  # there is nobody else
            await node.dht.get(put.record.key)
        assert (await node.dht.put(b"next", salt=b"salt")).record.seq == put.record.seq + 1
        assert (await node.dht.get(put.record.key)).value == b"next"


async def test_what_was_said_while_the_clock_was_ahead_is_said_again_once_it_is_right(
    autojump_clock: trio.abc.Clock,
) -> None:
    clock = Clock()
    async with open_node(1, prime.Memory(), wall_s=clock) as node:
        clock.ahead_s = 365 * 24 * 3600
        await node.dht.provide(KEY)
        clock.ahead_s = 0.0
        await trio.sleep(100)
        assert node.dht._archive.publications.due_ms == pytest.approx(NOW_MS, abs=DAY_MS)


def test_what_should_have_been_said_far_ahead_is_due_now() -> None:
    settings = DhtSettings()
    publications = Publications(settings)
    record = make_record(key_pair(1), b"x", salt=b"s", seq=1, created_ms=NOW_MS + 30 * DAY_MS, ttl_s=3600)
    ahead = [Provided(KEY, NOW_MS + 30 * DAY_MS), Published(record.key, record)]
    for each in (*ahead, Provided(key_of(b"y"), NOW_MS)):
        publications.commit(each)
    assert set(publications.due(NOW_MS, 10)) == set(ahead)
    assert len(publications.due(NOW_MS, 1)) == 1
    assert publications.due(NOW_MS + 30 * DAY_MS, 10) == [Provided(key_of(b"y"), NOW_MS)]
    for each in publications.due(NOW_MS, 10):
        publications.put_off(each, NOW_MS + 60_000)
    assert publications.due(NOW_MS, 10) == []


def test_a_provider_that_was_remembered_while_the_clock_was_ahead_is_shown_no_longer_than_others() -> None:
    providers = Providers(key_of(b"own"), DhtSettings())
    one = contact(1)
    providers.commit(providers.hold(KEY, one, one.peer, "group", TTL_S_MAX, NOW_MS + 30 * DAY_MS))
    assert providers.find(KEY, NOW_MS) == ()
    assert providers.find(KEY, NOW_MS + 30 * DAY_MS - 2000) == (one,)  # clocks are set back a little all the time
    assert providers.find(KEY, NOW_MS + 31 * DAY_MS) == (one,)


async def test_a_removal_leaves_nothing_among_what_is_kept_alive(autojump_clock: trio.abc.Clock) -> None:
    async with open_node(1, prime.Memory()) as node:
        await node.dht.put(b"value", salt=b"salt")
        await node.dht.remove(b"salt")
        loaded = await node.backend.open()
        assert [entry.kind for entry in loaded.entries if entry.kind == "published"] == []


async def test_an_elector_whose_clock_jumps_forgets_nothing_that_it_promised(autojump_clock: trio.abc.Clock) -> None:
    key = key_pair(1)
    call = signed(key, Call(Register(key.peer, b"s"), Ballot(0, 1, bytes(8)), b"", b""))
    async with open_archive(key_pair(2).peer, DhtSettings(), MemoryBackend()) as archive:
        await archive.vote(Prepare(call), NOW_MS)
        for ahead_days in (100, 0, 100):
            for _ in range(2):
                await archive.sweep(NOW_MS + ahead_days * DAY_MS)
                assert len(archive.elector.standings) == 1
                await trio.sleep(20 * 3600)
        await archive.sweep(NOW_MS + 100 * DAY_MS)
        assert archive.elector.standings == ()


async def test_what_is_published_holds_on_past_its_time_as_long_as_its_node_runs(
    autojump_clock: trio.abc.Clock,
) -> None:
    settings = attrs.evolve(LAN, republish_s=40.0)
    async with open_nodes(3, settings=settings) as (node, other, _):
        put = await node.dht.put(b"value", salt=b"salt", ttl_s=120)
        await trio.sleep(1000)
        again = await other.dht.get(put.record.key)
        assert (again.value, again.seq, again.ttl_s) == (b"value", put.record.seq, 120)
        assert again.created_ms > put.record.created_ms + 800_000
        await node.dht.stop_publishing(put.record.key)
        await trio.sleep(200)
        with pytest.raises(NotFoundError):
            await other.dht.get(put.record.key)
