"""The donor: the actor that serves this node's committed state to those who join, catch up or are repaired."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from prime.actor import Actor, Later, on
from prime.dht.blob.sharing import WINDOW_MAX
from prime.dht.blob.turns import Turns
from prime.errors import NotFoundError, RefusedError
from prime.trainer.round.messages import (
    DescribeState,
    FetchStateChunk,
    FetchStatePage,
    StateChunk,
    StatePage,
    StatesHeld,
)
from prime.trainer.swarm.state import ChunkedState
from prime.wire import message

DONOR_PATH = "/state/donor"
STATES_KEPT = 2
WANTED_MAX = 2
"""Older states that are kept as long as somebody fetches them."""
WANTED_S = 30.0
"""How long after its last request a state counts as being fetched."""
WAITING_MAX = 2 * WINDOW_MAX
"""Requests of one peer that wait; more are refused."""
PEERS_MAX = 256
"""Peers served at a time."""
SERVINGS_MAX = 3
"""How often a peer may have the whole of one state."""


@message
class HoldState:
    """Serve this state from now on."""

    state: ChunkedState


@attrs.define
class _Kept:
    state: ChunkedState
    served: dict[str, int] = attrs.Factory(dict)
    """Chunks sent, by peer."""
    asked_at: float = -math.inf


@attrs.frozen
class _Wish:
    later: Later
    kept: _Kept
    index: int


class Donor(Actor[HoldState | DescribeState | FetchStatePage | FetchStateChunk]):
    """Serves the last committed state and the one before, and any that is being fetched, so that a fetch can end.

    Those who fetch are served in turns, a chunk each. `rest_s` says how long to rest after a chunk: above 0 while the
    round needs the links, so that joiners slow it down by a bounded share.
    """

    def __init__(self, rest_s: Callable[[], float] = lambda: 0.0) -> None:
        self._rest_s = rest_s
        self._kept: list[_Kept] = []
        self._waiting: Turns[_Wish] = Turns(WAITING_MAX, PEERS_MAX)
        self._news = trio.Event()

    async def started(self) -> None:
        """Serve beside the mailbox."""
        self.ctx.start_soon(self._serve)

    @on(HoldState)
    def hold(self, m: HoldState) -> None:
        """Serve a state; one that is held already only has a later round."""
        found = m.state.manifest
        others = [kept for kept in self._kept if kept.state.manifest.state_hash != found.state_hash]
        same = [kept.served for kept in self._kept if kept not in others]
        kept, older = others[: STATES_KEPT - 1], others[STATES_KEPT - 1 :]
        wanted = [each for each in older if self.ctx.now() - each.asked_at <= WANTED_S][:WANTED_MAX]
        self._kept = [_Kept(m.state, same[0] if same else {}), *kept, *wanted]

    @on(DescribeState)
    def describe(self, m: DescribeState) -> StatesHeld:
        """Answer what is held of the run, the newest first."""
        newest = self._kept[:STATES_KEPT]
        return StatesHeld(tuple(kept.state.manifest for kept in newest if kept.state.manifest.run == m.run))

    @on(FetchStatePage)
    def fetch_page(self, m: FetchStatePage) -> StatePage:
        """Answer one page of chunk hashes of a state that is still held."""
        state = self._find(m.run, m.state_hash).state
        _check(m.page, len(state.manifest.page_hashes), "page")
        return StatePage(m.page, state.page(m.page))

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> Later:
        """Answer one chunk of a state that is still held, when it is this peer's turn."""
        kept, peer = self._find(m.run, m.state_hash), self.ctx.sender or ""
        _check(m.index, len(kept.state.chunk_hashes), "chunk")
        self._check_appetite(kept, peer)
        kept.served[peer] = kept.served.get(peer, 0) + 1
        kept.asked_at = self.ctx.now()
        later = self.ctx.defer()
        self._waiting.add(peer, _Wish(later, kept, m.index))
        self._news.set()
        return later

    def _check_appetite(self, kept: _Kept, peer: str) -> None:
        if not self._waiting.has_room(peer):
            raise RefusedError("too many requests wait here", hint="ask for fewer chunks at a time, or another donor")
        if kept.served.get(peer, 0) >= SERVINGS_MAX * len(kept.state.chunk_hashes):
            raise RefusedError(f"this state was sent to {peer} {SERVINGS_MAX} times", hint="ask another donor")
        if peer not in kept.served and len(kept.served) >= PEERS_MAX:
            raise RefusedError(f"this state was sent to {PEERS_MAX} peers already", hint="ask another donor")

    def _find(self, run: str, state_hash: bytes) -> _Kept:
        for kept in self._kept:
            found = kept.state.manifest
            if (found.run, found.state_hash) == (run, state_hash):
                return kept
        raise NotFoundError("that state is no longer held here", hint="ask for a description again")

    async def _serve(self) -> None:
        while True:
            while (wish := self._waiting.next()) is not None:
                wish.later.reply(StateChunk(wish.index, wish.kept.state.chunk(wish.index)))
                await trio.sleep(self._rest_s())
            self._news = trio.Event()
            await self._news.wait()


def _check(index: int, count: int, name: str) -> None:
    if not 0 <= index < count:
        raise RefusedError(f"there is no {name} {index} of {count}", hint="read its manifest again")
