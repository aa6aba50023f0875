"""Mutual TLS 1.3 between peers, as libp2p specifies it (specs/tls): no authority, the certificate names the peer.

Each side shows a self-signed certificate for a throw-away P-256 key. Its one extension (OID 1.3.6.1.4.1.53594.1.1)
holds the peer's Ed25519 public key and that key's signature over the throw-away one; TLS itself proves possession of
the throw-away key. The session below is TLS over two memory buffers and does no input or output.

How a certificate of no authority gets through Python's `ssl`, which has no verification hook: a context can demand a
certificate only by verifying it against its trusted ones, and a stranger's is never among them. So each connection has
its own context; the context's handshake observer sees the peer's certificate just before OpenSSL verifies it, checks
the libp2p extension, and only then makes this one certificate the context's single trusted one. OpenSSL then verifies
validity dates and possession as usual, and a certificate without a valid identity ends in TLS's own alert. The bytes on
the wire are plain TLS. The observer is `SSLContext._msg_callback`, which Python keeps for debugging (3.8 to 3.14); the
alternatives are worse: the C pointer inside the context object, or a second proof of identity beside TLS.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from prime.actor.contract import PeerId
from prime.errors import ConfigError, PrimeInternalError, RemoteProtocolError, UnreachableError
from prime.transport.contract import Buffer
from prime.transport.identity import KeyPair
from prime.transport.peer import decode_public_key, encode_public_key, peer_from_public_key, verify

EXTENSION_OID = ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNED_PREFIX = b"libp2p-tls-handshake:"
ALPN = "libp2p"
CERTIFICATE_BYTES_MAX = 8192
RECORD_BYTES_MAX = 1 << 14  # of plaintext, RFC 8446 section 5.1
SCRATCH_BYTES_MIN = 1 << 14  # of decrypted bytes that are taken at a time: a connection that rests holds no more
SCRATCH_BYTES_MAX = 1 << 18
ANSWER_BYTES_MAX = 4096  # that the other side may make this one say with its own key updates before we send anything
EMPTY_BYTES_MAX = 1 << 16  # of records that hold no data: one of a TLS stack's own needs no more than 16 KiB
EMPTY_RATIO = 64  # of such bytes to those of data, over time: with the least data in each, records are 23 bytes to 1
RECORDS_MAX = 64  # that are decrypted in one go: with a few bytes in each, what was read at once holds thousands
SMALL_READS_MAX = 100  # in a row, after which the traffic is taken to have ebbed

_HANDSHAKE_CERTIFICATE = 11  # RFC 8446 section 4
_MAY_BE_CRITICAL = frozenset(
    {EXTENSION_OID, ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE}
)
_IGNORE_CRITICAL = 0x10
"""OpenSSL's X509_V_FLAG_IGNORE_CRITICAL, which `ssl` has no name for. js-libp2p and rust-libp2p mark libp2p's extension
critical, and OpenSSL does not know it; the critical ones are judged here instead, before it sees the certificate."""
_TIMES = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_VALID_FOR = timedelta(days=3650)
_CLOCKS_DIFFER_BY = timedelta(days=1)


def make_certificate(key: KeyPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a throw-away TLS key and the certificate that binds it to the peer of `key`."""
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER_BY)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.UnrecognizedExtension(EXTENSION_OID, _signed_key(key, private)), critical=False)
    )
    return builder.sign(private, hashes.SHA256()), private


def peer_of_certificate(der: bytes) -> PeerId:
    """Return the peer that a certificate proves. Raises `RemoteProtocolError` saying what is wrong with it."""
    try:
        with warnings.catch_warnings(action="error"):  # what cryptography merely dislikes in a stranger's is refused
            certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(certificate)
        extension = certificate.extensions.get_extension_for_oid(EXTENSION_OID).value
        unknown = [each.oid for each in certificate.extensions if each.critical and each.oid not in _MAY_BE_CRITICAL]
        spki = _spki(certificate.public_key())
    except x509.ExtensionNotFound:
        raise RemoteProtocolError("The TLS certificate has no libp2p extension.") from None
    except Exception as error:  # a stranger's bytes: each of cryptography's parsers has errors of its own
        raise RemoteProtocolError(
            f"The TLS certificate cannot be used: {str(error) or type(error).__name__}."
        ) from error
    if unknown:
        raise RemoteProtocolError(f"The TLS certificate has a critical extension {unknown[0].dotted_string}.")
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise PrimeInternalError("cryptography has begun to parse libp2p's extension")
    return _peer_of_signed_key(extension.value, spki)


