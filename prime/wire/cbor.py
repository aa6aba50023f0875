"""Plain values <-> bytes: deterministic CBOR (RFC 8949 section 4.2.1) out, strict bounded CBOR in.

A plain value is None, bool, int, float, str, bytes, a list of plain values, or a dict with str or bytes keys. `loads`
takes only the one encoding that `dumps` would have written: it decodes under caps and then encodes again and compares,
which refuses trailing bytes, non-minimal numbers, unsorted keys and indefinite lengths in one rule. Semantic tags never
reach a decoder (cbor2 would build regular expressions, MIME messages, cyclic structures). No error repeats the bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import cbor2

from prime.errors import DecodeError, LocalProtocolError
from prime.wire.limits import DEFAULT_LIMITS, Limits

_HINT_PEER = "the sender is broken, hostile, or speaks another version of the protocol"
_HINT_PLAIN = "send None, bool, int, float, str, bytes, lists of these, or dicts of these with str or bytes keys"
_LEAVES = frozenset({type(None), bool, float, str, bytes})
_NESTED = frozenset({list, tuple, dict})
_KEYS = frozenset({str, bytes})
_SIMPLE_HEADS = bytes([*range(0xE0, 0xF4), 0xF7, 0xF8])  # all of major type 7 that is no bool, null or float
_INT_MIN, _INT_MAX = -(2**64), 2**64 - 1  # what CBOR's major types 0 and 1 hold
_BUILT_IN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)


class _NotPlainError(Exception):
    """Raised inside cbor2 when it meets `undefined` or a simple value that means nothing."""


def _refuse_value(*_args: object) -> NoReturn:
    raise _NotPlainError


class _TagRefusedError(Exception):
    """Raised inside cbor2 when it meets a semantic tag."""


def _refuse_tag(*_args: object) -> NoReturn:
    raise _TagRefusedError


_TAG_DECODERS: dict[int, Callable[..., Any]] = dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag)


def dumps(plain: Any, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Encode a plain value deterministically; the same value gives the same bytes on every machine.

    Raises `LocalProtocolError` for what `loads` would not take back: another type, an int beyond 64 bits, text with a
    lone surrogate, nesting over `limits.depth_max`.
    """
    _check_plain((plain,), limits.depth_max)  # before cbor2: its encoder overruns the stack on deep values
    try:
        return cbor2.dumps(plain, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError) as error:
        raise _no_form(error) from None


def _no_form(error: Exception) -> LocalProtocolError:
    if isinstance(error, UnicodeEncodeError):
        return LocalProtocolError(
            f"a value has no wire form: {error.object[:200]!r} is no UTF-8",
            hint="its bytes were something else: write the name in UTF-8, or rename the file",
        )
    return LocalProtocolError(f"a value has no wire form: {type(error).__name__}", hint=_HINT_PLAIN)


def dumps_closed(plain: Any) -> bytes:
    """As `dumps`, for what a `closed` codec made: it is plain, and no deeper than its type, so nobody looks again."""
    try:
        return cbor2.dumps(plain, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError) as error:
        raise _no_form(error) from None


def _check_plain(values: Iterable[Any], depth_left: int) -> None:
    """Refuse what is no plain value, or is nested more than `depth_left` deep."""
    for value in values:
        kind = type(value)
        if kind in _LEAVES:
            continue
        if kind is int and _INT_MIN <= value <= _INT_MAX:
            continue
        if kind not in _NESTED:
            what = "an int beyond 64 bits" if kind is int else kind.__name__
            raise LocalProtocolError(f"{what} has no wire form", hint=_HINT_PLAIN)
        if value and not depth_left:  # as the decoder counts: an empty one at the bottom is no level of its own
            raise LocalProtocolError("a value is nested too deeply", hint="flatten it: arrays and maps count")
        if kind is dict:
            _check_keys(value)
            _check_plain(value.values(), depth_left - 1)
        else:
            _check_plain(value, depth_left - 1)


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if type(key) not in _KEYS:
            raise LocalProtocolError(f"a map with {type(key).__name__} keys has no wire form", hint=_HINT_PLAIN)


