"""Dialling a peer: its addresses against each other, and fresh attempts beside silent ones, until one gets through.

A connection attempt whose packets are dropped asks again after 1, 3, 7 and 15 seconds (TCP's first retransmission timer
doubles, RFC 6298 section 5.5), so one that began in an outage may notice its end as late again as the outage was long. A
fresh attempt asks at once. So a dial that hears nothing begins another one about every second (RFC 8305 does so between
addresses, here it also goes round), few at a time, and takes the first channel that stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import ConfigError, PrimeError, RefusedError, UnreachableError, WorldError
from prime.transport import frames as fr
from prime.transport.carrier import Carrier
from prime.transport.contract import Channel, let_go
from prime.transport.multiaddr import is_circuit

FRESH_S: Final = 1.0
"""After how long without an outcome another attempt begins beside those that run."""
ATTEMPTS_MAX: Final = 4
"""Attempts that run at once: the first, which may be slow rather than lost, and the latest."""
ANSWER_S: Final = 2.0
"""How long a HELLO waits for its answer before the dial begins anew; doubled each time."""
CROSSING_S: Final = 2.0
"""How long a dial refused as a duplicate waits for the link that won."""


@attrs.define(eq=False)
class Dial:
    """A dial in progress, shared by all who wait for it.

    One that is made `instead_of` a link in doubt leaves that link alone until the new one is up.
    """

    peer: PeerId
    instead_of: Carrier | None = None
    done: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    carrier: Carrier | None = None
    """Who says HELLO on the channel that was opened."""
    error: PrimeError | None = None

    @property
    def wanted(self) -> bool:
        """Tell whether the new link is still of use: one in doubt may be heard again."""
        doubted = self.instead_of
        return doubted is None or not doubted.link.up or doubted.link.doubtful

    def outcome(self) -> None:
        """Raise why it failed; a new exception for each of those who waited."""
        if self.error is not None:
            raise type(self.error)(str(self.error), hint=self.error.hint) from self.error


class Race:
    """Attempts to open a channel to one peer at several addresses, best first.

    `attempt` opens one; `wanted` is asked before each, and ends the race when it says no.
    """

    def __init__(
        self,
        peer: PeerId,
        addresses: Sequence[str],
        attempt: Callable[[str], Awaitable[Channel]],
        random: Random,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._peer = peer
        self._addresses = addresses
        self._attempt = attempt
        self._random = random
        self._wanted = wanted
        self._running: dict[trio.CancelScope, str] = {}
        self._errors: dict[str, PrimeError] = {}
        self._won: tuple[Channel, str] | None = None
        self._failed = False
        self._news = trio.Event()

    async def run(self) -> tuple[Channel, str] | None:
        """Return the first channel that stands and its address, `None` where it is not wanted any more.

        Raises why not, when every address has failed. Who calls it sets the deadline.
        """
        try:
            async with trio.open_nursery() as nursery:
                await self._start_attempts(nursery)
                nursery.cancel_scope.cancel()
        except BaseException:
            if self._won is not None:
                await let_go(self._won[0])
            raise
        if self._won is None and self._failed:
            raise unreachable(self._peer, self._addresses, list(self._errors.values()))
        return self._won

    async def _start_attempts(self, nursery: trio.Nursery) -> None:
        fresh = deque(self._addresses)
        while self._won is None and self._wanted():
            self._failed = not fresh and not self._running
            if self._failed:
                return
            self._start(nursery, fresh.popleft() if fresh else next(iter(self._running.values())))
            await self._wait(fresh)

    def _start(self, nursery: trio.Nursery, address: str) -> None:
        if len(self._running) >= ATTEMPTS_MAX:
            list(self._running)[1].cancel()
        scope = trio.CancelScope()
        self._running[scope] = address
        nursery.start_soon(self._try, address, scope)

    async def _wait(self, fresh: deque[str]) -> None:
        """Wait until one got through, all have failed, one has and there is an address left, or the time has come."""
        with trio.move_on_after(FRESH_S * self._random.uniform(0.8, 1.2)):
            while self._won is None and self._running:
                self._news = trio.Event()
                failed = len(self._running)
                await self._news.wait()
                if fresh and len(self._running) < failed:
                    return

    async def _try(self, address: str, scope: trio.CancelScope) -> None:
        try:
            with scope:
                channel = await self._attempt(address)
                if self._won is None:
                    self._won = channel, address
                else:
                    await let_go(channel)
        except (WorldError, ConfigError) as error:
            self._errors[address] = error
        finally:
            del self._running[scope]
            self._news.set()


def directly_first(addresses: Sequence[str]) -> list[str]:
    """Return addresses in the order given, save that those that lead through a relay come last."""
    return sorted(addresses, key=is_circuit)


def unreachable(peer: PeerId, addresses: Sequence[str], errors: Sequence[PrimeError]) -> PrimeError:
    """Return the error that says why no address of a peer led to it."""
    if not addresses:
        return UnreachableError(
            f"no address is known for {peer}",
            hint="Dial one of its addresses first, or tell this node where it is (`learn`, `--join`).",
        )
    if len(errors) == 1:
        return errors[0]
    return UnreachableError(
        f"{peer} answers at none of its {len(addresses)} addresses: " + "; ".join(str(error) for error in errors),
        hint=errors[-1].hint,
    )


def refusal(peer: PeerId, address: str, carrier: Carrier) -> PrimeError:
    """Return the error that says why a peer that was reached gave no link."""
    if carrier.reason in {None, fr.Reason.SHUTDOWN}:
        return UnreachableError(f"{peer} at {address} gave no greeting: {carrier.cause}", hint="Try again later.")
    return RefusedError(f"{peer} at {address} refused the link: {carrier.cause}", hint="Its log says more.")