def _hint(error: ssl.SSLError) -> str:
    """Return the next step after a handshake that failed, where there is one."""
    is_clock = isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _TIMES
    return "One of the two clocks is wrong by more than a day: set it right." if is_clock else ""


def _spki(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _signed_key(key: KeyPair, private: ec.EllipticCurvePrivateKey) -> bytes:
    """SEQUENCE { OCTET STRING public key, OCTET STRING signature }: both short, so every DER length is one byte."""
    public = encode_public_key(key.public_bytes)
    signature = key.sign(SIGNED_PREFIX + _spki(private.public_key()))
    body = bytes([0x04, len(public)]) + public + bytes([0x04, len(signature)]) + signature
    return bytes([0x30, len(body)]) + body


def _peer_of_signed_key(der: bytes, spki: bytes) -> PeerId:
    # An Ed25519 key and signature have fixed lengths, so their one DER form has a fixed shape.
    if len(der) != 106 or der[:4] != b"\x30\x68\x04\x24" or der[40:42] != b"\x04\x40":
        raise RemoteProtocolError("The libp2p extension holds no Ed25519 identity.")
    try:
        peer = peer_from_public_key(decode_public_key(der[4:40]))
        proved = verify(peer, SIGNED_PREFIX + spki, der[42:])
    except ValueError as error:
        raise RemoteProtocolError("The libp2p extension holds no Ed25519 identity.") from error
    if not proved:
        raise RemoteProtocolError("The libp2p extension is not signed by the identity that it names.")
    return peer


@attrs.frozen
class Credentials:
    """A certificate and its key where `ssl` can load them: in a file, encrypted with a password known only here."""

    path: Path = attrs.field(repr=False)
    password: str = attrs.field(repr=False)
    pem: bytes = attrs.field(repr=False)
    """What the file holds, should somebody tidy the folder of temporary files while the node runs."""

    def load(self, context: ssl.SSLContext) -> None:
        """Load them into a context. Raises `UnreachableError` if this machine cannot open a file now."""
        try:
            try:
                context.load_cert_chain(self.path, password=self.password)
            except FileNotFoundError:
                with tempfile.NamedTemporaryFile(prefix="prime-tls-") as file:
                    file.write(self.pem)
                    file.flush()
                    context.load_cert_chain(file.name, password=self.password)
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                raise
            raise UnreachableError(
                f"This node's certificate cannot be loaded: {os.strerror(error.errno or 0).lower()}.",
                hint="Raise the limit of open files (ulimit -n), and see that the folder of temporary files has room.",
            ) from error


@contextmanager
def open_credentials(key: KeyPair) -> Iterator[Credentials]:
    """Hold a new certificate of `key` ready for sessions.

    `ssl` reads certificates from files only. The file lies in a private folder, and were it left behind by a kill, its
    key could not be read without the password. Raises `ConfigError` where no such file can be made.
    """
    certificate, private = make_certificate(key)
    password = secrets.token_hex(32)
    pem = _encrypted_pem(private, password) + certificate.public_bytes(serialization.Encoding.PEM)
    with ExitStack() as stack:
        try:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prime-tls-")), "credentials.pem")
            path.write_bytes(pem)
        except OSError as error:
            raise ConfigError(
                f"This node's certificate cannot be put into a file: {os.strerror(error.errno or 0).lower()}.",
                hint="Raise the limit of open files (ulimit -n), and see that the folder of temporary files has room.",
            ) from error
        yield Credentials(path, password, pem)


def _encrypted_pem(private: ec.EllipticCurvePrivateKey, password: str) -> bytes:
    # The password is random and used once: the slow key derivation of PKCS8 would protect nothing and take 1 ms a dial.
    encryption = serialization.BestAvailableEncryption(password.encode())
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption)


