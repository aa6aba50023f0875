"""The gate of one network: it asks the admission (`admission.py`), counts whom it refuses, and says so, not too often."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import trio

from prime.actor.contract import PeerId
from prime.errors import RefusedError
from prime.transport.admission import COMING_BURST_S, Admission, Caller, Toll
from prime.transport.facts import LinkRefused
from prime.transport.rates import Book, Bucket

TOLLS_MAX: Final = 4096
"""Peers whose payments are remembered while they have no link."""
FACTS_PER_S: Final = 1.0


class Gate:
    """Decides about each peer that has proved itself, by the lists, by how often it comes, and by the user's hook."""

    def __init__(self, admission: Admission, emit: Callable[[Any], None], transport: str) -> None:
        self.admission = admission
        self._emit = emit
        self._transport = transport
        self._comings: Book[PeerId] = Book(admission.limits.peer_connects_per_s, COMING_BURST_S)
        self._refused: dict[str, int] = {}
        self._silent = 0
        self._facts = Bucket(FACTS_PER_S, 5.0)
        limits = admission.limits
        self._paced = limits.messages_per_s < math.inf or limits.bytes_per_s < math.inf
        self._tolls: dict[PeerId, Toll] = {}

    @property
    def refused(self) -> Mapping[str, int]:
        """How many callers were turned away, by a word for why."""
        return MappingProxyType(self._refused)

    def refusal(self, peer: PeerId, greetings: int, now: float) -> str:
        """Return why a proved caller is turned away, or an empty text; `greetings` of its others have said no HELLO."""
        why = self.admission.refusal(peer)
        if why:
            return self.turned_away(peer, "list", why)
        limits = self.admission.limits
        if greetings >= limits.peer_greetings_max:
            return self.turned_away(peer, "greetings", f"{greetings} connections of the peer have said no HELLO yet")
        if not self._comings.take(peer, now):
            return self.turned_away(peer, "rate", f"the peer came over {limits.peer_connects_per_s:g} times a second")
        return ""

    async def hook_refusal(self, caller: Caller) -> str:
        """Ask the user's hook; return why it turns a caller away, or an empty text. Never raises for what it does."""
        hook, within_s = self.admission.hook, self.admission.hook_timeout_s
        if hook is None:
            return ""
        why = f"the admission hook gave no answer within {within_s:g} s"
        try:
            with trio.move_on_after(within_s):
                verdict = hook(caller)
                if inspect.isawaitable(verdict):
                    verdict = await verdict
                if verdict is True or verdict is None or verdict == "":
                    return ""
                why = verdict if isinstance(verdict, str) else "the admission hook refused"
        except Exception as error:  # noqa: BLE001 - the user's code; whoever it fails for is not let in
            self.turned_away(caller.peer, "hook", f"the admission hook failed: {error!r}")
            return "the admission hook failed"
        return self.turned_away(caller.peer, "hook", why)

    def check(self, peer: PeerId) -> None:
        """Raise `RefusedError` if this node would not link with a peer that it is about to dial."""
        why = self.admission.refusal(peer)
        if why:
            raise RefusedError(f"{peer} is not dialled: {why}", hint="Change the admission of this node to allow it.")

    def turned_away(self, peer: PeerId, kind: str, why: str) -> str:
        """Count a refusal, and tell observers about it, about one a second; returns `why`."""
        self._refused[kind] = self._refused.get(kind, 0) + 1
        if self._facts.take(trio.current_time()):
            self._emit(LinkRefused(peer, why, self._silent))
            self._silent = 0
        else:
            self._silent += 1
        return why

    def toll(self, peer: PeerId) -> Toll | None:
        """Return what the peer's messages are paid to, over all its links; `None` where nothing is limited."""
        if not self._paced:
            return None
        toll = self._tolls.pop(peer, None) or Toll(self.admission.limits)
        self._tolls[peer] = toll
        if len(self._tolls) > TOLLS_MAX:
            del self._tolls[next(iter(self._tolls))]
        return toll
