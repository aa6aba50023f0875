"""Holes: a circuit that moves to a direct connection loses, doubles and overtakes nothing, or stays as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import prime
from prime.errors import DecodeError
from prime.testing.transport import Meeting, meet, opened, pattern, receive_all, receive_exactly
from prime.transport.facts import CircuitMoved, HolePunchFailed
from prime.transport.hole import CALLERS_MAX, CANDIDATES_MAX
from prime.transport.identity import KeyPair
from prime.transport.relay import punch
from prime.transport.relay.dialler import Dialler
from prime.transport.relay.punch import NONCE_BYTES, AgreedHole, pack, read
from prime.transport.tcp import Tcp, shared_socket
from tests.transport.relaying import Relay, Relayed, open_relay, until

NONCE = bytes(range(NONCE_BYTES))


@asynccontextmanager
async def punched() -> AsyncIterator[tuple[Relay, Meeting, list[Any]]]:
    """Yield a circuit over TCP whose ends may punch a hole, and the facts of both."""
    facts: list[Any] = []
    async with open_relay(Tcp()) as relay:
        transport = Relayed(relay, Tcp(), punched=True, emit=facts.append)
        async with opened(transport, transport) as (dialler, listener):
            yield relay, await meet(dialler, listener), facts


async def move(m: Meeting, facts: list[Any]) -> None:
    """Have both ends read until the circuit has moved."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(m.near.send, b"x")
        nursery.start_soon(m.far.send, b"y")
        for channel in (m.near, m.far):
            nursery.start_soon(_read_one_and_on, channel)
        await until(lambda: len([fact for fact in facts if isinstance(fact, CircuitMoved)]) == 2)
        nursery.cancel_scope.cancel()


async def _read_one_and_on(channel: Any) -> None:
    await channel.receive(1)
    await channel.receive(1)


async def test_bytes_that_flow_both_ways_while_it_moves_arrive_once_and_in_order() -> None:
    async with punched() as (relay, m, facts):
        data = pattern(30_000_000)

        async def flow(sender: Any, receiver: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, data)
                assert await receive_exactly(receiver, len(data)) == data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow, m.near, m.far)
            nursery.start_soon(flow, m.far, m.near)
        assert {fact.peer for fact in facts if isinstance(fact, CircuitMoved)} == {m.near.peer, m.far.peer}
        assert not m.near.relayed
        assert not m.far.relayed
        assert m.near.remote.startswith("/ip4/127.0.0.1/tcp/")
        await until(lambda: relay.hop.sizes()["hops"] == 0)  # the relay is done with it
        (closed,) = [fact for fact in relay.facts if type(fact).__name__ == "CircuitClosed"]
        assert closed.carried_bytes < len(data)


async def test_a_moved_circuit_outlives_its_relay_and_ends_as_it_should() -> None:
    async with punched() as (relay, m, facts):
        await move(m, facts)
        relay.hop.close()
        await m.near.send(b"last words")
        await m.near.send_eof()
        assert await receive_all(m.far) == b"last words"
        await m.far.send(b"answer")
        assert await receive_exactly(m.near, 6) == b"answer"
        await m.far.aclose()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await m.near.receive()


async def test_a_moved_circuit_that_breaks_says_so() -> None:
    async with punched() as (_, m, facts):
        await move(m, facts)
        m.far._direct.close_nowait()
        with pytest.raises(anyio.BrokenResourceError):
            await m.near.receive()


async def test_an_end_that_was_said_before_it_moves_is_heard() -> None:
    async with punched() as (_, m, _facts):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(m.near.send, b"all of it")
            assert await receive_exactly(m.far, 9) == b"all of it"
        await m.near.send_eof()
        with trio.fail_after(5):
            assert await receive_all(m.far) == b""


async def test_messages_between_actors_do_not_notice_the_move() -> None:
    """Over whole systems: every tell arrives once and in order, no link goes down, the relay is left."""
    facts: list[Any] = []
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with (
        prime.open_system(transport=tcp, relay=prime.RelayLimits()) as relay,
        prime.open_system(transport=tcp, via=relay.addresses) as behind,
        prime.open_system(transport=tcp) as other,
        behind.supervisor("desk") as sup,
    ):
        await sup.spawn(Notebook, "notebook")
        other.subscribe(facts.append)
        await until(lambda: behind.network.announced("circuits"))
        await other.network.dial(behind.network.announced("circuits")[0])
        far = other.ref(behind.peer, "/desk/notebook", Notebook)
        number = 0
        with trio.fail_after(10):
            while not any(isinstance(fact, CircuitMoved) for fact in facts):
                await far.tell(Line(number))
                number += 1
                await trio.sleep(0.001)
        for more in range(number, number + 50):
            await far.tell(Line(more))
        assert await far.ask(Lines(), timeout=5) == tuple(range(number + 50))
        assert not other.network.carrier(behind.peer).relayed
        assert [fact for fact in facts if type(fact).__name__ == "LinkDown"] == []


