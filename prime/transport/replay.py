"""Replay windows as a pure core: which signed messages a node has taken, so that it takes each of them once.

A window is of one signer, whoever hands its messages on: the highest number it has seen and a bit for each of the
`WINDOW` below. Messages are also refused by the age that their signer's clock gives them, so a window may be forgotten
once all that it has seen is too old to be taken: nothing else ever makes one go, and a full table refuses new signers.

No I/O lives here. Times are milliseconds since 1970 (UTC), given by the caller; a clock that is set back makes nothing
acceptable that was forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from prime.errors import ReplayError
from prime.wire.signed import Signed

WINDOW: Final = 8192
"""Numbers below the highest one that may still come: what a signer signed for other nodes takes numbers too."""
_BITS: Final = (1 << WINDOW) - 1


@attrs.frozen
class Bounds:
    """How old a signed message may be, how far ahead its signer's clock, and how many signers are remembered.

    `signers_by_peer_max` is how many of these one peer may bring: itself, and those whose messages it hands on.
    """

    age_ms: int = 300_000
    ahead_ms: int = 60_000
    signers_max: int = 8192
    signers_by_peer_max: int = 256


@attrs.define(eq=False)
class _Window:
    """What was taken of one signer. Bit n of `seen` is the number `highest - n`; `brought_by` is who came with it first."""

    highest: int
    seen: int
    newest_ms: int
    brought_by: str


class ReplayWindows:
    """The windows of one node, `here`."""

    def __init__(self, here: str, bounds: Bounds) -> None:
        self._here = here
        self._bounds = bounds
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._brought: dict[str, int] = {}
        self._forgotten_ms = -1

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, name: str, signed: Signed, peer: str, now_ms: int) -> None:
        """Note that the message `name`, handed over by `peer`, is taken. Raises `ReplayError` if it must not be."""
        if signed.audience not in (None, self._here):
            raise ReplayError(
                f"this {name} was signed by {signed.signer} for {signed.audience}, not for this node",
                hint="what is to be handed on is signed for anyone: `await ref.tell(system.sign(message))`",
            )
        self._check_age(name, signed, now_ms)
        window = self._windows.get(signed.signer)
        if window is not None and self._is_stale(window, now_ms):
            self._forget(signed.signer)
            window = None
        if window is None:
            self._add(name, signed, peer, now_ms)
        else:
            self._take_in(window, name, signed)
            self._windows.move_to_end(signed.signer)

    def put_back(self, signed: Signed) -> None:
        """Hear that a message which was taken found no place: it may come again."""
        window = self._windows.get(signed.signer)
        if window is not None:
            distance = window.highest - signed.seq
            if 0 <= distance < WINDOW:
                window.seen &= ~(1 << distance)

    def _check_age(self, name: str, signed: Signed, now_ms: int) -> None:
        age_ms = now_ms - signed.sent_at_ms
        if age_ms > self._bounds.age_ms or signed.sent_at_ms <= self._forgotten_ms:
            raise ReplayError(
                f"this {name} was signed by {signed.signer} {age_ms / 1000:.1f} s ago, by its clock: too old",
                hint="set both clocks right (NTP), or raise LinkLimits(signed_age_s=…)",
            )
        if -age_ms > self._bounds.ahead_ms:
            raise ReplayError(
                f"this {name} was signed by {signed.signer} {-age_ms / 1000:.1f} s from now, by its clock",
                hint="set both clocks right (NTP), or raise LinkLimits(signed_ahead_s=…)",
            )

    def _is_stale(self, window: _Window, now_ms: int) -> bool:
        """Tell whether all that a window has seen is too old to be taken again."""
        return now_ms - window.newest_ms > self._bounds.age_ms

    def _take_in(self, window: _Window, name: str, signed: Signed) -> None:
        ahead = signed.seq - window.highest
        if ahead > 0:
            window.seen = ((window.seen << ahead) | 1) & _BITS if ahead < WINDOW else 1
            window.highest = signed.seq
        elif -ahead >= WINDOW or window.seen >> -ahead & 1:
            what = "is among those taken" if -ahead < WINDOW else f"is over {WINDOW} below the last one"
            raise ReplayError(
                f"this {name} was taken before: number {signed.seq} of {signed.signer} {what}",
                hint="send it anew, which signs it anew; one that is signed for anyone is taken once by each node",
            )
        else:
            window.seen |= 1 << -ahead
        window.newest_ms = max(window.newest_ms, signed.sent_at_ms)

    def _add(self, name: str, signed: Signed, peer: str, now_ms: int) -> None:
        self._sweep(now_ms)
        bounds = self._bounds
        if len(self._windows) >= bounds.signers_max or self._brought.get(peer, 0) >= bounds.signers_by_peer_max:
            raise ReplayError(
                f"this {name} is of one signer more than this node remembers: {len(self._windows)}, "
                f"{self._brought.get(peer, 0)} of them brought by {peer}",
                hint=f"try again in {bounds.age_ms / 1000:.0f} s, or raise LinkLimits(signers_max=…)",
            )
        self._windows[signed.signer] = _Window(signed.seq, 1, signed.sent_at_ms, peer)
        self._brought[peer] = self._brought.get(peer, 0) + 1

    def _sweep(self, now_ms: int) -> None:
        """Forget those that were quiet the longest, as far as that is safe."""
        while self._windows:
            signer, window = next(iter(self._windows.items()))
            if not self._is_stale(window, now_ms):
                return
            self._forget(signer)

    def _forget(self, signer: str) -> None:
        window = self._windows.pop(signer)
        self._forgotten_ms = max(self._forgotten_ms, window.newest_ms)
        left = self._brought[window.brought_by] - 1
        if left:
            self._brought[window.brought_by] = left
        else:
            del self._brought[window.brought_by]
