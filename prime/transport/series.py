"""The shells of reliable delivery (`delivery.py`): a task for each series that has something to send, and an inbox.

`Post` keeps what is not acknowledged, over the ends of links; `Inbox` is what one peer's numbered messages pass through.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, Protocol

import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.facts import DeadLetter
from prime.errors import DeadlineError, LinkLostError, LocalProtocolError, PrimeError, RefusedError
from prime.transport import delivery as core
from prime.transport.carrier import Carrier, Receipt
from prime.wire import to_plain
from prime.wire.message import encode_body
from prime.wire.signed import Signatory

FEATURE = "reliable"
"""What a node says in HELLO that takes numbered messages."""
POSTED_MAX = core.SERIES_MAX // 2
"""Series with one peer that a sender keeps: fewer than the peer remembers."""
PEERS_MAX = 256
"""Peers whose idle series are kept; with more, those that have nothing to send are forgotten."""
REDIAL_S_MAX = 1.0
"""The longest that a series with something to send waits before it dials again, less up to a quarter by chance."""
AHEAD_S = 1e-6
"""The least a series sleeps: a rounding error between two clocks must not make it spin."""


class Inbox:
    """What one peer's numbered messages pass through, whatever link they come by."""

    def __init__(self) -> None:
        self.receiver = core.Receiver()
        self.change = trio.Event()

    def settled(self) -> None:
        """Wake who waits for a message on offer to be settled."""
        self.change.set()
        self.change = trio.Event()


class Sending(Protocol):
    """What a post needs of the network."""

    async def link_to(self, peer: PeerId) -> Carrier:
        """Return the link with a peer, dialling if there is none."""
        ...

    def carrier(self, peer: PeerId) -> Carrier | None:
        """Return the link with a peer if it is up."""
        ...

    async def submit(
        self,
        carrier: Carrier,
        path: str,
        body: list[Any],
        payloads: list[memoryview],
        numbered: tuple[int, int, int] | None = None,
        *,
        trace: str | None = None,
    ) -> None:
        """Send a tell, waiting until it is on its way."""
        ...

    def drop(self, fact: DeadLetter) -> None:
        """Hear that a message was dropped."""
        ...


@attrs.define(eq=False)
class _Letter:
    """A message as it is sent, and sent again."""

    name: str
    body: list[Any]
    payloads: list[memoryview]
    size_bytes: int
    trace: str | None


class Post:
    """All series of this node, by peer and path."""

    def __init__(
        self,
        network: Sending,
        window: core.Window,
        now: Callable[[], float],
        start: Callable[[Callable[[], Awaitable[None]]], None],
        random: Random,
        signatory: Signatory,
    ) -> None:
        self._network = network
        self._window = window
        self._now = now
        self._start = start
        self._random = random
        self._signatory = signatory
        self._series: dict[PeerId, dict[str, _Series]] = {}
        self._ids = itertools.count(1)

    async def tell(self, peer: PeerId, path: str, message: Any, trace: str | None = None) -> None:
        """Return when the message is kept; wait while the window of its series is full."""
        letter = _letter(message, trace, self._signatory, peer)
        series = self._series_for(peer, path)
        try:
            await series.keep(letter)
        finally:
            self._forget_if_over(series)

    async def flush(self, peer: PeerId, path: str, timeout_s: float) -> None:
        """Wait until all that was told is acknowledged. Raises `DeadlineError`."""
        series = self._series.get(peer, {}).get(path)
        if series is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.move_on_after(timeout_s):
                await series.flush()
                return
        finally:
            self._forget_if_over(series)
        raise DeadlineError(
            f"{path} on {peer} has not taken all that was told within {timeout_s:g} s",
            hint="It goes on being sent. Wait longer, or look at that actor with `prime status`.",
        )

    def acknowledged(self, peer: PeerId, series: int, number: int, again: str) -> None:
        """Hear from the peer what it has taken."""
        for known in self._series.get(peer, {}).values():
            if known.id == series:
                known.feed(core.Acknowledged(number, again))
                return

    def link_changed(self, peer: PeerId) -> None:
        """Hear that a link with the peer came up or went down."""
        for series in self._series.get(peer, {}).values():
            series.link_changed()

    def sizes(self) -> dict[str, int]:
        """Count what is remembered: what a leak test looks at."""
        every = list(self._every())
        return {"series": len(every), "letters": sum(series.letters for series in every)}

    def _every(self) -> Iterator[_Series]:
        for table in self._series.values():
            yield from table.values()

    def _series_for(self, peer: PeerId, path: str) -> _Series:
        table = self._series.setdefault(peer, {})
        series = table.get(path)
        if series is None:
            if len(self._series) > PEERS_MAX:
                self._forget_idle_peers(peer)
            if len(table) >= POSTED_MAX:
                self._make_room(peer, table)
            series = table[path] = _Series(
                next(self._ids), peer, path, self._network, self._window, self._now, self._start, self._random
            )
        return series

    def _forget_idle_peers(self, but: PeerId) -> None:
        for peer, table in list(self._series.items()):
            if peer != but and all(series.idle and not series.over for series in table.values()):
                del self._series[peer]

    def _make_room(self, peer: PeerId, table: dict[str, _Series]) -> None:
        idle = next((path for path, series in table.items() if series.idle), None)
        if idle is None:
            raise RefusedError(
                f"{len(table)} actors on {peer} have not taken what was told reliably",
                hint="Wait for some of them (`flushed`) before telling more.",
            )
        del table[idle]

    def _forget_if_over(self, series: _Series) -> None:
        """Begin a new series after one that was given up, once a caller has heard of it."""
        table = self._series.get(series.peer, {})
        if series.over and table.get(series.path) is series:
            del table[series.path]


