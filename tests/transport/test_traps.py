"""The traps of py-libp2p 0.8, row by row: what the library does as it comes, and what Prime's transport does there.

Each class is a row. Its `test_library…` fails when a new version of the library has mended the trap: then the rule that
answers it may go. Its `test_prime…` holds the rule. That js-libp2p needs a polyfill before Node 22 is shown in tests/interop.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from cryptography import x509

from prime.errors import RefusedError, UnreachableError
from prime.testing.transport import meet, opened, pattern, receive_all, receive_exactly
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p

libp2p = pytest.importorskip("libp2p")


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> Iterator[None]:
    """Spare the collections below what was there before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    """Collect the sockets that the library's hosts leave open."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


PROTOCOL = "/trap/1"
DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
LIBP2P_EXTENSION = "1.3.6.1.4.1.53594.1.1"  # libp2p's specs/tls


def part(name: str) -> Any:
    """Return a module of the library."""
    return importlib.import_module(f"libp2p.{name}")


def ed25519_keys() -> Any:
    return part("crypto.ed25519").create_new_key_pair()


@asynccontextmanager
async def running(host: Any) -> AsyncIterator[Any]:
    """Run one of the library's hosts, listening anywhere."""
    place = importlib.import_module("multiaddr").Multiaddr("/ip4/127.0.0.1/tcp/0")
    async with host.run([place]):
        yield host
        with trio.move_on_after(3, shield=True):
            await host.close()


Handler = Callable[[Any], Any]