def loads(data: bytes | bytearray | memoryview, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Decode exactly one deterministically encoded item that fills `data`.

    Raises `DecodeError` for anything else; its text says what was wrong and never what was in it.
    """
    size_bytes = len(data)
    if size_bytes > limits.header_size_bytes_max:
        raise DecodeError(f"{size_bytes} bytes of CBOR, the limit is {limits.header_size_bytes_max}", hint=_HINT_PEER)
    body = data if type(data) is bytes else bytes(data)
    if size_bytes > limits.items_max:  # each item takes a byte at least: a shorter body cannot hold too many
        _count_items(body, limits.items_max)
    plain = _decode(body, limits.depth_max)
    if _encode_again(plain, body) != body:
        raise DecodeError("CBOR is not deterministic, or bytes follow the item", hint=_HINT_PEER)
    return plain


def peek(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Decode an item that `encodes_to` must still be asked about; `None` for what `loads` would refuse.

    The two together are `loads` for a few hundred bytes, without its words. Nothing of the item may be used before.
    """
    try:
        return _strict_loads(data, limits.depth_max)
    except Exception:  # noqa: BLE001 - hostile bytes: whoever gets None asks `loads`, which says what is wrong
        return None


def encodes_to(plain: Any, data: bytes, *, closed: bool) -> bool:
    """Tell whether `data` is the one deterministic encoding of what `peek` made of it.

    `closed`: a codec has looked at every value inside, so there is no simple value to look for.
    """
    try:
        return (cbor2.dumps(plain, canonical=True) if closed else _encode_again(plain, data)) == data
    except (cbor2.CBOREncodeError, ValueError, TypeError, DecodeError):
        return False


def _strict_loads(data: bytes, depth_max: int) -> Any:
    return cbor2.loads(
        data,
        tag_hook=_refuse_tag,
        semantic_decoders=_TAG_DECODERS,
        max_depth=depth_max,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )


@functools.lru_cache(maxsize=1)
def _strict_dumps() -> Callable[[Any], bytes]:
    refused: dict[type, Any] = {cbor2.CBORSimpleValue: _refuse_value, type(cbor2.undefined): _refuse_value}
    return functools.partial(cbor2.dumps, canonical=True, encoders=refused)


def _decode(body: bytes, depth_max: int) -> Any:
    try:
        return _strict_loads(body, depth_max)
    except cbor2.CBORDecodeError as error:
        raise DecodeError(f"CBOR refused: {_cause(error)}", hint=_HINT_PEER) from None
    except (_TagRefusedError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise DecodeError(f"CBOR refused: {_cause(error)}", hint=_HINT_PEER) from None


def _encode_again(plain: Any, body: bytes) -> bytes:
    """Encode what was decoded; where no byte can be the head of a simple value, without looking for one (half the time)."""
    may_hold_simple_values = len(body.translate(None, _SIMPLE_HEADS)) != len(body)
    try:
        return _strict_dumps()(plain) if may_hold_simple_values else cbor2.dumps(plain, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError, _NotPlainError):
        raise DecodeError("CBOR refused: a value with no deterministic form", hint=_HINT_PEER) from None


def _cause(error: BaseException) -> str:
    """Say why in words that hold nothing of the body."""
    if isinstance(error, _TagRefusedError) or isinstance(error.__cause__, _TagRefusedError):
        return "a semantic tag"
    if isinstance(error, cbor2.CBORDecodeEOF):
        return "truncated"
    if isinstance(error.__cause__, UnicodeDecodeError):
        return "text is not UTF-8"
    return "malformed, too deep, indefinite, or a map with duplicate or non-text keys"


def _count_items(body: bytes, items_max: int) -> None:
    """Walk the heads of the items, never their contents, and stop at `items_max`; malformed bytes are left to cbor2."""
    position, items = 0, 0
    size_bytes = len(body)
    while position < size_bytes:
        items += 1
        if items > items_max:
            raise DecodeError(f"more than {items_max} items in one header", hint=_HINT_PEER)
        major, info = body[position] >> 5, body[position] & 31
        width = 1 << (info - 24) if 24 <= info <= 27 else 0
        if major in (2, 3):
            position += info if info < 24 else int.from_bytes(body[position + 1 : position + 1 + width], "big")
        position += 1 + width
