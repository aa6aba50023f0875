"""Peers of libp2p's DHT that lie, are silent, or send what is no message; and what it costs a node of Prime."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest
import trio

pytest.importorskip("libp2p")

import prime
from prime.actor.facts import ActorFailed
from prime.dht.contact import Contact
from prime.dht.ipfs.answering import NAME, SUPERVISOR, Sweep
from prime.dht.ipfs.asking import Heard, _Run
from prime.dht.ipfs.ipfs import Ipfs, open_ipfs
from prime.dht.ipfs.message import ANSWER_BYTES_MAX, PROTOCOL, Kind, Message, Node, Value, pack, read_message
from prime.dht.ipfs.multiaddrs import address_bytes
from prime.dht.ipfs.streams import Messages
from prime.dht.key import key_of
from prime.dht.lookup import Lookup, Nearest
from prime.dht.settings import PRESETS
from prime.errors import (
    CorruptedError,
    DeadlineError,
    NotFoundError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)
from prime.transport.admission import Admission
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p
from prime.transport.peer import encode_public_key, peer_bytes, peer_from_public_key
from tests.dht.ipfs_nodes import QUICK, known, nodes
from tests.dht.strangers import contact, peer

KEY = KeyPair.from_seed(bytes(32))
PK = b"/pk/" + peer_bytes(KEY.peer)
MULTIHASH = b"\x12\x20" + hashlib.sha256(b"a model").digest()
Say = Callable[[Message, Channel], Awaitable[bytes | None]]


@asynccontextmanager
async def stranger() -> AsyncIterator[Any]:
    async with Libp2p().open(KeyPair.generate()) as endpoint:
        yield endpoint


@asynccontextmanager
async def with_liar(say: Say, **settings: Any) -> AsyncIterator[tuple[Ipfs, Any]]:
    """A node of ours, told of one peer alone, which answers whatever `say` returns."""

    async def answer(channel: Channel) -> None:
        messages = Messages(channel)
        while (data := await messages.receive(1 << 16, 20)) is not None:
            said = await say(read_message(data), channel)
            if said is not None:
                await channel.send(said)

    with trio.fail_after(30):
        async with stranger() as liar, prime.open_system(transport=Libp2p()) as system:
            liar.answer(PROTOCOL, answer)
            chosen = attrs.evolve(QUICK, **settings)
            async with open_ipfs(system, settings=chosen, bootstrap=liar.addresses) as ipfs:
                await known(ipfs, 1)
                yield ipfs, liar


def honest(message: Message) -> bytes:
    return pack(Message(message.kind, message.key))


# ---- what a peer sends


BAD = {
    "a length without an end": b"\xff\xff\xff\xff\xff",
    "a length cut short": b"\x80",
    "a message beyond the limit": b"\x81\x80\x04" + bytes(100),
    "a message cut short": b"\x20\x08\x04",
    "an unknown type": b"\x02\x08\x09",
    "no message": b"\x03\xff\xff\xff",
    "FIND_NODE for nobody": pack(Message(Kind.FIND_NODE)),
    "a value of no namespace": pack(Message(Kind.PUT_VALUE, b"x", Value(b"x", b"y"))),
    "another's public key": pack(Message(Kind.PUT_VALUE, PK, Value(PK, encode_public_key(bytes(32))))),
    "another's provision": pack(
        Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(Node(peer_bytes(KEY.peer), (b"\x04\x7f\0\0\1\x06\0\1",)),))
    ),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_what_may_not_be_resets_its_stream_alone(data: bytes) -> None:
    async with nodes(1) as (node,), stranger() as peer:
        good = await peer.open_stream(PROTOCOL, node.system.peer, node.system.addresses)
        bad = await peer.open_stream(PROTOCOL, node.system.peer)
        await bad.send(data)
        await bad.send_eof()
        with pytest.raises(anyio.BrokenResourceError):
            await bad.receive()
        await good.send(pack(Message(Kind.PING)))
        assert await Messages(good).receive(100, 5) == b"\x08\x05"
        assert len(node.ipfs.desk.values) == len(node.ipfs.desk.providers) == 0


async def test_who_asks_too_often_is_refused_and_others_are_not() -> None:
    async with nodes(1, attrs.evolve(QUICK, requests_per_s=5)) as (node,), stranger() as peer, stranger() as other:
        channel = await peer.open_stream(PROTOCOL, node.system.peer, node.system.addresses)
        with pytest.raises((anyio.BrokenResourceError, RemoteProtocolError)):
            while True:
                await channel.send(pack(Message(Kind.PING)))
                assert await Messages(channel).receive(100, 5) is not None
        assert 10 <= node.ipfs.served <= 15
        assert node.ipfs.refused == 1
        another = await other.open_stream(PROTOCOL, node.system.peer, node.system.addresses)
        await another.send(pack(Message(Kind.PING)))
        assert await Messages(another).receive(100, 5)


async def test_who_may_not_link_is_neither_answered_nor_asked() -> None:
    async with stranger() as peer:
        peer.answer(PROTOCOL, lambda channel: channel.aclose())
        with trio.fail_after(20):
            async with (
                prime.open_system(transport=Libp2p(), admission=Admission(deny=[peer.peer])) as system,
                open_ipfs(system, settings=QUICK, bootstrap=peer.addresses) as ipfs,
            ):
                with pytest.raises((UnreachableError, anyio.BrokenResourceError, anyio.EndOfStream)):
                    channel = await peer.open_stream(PROTOCOL, system.peer, system.addresses)
                    await channel.send(pack(Message(Kind.PING)))
                    await channel.receive()
                assert ipfs.served == 0
                with pytest.raises(RefusedError, match="denies"):
                    await ipfs.asking.ask(ipfs.told_of[0], Message(Kind.PING))


async def test_the_answering_actor_is_lost_and_nothing_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(2) as (one, other):
        await one.ipfs.put_value(PK, encode_public_key(KEY.public_bytes))
        held = await one.ipfs.asking.protocols.open_stream(PROTOCOL, other.system.peer)  # type: ignore[arg-type]
        failed, path = trio.Event(), f"/{SUPERVISOR}/{NAME}"
        other.system.subscribe(
            lambda fact: failed.set() if isinstance(fact, ActorFailed) and fact.path == path else None
        )
        monkeypatch.setattr(other.ipfs.desk, "sweep", fail_once(other.ipfs.desk.sweep))
        ref = other.system.whereis(path)
        assert ref is not None
        await ref.tell(Sweep())
        await failed.wait()
        other.ipfs.desk.table.remove(one.system.peer)  # type: ignore[arg-type]
        await known(other.ipfs, 1)  # it joins anew
        assert (await one.ipfs.closest(PK))[0].peer == other.system.peer
        assert other.ipfs.desk.values.get(PK, other.ipfs.asking.wall_ms())
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await held.receive()
        assert await one.ipfs.get_value(PK) == encode_public_key(KEY.public_bytes)


def fail_once(act: Callable[[int], None]) -> Callable[[int], None]:
    left = [ZeroDivisionError]

    def failing(now_ms: int) -> None:
        if left:
            raise left.pop()
        act(now_ms)

    return failing


# ---- what a peer answers


async def test_closer_peers_without_end_do_not_keep_a_lookup_going() -> None:
    """Each answer names twenty that nobody has heard of, at an address where nobody is."""
    numbers = itertools.count(1)
    asked = 0

    async def say(message: Message, _channel: Channel) -> bytes:
        nonlocal asked
        asked += 1
        address = address_bytes("/ip4/127.0.0.1/tcp/9") or b""
        ids = (peer_bytes(peer_from_public_key(next(numbers).to_bytes(32, "big"))) for _ in range(500))
        return pack(Message(message.kind, message.key, closer=tuple(Node(each, (address,)) for each in ids)))

    async with with_liar(say, lookup_s=3.0, request_s=0.5) as (ipfs, liar):
        began = trio.current_time()
        with pytest.raises(NotFoundError):
            await ipfs.get_value(PK)
        assert trio.current_time() - began < 6
        assert [each.peer for each in ipfs.desk.table] == [liar.peer]
    assert asked < 50


@pytest.mark.parametrize("slow", [True, False], ids=["slowly", "never"])
async def test_a_peer_that_answers_slowly_or_never_costs_one_deadline(slow: bool) -> None:
    async def say(message: Message, channel: Channel) -> bytes | None:
        if message.kind is not Kind.GET_VALUE:
            return honest(message)
        if slow:
            for byte in pack(Message(Kind.GET_VALUE, message.key)):
                await channel.send(bytes([byte]))
                await trio.sleep(0.2)
        return None

    async with with_liar(say, request_s=0.5, lookup_s=2.0) as (ipfs, liar):
        began = trio.current_time()
        contact = ipfs.desk.table.get(liar.peer)
        assert contact is not None
        with pytest.raises(DeadlineError):
            await ipfs.asking.ask(contact, Message(Kind.GET_VALUE, PK))
        with pytest.raises(UnreachableError):
            await ipfs.get_value(PK)
        assert trio.current_time() - began < 4


async def test_a_peer_that_does_not_say_at_once_who_it_is_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As js-libp2p, which resets a second identify stream beside the first."""

    async def say(message: Message, _channel: Channel) -> bytes:
        return honest(message)

    async with with_liar(say) as (ipfs, liar):
        identify, reset = ipfs.asking.protocols.identify, [RemoteProtocolError("reset"), UnreachableError("reset")]

        async def reluctant(*arguments: Any) -> Any:
            if reset:
                raise reset.pop()
            return await identify(*arguments)

        monkeypatch.setattr(ipfs.asking.protocols, "identify", reluctant)
        contact, said = await ipfs.asking.identify(liar.peer)
        assert contact.addresses == liar.addresses
        assert PROTOCOL in said.protocols