@prime.message(tag=0x7C84)
class Line:
    number: int


@prime.message(tag=0x7C85)
class Lines(prime.Ask[tuple[int, ...]]):
    """Ask for all numbers that came."""


class Notebook(prime.Actor[Line | Lines]):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    @prime.on(Line)
    def line(self, m: Line) -> None:
        self.numbers.append(m.number)

    @prime.on(Lines)
    def lines(self, _: Lines) -> tuple[int, ...]:
        return tuple(self.numbers)


async def test_an_endpoint_around_another_punches_through_it() -> None:
    """As `upnp.Mapped`'s: the router may have said no."""

    class Around:
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.dial = inner.dial

    facts: list[Any] = []
    async with open_relay(Tcp()) as relay, Relayed(relay, Tcp(), punched=True).open(KeyPair.generate()) as listener:
        key = KeyPair.generate()
        async with Tcp().open(key) as endpoint, trio.open_nursery() as nursery:
            dialler = Dialler(Around(endpoint), key, spawn=nursery.start_soon, emit=facts.append)
            near = await dialler.dial(listener.addresses[0])
            far = await listener.accept()
            for channel in (near, far):
                nursery.start_soon(_read_one_and_on, channel)
            await until(lambda: any(isinstance(fact, CircuitMoved) for fact in facts))
            nursery.cancel_scope.cancel()
            dialler.close()


async def test_without_punching_the_circuit_stays() -> None:
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with (
        prime.open_system(transport=tcp, relay=prime.RelayLimits()) as relay,
        prime.open_system(transport=tcp, via=relay.addresses) as behind,
        prime.open_system(transport=tcp, punch=False) as other,
    ):
        await until(lambda: behind.network.announced("circuits"))
        await other.network.dial(behind.network.announced("circuits")[0])
        await trio.sleep(0.3)
        assert other.network.carrier(behind.peer).relayed


# --------------------------------------------------------------------------------------------------- when it fails


async def test_where_nothing_gets_through_the_circuit_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punch, "PUNCH_S", 0.5)
    monkeypatch.setattr(punch, "CHOICE_S", 0.1)
    monkeypatch.setattr(punch.Ends, "candidates", property(lambda _ends: ("/ip4/127.0.0.1/tcp/1",)))
    async with punched() as (_, m, facts):
        async with trio.open_nursery() as nursery:
            for channel in (m.near, m.far):
                nursery.start_soon(_read_one_and_on, channel)
            await until(lambda: len([fact for fact in facts if isinstance(fact, HolePunchFailed)]) == 2)
            nursery.cancel_scope.cancel()
        assert "no attempt got through within 0.5 s" in facts[0].reason
        await m.near.send(b"still")
        assert await receive_exactly(m.far, 5) == b"still"
        assert m.near.relayed


async def test_an_end_that_does_not_agree_is_waited_for_no_longer_than_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punch, "AGREE_S", 0.2)
    async with punched() as (_, m, facts):
        await until(lambda: facts)  # nobody reads, so nobody hears the offer
        assert "did not agree within 0.2 s" in facts[0].reason
        assert m.near.relayed


async def test_another_peer_at_the_hole_is_not_taken_for_the_right_one() -> None:
    """A stranger that listens at the candidate, or has the nonce, has not the key."""
    tcp = Tcp()
    async with tcp.open(KeyPair.generate()) as here, tcp.open(KeyPair.generate()) as stranger:
        wanted = KeyPair.generate().peer
        ours, theirs = _places()
        first = AgreedHole(here, ours, wanted, NONCE, dialled=True)
        second = AgreedHole(stranger, theirs, here.peer, NONCE, dialled=False)
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            for hole, candidate in ((first, theirs), (second, ours)):
                nursery.start_soon(_open_for_a_moment, hole, candidate, found)
        assert found == []


async def test_who_hears_a_wrong_nonce_follows_nowhere() -> None:
    tcp = Tcp()
    async with tcp.open(KeyPair.generate()) as here, tcp.open(KeyPair.generate()) as there:
        ours, theirs = _places()
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_open_for_a_moment, AgreedHole(here, ours, there.peer, NONCE, dialled=True), theirs, [])
            nursery.start_soon(
                _open_for_a_moment, AgreedHole(there, theirs, here.peer, bytes(NONCE_BYTES), dialled=False), ours, found
            )
        assert found == []


