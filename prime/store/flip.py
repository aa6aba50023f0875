"""Find the one bit that, turned over, makes a checksum right again (pure).

CRC-32 is linear: what one wrong bit adds to it depends only on how many bits come behind that one, and is the d-th
power of x in the field of the polynomial. So the place is a discrete logarithm, which baby steps and giant steps find
in time that grows with the root of the length. Source: Shanks, "Class number, a theory of factorization, and genera",
1971; the polynomial is the reflected one of IEEE 802.3.
"""

from __future__ import annotations

import math

_POLYNOMIAL = 0xEDB88320


def flipped_bit(difference: int, size_bytes: int) -> int | None:
    """Return how many bits come behind the one wrong bit of a text of `size_bytes`; `None` if no such bit explains it.

    `difference` is the checksum of the text, xor the one that it should have.
    """
    bits = size_bytes * 8
    stride = math.isqrt(bits) + 1
    near: dict[int, int] = {}
    power = _POLYNOMIAL
    for distance in range(stride):
        near[power] = distance
        power = _times_x(power)
    back = [_divided(1 << bit, stride) for bit in range(32)]
    for jump in range(stride):
        found = near.get(difference)
        if found is not None:
            distance = jump * stride + found
            return distance if distance < bits else None
        difference = _mapped(difference, back)
    return None


def _times_x(value: int) -> int:
    return value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)


def _divided(value: int, times: int) -> int:
    """Return a value divided by x so many times."""
    for _ in range(times):
        value = (value ^ _POLYNOMIAL) << 1 | 1 if value >> 31 else value << 1
    return value


def _mapped(value: int, images: list[int]) -> int:
    """Return where a linear map sends a value: `images` are those of the single bits."""
    result = 0
    for bit, image in enumerate(images):
        if value >> bit & 1:
            result ^= image
    return result
