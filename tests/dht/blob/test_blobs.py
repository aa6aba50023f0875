"""Blobs between nodes: from several providers at once, some of which die, lie or are slow."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from prime.actor import Later, System, on
from prime.dht.blob.blobs import Blobs, open_blobs
from prime.dht.blob.content import key_of_content, text_of
from prime.dht.blob.fetching import BlobFetched
from prime.dht.blob.filling import FetchProgress
from prime.dht.blob.keeper import BlobDamaged, BlobKeeper
from prime.dht.blob.messages import KEEPER_PATH, BlobChunk, BlobDescribed, DescribeBlob, FetchBlobChunk
from prime.dht.contact import Contact, make_contact
from prime.dht.key import Key
from prime.errors import CorruptedError, NotFoundError, RefusedError, UnreachableError, WorldError
from prime.node.system import open_system
from prime.store.blobs import BlobStore
from prime.store.manifest import CHUNK_BYTES, ContentId
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from prime.transport.tcp import Tcp

DATA = random.Random(8).randbytes(12 * CHUNK_BYTES + 100)
NOBODY = ContentId(bytes(32))


@attrs.define
class Board:
    """A directory that everyone reads, as a stand-in for the DHT."""

    providers: dict[Key, dict[str, Contact]] = attrs.Factory(dict)

    def of(self, contact: Contact) -> Any:
        return _Entry(self, contact)


@attrs.frozen
class _Entry:
    board: Board
    contact: Contact

    async def joined(self) -> None:
        await trio.lowlevel.checkpoint()

    async def provide(self, key: Key) -> int:
        self.board.providers.setdefault(key, {})[self.contact.peer] = self.contact
        return 1

    async def stop_providing(self, key: Key) -> None:
        self.board.providers.get(key, {}).pop(self.contact.peer, None)

    async def find_providers(self, key: Key, *, count_max: int = 20) -> tuple[Contact, ...]:
        return tuple(self.board.providers.get(key, {}).values())[:count_max]


@attrs.define
class Node:
    system: System
    blobs: Blobs
    facts: list[Any] = attrs.Factory(list)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def told(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


class Net:
    """Nodes that find each other's blobs."""

    def __init__(self, stack: AsyncExitStack, folder: Path, transport: Callable[[], Any]) -> None:
        self.board = Board()
        self._stack = stack
        self._folder = folder
        self._transport = transport
        self._count = 0

    async def node(self, keeper: type[BlobKeeper] = BlobKeeper, **options: Any) -> Node:
        self._count += 1
        key = KeyPair.from_seed(bytes([self._count]) * 32)
        system = await self._stack.enter_async_context(open_system(transport=self._transport(), key=key, seed=0))
        directory = self.board.of(make_contact(key, tuple(system.addresses), 1))
        opened = open_blobs(system, self._folder / f"node{self._count}", directory, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("prime.dht.blob.blobs.BlobKeeper", keeper)
            blobs = await self._stack.enter_async_context(opened)
        node = Node(system, blobs)
        system.subscribe(node.facts.append)
        return node


@asynccontextmanager
async def net(tmp_path: Path, transport: Callable[[], Any] | None = None) -> AsyncIterator[Net]:
    hub = Memory()
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            yield Net(stack, tmp_path, transport or (lambda: hub))


@pytest.mark.parametrize("transport", [None, Tcp])
async def test_a_blob_comes_from_three_providers_at_once(tmp_path: Path, transport: Any) -> None:
    async with net(tmp_path, transport) as nodes:
        providers = [await nodes.node() for _ in range(3)]
        for provider in providers:
            content = (await provider.blobs.push(DATA)).content
        puller = await nodes.node()
        told: list[FetchProgress] = []
        blob = await puller.blobs.pull(content, to=tmp_path / "out", on_progress=told.append)
        assert (tmp_path / "out").read_bytes() == DATA
        assert blob.source == tmp_path / "out"
        assert told[-1].here_bytes == len(DATA)
        assert {peer for peer, _ in told[-1].sent} == {provider.system.peer for provider in providers}
        (fetched,) = puller.told(BlobFetched)
        assert fetched.fetched_bytes == len(DATA)
        assert puller.system.peer in nodes.board.providers[key_of_content(content)]  # and it provides it from now on
        other = await nodes.node()
        for provider in providers:
            await provider.blobs.remove(content)
        await other.blobs.pull(content)
        assert other.told(BlobFetched)[0].providers == (puller.system.peer,)


@pytest.mark.parametrize("data", [b"", b"x", bytes(CHUNK_BYTES), bytes(CHUNK_BYTES + 1)])
async def test_small_and_empty_blobs(tmp_path: Path, data: bytes) -> None:
    async with net(tmp_path) as nodes:
        provider, puller = await nodes.node(), await nodes.node()
        content = (await provider.blobs.push(data)).content
        await puller.blobs.pull(content, to=tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data


async def test_what_nobody_provides_is_said_to_be_so_at_once(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        puller = await nodes.node()
        with pytest.raises(NotFoundError, match=f"nobody provides {text_of(NOBODY)}") as caught:
            await puller.blobs.pull(NOBODY)
        assert "prime dht stats" in caught.value.hint


async def test_providers_that_are_gone_and_those_that_have_it_no_more_are_told_apart(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        provider, puller = await nodes.node(), await nodes.node()
        content = (await provider.blobs.push(DATA)).content
        await provider.blobs.store.remove(content)
        with pytest.raises(NotFoundError, match="that blob is not here"):
            await puller.blobs.pull(content)
        gone = make_contact(KeyPair.from_seed(b"g" * 32), ("/memory/none",), 1)
        nodes.board.providers[key_of_content(content)] = {gone.peer: gone}
        with pytest.raises(UnreachableError, match=gone.peer):
            await puller.blobs.pull(content)


class Liar(BlobKeeper):
    """Sends something else."""

    @on(FetchBlobChunk)
    def fetch_chunk(self, m: FetchBlobChunk) -> Later:
        later = self.ctx.defer()
        later.reply(BlobChunk(memoryview(bytes(CHUNK_BYTES))))
        return later


class Slow(BlobKeeper):
    """Takes five seconds for a chunk."""

    @on(FetchBlobChunk)
    def fetch_chunk(self, m: FetchBlobChunk) -> Later:
        later = self.ctx.defer()
        self.ctx.start_soon(self._late, later)
        return later

    async def _late(self, later: Later) -> None:
        await trio.sleep(5)
        later.fail(RefusedError("late", hint="-"))


class Forger(BlobKeeper):
    """Describes another blob."""

    @on(DescribeBlob)
    def describe(self, m: DescribeBlob) -> BlobDescribed:
        return BlobDescribed(b"\x80")


class Dying(BlobKeeper):
    """Answers three requests for chunks, and then nothing more."""

    count = 0

    @on(FetchBlobChunk)
    def fetch_chunk(self, m: FetchBlobChunk) -> Later:
        self.count += 1
        if self.count > 3:
            raise RefusedError("going down", hint="-")
        return super().fetch_chunk(m)


async def test_one_dies_one_lies_one_is_slow_and_it_still_comes_right_and_soon(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        kinds = [await nodes.node(kind) for kind in (Dying, Liar, Slow, Forger)]
        honest = await nodes.node()
        for provider in (*kinds, honest):
            content = (await provider.blobs.push(DATA)).content
        puller = await nodes.node()
        started = trio.current_time()
        told: list[FetchProgress] = []
        await puller.blobs.pull(content, to=tmp_path / "out", on_progress=told.append)
        assert (tmp_path / "out").read_bytes() == DATA
        assert trio.current_time() - started < 4  # nobody waited for the slow one
        assert dict(told[-1].sent).get(kinds[1].system.peer, 0) < CHUNK_BYTES  # a node of the tree at most


async def test_an_honest_provider_is_found_behind_a_crowd_of_liars(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        liars = [await nodes.node(Liar) for _ in range(22)]
        for provider in [*liars, await nodes.node()]:
            content = (await provider.blobs.push(DATA[: 3 * CHUNK_BYTES])).content
        puller = await nodes.node()
        await puller.blobs.pull(content, to=tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == DATA[: 3 * CHUNK_BYTES]


async def test_where_all_lie_nothing_is_kept_and_the_error_names_them(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        liar, puller = await nodes.node(Liar), await nodes.node()
        content = (await liar.blobs.push(DATA)).content
        with pytest.raises(CorruptedError, match=f"{liar.system.peer}: chunk .* is not what its hash names"):
            await puller.blobs.pull(content, to=tmp_path / "out", patience_s=0)
        assert not (tmp_path / "out").exists()
        forger = await nodes.node(Forger)
        other = (await forger.blobs.push(b"x")).content
        with pytest.raises(CorruptedError, match="a manifest that is not what its content id names"):
            await puller.blobs.pull(other)


async def test_a_fetch_goes_on_with_what_is_here_after_its_provider_was_lost(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        dying, puller = await nodes.node(Dying), await nodes.node()
        content = (await dying.blobs.push(DATA)).content
        with pytest.raises(UnreachableError, match="going down"):
            await puller.blobs.pull(content, to=tmp_path / "out", patience_s=0)
        honest = await nodes.node()
        await honest.blobs.push(DATA)
        await puller.blobs.pull(content, to=tmp_path / "out")
        (fetched,) = puller.told(BlobFetched)
        assert len(DATA) - 3 * CHUNK_BYTES <= fetched.fetched_bytes < len(DATA)


async def test_a_provider_that_comes_later_is_found_while_one_waits(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        dying, puller, honest = await nodes.node(Dying), await nodes.node(), await nodes.node()
        content = (await dying.blobs.push(DATA)).content

        async def come() -> None:
            await trio.sleep(0.3)
            await honest.blobs.push(DATA)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await puller.blobs.pull(content, to=tmp_path / "out")
        assert set(puller.told(BlobFetched)[0].providers) == {dying.system.peer, honest.system.peer}


async def test_a_turned_bit_at_a_provider_is_told_and_mended_from_the_others(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        bad, good, asker = await nodes.node(), await nodes.node(), await nodes.node()
        for provider in (bad, good):
            content = (await provider.blobs.push(DATA)).content
        body = tmp_path / "node1" / content.hex() / "body"
        body.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
        asker.system.learn(bad.system.peer, bad.system.addresses)
        with pytest.raises(NotFoundError, match="that blob is damaged here"):
            await asker.system.ref(bad.system.peer, KEEPER_PATH, BlobKeeper).ask(FetchBlobChunk(content, 0), timeout=5)
        assert "body: chunk 0 is damaged" in bad.told(BlobDamaged)[0].why
        await eventually(lambda: bad.told(BlobFetched))
        assert body.read_bytes() == DATA
        assert bad.told(BlobFetched)[0].fetched_bytes == CHUNK_BYTES
        assert bad.blobs.store.blobs()[0].is_whole


async def eventually(condition: Callable[[], Any]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - another task's work
            await trio.sleep(0.01)


async def test_a_source_that_was_changed_serves_no_wrong_byte_and_is_named(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        provider, puller = await nodes.node(), await nodes.node()
        source = tmp_path / "model"
        source.write_bytes(DATA)
        content = (await provider.blobs.push(source)).content
        source.write_bytes(DATA[:-1] + b"?")
        with pytest.raises(NotFoundError, match="damaged here"):
            await puller.blobs.pull(content, to=tmp_path / "out", patience_s=0)
        (told,) = provider.told(BlobDamaged)
        assert told.why.startswith(f"{source} was changed since it was pushed")
        await eventually(lambda: not nodes.board.providers[key_of_content(content)])


async def test_no_stranger_hears_where_a_disk_is_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prime.store.files import SystemFiles

    def fail(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    async with net(tmp_path) as nodes:
        provider, asker = await nodes.node(), await nodes.node()
        content = (await provider.blobs.push(DATA)).content
        asker.system.learn(provider.system.peer, provider.system.addresses)
        monkeypatch.setattr(SystemFiles, "read_part", fail)
        ref = asker.system.ref(provider.system.peer, KEEPER_PATH, BlobKeeper)
        with pytest.raises(RefusedError, match="its disk refuses") as caught:
            await ref.ask(FetchBlobChunk(content, 0), timeout=5)
        assert str(tmp_path) not in str(caught.value)
        assert str(tmp_path) in provider.told(BlobDamaged)[0].why


async def test_a_full_disk_ends_the_fetch_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prime.store.files import SystemFiles

    async with net(tmp_path) as nodes:
        provider, puller = await nodes.node(), await nodes.node()
        content = (await provider.blobs.push(DATA)).content

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(SystemFiles, "write", full)
            with pytest.raises(WorldError, match="No space left on device"):
                await puller.blobs.store.draft((await provider.blobs.push(DATA)).manifest, tmp_path / "no" / "out")
        (tmp_path / "no").mkdir()
        draft = await puller.blobs.store.draft(provider.blobs.store.find(content).manifest, tmp_path / "no" / "out")  # type: ignore[union-attr]
        await draft.aclose()
        with monkeypatch.context() as patch:
            patch.setattr(SystemFiles, "write", full)
            with pytest.raises(WorldError, match="No space left on device"):
                await puller.blobs.pull(content, to=tmp_path / "no" / "out")
        await puller.blobs.pull(content, to=tmp_path / "no" / "out")
        assert (tmp_path / "no" / "out").read_bytes() == DATA


async def test_who_asks_for_too_much_at_a_time_is_refused(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        provider, asker = await nodes.node(bytes_per_s=20 * CHUNK_BYTES), await nodes.node()
        content = (await provider.blobs.push(DATA)).content
        asker.system.learn(provider.system.peer, provider.system.addresses)
        ref = asker.system.ref(provider.system.peer, KEEPER_PATH, BlobKeeper)
        refused = []

        async def ask() -> None:
            try:
                await ref.ask(FetchBlobChunk(content, 0), timeout=3)
            except RefusedError as error:
                refused.append(str(error))
            except WorldError:
                pass

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask)
        assert len(refused) >= 60 - 32 - 8
        with pytest.raises(RefusedError, match="has no 99 of level 0"):
            await ref.ask(FetchBlobChunk(content, 99), timeout=20)


async def test_what_has_to_make_room_is_provided_no_more(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        node = await nodes.node(size_bytes_max=1000)
        content = (await node.blobs.push(bytes(600))).content
        await node.blobs.push(b"x" * 600)
        await eventually(lambda: not nodes.board.providers[key_of_content(content)])


async def test_what_is_here_is_provided_again_when_a_node_starts(tmp_path: Path) -> None:
    async with net(tmp_path) as nodes:
        store = await BlobStore.open(tmp_path / "node1")
        content = (await store.add_bytes(DATA)).content
        await nodes.node()
        await eventually(lambda: key_of_content(content) in nodes.board.providers)
