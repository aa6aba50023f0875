"""Circuits keep the contract of every channel, over each transport, and no relay can harm more than itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
import trio

from prime.errors import ConfigError, RefusedError, UnreachableError, WrongPeerError
from prime.testing import transport as suite
from prime.testing.transport import CASES, Case, TransportKit, meet, opened, pattern, receive_exactly
from prime.transport.contract import Buffer, Channel, Transport
from prime.transport.facts import CircuitClosed, CircuitOpened
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from prime.transport.relay import ledger
from prime.transport.relay.dialler import Dialler
from prime.transport.relay.hop import ENTERING_PER_PEER_MAX
from prime.transport.relay.limits import RelayLimits
from prime.transport.relay.preface import PREFACE, Connect, pack_request
from prime.transport.tcp import Tcp
from tests.transport.relaying import Relay, Relayed, open_relay, until

BELOW = {"memory": Memory, "tcp": Tcp, "punched": Tcp}
NOT_OF_CIRCUITS = {
    suite.dialling.dials_without_knowing_the_peer,  # a relay must be told whom to ask
    suite.dialling.refuses_a_wrong_peer,  # another id is another target, which is not there
    suite.ending.takes_an_address_once,  # the address has the peer's id in it
}


MOVING = {
    suite.ending.keeps_the_other_direction_open,
    suite.dialling.dials_both_ways_at_once,
    suite.streaming.carries_large_data_both_ways_at_once,
    suite.cancelling.loses_nothing_to_a_cancelled_receive,
    suite.cancelling.never_tears_a_cancelled_send,
}
"""Those in which a circuit moves while it is used, so that they say most about it."""


def kit_of(relay: Relay, inner: Transport, *, punched: bool) -> TransportKit:
    return TransportKit(
        make=lambda: Relayed(relay, inner, punched=punched),
        make_at=lambda _address: Relayed(relay, inner, punched=punched),
        make_hurried=lambda: Relayed(relay, inner, backlog_max=2, dial_timeout_s=0.5, punched=punched),
        nobody=f"{relay.address}/p2p-circuit/p2p/{KeyPair.from_seed(bytes(32)).peer}",
        foreign="/memory/alice",
    )


def cases() -> Iterator[Any]:
    """Yield all cases over each transport below; those over memory are the default, and those of moving circuits."""
    for below in BELOW:
        for case in CASES:
            if case not in NOT_OF_CIRCUITS:
                usual = below == "memory" or (below == "punched" and case in MOVING)
                marks = () if usual else (pytest.mark.nightly,)
                yield pytest.param(below, case, id=f"{below}-{case.__name__}", marks=marks)


@pytest.mark.parametrize(("below", "case"), tuple(cases()))
async def test_conformance(below: str, case: Case) -> None:
    """`punched` circuits move to a direct connection while they are used."""
    inner = BELOW[below]()
    async with open_relay(inner) as relay:
        await case(kit_of(relay, inner, punched=below == "punched"))


# ------------------------------------------------------------------------------------------------- what a relay can do


class Meddling(Channel):
    """What a hostile relay makes of the bytes of one end: `meddle` returns what is passed on for each piece."""

    def __init__(self, inner: Channel, meddle: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._inner = inner
        self._meddle = meddle

    peer = property(lambda self: self._inner.peer)
    remote = property(lambda self: self._inner.remote)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not (passed := await self._meddle(await self._inner.receive(max_bytes))):
            pass
        return passed

    async def send(self, item: Buffer) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Meddler:
    """Leaves the first bytes alone until it is told to begin, and notes all it saw."""

    def __init__(self, meddle: Callable[[bytes], bytes]) -> None:
        self.meddle = meddle
        self.active = False
        self.seen = b""

    async def __call__(self, piece: bytes) -> bytes:
        self.seen += piece
        return self.meddle(piece) if self.active else piece


def _swap(piece: bytes) -> bytes:
    half = len(piece) // 2
    return piece[half:] + piece[:half]


MEDDLING = {
    "corrupts": lambda piece: piece[:-1] + bytes([piece[-1] ^ 1]),
    "drops": lambda piece: piece[1:],
    "doubles": lambda piece: piece + piece,
    "reorders": _swap,
    "invents": lambda piece: b"\x17\x03\x03\x00\x20" + bytes(32) + piece,
}


@pytest.mark.parametrize("how", MEDDLING)
async def test_a_relay_that_meddles_breaks_the_circuit_and_changes_no_byte(how: str) -> None:
    meddler = Meddler(MEDDLING[how])
    async with open_relay(Memory()) as relay:
        relay.wrap = lambda channel: Meddling(channel, meddler)
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            await m.near.send(b"before")
            assert await receive_exactly(m.far, 6) == b"before"
            meddler.active = True
            await m.near.send(pattern(1000))
            got = b""
            with pytest.raises(anyio.BrokenResourceError), trio.fail_after(10):
                while True:
                    got += await m.far.receive()
            assert got == (pattern(1000) if how == "doubles" else b"")


async def test_a_relay_that_delays_costs_time_and_nothing_else(autojump_clock: Any) -> None:
    async def late(piece: bytes) -> bytes:
        await trio.sleep(0.01)
        return piece

    async with open_relay(Memory()) as relay:
        relay.wrap = lambda channel: Meddling(channel, late)
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(m.near.send, pattern(300_000))
                assert await receive_exactly(m.far, 300_000) == pattern(300_000)


def relay_transport(relay: Relay) -> Relayed:
    return Relayed(relay, relay_inner(relay))


def relay_inner(relay: Relay) -> Transport:
    return Memory(hub=relay.endpoint._transport.hub)


async def test_a_relay_sees_ciphertext_only() -> None:
    meddler = Meddler(lambda piece: piece)
    async with open_relay(Memory()) as relay:
        relay.wrap = lambda channel: Meddling(channel, meddler)
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            await m.near.send(b"a secret of many bytes" * 10)
            assert await receive_exactly(m.far, 220) == b"a secret of many bytes" * 10
    assert len(meddler.seen) > 220
    assert b"secret" not in meddler.seen


async def test_a_relay_cannot_stand_in_for_the_target() -> None:
    """A relay that takes up a circuit itself, as itself, is found out before a byte of the user's is sent."""
    async with open_relay(Memory()) as relay:
        inner = relay_inner(relay)
        target = KeyPair.generate().peer
        async with (
            Relayed(relay, inner).open(KeyPair.generate()) as dialler,
            Relayed(relay, inner).open(KeyPair.generate()) as impostor,
        ):
            relay.hop.feed(ledger.Wants(target))
            relay.targets[target] = lambda offer: relay.targets[impostor.peer](
                ledger.Offer(offer.circuit, offer.token, offer.source, impostor.peer)
            )
            relay.hop.ledger._circuits = _Rewriting(impostor.peer)
            with pytest.raises(WrongPeerError, match=f"{impostor.peer}, not {target}"):
                await dialler.dial(f"{relay.address}/p2p-circuit/p2p/{target}")