class TlsSession:
    """One side of a TLS 1.3 connection, over memory buffers; `peer` is known once `handshake` has returned True."""

    def __init__(self, credentials: Credentials, *, server_side: bool, protocols: tuple[str, ...] = (ALPN,)) -> None:
        self._context = self._make_context(credentials, server_side=server_side, protocols=protocols)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._peer: PeerId | None = None
        self._refusal: RemoteProtocolError | None = None
        self._failure: RemoteProtocolError | None = None
        self._scratch = bytearray(SCRATCH_BYTES_MIN)
        self._small_reads = 0  # in a row
        self._over = False  # the other side's end was read
        self._empty_bytes = 0  # fed, and not yet read or without data
        self._early = b""  # decrypted when our direction was ended, not yet read

    @property
    def peer(self) -> PeerId:
        """The proved identity of the other side."""
        if self._peer is None:
            raise PrimeInternalError("the peer of a TLS session was asked for before its handshake had ended")
        return self._peer

    @property
    def protocol(self) -> str:
        """The first of our `protocols` that the other side has too (RFC 7301); empty if none, or not yet known."""
        return self._tls.selected_alpn_protocol() or ""

    def handshake(self) -> bool:
        """Go on with the handshake; `True` when it is complete. Raises `RemoteProtocolError`.

        Whatever the outcome, `output` has bytes for the other side afterwards (an alert in case of an error).
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            text = f"The TLS handshake failed: {_reason(error)}."
            raise self._refusal or RemoteProtocolError(text, hint=_hint(error)) from error
        # From here on the observer would cost a call for every record.
        self._context._msg_callback = None  # type: ignore[attr-defined]  # noqa: SLF001 (see the module's text)
        return True

    def feed(self, data: bytes) -> None:
        """Take bytes from the other side; none means that its direction of the connection has ended."""
        if data:
            self._empty_bytes += len(data)
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def output(self) -> bytes:
        """Return the bytes to be sent to the other side now."""
        return self._outgoing.read()

    def encrypt(self, *parts: Buffer) -> bytes:
        """Return records that hold all of `parts`, none of which is empty; each begins a record."""
        for data in parts:
            written = self._tls.write(data)
            if written != len(data):
                raise PrimeInternalError(f"TLS took {written} of {len(data)} bytes, though its memory has no limit")
        return self._outgoing.read()

    def decrypt(self, size_max: int) -> bytes | None:
        """Return up to `size_max` bytes that have arrived, `b""` after the other side's end, `None` if none are there.

        Raises `RemoteProtocolError` for forged or damaged records, and for a connection that was cut off without TLS'
        own end of data.
        """
        data = self.decrypt_placed(size_max, None)
        return None if data is None else bytes(data)

    def decrypt_placed(self, size_max: int, room: memoryview | None) -> bytes | memoryview | None:
        """As `decrypt`, but they may be put at the beginning of a `room`, and that part of it is what is returned."""
        if self._early:
            data, self._early = self._early[:size_max], self._early[size_max:]
            return data
        return self._read(size_max, room)

    @property
    def has_input(self) -> bool:
        """Tell whether `decrypt` may find anything: an exception that says it does not is dearer than to ask."""
        return bool(self._early or self._incoming.pending or self._tls.pending() or self._incoming.eof or self._over)

    def end(self) -> bytes:
        """End our direction; return the bytes that say so. The other direction stays open."""
        self._drain()
        with suppress(ssl.SSLError):  # the end is said; `ssl` would have liked to hear the other side's at once
            self._tls.unwrap()
        return self._outgoing.read()

    def _drain(self) -> None:
        # `unwrap` looks for the other side's end and would stumble over data that arrived before it.
        parts = [self._early]
        try:
            while part := self._read(1 << 20):
                parts.append(bytes(part))
        except RemoteProtocolError:
            pass  # the reader will meet it again
        self._early = b"".join(parts)

    def _read(self, size_max: int, room: memoryview | None = None) -> bytes | memoryview | None:
        if self._failure:
            raise self._failure
        if not self.has_input:
            return None
        view = (memoryview(self._scratch) if room is None else room)[:size_max]
        size, records, room_bytes, incoming = 0, 0, len(view), self._incoming
        read: Any = self._tls.read  # 64 records make a MiB: what is done for each counts
        try:
            while size < room_bytes and records < RECORDS_MAX and (incoming.pending or self.has_input):
                count = read(room_bytes - size, view[size:] if size else view)
                size, records = size + count, records + 1
                if not count:
                    self._over = True
                    break
        except ssl.SSLWantReadError:
            self._check_use(size)
            if self._failure and not size:
                raise self._failure from None
            return self._came(view[:size], room) if size else None
        except ssl.SSLZeroReturnError:
            self._over = True
        except ssl.SSLError as error:
            self._failure = RemoteProtocolError(f"The TLS stream broke: {_reason(error)}.")
            if not size:
                raise self._failure from error
        self._check_use(size)
        return self._came(view[:size], room)

    def _came(self, data: memoryview, room: memoryview | None) -> bytes | memoryview:
        if room is not None:
            return data
        self._fit(len(data))
        return bytes(data)

    def _check_use(self, size: int) -> None:
        """Note a peer that sends nothing but TLS' own messages: they take work, and some want an answer each."""
        unread = self._incoming.pending
        self._empty_bytes = max(unread, self._empty_bytes - EMPTY_RATIO * size)
        if self._empty_bytes - unread > EMPTY_BYTES_MAX or self._outgoing.pending > ANSWER_BYTES_MAX:
            self._failure = RemoteProtocolError("The TLS stream broke: too many messages of TLS itself.")

    def _fit(self, size: int) -> None:
        """Let the buffer for decrypted bytes follow the traffic: reading into one is three times as fast as joining."""
        room = len(self._scratch)
        self._small_reads = self._small_reads + 1 if size * 16 < room else 0
        if size == room < SCRATCH_BYTES_MAX:
            self._scratch = bytearray(4 * room)
        elif self._small_reads > SMALL_READS_MAX and room > SCRATCH_BYTES_MIN:
            self._scratch = bytearray(SCRATCH_BYTES_MIN)

    def _make_context(
        self, credentials: Credentials, *, server_side: bool, protocols: tuple[str, ...]
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        # Some builds of Python take a stream that breaks off for one that ends. It is no end: bytes may be missing.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate names a peer, not a host
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _IGNORE_CRITICAL
        context.set_alpn_protocols(protocols)
        if server_side:
            context.num_tickets = 0  # a resumed session would show no certificate
        credentials.load(context)
        context._msg_callback = _Observer(self)  # type: ignore[attr-defined]  # noqa: SLF001 (see the module's text)
        return context

    def observe(self, direction: str, message: Any, data: bytes) -> None:
        """Look at a message of the handshake: at the certificate, before OpenSSL does."""
        if direction != "read" or message != _HANDSHAKE_CERTIFICATE:
            return
        try:
            der = _single_certificate(data)
            self._peer = peer_of_certificate(der)
        except RemoteProtocolError as error:
            self._refusal = error  # OpenSSL now finds no trusted certificate and refuses for us
            return
        self._context.load_verify_locations(cadata=der)


class _Observer:
    """Shows a session the messages of its handshake, and does not keep it alive.

    `ssl` does not tell the garbage collector that a connection holds its context: with a reference back to the session,
    one whose handshake never ends would stay for ever, with the 80 KiB that OpenSSL has for it.
    """

    __slots__ = ("_session",)

    def __init__(self, session: TlsSession) -> None:
        self._session = weakref.ref(session)

    def __call__(self, _tls: Any, direction: str, _version: Any, _kind: Any, message: Any, data: bytes) -> None:
        session = self._session()
        if session is not None:
            session.observe(direction, message, data)


def _single_certificate(message: bytes) -> bytes:
    """Return the DER of the one certificate in a Certificate message (RFC 8446 section 4.4.2)."""
    lists_at = 5 + message[4] if len(message) > 4 else 0  # after message type, length and request context
    der_at = lists_at + 6
    size = int.from_bytes(message[lists_at + 3 : der_at], "big")
    entry_end = der_at + size + 2
    if not lists_at or not 0 < size <= CERTIFICATE_BYTES_MAX or entry_end > len(message):
        raise RemoteProtocolError("The other side showed no TLS certificate, or one out of bounds.")
    list_size = int.from_bytes(message[lists_at : lists_at + 3], "big")
    extensions_size = int.from_bytes(message[entry_end - 2 : entry_end], "big")
    if size + extensions_size + 5 != list_size:
        raise RemoteProtocolError("The other side showed more than one TLS certificate.")
    return bytes(message[der_at : der_at + size])


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
