"""TCP and its TLS: what the conformance suite cannot know."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import platform
import shutil
import socket
import ssl
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import AddressInUseError, ConfigError, RemoteProtocolError, UnreachableError
from prime.testing.transport import meet, opened
from prime.transport import tcp, tls
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import TcpPlace, parse_address
from prime.transport.sockets import UNSENT_BYTES_MAX, Wire
from prime.transport.tcp import Tcp, TcpChannel
from prime.transport.tls import Credentials, TlsSession, make_certificate, open_credentials, peer_of_certificate

KEY, OTHER = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1] * 32))


def has_ip6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture
def credentials() -> Iterator[Credentials]:
    with open_credentials(KEY) as made:
        yield made


def shake_hands(client: TlsSession, server: TlsSession) -> None:
    done = {client: False, server: False}
    while not all(done.values()):
        for here, there in ((client, server), (server, client)):
            done[here] = done[here] or here.handshake()
            if output := here.output():
                there.feed(output)


def sessions(client: Credentials, server: Credentials) -> tuple[TlsSession, TlsSession]:
    return TlsSession(client, server_side=False), TlsSession(server, server_side=True)


# -------------------------------------------------------------------------------------------------------- certificates


def certificate(
    *,
    signer: KeyPair = KEY,
    named: KeyPair = KEY,
    over: bytes | None = None,
    starts: int = -1,
    days: int = 2,
    extra: bool = False,
    critical: bool = False,
    unknown: bool = False,
    other: x509.UnrecognizedExtension | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    private = ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.now(UTC), x509.Name([])
    signature = signer.sign(tls.SIGNED_PREFIX + (over or tls._spki(private.public_key())))
    body = b"\x04\x24" + tls.encode_public_key(named.public_bytes) + b"\x04\x40" + signature
    builder = x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days=starts)).not_valid_after(
        now + timedelta(days=starts + days)
    )
    identity = x509.UnrecognizedExtension(tls.EXTENSION_OID, b"\x30\x68" + body)
    builder = builder.add_extension(identity, critical=critical)
    if extra:
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=critical)
    if unknown:
        nobodys = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.9.9"), b"\x05\x00")
        builder = builder.add_extension(nobodys, critical=critical)
    if other is not None:
        builder = builder.add_extension(other, critical=False)
    return builder.sign(private, hashes.SHA256()), private


def der(made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> bytes:
    return made[0].public_bytes(Encoding.DER)


def on_disk(folder: Path, made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> Credentials:
    key = made[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "credentials.pem"
    path.write_bytes(key + made[0].public_bytes(Encoding.PEM))
    return Credentials(path, "", path.read_bytes())


def test_a_certificate_proves_its_peer() -> None:
    assert peer_of_certificate(der(make_certificate(KEY))) == KEY.peer


def test_a_certificate_has_the_libp2p_extension_alone() -> None:
    made, _ = make_certificate(KEY)
    assert [each.oid.dotted_string for each in made.extensions] == ["1.3.6.1.4.1.53594.1.1"]
    assert not made.extensions[0].critical


def test_libp2p_accepts_our_certificate() -> None:
    theirs = pytest.importorskip("libp2p.security.tls.certificate")
    ids = pytest.importorskip("libp2p.peer.id")
    made, _ = make_certificate(KEY)
    assert str(ids.ID.from_pubkey(theirs.verify_certificate_chain([made]))) == KEY.peer


def test_we_accept_libp2ps_certificate() -> None:
    theirs = pytest.importorskip("libp2p.security.tls.certificate")
    keys = pytest.importorskip("libp2p.crypto.ed25519").create_new_key_pair(KEY.private_bytes())
    text, _ = theirs.generate_certificate(keys.private_key, theirs.create_cert_template())
    made = x509.load_pem_x509_certificate(text.encode())
    assert peer_of_certificate(made.public_bytes(Encoding.DER)) == KEY.peer


def test_forged_certificates_are_refused() -> None:
    forged = {
        "not signed by the identity": certificate(signer=OTHER),
        "signed by": certificate(over=b"another key"),
    }
    for text, made in forged.items():
        with pytest.raises(RemoteProtocolError, match=text):
            peer_of_certificate(der(made))
    good = bytearray(der(make_certificate(KEY)))
    good[-5] ^= 1  # its own signature
    with pytest.raises(RemoteProtocolError):
        peer_of_certificate(bytes(good))


def of_another_version(data: bytes) -> bytes:
    """The certificate with a version that X.509 does not have, and so with a signature that does not hold."""
    return data.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42", 1)


def with_odd_names() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate that holds but for an alternative name of a kind that `cryptography` has no class for."""
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x02\xa3\x00")
    return certificate(other=names)