class _Rewriting(dict):
    """A hostile ledger: every circuit is for the impostor."""

    def __init__(self, impostor: str) -> None:
        super().__init__()
        self._impostor = impostor

    def get(self, number: int, default: object = None) -> object:
        circuit = super().get(number, default)
        if circuit is not None:
            circuit.target = self._impostor
        return circuit


async def test_a_truncated_circuit_is_no_end() -> None:
    async with open_relay(Memory()) as relay:
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            await m.near.send(b"x")
            assert await m.far.receive() == b"x"
            relay.hop.close()
            with pytest.raises(anyio.BrokenResourceError):
                await m.far.receive()


async def test_a_circuit_that_idles_is_cut(autojump_clock: Any) -> None:
    limits = RelayLimits(idle_s=0.2)
    async with open_relay(Memory(), limits) as relay:
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            await trio.sleep(0.3)
            relay.hop.feed(ledger.Tick())
            with pytest.raises(anyio.BrokenResourceError):
                await m.near.receive()
        closed = next(fact for fact in relay.facts if isinstance(fact, CircuitClosed))
        assert closed.reason.startswith("nothing went")
        assert isinstance(relay.facts[0], CircuitOpened)


async def test_a_circuit_goes_no_faster_than_its_rate(autojump_clock: Any) -> None:
    limits = RelayLimits(circuit_bytes_per_s=1_000_000)
    async with open_relay(Memory(), limits) as relay:
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(m.near.send, pattern(1_000_000))
                await receive_exactly(m.far, 1_000_000)
            assert trio.current_time() - started > 0.6  # a second, less the burst


async def test_a_circuit_carries_no_more_than_it_may() -> None:
    limits = RelayLimits(circuit_bytes_max=200_000)
    async with open_relay(Memory(), limits) as relay:
        inner = relay_transport(relay)
        async with opened(inner, inner) as (dialler, listener):
            m = await meet(dialler, listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_in_vain, m.near, pattern(400_000))
                with pytest.raises(anyio.BrokenResourceError):
                    await receive_exactly(m.far, 400_000)


async def _send_in_vain(channel: Channel, data: bytes) -> None:
    with suppress(anyio.BrokenResourceError):
        await channel.send(data)


# ---------------------------------------------------------------------------------------------- what strangers can do


async def test_strangers_at_the_relays_entrance_disturb_nobody() -> None:
    async with open_relay(Tcp()) as relay:
        inner = Tcp()
        async with opened(Relayed(relay, inner), Relayed(relay, inner)) as (dialler, listener):
            m = await meet(dialler, listener)
            async with inner.open(KeyPair.generate()) as stranger:
                for garbage in (
                    b"",
                    b"\xc1",
                    b"\xc1\x00",
                    b"\xc1\xff\xff",
                    b"\xc1\x00\x01\xff",
                    b"\xc1\x00\x03\x83\x01\x01",
                ):
                    channel = await stranger.dial(relay.address)
                    await channel.send(garbage)
                    await channel.aclose()
            await m.near.send(b"still here")
            assert await receive_exactly(m.far, 10) == b"still here"
        await until(lambda: not relay.hop.sizes()["hops"])
        assert relay.hop.sizes()["circuits"] == 0


