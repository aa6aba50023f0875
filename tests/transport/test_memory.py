"""The memory transport: what travels without a copy, and which networks are apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import AddressInUseError, ConfigError, UnreachableError
from prime.testing.transport import meet, opened, receive_all
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory, MemoryHub
from prime.transport.pipe import Pipe

KEY = KeyPair.from_seed(bytes(32))


async def test_bytes_arrive_as_the_same_object() -> None:
    memory = Memory()
    async with opened(memory, memory) as (dialler, listener):
        m = await meet(dialler, listener)
        data = bytes(60_000)
        await m.near.send(data)
        assert await m.far.receive() is data
        await m.near.send(memoryview(data))
        assert await m.far.receive() is data


async def test_what_can_change_is_copied() -> None:
    memory = Memory()
    async with opened(memory, memory) as (dialler, listener):
        m = await meet(dialler, listener)
        buffer = bytearray(b"before")
        await m.near.send(memoryview(buffer).toreadonly())
        buffer[:] = b"after!"
        assert await m.far.receive() == b"before"


async def test_two_networks_are_apart() -> None:
    async with opened(Memory(), Memory()) as (first, second):
        with pytest.raises(UnreachableError, match="same Memory|memory network"):
            await first.dial(second.addresses[0])


async def test_a_hub_joins_transports() -> None:
    hub = MemoryHub()
    async with opened(Memory("/memory/alice", hub=hub), Memory(hub=hub)) as (alice, other):
        assert alice.addresses == (f"/memory/alice/p2p/{alice.peer}",)
        assert (await other.dial("/memory/alice")).peer == alice.peer


async def test_a_node_opens_once_in_a_network() -> None:
    memory = Memory()
    async with memory.open(KEY) as endpoint:
        assert endpoint.addresses == (f"/memory/{KEY.peer[-8:]}/p2p/{KEY.peer}",)
        with pytest.raises(AddressInUseError, match=f"/memory/{KEY.peer[-8:]}"):
            async with memory.open(KEY):
                pass


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "alice", "/memory/"])
async def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        async with Memory(address).open(KEY):
            pass


async def test_closed_channels_are_forgotten() -> None:
    memory = Memory()
    async with opened(memory, memory) as (dialler, listener):
        for _ in range(3):
            m = await meet(dialler, listener)
            await m.near.aclose()
            assert await receive_all(m.far) == b""
            await m.far.aclose()
        assert not dialler._channels
        assert not listener._channels


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(1, 60))
def test_a_pipe_keeps_every_byte_in_order(parts: list[bytes], size: int) -> None:
    pipe = Pipe(1 << 20)
    for part in parts:
        pipe._append(memoryview(part))
    got = b""
    while data := pipe.get_nowait(size):
        assert 1 <= len(data) <= size
        got += data
    assert got == b"".join(parts)
    assert pipe._size == 0