async def test_a_connection_that_is_lost_in_the_middle_is_tried_once_more() -> None:
    asked = 0

    async def say(message: Message, channel: Channel) -> bytes:
        nonlocal asked
        asked += message.kind is Kind.GET_VALUE
        if asked == 1:
            channel.connection.break_off("for the test")  # type: ignore[attr-defined]
        return honest(message)

    async with with_liar(say) as (ipfs, liar):
        contact = ipfs.desk.table.get(liar.peer)
        assert contact is not None
        assert (await ipfs.asking.ask(contact, Message(Kind.GET_VALUE, PK))).message.key == PK
    assert asked == 2


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"\xff\xff\xff\x7f", RemoteProtocolError),
        (b"\x02\x08\x09", RemoteProtocolError),
        (pack(Message(Kind.PING)), RemoteProtocolError),
    ],
    ids=["beyond the limit", "unknown type", "another kind"],
)
async def test_an_answer_that_is_none_is_an_error_of_that_peer(said: bytes, error: type[Exception]) -> None:
    async def say(message: Message, _channel: Channel) -> bytes:
        return said if message.kind is Kind.GET_VALUE else honest(message)

    async with with_liar(say) as (ipfs, liar):
        contact = ipfs.desk.table.get(liar.peer)
        assert contact is not None
        with pytest.raises(error):
            await ipfs.asking.ask(contact, Message(Kind.GET_VALUE, PK))
        with pytest.raises(UnreachableError):
            await ipfs.get_value(PK)
        assert ANSWER_BYTES_MAX < 0x0FFF_FFFF