async def test_callers_that_do_not_say_what_they_want_are_few_and_keep_nobody_out() -> None:
    async with open_relay(Memory()) as relay:
        inner = relay_inner(relay)
        async with inner.open(KeyPair.generate()) as stranger:
            held = [await stranger.dial(relay.address) for _ in range(20)]
            for channel in held:
                await channel.send(PREFACE)
            await until(lambda: relay.hop.sizes()["entering"] == ENTERING_PER_PEER_MAX)
            for channel in held[ENTERING_PER_PEER_MAX:]:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), trio.fail_after(2):
                    await channel.receive()
            async with opened(Relayed(relay, inner), Relayed(relay, inner)) as (dialler, listener):
                await meet(dialler, listener)
        await until(lambda: relay.hop.sizes()["entering"] == 0)


async def test_a_wrong_token_takes_up_nothing() -> None:
    async with open_relay(Memory()) as relay:
        inner = relay_inner(relay)
        async with Relayed(relay, inner).open(KeyPair.generate()) as dialler, inner.open(KeyPair.generate()) as other:
            thief = Dialler(other, KeyPair.generate())
            target = KeyPair.generate().peer
            relay.hop.feed(ledger.Wants(target))
            offers: list[ledger.Offer] = []
            relay.targets[target] = offers.append
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fail_to_dial, dialler, f"{relay.address}/p2p-circuit/p2p/{target}")
                await until(lambda: offers)
                for token in (bytes(16), offers[0].token):  # the right one comes from the wrong peer
                    with pytest.raises(RefusedError, match="no such circuit"):
                        await thief.take_up(relay.address, offers[0].circuit, token)
                relay.hop.feed(ledger.Declined(offers[0].circuit, target))
            thief.close()


async def test_who_speaks_at_the_moment_of_the_joining_gets_no_circuit_that_is_not_counted() -> None:
    """The asker's early byte and the target come at once: what the ledger does not know has no rate and no end."""
    async with open_relay(Memory()) as relay, relay_inner(relay).open(KeyPair.generate()) as asker:
        joined = trio.Event()
        relay.wrap = lambda channel: Hasty(channel, joined) if channel.peer == asker.peer else channel
        feed = relay.hop.feed

        def feed_and_tell(event: ledger.Event) -> ledger.Command | None:
            command = feed(event)
            if isinstance(command, ledger.Join):
                joined.set()
            return command

        relay.hop.feed = feed_and_tell
        async with Relayed(relay, relay_inner(relay)).open(KeyPair.generate()) as target:
            channel = await asker.dial(relay.address)
            await channel.send(pack_request(Connect(target.peer)))
            await until(lambda: any(isinstance(fact, CircuitClosed) for fact in relay.facts))
            assert relay.hop.sizes()["hops"] == relay.hop.sizes()["circuits"] == 0
            await channel.aclose()


class Hasty:
    """The connection of an asker of whom something comes right when the target takes the circuit up."""

    def __init__(self, channel: Channel, joined: trio.Event) -> None:
        self._channel = channel
        self._joined = joined

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if max_bytes > 1:
            return await self._channel.receive(max_bytes)
        await self._joined.wait()
        return b"x"


async def _fail_to_dial(dialler: object, address: str) -> None:
    with pytest.raises(RefusedError, match="does not want"):
        await dialler.dial(address)


async def test_a_node_that_relays_for_nobody_says_so() -> None:
    memory = Memory()
    async with memory.open(KeyPair.generate()) as plain, trio.open_nursery() as nursery:
        nursery.start_soon(_accept_and_close, plain)
        async with memory.open(KeyPair.generate()) as other:
            dialler = Dialler(other, KeyPair.generate())
            with pytest.raises(UnreachableError, match="gave no answer of a relay") as caught:
                await dialler.dial(f"{plain.addresses[0]}/p2p-circuit/p2p/{KeyPair.generate().peer}")
            assert "--relay" in caught.value.hint
            with pytest.raises(ConfigError, match="who is behind"):
                await dialler.dial(f"{plain.addresses[0]}/p2p-circuit")
            dialler.close()
        nursery.cancel_scope.cancel()


async def _accept_and_close(endpoint: object) -> None:
    while True:
        await (await endpoint.accept()).aclose()


async def test_a_cancelled_dial_leaves_nothing_at_the_relay() -> None:
    async with open_relay(Memory(), RelayLimits(offer_s=0.2)) as relay:
        target = KeyPair.generate().peer
        relay.hop.feed(ledger.Wants(target))
        relay.targets[target] = lambda _offer: None
        async with Relayed(relay, relay_inner(relay)).open(KeyPair.generate()) as dialler:
            for _ in range(20):
                with trio.move_on_after(0.01):
                    await dialler.dial(f"{relay.address}/p2p-circuit/p2p/{target}")
        await until(lambda: relay.hop.feed(ledger.Tick()) is None and not relay.hop.sizes()["hops"])