def test_what_cryptography_has_errors_of_its_own_for_is_refused_as_the_rest() -> None:
    for data in (of_another_version(DER), der(with_odd_names())):
        with pytest.raises(RemoteProtocolError, match="cannot be used"):
            peer_of_certificate(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_a_clear_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        peer_of_certificate(data)
    with pytest.raises(RemoteProtocolError):
        tls._single_certificate(b"\x0b\0\0\0\0" + data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_never_proves_another_peer(at: int, change: int) -> None:
    data = bytearray(DER)
    data[at % len(data)] ^= change
    with suppress(RemoteProtocolError):
        assert peer_of_certificate(bytes(data)) == KEY.peer


DER = der(make_certificate(KEY))


# ------------------------------------------------------------------------------------------------------------ sessions


def test_both_sides_prove_themselves(credentials: Credentials) -> None:
    with open_credentials(OTHER) as others:
        client, server = sessions(credentials, others)
        shake_hands(client, server)
    assert client.peer == OTHER.peer
    assert server.peer == KEY.peer


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (certificate(signer=OTHER), "not signed by the identity"),
        (certificate(unknown=True, critical=True), "critical extension 1.3.6.1.4.1.53594.9.9"),
        (certificate(starts=-5), "certificate verify failed"),
        (certificate(starts=+2), "certificate verify failed"),
        (with_odd_names(), "cannot be used"),
    ],
    ids=["forged", "an unknown critical extension", "expired", "not yet valid", "odd names"],
)
@pytest.mark.parametrize("bad_side", ["client", "server"])
def test_a_bad_certificate_fails_the_handshake(
    tmp_path: Path,
    credentials: Credentials,
    made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    text: str,
    bad_side: str,
) -> None:
    bad = on_disk(tmp_path, made)
    pair = sessions(bad, credentials) if bad_side == "client" else sessions(credentials, bad)
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        shake_hands(*pair)
    assert ("clocks" in caught.value.hint) == ("verify" in text)


async def test_a_node_that_can_put_its_certificate_nowhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="cannot be put into a file: no such file"):
        async with Tcp().open(KEY):
            pass


def test_an_error_of_who_uses_credentials_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="theirs") as caught, open_credentials(KEY):
        raise OSError("theirs")
    assert type(caught.value) is OSError


@pytest.mark.parametrize("made", [{"extra": True}, {"unknown": True}, {"critical": True, "extra": True}])
def test_other_extensions_do_not_disturb(tmp_path: Path, credentials: Credentials, made: dict[str, bool]) -> None:
    """js-libp2p and rust-libp2p mark libp2p's own extension critical, which OpenSSL by itself refuses."""
    client, server = sessions(on_disk(tmp_path, certificate(**made)), credentials)
    shake_hands(client, server)
    assert server.peer == KEY.peer


def handshake_with(server: TlsSession, context: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    for _ in range(5):
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.feed(outgoing.read())
        server.handshake()
        incoming.write(server.output())


def stranger_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_a_client_without_certificate_is_refused(credentials: Credentials) -> None:
    with pytest.raises(RemoteProtocolError, match="showed no TLS certificate"):
        handshake_with(TlsSession(credentials, server_side=True), stranger_context())


def test_an_older_tls_is_refused(credentials: Credentials) -> None:
    context = stranger_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(RemoteProtocolError, match="unsupported protocol"):
        handshake_with(TlsSession(credentials, server_side=True), context)


def connected(credentials: Credentials) -> tuple[TlsSession, TlsSession]:
    client, server = sessions(credentials, credentials)
    shake_hands(client, server)
    return client, server


@given(st.lists(st.binary(min_size=1, max_size=40_000), max_size=5), st.integers(1, 50_000), st.integers(1, 30_000))
def test_bytes_survive_any_cutting(parts: list[bytes], cut: int, size: int) -> None:
    with open_credentials(KEY) as made:
        client, server = connected(made)
    wire = b"".join(client.encrypt(part) for part in parts) + client.end()
    got = b""
    for start in range(0, len(wire), cut):
        server.feed(wire[start : start + cut])
        while data := server.decrypt(size):
            assert len(data) <= size
            got += data
    assert got == b"".join(parts)
    assert server.decrypt(size) == server.decrypt(size) == b""


def test_a_changed_record_breaks_the_stream_for_good(credentials: Credentials) -> None:
    client, server = connected(credentials)
    record = bytearray(client.encrypt(b"data"))
    record[-1] ^= 1
    server.feed(bytes(record))
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="TLS stream broke"):
            server.decrypt(100)