@asynccontextmanager
async def connected(handler: Handler, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Two of the library's hosts, the first connected to the second, which handles streams of `PROTOCOL`."""
    with trio.fail_after(DEADLINE_S):
        near, far = (libp2p.new_host(key_pair=ed25519_keys(), **options) for _ in range(2))
        async with running(far), running(near):
            far.set_stream_handler(PROTOCOL, handler)
            await near.connect(info_of(far))
            yield near, far


def address_of(host: Any) -> str:
    return f"{host.get_transport_addrs()[0]}/p2p/{host.get_id()}"


def info_of(host: Any) -> Any:
    return part("peer.peerinfo").PeerInfo(host.get_id(), list(host.get_transport_addrs()))


def connection_of(host: Any) -> Any:
    (connection,) = host.get_network().get_connections()
    return connection


async def echo(stream: Any) -> None:
    with suppress(Exception):  # the stream ends as the test does
        while data := await stream.read(1 << 16):
            await stream.write(data)


async def sleep(_stream: Any) -> None:
    await trio.sleep_forever()


class Gate:
    """A wire that can be blocked: a listener whose callers are passed on to `port`, through small buffers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = trio.Event()
        self._open.set()
        self.port = 0

    def block(self) -> None:
        self._open = trio.Event()

    def unblock(self) -> None:
        self._open.set()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket() as listener:
            listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.port = listener.getsockname()[1]
            task_status.started()
            caller, _ = await listener.accept()
            async with (
                trio.SocketStream(caller) as inward,
                await trio.open_tcp_stream("127.0.0.1", self._port) as outward,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._pass_on, inward, outward)
                nursery.start_soon(self._pass_on, outward, inward)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await self._open.wait()
                data = await source.receive_some(4096)
                if not data:
                    return await sink.send_eof()
                await sink.send_all(data)


@asynccontextmanager
async def gate_to(address: str) -> AsyncIterator[tuple[Gate, str]]:
    """A gate in front of an address, and the address to dial instead."""
    before, port, after = partition_port(address)
    gate = Gate(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(gate.serve)
        yield gate, f"{before}/tcp/{gate.port}{after}"
        nursery.cancel_scope.cancel()


def partition_port(address: str) -> tuple[str, int, str]:
    before, _, rest = address.partition("/tcp/")
    port, _, after = rest.partition("/")
    return before, int(port), f"/{after}" if after else ""


class TestACancelledWrite:
    """Cancelling a write while the socket is blocked kills the whole connection."""

    async def test_library_loses_a_stream_that_was_not_written(self) -> None:
        far, near = (libp2p.new_host(key_pair=ed25519_keys()) for _ in range(2))
        with trio.fail_after(DEADLINE_S):
            async with running(far), running(near), gate_to(address_of(far)) as (gate, address):
                far.set_stream_handler(PROTOCOL, echo)
                await near.connect(part("peer.peerinfo").info_from_p2p_addr(multiaddr(address)))
                sibling = await near.new_stream(far.get_id(), [PROTOCOL])
                written = await near.new_stream(far.get_id(), [PROTOCOL])
                gate.block()
                with trio.move_on_after(0.3) as scope:
                    await written.write(bytes(1 << 18))
                assert scope.cancelled_caught
                gate.unblock()
                assert not await answers(sibling)

    async def test_prime_loses_no_other_channel(self) -> None:
        with trio.fail_after(DEADLINE_S):
            async with opened(Libp2p(), Libp2p()) as (dialler, listener), gate_to(listener.addresses[0]) as (gate, at):
                sibling, other = await dialler.dial(at), await listener.accept()
                written, _ = await dialler.dial(at), await listener.accept()
                gate.block()
                with trio.move_on_after(0.3) as scope:
                    await written.send(bytes(4 << 20))
                assert scope.cancelled_caught
                gate.unblock()
                await sibling.send(b"alive")
                assert await receive_exactly(other, 5) == b"alive"


def multiaddr(address: str) -> Any:
    return importlib.import_module("multiaddr").Multiaddr(address)


async def answers(stream: Any) -> bool:
    """Tell whether a stream to `echo` still works."""
    with trio.move_on_after(1), suppress(Exception):  # whatever the library raises, it does not work
        await stream.write(b"alive")
        return bool(await stream.read(5) == b"alive")
    return False


class TestAReaderThatPauses:
    """A reader that pauses for 5 s makes Yamux reset the sender."""

    async def test_library_fails_the_writer(self, mock_clock: trio.testing.MockClock) -> None:
        mock_clock.rate = 1
        async with connected(sleep) as (near, far):
            stream = await near.new_stream(far.get_id(), [PROTOCOL])
            mock_clock.rate = 50
            with pytest.raises(part("network.stream.exceptions").StreamReset) as caught:
                await stream.write(bytes(8 << 20))
            mock_clock.rate = 1
            assert "window update after 5 seconds" in str(caught.value.__cause__)

    async def test_prime_waits_and_loses_nothing(self, mock_clock: trio.testing.MockClock) -> None:
        mock_clock.rate = 1
        data = pattern(12 << 20)
        async with opened(Libp2p(), Libp2p()) as (dialler, listener), trio.open_nursery() as nursery:
            m = await meet(dialler, listener)
            nursery.start_soon(send_and_end, m.near, data)
            await trio.sleep(0.1)
            mock_clock.rate = 50
            await trio.sleep(12)
            mock_clock.rate = 1
            assert await receive_all(m.far) == data


async def send_and_end(channel: Channel, data: bytes) -> None:
    await channel.send(data)
    await channel.send_eof()


class TestAHandlerThatRaises:
    """An exception in a stream handler ends the host."""

    async def test_library_ends_the_host(self) -> None:
        with pytest.RaisesGroup(LookupError, flatten_subgroups=True, allow_unwrapped=True):
            async with connected(explode) as (near, far):
                await near.new_stream(far.get_id(), [PROTOCOL])
                await trio.sleep(5)

    async def test_prime_goes_on(self) -> None:
        near = libp2p.new_host(key_pair=ed25519_keys())
        with trio.fail_after(DEADLINE_S):
            async with running(near), Libp2p().open(KeyPair.generate()) as listener:
                host_of(listener).set_stream_handler(PROTOCOL, explode)
                await near.connect(part("peer.peerinfo").info_from_p2p_addr(multiaddr(listener.addresses[0])))
                with suppress(Exception):  # the stream that met the handler is lost
                    await (await near.new_stream(peer_object(listener.peer), [PROTOCOL])).read(1)
                async with Libp2p().open(KeyPair.generate()) as dialler:
                    m = await meet(dialler, listener)
                    await m.near.send(b"alive")
                    assert await receive_exactly(m.far, 5) == b"alive"


async def explode(_stream: Any) -> None:
    raise LookupError("a bug in somebody's handler")


def host_of(endpoint: Any) -> Any:
    """Return the library's host inside an endpoint."""
    return endpoint.host


def peer_object(peer: str) -> Any:
    return part("peer.id").ID.from_string(peer)


class TestARemoteReset:
    """A reset by the other side reads as the end of the stream."""

    async def test_library_says_that_the_stream_ended(self) -> None:
        async with connected(promise_and_reset) as (near, far):
            stream = await near.new_stream(far.get_id(), [PROTOCOL])
            assert await stream.read(100) == b"half of what was pro"
            with pytest.raises(part("network.stream.exceptions").StreamEOF):
                await stream.read(1)

    async def test_prime_says_that_the_channel_broke(self) -> None:
        near = libp2p.new_host(key_pair=ed25519_keys())
        with trio.fail_after(DEADLINE_S):
            async with running(near), Libp2p().open(KeyPair.generate()) as listener:
                await near.connect(part("peer.peerinfo").info_from_p2p_addr(multiaddr(listener.addresses[0])))
                stream = await near.new_stream(peer_object(listener.peer), ["/prime/actor/1"])
                await stream.write(b"half of what was pro")
                channel = await listener.accept()
                assert await channel.receive() == b"half of what was pro"
                await stream.reset()
                with pytest.raises(anyio.BrokenResourceError):
                    await channel.receive()


async def promise_and_reset(stream: Any) -> None:
    await stream.write(b"half of what was pro")
    await trio.sleep(0.1)
    await stream.reset()


class TestADial:
    """Every dial waits 250 ms after it has succeeded."""

    async def test_library_waits(self) -> None:
        async with connected(echo) as (near, _), running(libp2p.new_host(key_pair=ed25519_keys())) as third:
            began = trio.current_time()
            await near.connect(info_of(third))
            assert trio.current_time() - began >= 0.25

    async def test_prime_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(part("network.swarm"), "_HAPPY_EYEBALLS_DELAY", 100)
        with trio.fail_after(20):
            async with opened(Libp2p(), Libp2p()) as (dialler, listener):
                await meet(dialler, listener)


class TestTheStreamAfterTheLast:
    """The 257th concurrent outbound stream waits, without an error."""

    async def test_library_waits(self) -> None:
        async with connected(sleep) as (near, _):
            muxed = connection_of(near).muxed_conn
            while muxed.stream_backlog_semaphore.value:
                await muxed.stream_backlog_semaphore.acquire()  # as each open stream does
            with trio.move_on_after(0.3) as scope:
                await muxed.open_stream()
            assert scope.cancelled_caught

    async def test_prime_says_that_there_are_too_many(self) -> None:
        with trio.fail_after(DEADLINE_S):
            async with opened(Libp2p(), Libp2p(backlog_max=300)) as (dialler, listener):
                with pytest.raises((UnreachableError, RefusedError), match="200 streams"):
                    for _ in range(257):
                        await dialler.dial(listener.addresses[0])


class TestTheDefaultSecurities:
    """The default `sec_opt` offers plaintext and secio."""

    async def test_library_offers_plaintext(self) -> None:
        offered = securities_of(libp2p.new_host(key_pair=ed25519_keys()))
        assert {"/plaintext/2.0.0", "/secio/1.0.0"} <= offered

    async def test_prime_offers_only_what_encrypts(self) -> None:
        async with Libp2p().open(KeyPair.generate()) as endpoint:
            assert securities_of(host_of(endpoint)) <= {"/noise", "/tls/1.0.0"}

    async def test_prime_speaks_plaintext_with_nobody(self) -> None:
        security = part("security.insecure.transport")
        keys = ed25519_keys()
        plain = libp2p.new_host(key_pair=keys, sec_opt={"/plaintext/2.0.0": security.InsecureTransport(keys)})
        with trio.fail_after(DEADLINE_S):
            async with running(plain), Libp2p(dial_timeout_s=2).open(KeyPair.generate()) as endpoint:
                with pytest.raises(UnreachableError):
                    await endpoint.dial(str(plain.get_transport_addrs()[0]))
                with pytest.raises(part("exceptions").BaseLibp2pError):
                    await plain.connect(part("peer.peerinfo").info_from_p2p_addr(multiaddr(endpoint.addresses[0])))


def securities_of(host: Any) -> set[str]:
    return {str(protocol) for protocol in host.get_network().upgrader.security_multistream.transports}


class TestItsTlsCertificate:
    """Its certificate has other extensions before libp2p's, which js-libp2p refuses."""

    def test_library_puts_others_first(self) -> None:
        certificate = part("security.tls.certificate")
        pem, _ = certificate.generate_certificate(ed25519_keys().private_key, certificate.create_cert_template())
        found = extensions_of(x509.load_pem_x509_certificate(pem.encode()))
        assert found[0] != LIBP2P_EXTENSION and LIBP2P_EXTENSION in found

    def test_prime_has_that_one_alone(self) -> None:
        tls = importlib.import_module("prime.transport.tls")
        assert extensions_of(tls.make_certificate(KeyPair.generate())[0]) == [LIBP2P_EXTENSION]


def extensions_of(certificate: x509.Certificate) -> list[str]:
    return [extension.oid.dotted_string for extension in certificate.extensions]


class TestTheReceiveWindow:
    """A stream's receive window may grow to 16 MiB, unread."""

    def test_library_lets_it_grow(self) -> None:
        assert part("stream_muxer.yamux.yamux").MAX_WINDOW_SIZE == 16 << 20

    async def test_prime_holds_less_for_all_streams_of_a_peer(self) -> None:
        """Nobody reads; what a peer can send is what this side holds."""
        sent = 0

        async def flood(channel: Channel) -> None:
            nonlocal sent
            while True:
                await channel.send(bytes(1 << 16))
                sent += 1 << 16

        with trio.move_on_after(0.8):
            async with opened(Libp2p(), Libp2p()) as (dialler, listener), trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(flood, (await meet(dialler, listener)).near)
        assert 0 < sent <= 64 << 20


class TestWhatIsLeftAlone:
    """Gossipsub drops above ten messages a second; kad ignores its prefix, and checks signatures only if present."""

    def test_library_drops_the_eleventh_message(self) -> None:
        parameters = inspect.signature(part("pubsub.gossipsub").GossipSub.__init__).parameters
        assert parameters["max_messages_per_topic_per_second"].default == 10.0

    def test_library_answers_under_a_prefix_that_it_was_not_given(self) -> None:
        dht = part("kad_dht.kad_dht")
        host = libp2p.new_host(key_pair=ed25519_keys())
        dht.KadDHT(host, dht.DHTMode.SERVER, protocol_prefix="/prime")
        assert "/ipfs/kad/1.0.0" in [str(each) for each in host.get_mux().get_protocols()]

    def test_prime_imports_neither(self) -> None:
        sources = {path: path.read_text() for path in (ROOT / "prime").rglob("*.py")}
        assert any("import libp2p" in text or "from libp2p" in text for text in sources.values())
        assert not [str(path) for path, text in sources.items() if re.search(r"libp2p[.\w]*(kad_dht|pubsub)", text)]
