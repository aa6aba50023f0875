"""What a child process is told to run: how an actor is named so that another process can import it, and its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import attrs

from prime.errors import ActorUsageError, LocalProtocolError, PrimeError
from prime.wire import dumps, from_plain, is_message, loads, to_plain
from prime.wire.limits import Limits

_LIMITS = Limits(payload_size_bytes_max=2**32 - 1, frame_size_bytes_max=2**40)
_HINT = 'name a class or function at the top of a module, as in "package.module:Actor"'


@attrs.frozen
class Target:
    """An actor that a child can import: from `module`, or from the file `script` if this program was run from it."""

    module: str
    factory: str
    script: str = ""

    def __str__(self) -> str:
        return f"{self.module}:{self.factory}"


def target_of(actor: str | Callable[..., Any]) -> Target:
    """Return how a child finds an actor class or factory, given as it is or by name. Raises `ActorUsageError`."""
    if isinstance(actor, str):
        module, colon, factory = actor.partition(":")
        if not (colon and module and factory):
            raise ActorUsageError(f"{actor!r} names no actor", hint=_HINT)
        return _located(module, factory)
    module, name = getattr(actor, "__module__", ""), getattr(actor, "__qualname__", "")
    found = _walk(sys.modules.get(module), name)
    if found is not actor:
        raise ActorUsageError(f"no other process can import {actor!r}", hint=_HINT)
    return _located(module, name)


def _walk(found: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found


def _located(module: str, factory: str) -> Target:
    if module != "__main__":
        return Target(module, factory)
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return Target(spec.name, factory)
    return Target("__main__", factory, _script(main))


def _script(main: ModuleType) -> str:
    script = getattr(main, "__file__", None)
    if not script:
        raise ActorUsageError(
            "an actor that was typed at a prompt cannot live in another process", hint="write it into a module"
        )
    return str(script)


def pack_args(args: Sequence[Any]) -> tuple[bytes, tuple[memoryview, ...]]:
    """Return arguments in a form that crosses: plain values as they are, messages by their tag.

    Raises `ActorUsageError` for one that has no wire form.
    """
    buffers: list[memoryview] = []
    try:
        packed = dumps([_packed(value, buffers) for value in args])
    except PrimeError as error:
        raise ActorUsageError(
            f"the arguments of a process actor cannot be sent: {error}",
            hint="pass numbers, text, bytes, lists and dictionaries of them, and messages that have a tag",
        ) from error
    return packed, tuple(buffers)


def _packed(value: Any, buffers: list[memoryview]) -> list[Any]:
    if is_message(type(value)):
        return [1, to_plain(value, buffers)]
    if isinstance(value, tuple):
        return [2, list(value)]
    if callable(value):
        raise LocalProtocolError(f"{value!r} is a function or a class", hint=_HINT)
    return [0, value]


def unpack_args(packed: bytes, buffers: Sequence[memoryview]) -> list[Any]:
    """Return what `pack_args` was given. Raises `DecodeError`."""
    return [_unpacked(kind, plain, buffers) for kind, plain in loads(packed, _LIMITS)]


def _unpacked(kind: int, plain: Any, buffers: Sequence[memoryview]) -> Any:
    if kind == 1:
        return from_plain(plain, buffers, _LIMITS)
    return tuple(plain) if kind == 2 else plain