def test_data_before_a_damaged_record_is_delivered(credentials: Credentials) -> None:
    client, server = connected(credentials)
    wire = bytearray(client.encrypt(b"good") + client.encrypt(b"bad"))
    wire[-1] ^= 1
    server.feed(bytes(wire))
    assert server.decrypt(100) == b"good"
    with pytest.raises(RemoteProtocolError):
        server.decrypt(100)


def test_a_cut_connection_is_no_end(credentials: Credentials) -> None:
    client, server = connected(credentials)
    server.feed(client.encrypt(b"data"))
    server.feed(b"")
    assert server.decrypt(100) == b"data"
    with pytest.raises(RemoteProtocolError, match="TLS stream broke"):
        server.decrypt(100)


def test_ending_keeps_what_has_arrived(credentials: Credentials) -> None:
    client, server = connected(credentials)
    server.feed(client.encrypt(b"x" * 50_000)[:30_000])
    end = server.end()
    client.feed(end)
    assert client.decrypt(10) == b""
    assert server.decrypt(1 << 20) == b"x" * 16_384
    assert server.decrypt(1 << 20) is None


def test_the_handshake_agrees_on_the_first_protocol_that_both_have(credentials: Credentials) -> None:
    for theirs, agreed in ((("/b", "/a"), "/b"), (("/a",), "/a"), (("/c",), "")):
        client = TlsSession(credentials, server_side=False, protocols=("/a", "/b"))
        server = TlsSession(credentials, server_side=True, protocols=theirs)
        client.handshake()
        server.feed(client.output())
        server.handshake()
        client.feed(server.output())
        assert client.handshake()
        assert client.protocol == server.protocol == agreed


@pytest.mark.parametrize("heard", [b"", b"no TLS at all, and over soon", bytes.fromhex("16030100ff")])
@pytest.mark.parametrize("server_side", [True, False])
def test_a_session_whose_handshake_never_ends_leaves_nothing(
    credentials: Credentials, heard: bytes, *, server_side: bool
) -> None:
    """Strangers who send garbage cost 80 KiB each for as long as this process lives, were it otherwise."""
    session = TlsSession(credentials, server_side=server_side)
    session.feed(heard)
    with suppress(RemoteProtocolError):
        session.handshake()
    gone = weakref.ref(session), weakref.ref(session._context)
    del session
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_session_that_rests_holds_little(credentials: Credentials) -> None:
    client, server = connected(credentials)
    for _ in range(8):
        server.feed(client.encrypt(bytes(1 << 18)))
        while server.decrypt(1 << 20):
            pass
    assert len(server._scratch) == 1 << 18
    for _ in range(200):
        server.feed(client.encrypt(b"small"))
        assert server.decrypt(100) == b"small"
    assert len(server._scratch) == 1 << 14


def test_of_records_with_little_in_them_few_are_decrypted_in_one_go(credentials: Credentials) -> None:
    client, server = connected(credentials)
    server.feed(b"".join(client.encrypt(b"x") for _ in range(200)))
    sizes = []
    while data := server.decrypt(1 << 18):
        sizes.append(len(data))
    assert sizes == [64, 64, 64, 8]


def test_credentials_that_were_tidied_away_are_there_again() -> None:
    with open_credentials(KEY) as made:
        shutil.rmtree(made.path.parent)
        client, server = sessions(made, made)
        shake_hands(client, server)
    assert client.peer == KEY.peer


