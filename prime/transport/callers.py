"""Callers: those whose channel has come and who have no link yet; each becomes one, or is turned away and told why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import anyio
import trio

from prime.actor.contract import PeerId
from prime.transport import frames as fr
from prime.transport.admission import Caller
from prime.transport.carrier import Carrier
from prime.transport.contract import Channel
from prime.transport.gate import Gate
from prime.transport.link import LinkLimits
from prime.transport.relay.preface import PREFACE
from prime.wire import dumps
from prime.wire.frame import pack

CROWDED = "too many callers have said no HELLO yet"

Relaying = Callable[[Channel], Awaitable[None]]
"""What serves a caller that wants a circuit and no link."""


class Callers:
    """The callers of one node. `host` makes a link of a channel, of which the bytes given with it were read already."""

    def __init__(
        self, gate: Gate, limits: LinkLimits, transport: str, host: Callable[[Channel, bytes], object]
    ) -> None:
        self.relaying: Relaying | None = None
        """What makes circuits; `None`: this node relays for nobody."""
        self._gate = gate
        self._limits = limits
        self._transport = transport
        self._host = host
        self._waiting: Counter[PeerId] = Counter()
        self._leaving = 0

    def receive(
        self, channel: Channel, nursery: trio.Nursery, greetings: Iterable[Carrier], now: float, *, sorts: bool
    ) -> None:
        """Let a caller in, or turn it away; with `sorts` it may also want a circuit. `greetings` have said no HELLO."""
        peer, waiting = channel.peer, [carrier for carrier in greetings if not carrier.dialled]
        if len(waiting) + self._waiting.total() + self._leaving >= self._limits.greetings_max:
            stalls = next((carrier for carrier in waiting if carrier.hello is None), None)
            if stalls is None:
                why = self._gate.turned_away(peer, "crowd", CROWDED)
                self._turn_away(channel, nursery, fr.Reason.OVERLOAD, why)
                return
            # Who has been silent the longest makes room: an honest caller says HELLO at once.
            stalls.close(fr.Reason.OVERLOAD, self._gate.turned_away(stalls.peer, "crowd", CROWDED))
        own = self._waiting[peer] + sum(carrier.peer == peer for carrier in waiting)
        why = self._gate.refusal(peer, own, now)
        if why:
            self._turn_away(channel, nursery, fr.Reason.REFUSED, why)
        elif sorts or self._gate.admission.hook is not None:
            self._let_in_later(channel, nursery, sorts=sorts)
        else:
            self._host(channel, b"")

    def _let_in_later(self, channel: Channel, nursery: trio.Nursery, *, sorts: bool) -> None:
        relaying = self.relaying if sorts else None
        if relaying is None and self._gate.admission.hook is None:
            self._host(channel, b"")
            return
        self._waiting[channel.peer] += 1
        nursery.start_soon(self._let_in, channel, nursery, relaying)

    async def _let_in(self, channel: Channel, nursery: trio.Nursery, relaying: Relaying | None) -> None:
        """Ask the hook, and look what the caller wants."""
        first = b""
        try:
            why = await self._gate.hook_refusal(Caller(channel.peer, self._transport, channel.remote))
            if not why and relaying is not None:
                first = await self._first_byte(channel)
        finally:
            self._waiting[channel.peer] -= 1
            if not self._waiting[channel.peer]:
                del self._waiting[channel.peer]
        if why:
            self._turn_away(channel, nursery, fr.Reason.REFUSED, why)
        elif relaying is None or (first and first != PREFACE):
            self._host(channel, first)
        elif first:
            await relaying(channel)
        else:
            with trio.move_on_after(self._limits.farewell_s):
                await channel.aclose()

    async def _first_byte(self, channel: Channel) -> bytes:
        """Return the first byte, which tells a circuit from a link; none if it does not come."""
        with trio.move_on_after(self._limits.greeting_s):
            try:
                return await channel.receive(1)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
        return b""

    def _turn_away(self, channel: Channel, nursery: trio.Nursery, reason: fr.Reason, why: str) -> None:
        says = self._leaving < self._limits.greetings_max
        self._leaving += 1
        nursery.start_soon(self._say_why_not, channel, fr.Bye(reason, why) if says else None)

    async def _say_why_not(self, channel: Channel, bye: fr.Bye | None) -> None:
        """Say BYE on a channel that becomes no link, and let the caller read it: closed at once, it might never arrive."""
        try:
            with trio.move_on_after(self._limits.farewell_s):
                if bye is not None:
                    await channel.send(b"".join(pack(dumps(bye.plain()), ())))
                    await channel.send_eof()
                    unread = fr.HELLO_BYTES_MAX
                    while unread > 0:
                        unread -= len(await channel.receive(unread))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # it has left
        finally:
            self._leaving -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.farewell_s):
                await channel.aclose()