async def test_a_value_that_its_namespace_refuses_is_never_returned() -> None:
    async def say(message: Message, _channel: Channel) -> bytes:
        return pack(Message(message.kind, message.key, Value(message.key, encode_public_key(bytes(32)))))

    async with with_liar(say) as (ipfs, _):
        with pytest.raises(CorruptedError):
            await ipfs.get_value(PK)


async def test_a_peer_that_vouches_for_itself_elsewhere_leads_nobody_there() -> None:
    """It names this machine's own peer at an address of another, and another at a multicast one."""

    async def say(message: Message, channel: Channel) -> bytes:
        bad = (b"\x04\xe0\0\0\1\x06\0\1", b"nonsense", address_bytes("/ip4/127.0.0.1/tcp/0") or b"")
        nodes = (Node(peer_bytes(KEY.peer), bad), Node(b"\x12\x20" + bytes(32), (b"\x04\x7f\0\0\1\x06\0\1",)))
        return pack(Message(message.kind, message.key, closer=nodes, providers=nodes))

    async with with_liar(say) as (ipfs, liar):
        assert await ipfs.find_providers(MULTIHASH) == ()
        with pytest.raises(NotFoundError):
            await ipfs.find_peer(KEY.peer)
        assert [each.peer for each in ipfs.desk.table] == [liar.peer]


async def test_the_presets_are_those_of_prime_s_own_dht() -> None:
    async with prime.open_system(transport=Libp2p()) as system, open_ipfs(system) as ipfs:
        assert ipfs.desk.settings == PRESETS["swarm"]


async def test_a_judge_that_cannot_choose_fails_the_answer_and_not_the_lookup(autojump_clock: trio.abc.Clock) -> None:
    one = contact(1)

    class Answers:
        async def ask(self, contact: Contact, request: Message) -> Heard:
            return Heard(contact, "", request)

    def cannot(_: Heard) -> bool:
        raise RefusedError("its namespace cannot choose", hint="nothing of it was used")

    lookup = Lookup(Nearest(key_of(b"x")), PRESETS["swarm"], [one], own=peer(9), now=0.0)
    run = _Run(Answers(), lookup, Message(Kind.GET_VALUE, b"x"), cannot)  # type: ignore[arg-type]
    await run.go()
    assert (lookup.outcome is not None, run.heard) == (True, {})