@pytest.mark.parametrize("kind", ["tcp", "libp2p"])
async def test_a_dial_without_a_descriptor_for_the_certificate_is_a_clear_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dial raises errors of Prime's own, as any other one ends the node."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    transport: Any = Tcp()
    if kind == "libp2p":
        pytest.importorskip("libp2p")
        from prime.transport.libp2p import Libp2p

        transport = Libp2p()
    async with transport.open(KEY) as here, transport.open(OTHER) as there:
        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", full)
        with pytest.raises(UnreachableError, match="too many open files") as caught:
            await here.dial(there.addresses[0])
        assert "ulimit" in caught.value.hint
        monkeypatch.undo()
        await here.dial(there.addresses[0])


def test_credentials_leave_nothing_readable_behind() -> None:
    with open_credentials(KEY) as made:
        content = made.path.read_bytes()
        assert b"4,ENCRYPTED" in content
        assert made.path.parent.stat().st_mode & 0o777 == 0o700
        assert made.password not in repr(made)
    assert not made.path.parent.exists()


# ------------------------------------------------------------------------------------------------------------ endpoint


async def test_a_connection_that_is_cut_reads_as_broken() -> None:
    async with opened(Tcp(), Tcp()) as (dialler, listener):
        m = await meet(dialler, listener)
        m.far.close_nowait()
        with pytest.raises(anyio.BrokenResourceError):
            await m.near.receive()


async def test_silent_callers_do_not_keep_others_out_for_long() -> None:
    quick = Tcp(backlog_max=2, dial_timeout_s=0.3)
    async with opened(Tcp(), quick) as (dialler, listener), trio.open_nursery() as nursery:
        port = int(listener.addresses[0].split("/")[4])
        for _ in range(3):
            nursery.start_soon(hold_open, port)
        await trio.sleep(0.05)
        await meet(dialler, listener)
        nursery.cancel_scope.cancel()


async def hold_open(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        await trio.sleep_forever()


async def test_a_bug_that_a_callers_bytes_have_found_costs_that_caller_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found(_session: TlsSession, _data: bytes) -> None:
        raise KeyError("a bug")

    async with Tcp("/ip4/127.0.0.1/tcp/0").open(KEY) as listening, Tcp("/ip4/127.0.0.1/tcp/0").open(OTHER) as dialling:
        place = parse_address(listening.addresses[0]).place
        assert isinstance(place, TcpPlace)
        with monkeypatch.context() as patch:
            patch.setattr(TlsSession, "feed", found)
            async with await trio.open_tcp_stream(place.host, place.port) as raw:
                await raw.send_all(b"x")
                assert not await raw.receive_some()
        assert "internal error" in caplog.text
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listening.accept)
            channel = await dialling.dial(listening.addresses[0], KEY.peer)
        await channel.aclose()


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        with pytest.raises(AddressInUseError, match=address) as caught:
            async with Tcp(address).open(KEY):
                pass
    assert caught.value.hint


@pytest.mark.parametrize(
    "address", ["/ip4/192.0.2.1/tcp/0", "/memory/x", "nonsense", f"/ip4/127.0.0.1/tcp/0/p2p/{OTHER.peer}"]
)
async def test_an_address_that_cannot_be_listened_on_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with Tcp(address).open(KEY):
            pass
    assert caught.value.hint


async def test_an_unspecified_host_is_announced_by_real_ones() -> None:
    async with Tcp("/ip4/0.0.0.0/tcp/0").open(KEY) as listener, Tcp().open(OTHER) as dialler:
        assert not any("/0.0.0.0/" in each for each in listener.addresses)
        assert any(each.startswith("/ip4/127.0.0.1/") for each in listener.addresses)
        for address in listener.addresses:
            assert (await dialler.dial(address)).peer == KEY.peer


async def test_names_can_be_dialled() -> None:
    async with opened(Tcp(), Tcp()) as (dialler, listener):
        port = listener.addresses[0].split("/")[4]
        assert (await dialler.dial(f"/dns4/localhost/tcp/{port}")).peer == listener.peer
        with pytest.raises(UnreachableError):
            await dialler.dial("/dns4/nobody.invalid/tcp/1")


