"""The loops of the sparse forms that numba compiles: one block at a time, which stays in the nearest cache.

How the 64 largest of 4096 are found: magnitudes are compared as integers (the bits of |y|, which order like the floats
do), because counting those at or above a threshold is then one vectorised pass. A threshold that leaves 64 to 96 elements is
looked for from the one of the block before, which mostly fits at once or nearly so; what it leaves is ranked exactly. So
which elements are kept does not depend on where the search began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types

from prime.trainer.codec.form import SCALE_MIN
from prime.trainer.codec.sparse import BLOCK, CROWDED, KEPT, LEVELS_APART, SCALE_MAX, TOPK, UPPER_RANK

_SIGN_OFF: Final = np.int32(0x7FFFFFFF)
_INFINITY_BITS: Final = np.int32(0x7F800000)
_BFLOAT16: Final = np.int32(-65536)
_SCALE_MIN: Final = np.float32(SCALE_MIN)
_SCALE_MAX: Final = np.float32(SCALE_MAX)
_APART: Final = np.float32(LEVELS_APART)
_HALF: Final = np.float32(0.5)
_CODE_MAX: Final = np.float32(127)
_ENOUGH: Final = KEPT + KEPT // 2
_OCTAVE_HALF: Final = 1 << 22
_TOPK_BYTES: Final = TOPK.record_bytes
_TOPK_CODES: Final = TOPK.places_bytes
_TOPK_WORD: Final = TOPK.record_bytes - 4
_NON_FINITE: Final = 1
_CROWDED: Final = CROWDED

_floats: Final = types.Array(types.float32, 1, "C")
_read_floats: Final = types.Array(types.float32, 1, "C", readonly=True)
_words: Final = types.Array(types.int32, 1, "C")
_places: Final = types.Array(types.int16, 1, "C")
_codes: Final = types.Array(types.int8, 1, "C")
_bytes: Final = types.Array(types.uint8, 1, "C")
_read_bytes: Final = types.Array(types.uint8, 1, "C", readonly=True)


def _compiled(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError):  # no writable place for the cache, or a full disk
            return njit(signature, nogil=True)(function)

    return compile_


@_compiled(types.int32(_words, types.int32))
def _count(bits: Any, threshold: Any) -> Any:
    """Return how many are at or above the threshold."""
    count = np.int32(0)
    for i in range(bits.size):
        count = np.int32(count + np.int32(bits[i] >= threshold))
    return count


@_compiled(types.int32(_words, types.int32, types.int32, types.int64))
def _ranked(bits: Any, low: Any, top: Any, rank: Any) -> Any:
    """Return the value of which `rank` are larger (or equal, and counted before it); it lies from `low` to `top`."""
    high = np.int64(top) + 1
    at = np.int64(low)
    while high - at > 1:
        middle = (at + high) // 2
        if _count(bits, np.int32(middle)) > rank:
            at = middle
        else:
            high = middle
    return np.int32(at)


@_compiled(types.int32(_words, types.int32, types.int32))
def _threshold(bits: Any, guess: Any, top: Any) -> Any:
    """Return a threshold that no fewer than 64 elements reach (1 if so many are not there), and few more."""
    low, high = np.int64(1), np.int64(top) + 1
    step = np.int64(_OCTAVE_HALF)
    at = np.int64(guess) if 1 < guess <= top else max(high - 2 * step, np.int64(2))
    while high - low > 1:
        at = min(max(at, low + 1), high - 1)
        count = _count(bits, np.int32(at))
        if count < KEPT:
            high = at
        else:
            low = at
            if count <= _ENOUGH:
                break
        if low == 1:
            at, step = high - step, 2 * step
        elif high > top:
            at, step = low + step, 2 * step
        else:
            at = (low + high) // 2
    return np.int32(low)


@_compiled(types.int64(_words, types.int32, types.int32, _places, _words))
def _largest(bits: Any, threshold: Any, top: Any, places: Any, found: Any) -> Any:
    """Put the places and bits of the 64 largest elements first, in ascending order of places; return how many there are."""
    count = 0
    for i in range(bits.size):
        places[count] = i
        found[count] = bits[i]
        count += bits[i] >= threshold
    if count <= KEPT:
        return count
    last = _ranked(found[:count], threshold, top, KEPT - 1)
    ties = KEPT - _count(found[:count], np.int32(last + 1))
    kept = 0
    for i in range(count):
        is_tie = found[i] == last
        places[kept] = places[i]
        found[kept] = found[i]
        kept += found[i] > last or (is_tie and ties > 0)
        ties -= is_tie
    return kept


@_compiled(types.float32(types.int32))
def _cut(bits: Any) -> Any:
    return np.int32(bits & _BFLOAT16).view(np.float32)


@_compiled(types.void(_bytes, types.int64, types.int64))
def _put_place(record: Any, j: Any, place: Any) -> None:
    """Write number j of 12 bits into a record in which it is 0."""
    at = j // 2 * 3
    if j % 2:
        record[at + 1] |= np.uint8((place & 15) << 4)
        record[at + 2] = np.uint8(place >> 4)
    else:
        record[at] = np.uint8(place & 255)
        record[at + 1] = np.uint8(place >> 8)


@_compiled(types.int64(_read_bytes, types.int64))
def _place(record: Any, j: Any) -> Any:
    at = j // 2 * 3
    if j % 2:
        return np.int64(record[at + 1]) >> 4 | np.int64(record[at + 2]) << 4
    return np.int64(record[at]) | (np.int64(record[at + 1]) & 15) << 8


@_compiled(types.void(_bytes, types.int64, types.uint32))
def _put_word(record: Any, at: Any, word: Any) -> None:
    for i in range(4):
        record[at + i] = np.uint8(word >> np.uint32(8 * i) & np.uint32(255))


@_compiled(types.uint32(_read_bytes, types.int64))
def _word(record: Any, at: Any) -> Any:
    word = np.uint32(0)
    for i in range(4):
        word = np.uint32(word | np.uint32(np.uint32(record[at + i]) << np.uint32(8 * i)))
    return word


@_compiled(types.int32(_read_floats, _read_floats, _floats, _words))
def _taken(x_b: Any, residual_b: Any, y_b: Any, bits: Any) -> Any:
    """Fill `y_b` with the block (and the residual, unless that is empty), zeros behind; return its largest magnitude's bits."""
    size = x_b.size
    if residual_b.size:
        for i in range(size):
            y_b[i] = x_b[i] + residual_b[i]
    else:
        y_b[:size] = x_b
    y_b[size:] = 0
    words = y_b.view(np.int32)
    top = np.int32(0)
    for i in range(y_b.size):
        bits[i] = words[i] & _SIGN_OFF
        top = max(top, bits[i])
    return top


