"""Blobs on the disk: real files, and a simulated disk that crashes, fills up and turns bits."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from prime.errors import ConflictError, CorruptedError, NotFoundError, RefusedError, UsageError, WorldError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.store.blobs import BlobStore
from prime.store.files import SystemFiles
from prime.store.manifest import ContentId, Manifest
from prime.testing.cancellation import cancelled_at

CHUNK = 4096
DATA = random.Random(8).randbytes(10 * CHUNK + 100)
WORST = DiskFaults(unsynced=True, torn=True)


async def read(store: BlobStore, content: ContentId) -> bytes:
    """Read a blob as those who fetch it do: manifest, nodes, chunks."""
    blob = store.find(content)
    assert blob is not None
    return b"".join([await store.chunk(content, index) for index in range(blob.manifest.chunks)])


async def filled(store: BlobStore, source: BlobStore, manifest: Manifest, to: Path | None = None) -> int:
    """Fetch a blob from one store into another, whole, and return how many chunks that took."""
    draft = await store.draft(manifest, to)
    taken = 0
    for level in range(manifest.levels, 0, -1):
        for index in range(manifest.counts[level]):
            if not await draft.has_node(level, index):
                assert await draft.put_node(level, index, await source.node(manifest.content, level, index))
    for page in range(manifest.pages):
        for index in await draft.missing(page):
            assert await draft.put_chunk(index, await source.chunk(manifest.content, index))
            taken += 1
    await draft.finish()
    return taken


async def test_bytes_are_kept_and_come_back_after_opening_again(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path / "blobs")
    for data in (DATA, b"", b"short"):
        blob = await store.add_bytes(data, chunk_bytes=CHUNK)
        assert await read(store, blob.content) == data
    again = await BlobStore.open(tmp_path / "blobs")
    assert again.blobs() == store.blobs()
    assert await read(again, again.blobs()[0].content) == DATA


async def test_a_file_stays_where_it_is_and_is_served_from_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    told: list[tuple[int, int]] = []
    blob = await store.add_file(path, chunk_bytes=CHUNK, name="m", on_progress=lambda *done: told.append(done))
    assert told[-1] == (len(DATA), len(DATA))
    assert await read(store, blob.content) == DATA
    assert store.own_bytes == 0
    assert sum(f.stat().st_size for f in (tmp_path / "blobs").rglob("*") if f.is_file()) < 1000
    assert store.named("m") == blob


async def test_a_file_that_was_changed_is_named_and_no_wrong_byte_leaves(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    blob = await store.add_file(path, chunk_bytes=CHUNK)
    path.write_bytes(DATA[:CHUNK] + b"!" + DATA[CHUNK + 1 :])
    assert await store.chunk(blob.content, 0) == DATA[:CHUNK]
    with pytest.raises(CorruptedError, match=r"model was changed since it was pushed \(chunk 1\)") as caught:
        await store.chunk(blob.content, 1)
    assert "push it again" in caught.value.hint
    assert not store.blobs()[0].is_whole
    path.unlink()
    with pytest.raises(NotFoundError):
        await store.chunk(blob.content, 0)


async def test_a_file_that_is_pushed_again_after_a_change_is_one_blob(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    old = await store.add_file(path, chunk_bytes=CHUNK, name="m")
    gone: list[ContentId] = []
    store.on_given_up = gone.append
    path.write_bytes(DATA[1:])
    new = await store.add_file(path, chunk_bytes=CHUNK, name="m")
    assert (store.blobs(), gone) == ((new,), [old.content])
    source = await BlobStore.open(tmp_path / "other")
    await filled(store, source, (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest, path)
    assert [blob.content for blob in store.blobs()] == [old.content]
    assert path.read_bytes() == DATA


async def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    blob = await store.add_file(path, chunk_bytes=CHUNK)
    path.unlink()
    with pytest.raises(CorruptedError, match="model is gone since it was pushed"):
        await store.chunk(blob.content, 3)
    with pytest.raises(NotFoundError, match="no such file"):
        await store.add_file(path)


async def test_a_file_that_would_be_taken_for_a_draft_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.part"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    with pytest.raises(UsageError, match="beginning of a fetch"):
        await store.add_file(path, chunk_bytes=CHUNK)
    assert path.read_bytes() == DATA


async def test_no_pipe_is_waited_for_that_lies_where_a_file_was(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(DATA)
    store = await BlobStore.open(tmp_path / "blobs")
    blob = await store.add_file(path, chunk_bytes=CHUNK)
    path.unlink()
    os.mkfifo(path)
    assert not await store.verify(blob.content)
    with pytest.raises(RefusedError, match="model is no file that could be replaced"):
        await store.draft(blob.manifest, path)


async def test_a_pulled_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    source = await BlobStore.open(tmp_path / "a")
    store = await BlobStore.open(tmp_path / "b")
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    to = tmp_path / "out"
    draft = await store.draft(manifest, to)
    assert await draft.put_node(1, 0, await source.node(manifest.content, 1, 0))
    assert await draft.missing(0) == list(range(11))
    assert not await draft.put_chunk(0, DATA[CHUNK : 2 * CHUNK])
    assert not await draft.put_chunk(0, DATA[: CHUNK - 1])
    assert await draft.put_chunk(4, DATA[4 * CHUNK : 5 * CHUNK])
    assert await store.chunk(manifest.content, 4) == DATA[4 * CHUNK : 5 * CHUNK]  # it is served while it is fetched
    with pytest.raises(NotFoundError):
        await store.chunk(manifest.content, 5)
    with pytest.raises(ConflictError):
        await store.draft(manifest, tmp_path / "other")
    await draft.aclose()
    assert not to.exists()
    again = await BlobStore.open(tmp_path / "b")
    assert await filled(again, source, manifest, to) == 10
    assert to.read_bytes() == DATA
    assert not to.with_name("out.part").exists()
    assert again.blobs()[0].is_whole


async def test_a_whole_blob_is_served_while_it_is_copied_to_another_place(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path / "a")
    blob = await store.add_bytes(DATA, chunk_bytes=CHUNK)
    draft = await store.draft(blob.manifest, tmp_path / "out")
    assert await read(store, blob.content) == DATA
    await draft.aclose()
    assert store.find(blob.content) == blob
    with pytest.raises(WorldError, match="No such file or directory"):
        await store.draft(blob.manifest, tmp_path / "no" / "out")
    assert store.find(blob.content) == blob
    assert await read(await BlobStore.open(tmp_path / "a"), blob.content) == DATA


async def test_a_fetch_that_goes_on_in_another_place_leaves_nothing_behind(tmp_path: Path) -> None:
    source = await BlobStore.open(tmp_path / "a")
    store = await BlobStore.open(tmp_path / "b")
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    draft = await store.draft(manifest, tmp_path / "one")
    assert await draft.put_node(1, 0, await source.node(manifest.content, 1, 0))
    assert await draft.put_chunk(0, DATA[:CHUNK])
    await draft.aclose()
    assert await filled(store, source, manifest, tmp_path / "two") == 10
    assert (tmp_path / "two").read_bytes() == DATA
    assert SystemFiles().names(tmp_path) == ["a", "b", "two"]
    await store.remove(manifest.content)
    assert SystemFiles().names(tmp_path) == ["a", "b", "two"]


async def test_what_is_here_already_is_copied_and_not_fetched(tmp_path: Path) -> None:
    source = await BlobStore.open(tmp_path / "a")
    store = await BlobStore.open(tmp_path / "b")
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    assert await filled(store, source, manifest) == 11
    assert await filled(store, source, manifest, tmp_path / "one") == 0
    (tmp_path / "one").write_bytes(b"?" * CHUNK + DATA[CHUNK:])
    other = await BlobStore.open(tmp_path / "c")
    assert await filled(other, source, manifest, tmp_path / "one") == 1  # the file that it takes the place of
    assert (tmp_path / "one").read_bytes() == DATA


async def test_a_turned_bit_is_named_put_right_from_others_and_never_served(tmp_path: Path) -> None:
    source = await BlobStore.open(tmp_path / "a")
    store = await BlobStore.open(tmp_path / "b")
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    await filled(store, source, manifest)
    for part, size in (("body", len(DATA)), ("tree", manifest.tree_bytes)):
        path = tmp_path / "b" / manifest.content.hex() / part
        for at in (0, size // 2, size - 1):
            whole = path.read_bytes()
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(CorruptedError, match="damaged"):
                await read(store, manifest.content)
                await store.node(manifest.content, 1, 0)
            assert not store.blobs()[0].is_whole
            assert await filled(store, source, manifest) == (part == "body")
            assert path.read_bytes() == whole
            assert await read(store, manifest.content) == DATA


async def test_a_damaged_description_is_put_aside_and_the_others_are_served(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path)
    bad, good = await store.add_bytes(b"bad"), await store.add_bytes(b"good")
    about = tmp_path / bad.content.hex() / "about"
    about.write_bytes(about.read_bytes()[:-1] + b"?")
    for _ in range(2):
        again = await BlobStore.open(tmp_path)
        assert [blob.content for blob in again.blobs()] == [good.content]
    assert await again.add_bytes(b"bad") == attrs.evolve(bad, serial=3)
    assert len([name for name in SystemFiles().names(tmp_path) if name.endswith(".damaged")]) == 1


async def test_the_oldest_that_no_name_keeps_goes_first_and_the_quota_holds(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path, size_bytes_max=1000)
    kept = await store.add_bytes(bytes(400), name="kept")
    old, new = await store.add_bytes(b"o" * 200), await store.add_bytes(b"n" * 200)
    gone: list[ContentId] = []
    store.on_given_up = gone.append
    await store.add_bytes(b"m" * 300)
    assert gone == [old.content]
    assert store.find(old.content) is None
    assert not (tmp_path / old.content.hex()).exists()
    assert {kept, new} <= set(store.blobs())
    with pytest.raises(RefusedError, match="700 bytes do not fit beside the 400 that names keep"):
        await store.add_bytes(b"x" * 700)
    assert store.own_bytes <= 1000
    await store.free("kept")
    await store.add_bytes(b"x" * 700)
    assert store.find(kept.content) is None


async def test_a_name_keeps_one_blob(tmp_path: Path) -> None:
    store = await BlobStore.open(tmp_path)
    one, two = await store.add_bytes(b"one", name="n"), await store.add_bytes(b"two")
    await store.keep(two.content, "n")
    assert store.named("n") == store.find(two.content)
    assert store.find(one.content).names == ()  # type: ignore[union-attr]
    with pytest.raises(NotFoundError):
        await store.keep(ContentId(bytes(32)), "n")
    await store.remove(two.content)
    assert store.named("n") is None


async def on_disk(disk: Disk) -> BlobStore:
    return await BlobStore.open(Path("/blobs"), disk.files())


@pytest.mark.parametrize("seed", range(30))
async def test_after_a_crash_at_any_call_what_is_called_whole_is_whole(seed: int) -> None:
    """The power goes at a call to the disk, four times in one fetch; what was not synced is lost or torn."""
    disk, random_ = Disk("b", Streams(seed), WORST), random.Random(seed)
    source = await on_disk(Disk("a", Streams(seed)))
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    for _ in range(4):
        gone_after(disk, random_.randrange(1, 60))
        with contextlib.suppress(WorldError):
            await filled(await on_disk(disk), source, manifest, Path("/out"))
        disk.crash()
        disk.gone = False
        store = await on_disk(disk)
        if [blob for blob in store.blobs() if blob.is_whole]:
            assert await read(store, manifest.content) == disk.files().read(Path("/out")) == DATA
    await filled(await on_disk(disk), source, manifest, Path("/out"))
    assert disk.files().read(Path("/out")) == DATA


def gone_after(disk: Disk, calls: int) -> None:
    """Let a disk go at the n-th call that changes anything on it, in its present life."""
    left = itertools.count(calls, -1)
    files = disk.files()

    def counted(call: Callable[..., Any], *args: Any) -> Any:
        disk.gone = disk.gone or next(left) <= 0
        return call(*args)

    for name in ("write", "sync", "replace", "sync_folder", "open", "make_folder", "truncate"):
        setattr(files, name, functools.partial(counted, getattr(files, name)))


async def test_a_full_disk_is_named_and_the_fetch_goes_on_once_there_is_room() -> None:
    source, disk = await on_disk(Disk("a", Streams(1))), Disk("b", Streams(1))
    manifest = (await source.add_bytes(DATA, chunk_bytes=CHUNK)).manifest
    store = await on_disk(disk)
    draft = await store.draft(manifest, Path("/out"))
    assert await draft.put_node(1, 0, await source.node(manifest.content, 1, 0))
    assert await draft.put_chunk(0, DATA[:CHUNK])
    disk.full = True
    with pytest.raises(WorldError, match="out.part: No space left on device") as caught:
        await draft.put_chunk(1, DATA[CHUNK : 2 * CHUNK])
    assert "free space" in caught.value.hint
    await draft.aclose()
    disk.full = False
    assert await filled(store, source, manifest, Path("/out")) == 10
    assert disk.files().read(Path("/out")) == DATA


@pytest.mark.parametrize("late", [False, True])
async def test_a_fetch_that_is_cancelled_at_any_await_leaves_nothing_open_and_can_begin_again(late: bool) -> None:
    data, source = DATA[: CHUNK + 5], await on_disk(Disk("a", Streams(1)))
    manifest = (await source.add_bytes(data, chunk_bytes=CHUNK)).manifest

    async def fetch(store: BlobStore) -> None:
        draft = await store.draft(manifest, Path("/out"))
        try:
            assert await draft.put_node(1, 0, await source.node(manifest.content, 1, 0))
            for index in await draft.missing(0):
                assert await draft.put_chunk(index, await source.chunk(manifest.content, index))
            await draft.finish()
        finally:
            with trio.CancelScope(shield=True):
                await draft.aclose()

    waits = await cancelled_at(0, fetch, await on_disk(Disk("b", Streams(1))))
    for step in range(1, waits + 1):
        disk = Disk("b", Streams(1))
        store = await on_disk(disk)
        await cancelled_at(step, fetch, store, late=late)
        assert not disk.files()._open  # type: ignore[attr-defined]
        await fetch(store)
        assert disk.files().read(Path("/out")) == data
        assert [blob.is_whole for blob in (await on_disk(disk)).blobs()] == [True]
