"""Lookups as actors: one for each, which lives as long as its lookup, asks peers at its core's word and checks answers.

It answers whoever asked it, once, and stops; when its asker is cancelled it is stopped, and its requests with it.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from prime.actor import Actor, Later, Supervisor, on
from prime.actor.actor import Once
from prime.actor.contract import PeerId
from prime.dht import key as keys
from prime.dht import lookup as core
from prime.dht import messages as m
from prime.dht.contact import Contact
from prime.dht.facts import LookupEnded, LookupKind
from prime.dht.holding import HoldingActor
from prime.dht.peering import ForgedError, Met, Missed, Peering
from prime.dht.providing import ProvidingActor
from prime.dht.record import Record
from prime.dht.routing import RoutingActor
from prime.errors import DeadlineError, PrimeError, RefusedError
from prime.wire import Ask, message

LOOKUPS_MAX: Final = 64
"""Lookups of this node that are under way at a time; further ones wait for their turn."""
TIMES_MAX: Final = 1000
"""Lookups whose times are remembered."""


@message
class Look(Ask[core.Outcome]):
    """Begin; the answer is what came of it."""


@message
class Wake:
    """The core's time has come."""


class LookupActor(Actor[Look | Wake]):
    """One lookup."""

    def __init__(self, peering: Peering, want: core.Want, paths: int, begin: Sequence[Contact]) -> None:
        self._peering = peering
        self._want = want
        self._paths = paths
        self._begin = begin
        self._handed_on: set[PeerId] = set()
        """Peers that others have named: the links may not know yet where they are."""
        self._later: Later | None = None
        self._timer: Once | None = None

    @on(Look)
    def look(self, _: Look) -> Later:
        """Ask the first peers."""
        peering, want = self._peering, self._want
        count = max(peering.settings.k, peering.settings.alpha * self._paths)
        starts = peering.table.closest(want.key, count) or peering.table.closest(want.key, count, doubtful=True)
        self._core = core.Lookup(
            want, peering.settings, (*starts, *self._begin), own=peering.peer, now=self.ctx.now(), paths=self._paths
        )
        self._later = self.ctx.defer()
        self._feed(core.Begun())
        return self._later

    @on(Wake)
    def wake(self, _: Wake) -> None:
        """Let the core see that time has passed."""
        self._timer = None
        self._feed(core.Woken())

    def _feed(self, event: core.Event) -> None:
        for command in self._core.step(event, self.ctx.now()):
            match command:
                case core.Request(contact):
                    self.ctx.start_soon(self._ask, contact)
                case core.Finished(outcome):
                    self._finish(outcome)
                    return
        if self._timer is None and self._core.wakes_at < math.inf:
            self._timer = self.ctx.after(max(0.0, self._core.wakes_at - self.ctx.now()), Wake())

    def _finish(self, outcome: core.Outcome) -> None:
        if self._later is not None:
            self._later.reply(outcome)
        self.ctx.stop()

    async def _ask(self, contact: Contact) -> None:
        """Make one request; tell the core and the table what came of it."""
        peering, peer = self._peering, contact.peer
        if peer in self._handed_on:
            peering.teach(contact)
        try:
            answered = await self._request(peer)
        except ForgedError as error:
            peering.note_refused(peer, str(error))
            self._feed(core.Failed(peer, forged=True))
        except RefusedError:
            self._feed(core.Failed(peer))  # it lives, and wants no more of this node now
        except PrimeError:
            peering.tell_routing(Missed(peer))
            self._feed(core.Failed(peer))
        else:
            peering.tell_routing(Met(contact))
            self._feed(answered)

    async def _request(self, peer: PeerId) -> core.Answered:
        """Ask a peer for what is looked for. Raises `ForgedError` for what no honest one answers."""
        peering, target = self._peering, keys.to_bytes(self._want.key)
        record: Record | None = None
        providers: tuple[Contact, ...] = ()
        answer: m.RecordFound | m.ProvidersFound | m.PeersFound
        match self._want:
            case core.Value(key):
                answer = await peering.ask(peer, m.RECORDS_PATH, HoldingActor, m.GetRecord(target, peering.card))
                record = peering.read_record(answer.record, key)
            case core.Providers():
                answer = await peering.ask(
                    peer, m.PROVIDERS_PATH, ProvidingActor, m.FindProviders(target, peering.card)
                )
                providers = peering.read_contacts(answer.providers, peer)
            case _:
                answer = await peering.ask(peer, m.ROUTING_PATH, RoutingActor, m.FindPeers(target, peering.card))
        closer = peering.read_contacts(answer.closer, peer)
        self._handed_on.update(contact.peer for contact in closer)
        return core.Answered(peer, closer, record, providers, peering.group_of(peer))


class Lookups:
    """The lookups of one node: at most `LOOKUPS_MAX` at a time, each an actor of its own."""

    def __init__(self, peering: Peering, supervisor: Supervisor) -> None:
        self._peering = peering
        self._supervisor = supervisor
        self._turns = trio.Semaphore(LOOKUPS_MAX)
        self._number = 0
        self._times: deque[tuple[float, int]] = deque(maxlen=TIMES_MAX)
        self._failed = 0
        self._count = 0

    async def run(self, want: core.Want, *, critical: bool = False, begin: Sequence[Contact] = ()) -> core.Outcome:
        """Look up, beginning with those in the table and these; `critical` takes more disjoint paths. Raises `DeadlineError`, `ActorCrashedError`."""
        settings = self._peering.settings
        paths = settings.paths_critical if critical else settings.paths
        began = trio.current_time()
        with trio.move_on_after(settings.lookup_s + 1):
            async with self._turns:
                outcome = await self._look(want, paths, begin)
            self._note(want, outcome, trio.current_time() - began)
            return outcome
        raise DeadlineError(
            f"a lookup was not over within {settings.lookup_s:g} s", hint="fewer at a time, or a longer dht.lookup_s"
        )

    async def _look(self, want: core.Want, paths: int, begin: Sequence[Contact]) -> core.Outcome:
        await trio.lowlevel.checkpoint_if_cancelled()  # then its supervisor may be stopping, which is no news
        self._number += 1
        make = functools.partial(LookupActor, self._peering, want, paths, begin)
        ref = await self._supervisor.spawn(make, f"lookup-{self._number}", kind="temporary", shutdown=0, remote=())
        try:
            return await ref.ask(Look(), timeout=self._peering.settings.lookup_s + 1)
        except BaseException:
            await self._supervisor.stop(ref)
            raise

    def _note(self, want: core.Want, outcome: core.Outcome, seconds: float) -> None:
        self._count += 1
        self._failed += bool(outcome.cause)
        self._times.append((seconds, outcome.hops))
        self._peering.table.looked_up(want.key, trio.current_time())
        emit = self._peering.system.emit
        emit(LookupEnded(_kind(want), not outcome.cause, seconds, outcome.hops, outcome.asked, outcome.answered))

    @property
    def times(self) -> m.LookupTimes:
        """Return how the last lookups went."""
        if not self._times:
            return m.LookupTimes(self._count, self._failed)
        seconds = sorted(seconds for seconds, _ in self._times)
        hops = sum(hops for _, hops in self._times) / len(self._times)
        last = len(seconds) - 1
        return m.LookupTimes(self._count, self._failed, seconds[last // 2], seconds[math.ceil(last * 0.99)], hops)


def _kind(want: core.Want) -> LookupKind:
    match want:
        case core.Value():
            return "record"
        case core.Providers():
            return "providers"
        case _:
            return "peers"