@pytest.mark.skipif(not has_ip6(), reason="no IPv6 loopback")
async def test_ip6() -> None:
    async with opened(Tcp("/ip6/::1/tcp/0"), Tcp()) as (listener, dialler):
        assert (await dialler.dial(listener.addresses[0])).peer == listener.peer


async def test_what_is_no_prime_is_said() -> None:
    async with Tcp(dial_timeout_s=0.5).open(KEY) as dialler, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, say_hello, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(UnreachableError, match="does not speak Prime's TCP transport"):
            await dialler.dial(f"/ip4/127.0.0.1/tcp/{port}")
        nursery.cancel_scope.cancel()


async def say_hello(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.aclose()


async def test_one_that_never_answers_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        async with attrs.evolve(Tcp(), dial_timeout_s=0.1).open(KEY) as dialler:
            with pytest.raises(UnreachableError, match=r"within 0.1 s"):
                await dialler.dial(address)


# ----------------------------------------------------------------------------------------------- without waking a task


@contextlib.asynccontextmanager
async def pair_of_channels() -> AsyncIterator[tuple[TcpChannel, TcpChannel]]:
    async with Tcp().open(KEY) as one, Tcp().open(KeyPair.from_seed(bytes([9]) * 32)) as other:
        near = await one.dial(other.addresses[0])
        far = await other.accept()
        assert isinstance(near, TcpChannel)
        assert isinstance(far, TcpChannel)
        yield near, far


async def received(channel: TcpChannel, size: int) -> bytes:
    data = b""
    with trio.fail_after(20):
        while len(data) < size:
            data += await channel.receive(size - len(data))
    return data


async def test_what_is_sent_without_a_wait_keeps_its_place() -> None:
    async with pair_of_channels() as (near, far):
        assert near.send_nowait(b"one ") == 4
        await near.send(b"two ")
        assert near.send_nowait(b"three") == 5
        assert near.send_nowait(b"") == 0
        assert near.send_nowait(bytes(tcp.NOWAIT_BYTES_MAX + 1)) == 0
        assert await received(far, 13) == b"one two three"
        await near.send_eof()
        assert near.send_nowait(b"late") == 0
        with pytest.raises(anyio.EndOfStream):
            await far.receive()
        far.close_nowait()
        assert far.send_nowait(b"late") == 0


async def test_what_the_kernel_does_not_take_at_once_goes_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = itertools.cycle((0, 7, 3, 1))
    monkeypatch.setattr(Wire, "send_nowait", lambda self, data: os.write(self.socket.fileno(), data[: next(takes)]))
    said = [b"%d," % n * 50 for n in range(5)]
    async with pair_of_channels() as (near, far):
        for part in said:
            if not near.send_nowait(part):
                await near.send(part)
        whole = b"".join(said)
        await near.send(b"|")
        assert await received(far, len(whole) + 1) == whole + b"|"
        assert near.send_nowait(b"x") == 1  # its rest is on its way when the end is said
        await near.send_eof()
        assert await received(far, 1) == b"x"


async def test_a_peer_that_does_not_read_is_offered_one_record_beyond_what_the_kernel_holds() -> None:
    async with pair_of_channels() as (near, far):
        sent = 0
        while near.send_nowait(bytes(tcp.NOWAIT_BYTES_MAX)):
            sent += tcp.NOWAIT_BYTES_MAX
        assert near.send_nowait(b"x") == 0
        with trio.move_on_after(0.2) as scope:
            await near.send(b"waits")
        assert scope.cancelled_caught
        assert await received(far, sent) == bytes(sent)
        await near.send(b"goes on")  # what was cancelled had not begun
        assert await received(far, 7) == b"goes on"


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no TCP_NOTSENT_LOWAT")
async def test_neither_end_lets_much_wait_in_the_kernel_before_what_is_urgent() -> None:
    async with pair_of_channels() as channels:
        for channel in channels:
            plain = channel._wire.socket
            assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES_MAX


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide by themselves what they keep")
def test_the_memory_of_big_frames_is_not_taken_anew_from_the_kernel_each_time() -> None:
    program = """
import resource
from prime.transport.sockets import keep_freed_memory
keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def frames(): return [bytearray(1 << 20) for _ in range(4)]
frames()
before = faults()
for _ in range(20): frames()
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 20 * 4 * 256 / 10  # pages of 4 KiB, of which nearly all would be new ones