@_compiled(types.int64(_read_floats, _read_floats, _floats, _bytes))
def encode_topk(x: Any, residual: Any, residual_out: Any, records: Any) -> Any:
    """Encode `x` (and the residual, unless it is empty); keep what stays in `residual_out`, unless that is empty."""
    y_b, bits = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    places, found = np.empty(BLOCK + 1, np.int16), np.empty(BLOCK + 1, np.int32)
    guess, flags = np.int32(0), 0
    records[:] = 0
    for b in range(-(-x.size // BLOCK)):
        first, last = b * BLOCK, min((b + 1) * BLOCK, x.size)
        record = records[b * _TOPK_BYTES : (b + 1) * _TOPK_BYTES]
        residual_b = residual[first:last] if residual.size else residual
        top = _taken(x[first:last], residual_b, y_b, bits)
        if residual_out.size:
            residual_out[first:last] = y_b[: last - first]
        if top >= _INFINITY_BITS:
            flags = _NON_FINITE
        if top == 0 or top >= _INFINITY_BITS:
            continue
        guess = _threshold(bits, guess, top)
        kept = _largest(bits, guess, top, places, found)
        ranked = found[:kept]
        upper = max(_cut(_ranked(ranked, np.int32(0), top, kept // UPPER_RANK)), _cut(top) * _APART)
        lower = max(_cut(_ranked(ranked, np.int32(0), top, kept // 2)), upper * _APART)
        if lower < _SCALE_MIN:
            continue
        least, middle = lower * _HALF, lower * _HALF + upper * _HALF
        j = 0
        for i in range(kept):
            place = np.int64(places[i])
            y = y_b[place]
            size = abs(y)
            if size < least:
                continue
            is_upper = size >= middle
            level = upper if is_upper else lower
            _put_place(record, j, place)
            code = np.int64(is_upper) | np.int64(y < 0) << 1
            record[_TOPK_CODES + j // 4] |= np.uint8(code << 2 * (j % 4))
            if residual_out.size:
                residual_out[first + place] = y + level if y < 0 else y - level
            j += 1
        halves = np.float32(lower).view(np.uint32) >> np.uint32(16) | np.float32(upper).view(np.uint32)
        _put_word(record, _TOPK_WORD, np.uint32(halves))
    return flags


@_compiled(types.void(_read_bytes, _floats, types.float32))
def accumulate_topk(records: Any, into: Any, weight: Any) -> None:
    """`into += weight * decoded`."""
    levels = np.empty(4, np.float32)
    for b in range(records.size // _TOPK_BYTES):
        record = records[b * _TOPK_BYTES : (b + 1) * _TOPK_BYTES]
        word = _word(record, _TOPK_WORD)
        if word == 0:
            continue
        levels[0] = np.uint32(word << np.uint32(16)).view(np.float32) * weight
        levels[1] = np.uint32(word & np.uint32(0xFFFF0000)).view(np.float32) * weight
        levels[2], levels[3] = -levels[0], -levels[1]
        before = -1
        for j in range(KEPT):
            place = _place(record, j)
            if place <= before:
                break
            before = place
            into[b * BLOCK + place] += levels[record[_TOPK_CODES + j // 4] >> 2 * (j % 4) & 3]


@_compiled(types.int64(_floats, types.float32, _codes, _places))
def _rounded(y_b: Any, scale: Any, codes: Any, places: Any) -> Any:
    """Fill `codes`, and put the places of those that are not 0 first; return how many there are."""
    for i in range(y_b.size):
        codes[i] = np.int8(np.int32(np.rint(y_b[i] / scale)))
    count = 0
    for i in range(y_b.size):
        places[count] = i
        count += codes[i] != 0
    return count


@_compiled(types.int64(_read_floats, _read_floats, _floats, _bytes, types.int64, types.boolean))
def encode_gather(x: Any, residual: Any, residual_out: Any, records: Any, kept: Any, is_map: Any) -> Any:
    """Encode a sum of sparse vectors; residuals as in `encode_topk`."""
    y_b, bits = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    codes, places = np.empty(BLOCK, np.int8), np.empty(BLOCK + 1, np.int16)
    split = BLOCK // 8 if is_map else kept * 12 // 8
    record_bytes = split + kept + 4
    flags = 0
    records[:] = 0
    for b in range(-(-x.size // BLOCK)):
        first, last = b * BLOCK, min((b + 1) * BLOCK, x.size)
        record = records[b * record_bytes : (b + 1) * record_bytes]
        residual_b = residual[first:last] if residual.size else residual
        top = _taken(x[first:last], residual_b, y_b, bits)
        if residual_out.size:
            residual_out[first:last] = y_b[: last - first]
        if top >= _INFINITY_BITS:
            flags |= _NON_FINITE
            continue
        scale = min(np.int32(top).view(np.float32) / _CODE_MAX, _SCALE_MAX)
        if scale < _SCALE_MIN:
            continue
        count = _rounded(y_b, scale, codes, places)
        if count > kept:
            flags |= _CROWDED
            continue
        for j in range(count):
            place = np.int64(places[j])
            if is_map:
                record[place // 8] |= np.uint8(1 << place % 8)
            else:
                _put_place(record, j, place)
            record[split + j] = np.uint8(codes[place])
            if residual_out.size:
                residual_out[first + place] = y_b[place] - np.float32(codes[place]) * scale
        _put_word(record, record_bytes - 4, np.float32(scale).view(np.uint32))
    return flags


@_compiled(types.void(_read_bytes, _floats, types.float32, types.int64, types.boolean))
def accumulate_gather(records: Any, into: Any, weight: Any, kept: Any, is_map: Any) -> None:
    """`into += weight * decoded`."""
    split = BLOCK // 8 if is_map else kept * 12 // 8
    record_bytes = split + kept + 4
    for b in range(records.size // record_bytes):
        record = records[b * record_bytes : (b + 1) * record_bytes]
        word = _word(record, record_bytes - 4)
        if word == 0:
            continue
        scale = np.float32(np.uint32(word).view(np.float32) * weight)
        j = 0
        if is_map:
            for at in range(split):
                eight = np.int64(record[at])
                for i in range(8 if eight else 0):
                    if eight >> i & 1:
                        code = np.int8(record[split + j])
                        into[b * BLOCK + at * 8 + i] += np.float32(code) * scale
                        j += 1
            continue
        before = -1
        for j in range(kept):
            place = _place(record, j)
            if place <= before:
                break
            before = place
            into[b * BLOCK + place] += np.float32(np.int8(record[split + j])) * scale
