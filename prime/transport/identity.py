"""Who a node is: one Ed25519 key in one key file, and what the node says of itself.

The public half is the peer id (`prime.transport.peer`), the same over every transport. No libp2p package is needed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from prime.actor.contract import PeerId
from prime.errors import ConfigError
from prime.transport.multiaddr import parse_address
from prime.transport.peer import parse_peer, peer_from_public_key
from prime.wire import Size, record

_KEY_FILE_BYTES_MAX = 4096
_WORD = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){1,2}[A-Za-z0-9.+-]{0,32}")


class KeyPair:
    """An Ed25519 key pair. Its text form never shows the private half."""

    __slots__ = ("_private", "_public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """Make the key of a 32-byte seed: the same seed, the same peer. For tests and simulations."""
        if len(seed) != 32:
            raise ConfigError(
                f"An Ed25519 seed has 32 bytes, not {len(seed)}.", hint="Give 32 random bytes, or use generate()."
            )
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KeyPair:
        """Read a key file (PEM, PKCS #8, mode 0600). Raises `ConfigError` naming the file and the fix."""
        return cls(_parse_key(Path(path), _read_key_file(Path(path))))

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> KeyPair:
        """Read the key file, or create it (and its folder, 0700) if there is none.

        The file appears whole or not at all, and is on the disk before this returns; of two processes that create it at
        once, both return the same key. Raises `ConfigError`.
        """
        target = Path(path)
        with _naming(target, "created"):
            if not os.path.lexists(target):
                _create_key_file(target, cls.generate())
        return cls.load(target)

    @property
    def peer(self) -> PeerId:
        """The peer id of this key."""
        return peer_from_public_key(self._public)

    @property
    def public_bytes(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public

    def private_bytes(self) -> bytes:
        """Return the raw private seed, 32 bytes: for handing the key to libp2p, never for a log."""
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature (RFC 8032) of `data`."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"KeyPair({self.peer})"


@record
class NodeIdentity:
    """What a node says of itself when it meets another; validated whether it was made here or came over the wire.

    `peer` is its id, `addresses` where it may be dialled (multiaddrs; a `/p2p/` part must name `peer`), `roles` what it
    does (`trainer`, `coordinator`, …), `version` Prime's version there, `features` what it can speak beyond the version.
    """

    peer: PeerId
    addresses: Annotated[tuple[str, ...], Size(0, 16)] = ()
    roles: Annotated[tuple[str, ...], Size(0, 16)] = ()
    version: str = "0.0"
    features: Annotated[tuple[str, ...], Size(0, 64)] = ()

    def __attrs_post_init__(self) -> None:
        parse_peer(self.peer)
        for address in self.addresses:
            parse_address(address).expecting(self.peer)
        for word in (*self.roles, *self.features):
            _check(_WORD, word, "role or feature", "trainer")
        _check(_VERSION, self.version, "version", "0.1.0")


def _check(pattern: re.Pattern[str], text: str, what: str, example: str) -> None:
    if not pattern.fullmatch(text):
        raise ConfigError(f"{text[:64]!r} is no {what} of a node.", hint=f"Write it like {example}.")


def _create_key_file(path: Path, key: KeyPair) -> None:
    """Write beside, then link: the final name never shows a partial file, and never replaces another's key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_durably(draft, key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))  # noqa: SLF001 (same file)
        os.link(draft, path)
    except FileExistsError:
        return  # another process was first; its key counts
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_key_file(path: Path) -> bytes:
    # Opened once and examined through the descriptor, so that what was checked is what is read. Non-blocking, so that
    # a FIFO at that path does not hang the start.
    with _naming(path, "read"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_mode(path, os.fstat(descriptor))
        return os.read(descriptor, _KEY_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"The key file {path} is no regular file.", hint="Name a file, or move what is there away.")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"The key file {path} may be read by others (mode {mode:04o}): its key cannot be trusted to be yours alone.",
            hint=f"Run: chmod 600 {path}",
        )


def _parse_key(path: Path, data: bytes) -> Ed25519PrivateKey:
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted with a password
        raise _not_a_key(path) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _not_a_key(path)
    return private


def _not_a_key(path: Path) -> ConfigError:
    return ConfigError(
        f"The key file {path} holds no Ed25519 private key (PEM, PKCS #8, without a password).",
        hint="Restore it from a backup, or move it away: a new key (and a new peer id) is made at the next start.",
    )


@contextmanager
def _naming(path: Path, verb: str) -> Iterator[None]:
    """Turn an `OSError` into a `ConfigError` that names the key file and what to do."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be {verb}: {os.strerror(error.errno or 0)}.", hint=_fix_for(path, error)
        ) from error


def _fix_for(path: Path, error: OSError) -> str:
    if error.errno == errno.EACCES:
        return f"Run it as the file's owner, who may run: chmod 600 {path}"
    if error.errno == errno.ENOENT:
        return "Check the path; `load_or_create` makes a missing file."
    return "Name a path in a folder that you may write to, on a file system with hard links."
