"""How a ref crosses the wire, and what it may do on the other side.

On the wire a ref is `[peer, path]`. A narrowed ref's path ends in `!` and 32 hex digits, which only the actor's own
node can make (BLAKE2b keyed with a secret of this system, over the path and the tags it allows): it is an unguessable
second name of the actor, under which the node takes those tags alone. It dies with the actor.
"""

from __future__ import annotations

import contextvars
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from prime.actor.contract import PeerId
from prime.actor.ref import FarRef, LocalRef, NarrowRef, Ref, check_kind
from prime.errors import LocalProtocolError
from prime.wire import register_field, tag_of

if TYPE_CHECKING:
    from prime.actor.cell import Cell
    from prime.actor.system import System

T = TypeVar("T")

PATH_CHARS_MAX = 1024


class Passports:
    """The second names of this system's actors: which cell one means, and what it allows."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._grants: dict[str, tuple[Cell, frozenset[type]]] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def path_for(self, ref: LocalRef[Any]) -> str:
        """Return the path under which others may use a ref."""
        if not isinstance(ref, NarrowRef):
            return ref.path
        cell = ref.cell
        tags = ",".join(str(tag) for tag in sorted(tag_of(kind) for kind in ref.kinds))
        text = f"{cell.serial} {cell.path} {tags}".encode()
        path = f"{cell.path}!{hashlib.blake2b(text, key=self._secret, digest_size=16).hexdigest()}"
        if path not in self._grants and cell.state != "dead":
            self._grants[path] = (cell, ref.kinds)
            if cell.grants is None:
                cell.grants = []
            cell.grants.append(path)
        return path

    def cell_at(self, path: str, message: Any) -> Cell | None:
        """Return the cell that a second name means, if it allows the message. Raises `RefusedError` if not."""
        cell, kinds = self._grants.get(path, (None, frozenset[type]()))
        if cell is not None:
            check_kind(cell.path, kinds, message)
        return cell

    def ref_at(self, path: str) -> LocalRef[Any] | None:
        """Return the ref that a second name stands for."""
        cell, kinds = self._grants.get(path, (None, frozenset[type]()))
        return None if cell is None else NarrowRef(cell, kinds)

    def forget(self, cell: Cell) -> None:
        """Forget the second names of a dead actor."""
        for path in cell.grants or ():
            del self._grants[path]
        cell.grants = None


_here: contextvars.ContextVar[System] = contextvars.ContextVar("prime-system")
"""Whose message is being decoded: set for the length of one decoding, since a ref means nothing outside a system."""


def decode_in(system: System, decode: Callable[..., T], *args: Any) -> T:
    """Return `decode(*args)`, with the refs in it bound to a system."""
    token = _here.set(system)
    try:
        return decode(*args)
    finally:
        _here.reset(token)


def _to_plain(ref: Any) -> list[str]:
    if isinstance(ref, LocalRef):
        system = ref.cell.system
        if not system.peer:
            raise LocalProtocolError(
                f"a ref to {ref.path} cannot leave a system without a network",
                hint="open_system(transport=prime.Tcp(...))",
            )
        return [system.peer, system.passports.path_for(ref)]
    if isinstance(ref, FarRef):
        return [ref.peer, ref.path]
    raise LocalProtocolError(f"a {type(ref).__name__} cannot be sent", hint="send a ref from spawn or system.ref")


def _from_plain(plain: Any) -> Any:
    if len(plain) != 2 or not all(type(part) is str for part in plain):
        raise ValueError("a ref is [peer, path]")
    peer, path = plain
    if not peer or not path.startswith("/") or len(path) > PATH_CHARS_MAX or len(peer) > PATH_CHARS_MAX:
        raise ValueError("a ref is [peer, path]")
    return _here.get().received(PeerId(peer), path)


register_field(Ref, _to_plain, _from_plain, "[tstr, tstr]", plain_type=list, instances=(LocalRef, FarRef))  # type: ignore[type-abstract]