async def test_a_cancelled_punch_leaves_no_socket() -> None:
    tcp = Tcp()
    async with tcp.open(KeyPair.generate()) as here:
        ours, theirs = _places()
        with trio.move_on_after(0.3):
            await AgreedHole(here, ours, KeyPair.generate().peer, NONCE, dialled=True).open((theirs,))
        assert not here._channels
        port = int(ours.rpartition("/")[2])
        with trio.socket.socket() as alone:  # it shares the port with nobody
            await alone.bind(("127.0.0.1", port))


async def test_callers_of_a_hole_that_prove_nothing_are_few_at_a_time() -> None:
    async with Tcp().open(KeyPair.generate()) as here, trio.open_nursery() as nursery:
        ours = _places()[0]
        adopting: list[Any] = []
        here.adopt = lambda socket, *_, **__: _adopt_never(adopting, socket)
        hole = AgreedHole(here, ours, KeyPair.generate().peer, NONCE, dialled=True)
        nursery.start_soon(hole.open, ())
        await trio.testing.wait_all_tasks_blocked(0.05)
        held = [await trio.open_tcp_stream("127.0.0.1", int(ours.rpartition("/")[2])) for _ in range(12)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(adopting) == CALLERS_MAX
        for stream in held:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def _adopt_never(adopting: list[Any], socket: Any) -> None:
    adopting.append(socket)
    await trio.sleep_forever()


def _places() -> tuple[str, str]:
    ports = []
    for _ in range(2):
        with shared_socket(trio.socket.AF_INET, 0) as socket:
            ports.append(socket.getsockname()[1])
    return f"/ip4/127.0.0.1/tcp/{ports[0]}", f"/ip4/127.0.0.1/tcp/{ports[1]}"


async def _open_for_a_moment(hole: AgreedHole, candidate: str, found: list[Any]) -> None:
    with trio.move_on_after(1.0):
        if (channel := await hole.open((candidate,))) is not None:
            found.append(channel)


# ------------------------------------------------------------------------------------------------ control messages


def test_control_messages_survive_the_wire() -> None:
    candidates = ("/ip4/192.0.2.1/tcp/4", "/ip6/2001:db8::1/tcp/4")
    message = read(pack(1, NONCE, candidates))
    assert (message.kind, message.nonce, message.candidates) == (1, NONCE, candidates)


def test_only_addresses_of_hosts_are_candidates_and_few() -> None:
    wrong = ("/dns4/example.org/tcp/1", "/memory/a", "nonsense", "/ip4/192.0.2.1/tcp/0")
    assert read(pack(1, NONCE, wrong)).candidates == ()
    many = tuple(f"/ip4/192.0.2.{n}/tcp/1" for n in range(1, 50))
    assert len(read(pack(1, NONCE, many)).candidates) == CANDIDATES_MAX


@given(st.binary(max_size=200))
def test_no_control_message_crashes_the_reader(data: bytes) -> None:
    with suppress(DecodeError):
        read(data)


async def test_control_messages_out_of_turn_change_nothing() -> None:
    async with punched() as (_, m, _facts):
        for body in (b"", b"\xff", pack(2, NONCE), pack(3, NONCE), pack(9, NONCE), b"\x00" * 4000):
            await m.near.send_control(body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(m.near.send, b"fine")
            assert await receive_exactly(m.far, 4) == b"fine"


async def test_a_flood_of_control_messages_breaks_the_circuit() -> None:
    async with punched() as (_, m, _facts), trio.open_nursery() as nursery:
        nursery.start_soon(_flood, m.near)
        with pytest.raises(anyio.BrokenResourceError):
            await m.far.receive()
        nursery.cancel_scope.cancel()


async def _flood(channel: Any) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        for _ in range(1000):
            await channel.send_control(b"")


async def test_a_peer_that_says_it_moved_and_did_not_breaks_its_own_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.transport.relay.circuit.MOVE_TIMEOUT_S", 0.2)
    async with open_relay(Tcp()) as relay:
        transport = Relayed(relay, Tcp())
        async with opened(transport, transport) as (dialler, listener):
            m = await meet(dialler, listener)
            await m.near._put(2, b"", begun=False)
            with pytest.raises(anyio.BrokenResourceError), trio.fail_after(5):
                await m.far.receive()