class _Series:
    """The letters of one series, and the task that sends them while there are any."""

    def __init__(
        self,
        number: int,
        peer: PeerId,
        path: str,
        network: Sending,
        window: core.Window,
        now: Callable[[], float],
        start: Callable[[Callable[[], Awaitable[None]]], None],
        random: Random,
    ) -> None:
        self.id = number
        self.peer = peer
        self.path = path
        self._network = network
        self._now = now
        self._start = start
        self._random = random
        self._core = core.Sender(f"{path} on {peer}", window)
        self._told: dict[int, _Letter] = {}
        self._letters: dict[int, _Letter] = {}
        self._receipts: dict[int, Receipt] = {}
        self._tokens = itertools.count(1)
        self._changed = trio.Event()
        self._link_changed = trio.Event()
        self._running = False
        self._last: Carrier | None = None
        self._actions: dict[type, Callable[[Any], None]] = {
            core.Accepted: self._accepted,
            core.Flushed: self._flushed,
            core.Rejected: self._rejected,
            core.Forget: self._forget,
        }

    @property
    def idle(self) -> bool:
        """Tell whether nothing is kept and nobody waits."""
        return self._core.idle

    @property
    def over(self) -> bool:
        """Tell whether it was given up."""
        return self._core.over

    @property
    def letters(self) -> int:
        """How many messages are kept or wait to be."""
        return len(self._letters) + len(self._told)

    async def keep(self, letter: _Letter) -> None:
        """Return when the letter has a number."""
        token = next(self._tokens)
        self._told[token] = letter
        await self._settled(token, core.Tell(token, letter.size_bytes))

    async def flush(self) -> None:
        """Return when all letters that have a number now are acknowledged."""
        token = next(self._tokens)
        await self._settled(token, core.Flush(token))

    async def _settled(self, token: int, event: core.Tell | core.Flush) -> None:
        receipt = self._receipts[token] = Receipt()
        try:
            self.feed(event)
            if not self._running and not self._core.idle:
                self._running = True
                self._start(self._run)
            if not receipt.done:
                await receipt.wait()
            else:
                receipt.raise_if_failed()
                await trio.lowlevel.checkpoint()
        finally:
            self._told.pop(token, None)
            if self._receipts.pop(token, None) is not None:
                self.feed(core.Withdraw(token))

    def feed(self, event: core.SenderEvent) -> None:
        """Step the core and carry its commands out."""
        for command in self._core.step(event, self._now()):
            self._actions[type(command)](command)
        self.wake()

    def wake(self) -> None:
        """Let the task look again."""
        self._changed.set()

    def link_changed(self) -> None:
        """Let the task look again, also if it waits before it dials."""
        self._link_changed.set()
        self.wake()

    def _accepted(self, command: core.Accepted) -> None:
        self._letters[command.number] = self._told.pop(command.token)
        self._reply(command.token)

    def _flushed(self, command: core.Flushed) -> None:
        self._reply(command.token)

    def _reply(self, token: int) -> None:
        receipt = self._receipts.pop(token, None)
        if receipt is not None:
            receipt.reply(None)

    def _rejected(self, command: core.Rejected) -> None:
        receipt = self._receipts.pop(command.token, None)
        if receipt is not None:
            receipt.fail(command.error)

    def _forget(self, command: core.Forget) -> None:
        letter = self._letters.pop(command.number)
        if command.lost:
            self._network.drop(DeadLetter(self.path, letter.name, command.lost))

    # ---- the task

    async def _run(self) -> None:
        """Send until nothing is left, over as many links as it takes."""
        pause_s = core.PAUSE_S
        try:
            while not self._core.idle:
                before = self._core.oldest
                try:
                    await self._send_over_one_link()
                except LocalProtocolError as error:  # no link will ever take it
                    self.feed(core.Fail(error))
                except PrimeError as error:
                    self.feed(core.Trouble(str(error)))
                if not self._core.idle:
                    pause_s = core.PAUSE_S if self._core.oldest > before else min(2 * pause_s, REDIAL_S_MAX)
                    await self._wait_for_link(min(pause_s * self._random.uniform(0.75, 1), self._left_s()))
                self.feed(core.Tick())
        finally:
            self._running = False
            self._last = None

    async def _send_over_one_link(self) -> None:
        carrier: Carrier | None = None
        with trio.move_on_after(self._left_s()):
            carrier = await self._network.link_to(self.peer)
        if carrier is None:
            return
        self._last = carrier
        if carrier.hello is None or FEATURE not in carrier.hello.features:
            raise LocalProtocolError(
                f"{self.peer} does not take reliable messages", hint="Update that node, or send without reliable=True."
            )
        self.feed(core.Linked())
        while carrier.link.up and not self._core.idle:
            number = self._core.next_number
            if number:
                await self._send(carrier, number)
            else:
                await self._sleep(self._left_s())
            self.feed(core.Tick())

    async def _send(self, carrier: Carrier, number: int) -> None:
        letter = self._letters[number]
        numbered = (self.id, number, self._core.oldest)
        try:
            with trio.move_on_after(self._left_s()):
                await self._network.submit(
                    carrier, self.path, letter.body, letter.payloads, numbered, trace=letter.trace
                )
                self.feed(core.Sent(number))
        except LinkLostError as error:
            self.feed(core.Trouble(str(error)))

    def _left_s(self) -> float:
        return max(self._core.due - self._now(), AHEAD_S)

    async def _wait_for_link(self, seconds: float) -> None:
        """Wait before dialling again, unless there is a link in the place of the last one, or the peer dials first."""
        standing = self._network.carrier(self.peer)
        if standing is not None and standing is not self._last:
            return
        self._link_changed = trio.Event()
        with trio.move_on_after(seconds):
            await self._link_changed.wait()

    async def _sleep(self, seconds: float) -> None:
        """Wait for a change, but no longer than this."""
        self._changed = trio.Event()
        with trio.move_on_after(seconds):
            await self._changed.wait()


def _letter(message: Any, trace: str | None, signatory: Signatory, peer: PeerId) -> _Letter:
    """Encode a message so that its sender may use its buffers again; a signed one is signed once, however often sent."""
    payloads: list[memoryview] = []
    body = to_plain(message, payloads, signatory, peer)
    own = [payload if isinstance(payload.obj, bytes) else memoryview(bytes(payload)) for payload in payloads]
    size_bytes = len(encode_body(type(message), body)) + sum(payload.nbytes for payload in own)
    return _Letter(type(message).__name__, body, own, size_bytes, trace)
