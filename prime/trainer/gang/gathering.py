"""How the hosts of one run find and prove each other: through a file in the run's folder, which they share.

The first host writes a secret into it, and the port on which it listens; who can read that file belongs to the run. All
keys are made of the secret (HKDF, RFC 5869), so both sides know whom to expect before they connect, and the connection is
TCP with mutual TLS. The file is this user's alone (0600), new with each start of the first host, and removed at its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prime.actor import System
from prime.actor.groups import one_error
from prime.errors import ConfigError, UnreachableError
from prime.process.host import Processes
from prime.trainer.gang.launch import Launch
from prime.transport.admission import Admission
from prime.transport.identity import KeyPair
from prime.transport.links import LinkLimits, Links
from prime.transport.multiaddr import TcpPlace, parse_address
from prime.transport.signing import KeySignatory
from prime.transport.tcp import Tcp

FILE: Final = "hosts.json"
SECRET_BYTES: Final = 32
_BYTES_MAX: Final = 4096
LINKS_MIN: Final = 64
"""Links of a host, its peer's old one and the new one among them."""


@attrs.frozen
class Gathering:
    """What the first host says of itself, for the others: see `prime.trainer.gang.gathering`."""

    secret: bytes = attrs.field(repr=False)
    port: int
    path: str
    """Of the actor that takes hosts in."""
    run: str = ""
    """The launcher's name for the run."""

    def key(self, host: int) -> KeyPair:
        """Return the key of a host."""
        derived = HKDF(SHA256(), 32, salt=None, info=f"prime gang host {host}".encode())
        return KeyPair.from_seed(derived.derive(self.secret))


@attrs.frozen
class First:
    """This process as the first host of several."""

    launch: Launch
    gathering: Gathering


def write_gathering(folder: Path, gathering: Gathering) -> None:
    """Write the file, whole or not at all. Raises `ConfigError` where the folder cannot be written to."""
    fields = {
        "secret": gathering.secret.hex(),
        "port": gathering.port,
        "path": gathering.path,
        "run": gathering.run,
    }
    draft = folder / f".{FILE}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / FILE)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to ({error.strerror})", hint="see to its owner") from error


def read_gathering(folder: Path, run: str) -> Gathering | None:
    """Return what the first host of a run wrote, or None as long as it has not.

    Raises `ConfigError` for a file that this user may not read, or that others may.
    """
    with contextlib.suppress(OSError):
        any(folder.iterdir())  # on a network file system: do not believe what was there a while ago
    try:
        with (folder / FILE).open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{folder / FILE}: cannot be read ({error.strerror})", hint="all hosts of a run belong to one user"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"{folder / FILE}: others may read it, and it holds the run's secret", hint="remove it, and start again"
        )
    found = _parsed(text)
    return found if found is not None and found.run == run else None


def _parsed(text: bytes) -> Gathering | None:
    try:
        fields = json.loads(text)
        secret = bytes.fromhex(fields["secret"])
        found = Gathering(secret, int(fields["port"]), str(fields["path"]), str(fields["run"]))
    except (ValueError, KeyError, TypeError):
        return None
    return found if len(secret) == SECRET_BYTES else None


@contextlib.contextmanager
def gathering_at(folder: Path, gathering: Gathering) -> Iterator[None]:
    """Have the file there for the length of the block."""
    write_gathering(folder, gathering)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------- systems


@contextlib.asynccontextmanager
async def open_networked(key: KeyPair, listen: str, peers: list[str]) -> AsyncIterator[System]:
    """Run a system that can have processes, and links with `peers` alone."""

    def links(system: System, signatory: KeySignatory) -> Links:
        return Links(
            Tcp(listen),
            key,
            limits=LinkLimits(links_max=max(LINKS_MIN, 2 * len(peers))),
            emit=system.emit,
            signatory=signatory,
            admission=Admission(allow=peers),
            punch=False,
        )

    async with open_alone(key, links) as system:
        yield system


@contextlib.asynccontextmanager
async def open_alone(
    key: KeyPair, links: Callable[[System, KeySignatory], Links] | None = None
) -> AsyncIterator[System]:
    """Run a system that can have processes, and no network unless `links` makes one."""
    signatory = KeySignatory(key)
    system = System(secret=secrets.token_bytes(32), signatory=signatory)
    system.process_host = Processes(system, key)
    if links is not None:
        system.network = links(system, signatory)
    async with one_error(), trio.open_nursery() as nursery:
        await nursery.start(system.serve)
        try:
            yield system
        finally:
            system.end()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def open_first(folder: Path, launch: Launch, path: str) -> AsyncIterator[tuple[System, First]]:
    """Run the first host's system: it listens on all interfaces, for the hosts of this run alone, which find it by the file."""
    secret = secrets.token_bytes(SECRET_BYTES)
    keys = Gathering(secret, 0, path)
    peers = [keys.key(host).peer for host in range(1, launch.hosts)]
    async with open_networked(keys.key(0), await listen_address(launch.leader), list(peers)) as system:
        gathering = Gathering(secret, _port_of(system.addresses), path, launch.run)
        with gathering_at(folder, gathering):
            yield system, First(launch, gathering)


def _port_of(addresses: tuple[str, ...]) -> int:
    for address in addresses:
        place = parse_address(address).place
        if isinstance(place, TcpPlace):
            return place.port
    raise UnreachableError("the first host listens nowhere", hint="`prime doctor` says why")


async def listen_address(leader: str) -> str:
    """Return where the first host listens: everywhere, in the family of its own address."""
    address = await resolve(leader)
    return "/ip6/::/tcp/0" if ":" in address else "/ip4/0.0.0.0/tcp/0"


async def resolve(name: str) -> str:
    """Return an address of a host, of version 4 where it has one. Raises `UnreachableError`."""
    try:
        found = await trio.socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(
            f"MASTER_ADDR: {name} has no address here ({error})", hint="set it to an address of the first host"
        ) from error
    addresses = sorted((family != socket.AF_INET, str(place[0])) for family, _, _, _, place in found)
    return addresses[0][1]
