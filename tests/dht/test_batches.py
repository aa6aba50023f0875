import pytest
import trio
import trio.testing

from prime.dht.batches import BATCH_MAX, WAITING_MAX, Batches
from prime.errors import RefusedError


async def test_what_waits_for_a_write_shares_the_next_ones_in_its_order() -> None:
    written: list[list[int]] = []
    gate = trio.Event()

    async def write(batch: list[int]) -> None:
        written.append(batch)
        await gate.wait()

    batches = Batches(write)
    async with trio.open_nursery() as nursery:
        batches.add(0, nursery.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, WAITING_MAX + 1):
            batches.check_room()
            batches.add(number, nursery.start_soon)
        with pytest.raises(RefusedError, match="more comes than can be written"):
            batches.check_room()
        gate.set()
    assert written[0] == [0]
    assert [len(batch) for batch in written[1:]] == [BATCH_MAX] * (WAITING_MAX // BATCH_MAX)
    assert [each for batch in written for each in batch] == list(range(WAITING_MAX + 1))


async def test_after_a_pause_it_writes_again() -> None:
    written: list[list[int]] = []

    async def write(batch: list[int]) -> None:
        await trio.lowlevel.checkpoint()
        written.append(batch)

    batches = Batches(write)
    for number in range(2):
        async with trio.open_nursery() as nursery:
            batches.add(number, nursery.start_soon)
    assert written == [[0], [1]]
