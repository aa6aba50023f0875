"""Who owns how much of the vector: parts in proportion to the members' bandwidth, and who backs whom up (pure).

A round of n members has two stretches with the seal between them. In the first an owner of the fraction f of a vector
of S bytes sends its contribution to the others' parts, S (1 - f) at r bytes a second; in the second its reduced part to
everyone, S f (n - 1). The second lasts until the last owner is done, so it is shortest when all are done at once: f in
proportion to r. To give a slow member more than that would save it S df / r in the first stretch and cost
S df (n - 1) / r in the second: never less. So the finishing time needs no search. Between two members both are equal,
whatever f is: they share evenly, so that each reduces as much.

Only sums, products and comparisons of floats: the same on every machine, so members agree without asking.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from fractions import Fraction

from prime.trainer.round.view import Member, View

RATE_STEP = 1.25
"""Rates are told in powers of this: a view changes when a link does, not when a measurement jitters."""
RATE_MAX_BYTES_S = 1 << 29
"""More than any link is told as: who says that it is faster would own nearly all of the vector."""
FAST_BYTES_S = 250_000_000
"""A faster link is told as this: from here on it is arithmetic that a round waits for, and that is shared evenly."""


def rounded(rate_bytes_s: float) -> int:
    """Return a measured rate as it is told: the nearest power of `RATE_STEP`, 0 for less than a byte a second."""
    told = min(rate_bytes_s, FAST_BYTES_S)
    step, best = 1.0, 0.0
    while step <= told * RATE_STEP:
        if abs(step - told) < abs(best - told):
            best = step
        step *= RATE_STEP
    return round(best)


def differs(known: int | None, measured: int) -> bool:
    """Tell whether a measured rate is so far from the known one, by more than 25 %, that the view should change."""
    if known is None or known == 0:
        return measured > 0
    return not known / RATE_STEP <= measured <= known * RATE_STEP


def fractions(members: Sequence[Member]) -> tuple[float, ...]:
    """Return how much of the vector each member owns; the sum is 1, up to rounding. With no owner all own alike."""
    rates = _known(members)
    if not any(rates):
        return (1 / len(rates),) * len(rates)
    if len(rates) == 2 and all(rates):
        return (0.5, 0.5)
    total = sum(rates)
    return tuple(rate / total for rate in rates)


def cuts(elements: int, members: Sequence[Member], block: int) -> tuple[slice, ...]:
    """Return each member's slice of a vector of `elements`, in their order: whole blocks, some of them perhaps empty."""
    blocks = -(-elements // block)
    whole = [Fraction(fraction) for fraction in fractions(members)]
    total, edges, done = sum(whole), [0], Fraction(0)
    for fraction in whole:
        done += fraction
        edges.append(min(int(blocks * done / total) * block, elements))
    return tuple(slice(low, high) for low, high in itertools.pairwise(edges))


def owners_of(view: View, unfit: Collection[str]) -> tuple[str, ...]:
    """Return the owner of each part: its own member, or its backup, or the next fit member after that one.

    A member without bandwidth owns nothing, not even its own, empty part. With nobody fit the parts stay where they were.
    """
    peers, second = view.peers(), backups(view.members)
    able = {m.peer for m in view.members if m.rate_bytes_s != 0} or set(peers)
    fit = able - set(unfit)
    return tuple(_first_fit((peers[part], *peers[second[part] :], *peers), fit) for part in range(len(peers)))


def backups(members: Sequence[Member]) -> tuple[int, ...]:
    """Return the place of each part's backup: who owns it when its own member cannot.

    Large parts first, each to the member that would be done with all it backs soonest; of equals the next in order.
    """
    sizes, rates, count = fractions(members), _known(members), len(members)
    able = [i for i in range(count) if rates[i] > 0] or list(range(count))
    load, chosen = [0.0] * count, list(range(count))
    for part in sorted(range(count), key=lambda i: (-sizes[i], i)):
        others = sorted((i for i in able if i != part), key=lambda i: (i - part) % count)
        if others:
            chosen[part] = min(others, key=lambda i: (load[i] + sizes[part] + 1 / count) / max(rates[i], 1.0))
            load[chosen[part]] += sizes[part] + 1 / count
    return tuple(chosen)


def _known(members: Sequence[Member]) -> list[float]:
    """Return everyone's rate, with the median of those measured for those that are not.

    Of an even number it is the faster of the two in the middle: a rate that a member has, and a power of `RATE_STEP`. The
    mean of the two, as the gates have it of weights and norms, may be far from what anybody's link carries.
    """
    measured = sorted(m.rate_bytes_s for m in members if m.rate_bytes_s)
    median = measured[len(measured) // 2] if measured else 1
    return [float(median if m.rate_bytes_s is None else m.rate_bytes_s) for m in members]


def _first_fit(candidates: Sequence[str], fit: Collection[str]) -> str:
    return next((peer for peer in candidates if peer in fit), candidates[0])
