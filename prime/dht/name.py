"""How a person names a key: in hex, as `PEER/NAME`, as one's own `NAME`, by a content id, or as `run:NAME`. Pure.

A name is self-certifying: `PEER/NAME` is what that peer has published under the salt of `NAME`, and nobody else can.
"""

from __future__ import annotations

import re
from typing import Final

from prime.actor.contract import PeerId
from prime.dht.blob.content import content_of, is_content, key_of_content
from prime.dht.key import Key, from_bytes, key_of, key_of_peer, to_bytes
from prime.dht.record import SALT_BYTES_MAX, mutable_key
from prime.errors import ConfigError, UsageError

RUN: Final = "run:"
NAME_SALT: Final = b"name:"
"""What the salt of a name begins with, so that a person's names and what a node publishes by itself never meet."""
NAME_BYTES_MAX: Final = SALT_BYTES_MAX - len(NAME_SALT)
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_HINT: Final = "a key has 64 hex digits; a name is PEER/NAME, or NAME alone for this node's own; a run is run:NAME, a blob bafyrei…"


def run_key(name: str) -> Key:
    """Return the key under which the members of a run provide themselves."""
    return key_of(f"{RUN}{name}".encode("utf-8", "surrogatepass"))


def run_salt(name: str) -> bytes:
    """Return the salt under which a member of a run publishes what the run is."""
    return RUN.encode() + to_bytes(run_key(name))


def salt_of(name: str) -> bytes:
    """Return the salt of a name. Raises `UsageError` for one that is none."""
    data = name.encode("utf-8", "replace")  # what the command line could not decode is not printable
    if not name.isprintable() or "/" in name or ":" in name or not 1 <= len(data) <= NAME_BYTES_MAX:
        raise UsageError(
            f"{name!r} is no name", hint=f"a name has 1 to {NAME_BYTES_MAX} bytes of text, without / and :"
        )
    return NAME_SALT + data


def split_name(text: str) -> tuple[PeerId | None, str]:
    """Return whose name a text means (`None`: one's own) and the name. Raises `UsageError`."""
    peer, slash, name = text.rpartition("/")
    if slash:
        _check_peer(peer)
    salt_of(name)
    return (PeerId(peer) if slash else None), name


def read_key(text: str, own: PeerId | None = None) -> Key:
    """Return the key that a text means; `own` is whose a bare name is. Raises `UsageError` for what is none."""
    if _HEX.fullmatch(text):
        return from_bytes(bytes.fromhex(text))
    if is_content(text):
        return key_of_content(content_of(text))
    if text.startswith(RUN) and len(text) > len(RUN):
        return run_key(text.removeprefix(RUN))
    peer, name = split_name(text)
    if peer is None and read_peer(name) is not None:
        raise UsageError(f"{name} is a peer, and no key", hint="`prime dht find` finds it; what it says is PEER/NAME")
    publisher = peer or own
    if publisher is None:
        raise UsageError(
            f"whose name is {name!r}?", hint="write PEER/NAME; a name alone is that of a node that runs here"
        )
    return mutable_key(publisher, salt_of(name))


def read_peer(text: str) -> PeerId | None:
    """Return the peer whose id a text is, or `None`."""
    try:
        key_of_peer(PeerId(text))
    except ConfigError:
        return None
    return PeerId(text)


def _check_peer(text: str) -> None:
    if read_peer(text) is None:
        raise UsageError(f"{text!r} is no peer id", hint=_HINT)


def name_of(salt: bytes | None) -> str:
    """Return the name whose salt this is, or an empty text for one of no name."""
    if salt is None or not salt.startswith(NAME_SALT):
        return ""
    return salt.removeprefix(NAME_SALT).decode("utf-8", "replace")
