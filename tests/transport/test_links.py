"""Links between nodes: two or more of them over a transport, with inbound sides that stand for the runtime."""

from __future__ import annotations

import contextlib
import math
import random
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import attrs
import pytest
import trio
import trio.testing

from prime.actor.contract import PeerId, ReplySlot
from prime.actor.facts import DeadLetter
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    DecodeError,
    LinkLostError,
    LocalProtocolError,
    MailboxFullError,
    NoSuchActorError,
    RefusedError,
    UnreachableError,
    WrongPeerError,
)
from prime.transport import frames as fr
from prime.transport.contract import Channel, Endpoint
from prime.transport.facts import LinkDown, LinkUp
from prime.transport.identity import KeyPair
from prime.transport.links import LinkLimits, Links
from prime.transport.memory import Memory, MemoryChannel
from prime.transport.tcp import Tcp
from prime.wire import Ask, Payload, dumps, loads, message
from prime.wire.frame import FrameParser, pack


@message(tag=0x7A01)
class Note:
    number: int


@message(tag=0x7A02)
class Double(Ask[int]):
    number: int


@message(tag=0x7A03)
class Bulk:
    data: Payload


@message(tag=0x7A04)
class Fetch(Ask[Payload]):
    size: int


@message
class Local:
    number: int


NARROW = LinkLimits(allowance=fr.Allowance(window_messages=64))


class Mailbox:
    """One actor's mailbox: messages wait in it until `room` is there; `handle` answers asks."""

    def __init__(self, room: float = math.inf, handle: Callable[[Any], Any] | None = None) -> None:
        self.room = room
        self.handle = handle
        self.got: list[Any] = []
        self.senders: list[str] = []
        self.traces: list[str | None] = []
        self.chains: list[tuple[str, ...]] = []
        self.slots: list[ReplySlot] = []
        self.deadlines: list[float | None] = []
        self.changed = trio.Event()

    def open(self, room: float) -> None:
        self.room += room
        self.changed.set()
        self.changed = trio.Event()

    def put(self, message: Any, slot: ReplySlot | None) -> None:
        self.room -= 1
        self.got.append(message)
        if slot is None:
            return
        self.slots.append(slot)
        if self.handle is not None:
            try:
                slot.reply(self.handle(message))
            except Exception as error:  # noqa: BLE001 (it stands for the supervisor)
                slot.fail(error)


class Node:
    """The runtime's side of a network: mailboxes by path, and watches."""

    def __init__(self) -> None:
        self.boxes: dict[str, Mailbox] = {}
        self.watches: dict[str, list[Callable[[str], None]]] = {}
        self.facts: list[Any] = []

    def box(self, path: str) -> Mailbox:
        if path not in self.boxes:
            raise NoSuchActorError(f"no actor at {path}", hint="look at the tree")
        return self.boxes[path]

    def deliver_nowait(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> bool:
        box = self.box(path)
        if box.room < 1:
            return False
        box.senders.append(sender)
        box.traces.append(trace)
        box.deadlines.append(deadline)
        box.chains.append(chain)
        box.put(message, slot)
        return True

    async def deliver(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        while not self.deliver_nowait(
            path, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain
        ):
            await self.box(path).changed.wait()

    def decoded(self, decode: Callable[..., Any], *args: Any) -> Any:
        return decode(*args)

    def watch_path(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        if path not in self.boxes:
            notify(f"no actor at {path}")
            return lambda: None
        self.watches.setdefault(path, []).append(notify)
        return lambda: self.watches[path].remove(notify)

    def end(self, path: str, reason: str) -> None:
        for notify in self.watches.pop(path, []):
            notify(reason)

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


def key(n: int) -> KeyPair:
    return KeyPair.from_seed(bytes([n]) * 32)


class Swarm:
    """Some nodes that know each other's addresses."""

    def __init__(self, nursery: trio.Nursery, transport: Any, **options: Any) -> None:
        self.nursery = nursery
        self.transport = transport
        self.options = options
        self.nodes: list[Node] = []
        self.links: list[Links] = []
        self.scopes: list[trio.CancelScope] = []

    async def start(self, which: int | None = None) -> int:
        index = len(self.links)
        node = Node()
        links = Links(
            self.transport,
            key(index if which is None else which),
            emit=node.facts.append,
            instance=1000 + index,
            **self.options,
        )
        scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await links.serve(node, task_status=task_status)

        await self.nursery.start(serve)
        for other in self.links:
            other.learn(links.peer, links.addresses)
            links.learn(other.peer, other.addresses)
        self.nodes.append(node)
        self.links.append(links)
        self.scopes.append(scope)
        return index

    def assert_no_leak(self) -> None:
        for links in self.links:
            for carrier in links._up.values():
                sizes = carrier.link.sizes()
                assert sizes["waiting"] == sizes["asks"] == sizes["serving"] == 0, sizes
                assert not carrier._slots


@contextlib.asynccontextmanager
async def swarm(count: int = 2, transport: Any = None, **options: Any) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        made = Swarm(nursery, transport or Memory(), **options)
        for _ in range(count):
            await made.start()
        yield made
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (it watches what has no event)
            await trio.sleep(0.005)


# --------------------------------------------------------------------------------------------- the plain way


TRANSPORTS = [Memory, lambda: Tcp("/ip4/127.0.0.1/tcp/0")]


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["memory", "tcp"])
async def test_tell_ask_and_payloads(transport: Callable[[], Any]) -> None:
    async with swarm(transport=transport()) as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number * 2)
        s.nodes[1].boxes["/bulk"] = Mailbox(handle=lambda m: memoryview(b"x" * m.size))
        for number in range(100):
            await a.tell(b.peer, "/t", Note(number))
        assert await a.ask(b.peer, "/t", Double(21), timeout_s=5) == 42
        assert [m.number for m in s.nodes[1].boxes["/t"].got[:100]] == list(range(100))
        assert set(s.nodes[1].boxes["/t"].senders) == {a.peer}
        data = random.Random(1).randbytes(3_000_000)
        await a.tell(b.peer, "/bulk", Bulk(memoryview(data)))
        assert await a.ask(b.peer, "/bulk", Fetch(500_000), timeout_s=5) == b"x" * 500_000
        assert s.nodes[1].boxes["/bulk"].got[0].data == data
        s.assert_no_leak()


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["memory", "tcp"])
async def test_two_hundred_concurrent_asks_each_get_their_own_answer(transport: Callable[[], Any]) -> None:
    async with swarm(transport=transport()) as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number * 2)
        answers: dict[int, int] = {}

        async def one(number: int) -> None:
            answers[number] = await a.ask(b.peer, "/t", Double(number), timeout_s=10)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number)
        assert answers == {number: 2 * number for number in range(200)}
        assert len(s.nodes[0].of(LinkUp)) == 1  # one dial for all of them
        s.assert_no_leak()


async def test_answers_come_in_any_order(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox()
        answers: dict[int, int] = {}

        async def one(number: int) -> None:
            answers[number] = await a.ask(b.peer, "/t", Double(number), timeout_s=10)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, number)
            await until(lambda: len(box.slots) == 30)
            for message_got, slot in reversed(list(zip(box.got, box.slots, strict=True))):
                slot.reply(message_got.number + 1000)
                slot.reply(-1)  # only the first answer counts
        assert answers == {number: number + 1000 for number in range(30)}


async def test_bytes_are_counted_by_tag_on_both_sides() -> None:
    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number)
        await a.tell(b.peer, "/t", Bulk(memoryview(bytes(1000))))
        await a.ask(b.peer, "/t", Double(1), timeout_s=5)
        await until(lambda: b.received_bytes.get(0x7A03, 0) > 0)
        assert a.sent_bytes[0x7A03] == b.received_bytes[0x7A03]
        header = dumps(fr.Tell("/t", 1, [0x7A03, 0]).plain())
        assert a.sent_bytes[0x7A03] == 6 + 4 + len(header) + 1000  # prefix, payload's size, header, payload
        assert a.sent_bytes[0x7A02] == b.received_bytes[0x7A02]
        assert a.received_bytes[0x7A02] == b.sent_bytes[0x7A02] > 0  # the reply, under the tag of its ask
        assert a.sent_bytes[0] > 0  # HELLO


async def test_self_goes_straight_to_the_runtime() -> None:
    async with swarm(1) as s:
        (a,) = s.links
        s.nodes[0].boxes["/t"] = Mailbox(handle=lambda m: m.number * 2)
        await a.tell(a.peer, "/t", Local(1))  # needs no wire form
        assert await a.ask(a.peer, "/t", Double(4), timeout_s=1) == 8
        with pytest.raises(NoSuchActorError):
            await a.tell(a.peer, "/none", Note(1))
        reasons: list[str] = []
        a.watch(a.peer, "/t", reasons.append)
        s.nodes[0].end("/t", "stopped")
        assert reasons == ["stopped"]
        assert not a.sent_bytes


async def test_asking_self_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm(1) as s:
        s.nodes[0].boxes["/t"] = Mailbox()
        with pytest.raises(DeadlineError, match="/t on this node within 2 s"):
            await s.links[0].ask(s.links[0].peer, "/t", Double(4), timeout_s=2)


# ------------------------------------------------------------------------------------------------ flow control


async def test_a_full_mailbox_slows_its_own_senders_and_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm(limits=NARROW) as s:
        a, b = s.links
        slow = s.nodes[1].boxes["/slow"] = Mailbox(room=10)
        quick = s.nodes[1].boxes["/quick"] = Mailbox(handle=lambda m: m.number)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for number in range(500):
                await a.tell(b.peer, "/slow", Note(number))
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.sleep(60)
            assert sent == 64 + 10 - 10 % 32  # the window, and what was granted of ten taken: nothing
            assert len(slow.got) == 10
            for number in range(300):
                assert await a.ask(b.peer, "/quick", Double(number), timeout_s=1) == number
            slow.open(math.inf)
        await until(lambda: len(slow.got) == 500)
        assert [m.number for m in slow.got] == list(range(500))
        assert len(quick.got) == 300
        assert a.peers == (b.peer,)


async def test_a_cancelled_teller_leaves_no_message_and_no_slot(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm(limits=NARROW) as s:
        a, b = s.links
        slow = s.nodes[1].boxes["/slow"] = Mailbox(room=0)
        for number in range(64):
            await a.tell(b.peer, "/slow", Note(number))
        for number in range(64, 164):
            with trio.move_on_after(1) as scope:
                await a.tell(b.peer, "/slow", Note(number))
            assert scope.cancelled_caught
        s.assert_no_leak()
        slow.open(math.inf)
        await a.tell(b.peer, "/slow", Note(999))
        await until(lambda: slow.got[-1].number == 999)
        assert [m.number for m in slow.got] == [*range(64), 999]


async def test_payloads_above_the_window_pass_one_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    allowance = fr.Allowance(window_bytes=100_000, frame_bytes_max=500_000, link_bytes=1_000_000)
    async with swarm(limits=LinkLimits(allowance=allowance)) as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox()
        for _ in range(20):
            await a.tell(b.peer, "/t", Note(1))
            await a.tell(b.peer, "/t", Bulk(memoryview(bytes(400_000))))
        await until(lambda: len(box.got) == 40)


async def test_urgent_frames_overtake_megabytes() -> None:
    async with swarm(transport=Memory(buffer_bytes_max=4096)) as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox()
        reasons: list[str] = []
        await a.tell(b.peer, "/t", Note(0))
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(a.tell, b.peer, "/t", Bulk(memoryview(bytes(1_000_000))))
            while not a.sent_bytes.get(0x7A03):
                await trio.lowlevel.checkpoint()
            a.watch(b.peer, "/none", reasons.append)
            while not reasons:
                await trio.lowlevel.checkpoint()
            assert len(s.nodes[1].boxes["/t"].got) <= 3  # the note, what was being written, and no queue of four


# ------------------------------------------------------------------------------------- deadlines and cancelling


async def test_an_ask_has_a_deadline_and_its_late_reply_is_a_dead_letter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm() as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox()
        started = trio.current_time()
        with pytest.raises(DeadlineError, match=f"no reply from /t on {b.peer} within 2.5 s"):
            await a.ask(b.peer, "/t", Double(1), timeout_s=2.5)
        assert trio.current_time() - started == pytest.approx(2.5)
        assert box.deadlines[0] == pytest.approx(started + 2.5, abs=0.01)  # it travelled
        await trio.sleep(0.1)
        box.slots[0].reply(2)
        assert b.dead_letters == 1
        assert s.nodes[1].of(DeadLetter)
        s.assert_no_leak()
        box.handle = lambda m: m.number
        assert await a.ask(b.peer, "/t", Double(5), timeout_s=1) == 5


async def test_a_cancelled_ask_frees_its_slot_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox()
        for _ in range(100):
            with trio.move_on_after(0.5):
                await a.ask(b.peer, "/t", Double(1), timeout_s=math.inf)
        await trio.sleep(0.1)
        s.assert_no_leak()


async def test_asking_a_peer_that_nobody_can_dial_fails_by_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm(1, transport=Slowed(Memory(), dial_s=60.0)) as s:
        s.links[0].learn(key(9).peer, ["/memory/nowhere"])
        with pytest.raises(DeadlineError, match="no link to"):
            await s.links[0].ask(key(9).peer, "/t", Double(1), timeout_s=1)
        with pytest.raises(UnreachableError, match="did not answer within 10 s at /memory/nowhere"):
            await s.links[0].tell(key(9).peer, "/t", Note(1))


# ----------------------------------------------------------------------------------------------------- failures


async def test_what_fails_on_the_far_side_fails_here_by_name() -> None:
    def crash(_message: Any) -> Any:
        raise ValueError("boom")

    def full(_message: Any) -> Any:
        raise MailboxFullError("no room", hint="later")

    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes.update(
            {"/crash": Mailbox(handle=crash), "/full": Mailbox(handle=full), "/odd": Mailbox(handle=lambda _m: "text")}
        )
        with pytest.raises(ActorCrashedError, match="ValueError: boom") as crashed:
            await a.ask(b.peer, "/crash", Double(1), timeout_s=5)
        assert "raise ValueError" in crashed.value.remote_traceback
        with pytest.raises(MailboxFullError) as refused:
            await a.ask(b.peer, "/full", Double(1), timeout_s=5)
        assert refused.value.hint == "later"
        with pytest.raises(NoSuchActorError, match="/none"):
            await a.ask(b.peer, "/none", Double(1), timeout_s=5)
        with pytest.raises(LocalProtocolError):  # the handler's answer is not of the ask's reply type
            await a.ask(b.peer, "/odd", Double(1), timeout_s=5)
        await a.tell(b.peer, "/none", Note(1))  # a dead letter there, nothing here
        assert a.peers == (b.peer,)
        s.assert_no_leak()


async def test_what_cannot_be_sent_fails_at_once() -> None:
    allowance = fr.Allowance(frame_bytes_max=10_000, header_bytes_max=1_000)
    async with swarm(limits=LinkLimits(allowance=allowance)) as s:
        a, b = s.links
        with pytest.raises(LocalProtocolError):
            await a.tell(b.peer, "/t", Local(1))
        with pytest.raises(LocalProtocolError, match="takes at most 10000"):
            await a.tell(b.peer, "/t", Bulk(memoryview(bytes(20_000))))
        with pytest.raises(LocalProtocolError):
            await a.tell(b.peer, "/" + "t" * 2_000, Note(1))
        assert a.peers == (b.peer,)


async def test_nobody_known_nobody_there_and_somebody_else(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        stranger = key(9).peer
        with pytest.raises(UnreachableError, match="no address is known"):
            await a.tell(stranger, "/t", Note(1))
        a.learn(stranger, ["/memory/nowhere"])
        with pytest.raises(UnreachableError):
            await a.tell(stranger, "/t", Note(1))
        a.learn(stranger, [b.addresses[0].split("/p2p/")[0]])
        with pytest.raises(WrongPeerError):
            await a.tell(stranger, "/t", Note(1))
        a.learn(stranger, ["/memory/nowhere", b.addresses[0].split("/p2p/")[0]])
        with pytest.raises(UnreachableError, match="none of its 2 addresses"):
            await a.tell(stranger, "/t", Note(1))


async def test_nothing_works_before_serve_and_all_says_so() -> None:
    links = Links(Memory(), key(1))
    links.learn(key(2).peer, ["/memory/x"])
    assert links.addresses == ()
    for call in (
        links.tell(key(2).peer, "/t", Note(1)),
        links.ask(key(2).peer, "/t", Double(1), timeout_s=1),
        links.dial("/memory/x"),
        links.tell(links.peer, "/t", Note(1)),
    ):
        with pytest.raises(ActorUsageError, match="not serving"):
            await call
    with pytest.raises(ActorUsageError):
        links.watch(key(2).peer, "/t", print)


# ------------------------------------------------------------------------------------------- the link's end


async def test_a_cut_link_fails_its_asks_ends_its_watches_once_and_is_dialled_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm() as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox()
        await a.tell(b.peer, "/t", Note(1))
        reasons: list[str] = []
        errors: list[LinkLostError] = []
        a.watch(b.peer, "/t", reasons.append)

        async def asks() -> None:
            with pytest.raises(LinkLostError, match=b.peer) as caught:
                await a.ask(b.peer, "/t", Double(1), timeout_s=60)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(asks)
            await until(lambda: len(box.slots) == 5)
            await a._up[b.peer]._channel.aclose()
        assert len(errors) == 5
        assert "connection" in str(errors[0])
        assert len(reasons) == 1
        assert reasons[0].startswith("link lost: ")
        assert len(s.nodes[0].of(LinkDown)) == 1
        await until(lambda: not b.peers)
        assert s.nodes[1].watches["/t"] == []
        await a.tell(b.peer, "/t", Note(2))
        await until(lambda: box.got[-1] == Note(2))
        s.nodes[1].end("/t", "stopped")
        await trio.sleep(1)
        assert len(reasons) == 1


async def test_a_node_that_shuts_down_says_goodbye_and_flushes(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox()
        reasons: list[str] = []
        b.watch(a.peer, "/none", reasons.append)
        await until(lambda: reasons)
        for number in range(50):
            await a.tell(b.peer, "/t", Note(number))
        s.scopes[0].cancel()
        await until(lambda: not b.peers)
        assert [m.number for m in box.got] == list(range(50))
        assert "the node shut down" in s.nodes[1].of(LinkDown)[0].reason
        with pytest.raises(UnreachableError):
            await b.tell(a.peer, "/t", Note(1))


async def test_a_silent_peer_is_found_dead_by_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory) as s, memory.open(key(8)) as endpoint:
        (a,) = s.links
        s.nodes[0].boxes["/w"] = Mailbox()
        raw = await Raw.dial(endpoint, a)
        await raw.greet()
        assert a.peers == (key(8).peer,)
        started = trio.current_time()
        reasons: list[str] = []
        a.watch(key(8).peer, "/x", reasons.append)
        await until(lambda: not a.peers)
        assert trio.current_time() - started == pytest.approx(6, abs=0.1)
        assert reasons == ["link lost: nothing was heard for 6 s"]


class WrongClock:
    """A clock that is wrong by an offset and runs at another rate than Trio's."""

    def __init__(self, offset_s: float, rate: float) -> None:
        self.offset_s = offset_s
        self.rate = rate

    def current_time(self) -> float:
        return self.offset_s + trio.current_time() * self.rate


@pytest.mark.parametrize(("offset_s", "rate"), [(-1000.0, 1.0), (1e6, 1.0), (5.0, 0.5), (5.0, 2.0)])
async def test_a_clock_that_differs_from_trios_is_no_matter(
    offset_s: float, rate: float, autojump_clock: trio.testing.MockClock
) -> None:
    clock = WrongClock(offset_s, rate)
    async with swarm(clock=clock) as s:
        a, b = s.links
        box = s.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number)
        s.nodes[1].boxes["/mute"] = Mailbox()
        await trio.sleep(3)
        for _ in range(3):
            await a.ask(b.peer, "/t", Double(1), timeout_s=10)
            assert box.deadlines.pop() == pytest.approx(trio.current_time() + 10, abs=0.01)
        await b.ask(b.peer, "/t", Double(1), timeout_s=10)
        assert box.deadlines.pop() == pytest.approx(trio.current_time() + 10, abs=0.01)
        started = trio.current_time()
        with pytest.raises(DeadlineError):
            await a.ask(b.peer, "/mute", Double(1), timeout_s=3)
        assert min(3 / rate, 3) - 0.01 <= trio.current_time() - started <= max(3 / rate, 3) + 0.01
        for jump_s in (-7.0, 3.0, 100.0):
            await trio.sleep(60)
            clock.offset_s += jump_s
            started = trio.current_time()
            with pytest.raises(DeadlineError):
                await a.ask(b.peer, "/mute", Double(1), timeout_s=0.5)
            assert trio.current_time() - started <= max(0.5 / rate, 0.5) + 0.01
        assert a.peers == (b.peer,)
        assert len(s.nodes[0].of(LinkUp)) == 1


async def test_an_idle_link_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number)
        await a.ask(b.peer, "/t", Double(1), timeout_s=1)
        await trio.sleep(3600)
        await a.ask(b.peer, "/t", Double(1), timeout_s=1)
        assert len(s.nodes[0].of(LinkUp)) == 1


async def test_a_peer_that_reads_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory(buffer_bytes_max=1000)
    limits = LinkLimits(write_s=5, heartbeat_timeout_s=100)
    async with swarm(1, transport=memory, limits=limits) as s, memory.open(key(8)) as endpoint:
        (a,) = s.links
        raw = await Raw.dial(endpoint, a)
        await raw.greet()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.tell, key(8).peer, "/t", Bulk(memoryview(bytes(1_000_000))))
            await until(lambda: not a.peers)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        assert "took no bytes for 5 s" in s.nodes[0].of(LinkDown)[0].reason


# ------------------------------------------------------------------------------------------------------ watches


async def test_watch_tells_once_when_the_far_actor_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox()
        reasons: list[str] = []
        a.watch(b.peer, "/t", reasons.append)  # dials
        await until(lambda: s.nodes[1].watches.get("/t"))
        s.nodes[1].end("/t", "crashed: ValueError")
        await trio.sleep(1)
        await a._up[b.peer]._channel.aclose()
        await trio.sleep(1)
        assert reasons == ["crashed: ValueError"]


async def test_unwatch_is_silent_before_and_after_the_link_is_up(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox()
        reasons: list[str] = []
        a.watch(b.peer, "/t", reasons.append)()
        await trio.sleep(1)
        unwatch = a.watch(b.peer, "/t", reasons.append)
        await until(lambda: s.nodes[1].watches.get("/t"))
        unwatch()
        unwatch()
        await until(lambda: not s.nodes[1].watches["/t"])
        s.nodes[1].end("/t", "stopped")
        await trio.sleep(1)
        assert reasons == []


async def test_watching_who_cannot_be_reached_tells_once() -> None:
    async with swarm(1) as s:
        reasons: list[str] = []
        s.links[0].watch(key(9).peer, "/t", reasons.append)
        await until(lambda: reasons)
        assert reasons[0].startswith("unreachable: no address is known")


# ------------------------------------------------------------------------------------------- links that cross


@attrs.frozen
class Slowed:
    """A transport whose dials take time, by a seed: before the connection, and after it."""

    inner: Memory
    seed: int = 0
    dial_s: float = 0.05
    name: str = "memory"

    @contextlib.asynccontextmanager
    async def open(self, own: KeyPair) -> AsyncIterator[Any]:
        async with self.inner.open(own) as endpoint:
            yield SlowedEndpoint(endpoint, random.Random(f"{self.seed} {own.peer}"), self.dial_s)


@attrs.define
class SlowedEndpoint:
    inner: Any
    random: random.Random
    dial_s: float

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.inner.addresses

    @property
    def peer(self) -> PeerId:
        return self.inner.peer

    async def accept(self) -> Channel:
        channel = await self.inner.accept()
        await trio.sleep(self.random.choice([0, self.dial_s / 3]))
        return channel

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        await trio.sleep(self.random.choice([0, self.dial_s]))
        channel = await self.inner.dial(address, peer)
        try:
            await trio.sleep(self.random.choice([0, self.dial_s / 2, self.dial_s]))
        except trio.Cancelled:
            channel.close_nowait()
            raise
        return channel


@pytest.mark.parametrize("seed", range(20))
async def test_two_dials_that_cross_leave_one_link_and_lose_nothing(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(transport=Slowed(Memory(), seed)) as s:
        for node in s.nodes:
            node.boxes["/t"] = Mailbox(handle=lambda m: m.number)

        async def talk(here: int) -> None:
            await trio.sleep(random.Random(seed * 2 + here).choice([0, 0, 0.01, 0.03]))
            for number in range(50):
                await s.links[here].tell(s.links[1 - here].peer, "/t", Note(number))
                if number % 10 == 0:
                    await s.links[here].ask(s.links[1 - here].peer, "/t", Double(1), timeout_s=5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, 0)
            nursery.start_soon(talk, 1)
        await trio.sleep(5)
        for here in (0, 1):
            notes = [m.number for m in s.nodes[here].boxes["/t"].got if isinstance(m, Note)]
            assert notes == list(range(50))
            assert len(s.links[here].peers) == 1
            assert len(s.nodes[here].of(LinkUp)) == 1
            assert not s.nodes[here].of(LinkDown)
            assert len(s.links[here]._carriers) == 1
            assert not s.links[here]._held
            assert not s.links[here]._dials
        assert s.links[0]._up[s.links[1].peer].link.link_id == s.links[1]._up[s.links[0].peer].link.link_id


async def test_a_restarted_node_replaces_its_old_link(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory) as s:
        (a,) = s.links
        s.nodes[0].boxes["/t"] = Mailbox()
        async with memory.open(key(8)) as endpoint:
            old = await Raw.dial(endpoint, a)
            await old.greet()
            new = await Raw.dial(endpoint, a)  # the old stream is never closed: a power cut
            await new.greet(instance=78)
            await until(lambda: len(s.nodes[0].of(LinkUp)) == 2)
            assert len(s.nodes[0].of(LinkDown)) == 1
            assert (await old.read_until(fr.Bye)).reason is fr.Reason.REPLACED
            await new.send(fr.Tell("/t", 1, [0x7A01, 5]))
            await until(lambda: s.nodes[0].boxes["/t"].got == [Note(5)])


async def test_dial_returns_who_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm() as s:
        a, b = s.links
        nameless = b.addresses[0].split("/p2p/")[0]
        assert await a.dial(nameless) == b.peer
        assert await a.dial(nameless) == b.peer
        assert await a.dial(b.addresses[0]) == b.peer
        assert await a.dial(a.addresses[0]) == a.peer
        assert await a.dial(a.addresses[0].split("/p2p/")[0]) == a.peer
        assert len(s.nodes[0].of(LinkUp)) == 1
        with pytest.raises(WrongPeerError):
            await a.dial(f"{nameless}/p2p/{key(9).peer}")
        with pytest.raises(UnreachableError):
            await a.dial("/memory/nowhere")


async def test_a_cancelled_dial_leaves_the_others_waiting_for_it(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm(transport=Slowed(Memory(), 3, dial_s=4.0)) as s:
        a, b = s.links
        s.nodes[1].boxes["/t"] = Mailbox()

        async def hasty() -> None:
            with trio.move_on_after(0.5):
                await a.tell(b.peer, "/t", Note(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hasty)
            await a.tell(b.peer, "/t", Note(2))
        await until(lambda: s.nodes[1].boxes["/t"].got)
        assert Note(2) in s.nodes[1].boxes["/t"].got
        assert not a._dials


async def test_a_dial_that_gets_through_when_its_node_has_shut_down_lets_its_channel_go(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm() as s:
        a, b = s.links
        opened: list[Any] = []
        greet = a._greet

        async def late(dial: Any, channel: Any, *rest: Any) -> bool:
            s.scopes[0].cancel()
            with trio.CancelScope(shield=True):
                await until(lambda: a._nursery is None)
            opened.append(channel)
            return await greet(dial, channel, *rest)

        monkeypatch.setattr(a, "_greet", late)
        with pytest.raises(UnreachableError):
            await a.tell(b.peer, "/t", Note(1))
        with pytest.raises(anyio.ClosedResourceError):
            await opened[0].send(b"x")
        assert not a._dials


# ------------------------------------------------------------------------------------------ what peers tell


async def test_a_peer_is_believed_about_its_own_addresses_only(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory) as s, memory.open(key(8)) as endpoint:
        (a,) = s.links
        raw = await Raw.dial(endpoint, a)
        good = f"/ip4/10.0.0.8/tcp/1/p2p/{key(8).peer}"
        await raw.greet(addresses=("nonsense", f"/ip4/10.0.0.9/tcp/1/p2p/{key(9).peer}", good, "/memory/plain"))
        assert a.known_addresses(key(8).peer) == (good, "/memory/plain")
        assert a.known_addresses(key(9).peer) == ()


async def test_after_hello_the_called_side_can_call_back() -> None:
    async with swarm() as s:
        a, b = s.links
        a._book.clear()
        b._book.clear()
        await a.dial(b.addresses[0])
        assert b.known_addresses(a.peer) == a.addresses
        assert a.known_addresses(b.peer) == b.addresses


async def test_the_address_book_is_bounded() -> None:
    links = Links(Memory(), key(1), limits=LinkLimits(peers_max=10))
    for n in range(100):
        links.learn(PeerId(f"peer{n}"), [f"/memory/{n}"] * 100)
    assert len(links._book) == 10
    assert links.known_addresses(PeerId("peer99")) == ("/memory/99",)


# ----------------------------------------------------------------------------------------------- hostile peers


class Raw:
    """A peer that speaks frames by hand."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.parser = FrameParser()

    @classmethod
    async def dial(cls, endpoint: Endpoint, links: Links) -> Raw:
        return cls(await endpoint.dial(links.addresses[0], links.peer))

    async def send(self, frame: fr.Frame, *payloads: bytes) -> None:
        await self.send_bytes(b"".join(pack(dumps(frame.plain()), [memoryview(p) for p in payloads])))

    async def send_bytes(self, data: bytes) -> None:
        await self.channel.send(data)

    async def greet(self, **changes: Any) -> fr.Hello:
        hello = fr.Hello(1, "raw", (), fr.Allowance(), (), 77, 5, 0)
        await self.send(attrs.evolve(hello, **changes))
        answer = await self.read()
        assert isinstance(answer, fr.Hello)
        return answer

    async def read(self) -> fr.Frame:
        with trio.fail_after(20):
            while (frame := self.parser.next()) is None:
                self.parser.feed(await self.channel.receive())
        return fr.read_frame(loads(frame.header))

    async def read_until(self, kind: type) -> Any:
        while not isinstance(frame := await self.read(), kind):
            pass
        return frame

    async def read_end(self) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError), trio.fail_after(20):
            while True:
                await self.channel.receive()


@contextlib.asynccontextmanager
async def hostile(**options: Any) -> AsyncIterator[tuple[Swarm, Raw]]:
    """One node, its actor at `/t`, and a peer by hand whose link is up."""
    memory = Memory()
    async with swarm(2, transport=memory, **options) as s, memory.open(key(8)) as endpoint:
        s.nodes[0].boxes["/t"] = Mailbox(handle=lambda m: m.number)
        raw = await Raw.dial(endpoint, s.links[0])
        await raw.greet()
        yield s, raw
        # Whatever that peer did, the node serves the others.
        assert await s.links[1].ask(s.links[0].peer, "/t", Double(4), timeout_s=1) == 4


async def test_a_frame_that_comes_in_drops_is_no_frame(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile(limits=LinkLimits(write_s=5)) as (s, raw):
        started = trio.current_time()
        await raw.send_bytes(struct.pack(">IH", 1_000_000, 0))
        with contextlib.suppress(anyio.BrokenResourceError):
            while s.links[0].carrier(key(8).peer) is not None:
                await raw.send_bytes(b"ping")
                await trio.sleep(1)
        assert trio.current_time() - started == pytest.approx(11, abs=1)
        assert "of a frame in progress" in s.nodes[0].of(LinkDown)[0].reason


async def test_a_frame_over_a_slow_line_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile(limits=LinkLimits(write_s=5, heartbeat_timeout_s=200)) as (s, raw):
        await trio.sleep(100)
        bulk = b"".join(pack(dumps(fr.Tell("/bulk", 1, [0x7A03, 0]).plain()), [memoryview(bytes(200_000))]))
        box = s.nodes[0].boxes["/bulk"] = Mailbox()
        for start in range(0, len(bulk), 2000):
            await raw.send_bytes(bulk[start : start + 2000])
            await trio.sleep(1)
        assert [len(m.data) for m in box.got] == [200_000]


@pytest.mark.parametrize(
    "body",
    [[0x7AFF, 1], [0x7A02], [0x7A02, "text"], [0x7A02, [1]], [], None, "text", [2**62], [b"x"], [0x7A01, 1]],
    ids=str,
)
async def test_an_ask_whose_body_is_no_ask_fails_and_the_link_lives(
    body: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with hostile() as (s, raw):
        await raw.send(fr.Ask("/t", 1, body, 1, 1000))
        answer = await raw.read_until(fr.Fail)
        assert answer.code == "DecodeError"
        await raw.send(fr.Ask("/t", 2, [0x7A02, 3], 2, 1000))
        assert (await raw.read_until(fr.Reply)).value == 3
        assert s.nodes[0].boxes["/t"].got == [Double(3)]


@pytest.mark.parametrize("body", [[0x7AFF, 1], [0x7A01], [0x7A01, "text"], {"a": 1}, 5, [0x7A03, 0], [0x7A03, 7]])
async def test_a_tell_whose_body_is_no_message_is_a_dead_letter(
    body: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with hostile() as (s, raw):
        await raw.send(fr.Tell("/t", 1, body))
        await raw.send(fr.Tell("/t", 2, [0x7A01, 3]))
        await until(lambda: s.nodes[0].boxes["/t"].got)
        assert s.nodes[0].boxes["/t"].got == [Note(3)]
        assert s.links[0].dead_letters == 1
        (letter,) = s.nodes[0].of(DeadLetter)
        assert letter.path == "/t"
        assert 0x7AFF not in s.links[0].received_bytes


async def test_a_thousand_bad_bodies_cost_no_credit_and_no_slot(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile(limits=NARROW) as (s, raw):
        grants = 0
        outstanding = 0
        for seq in range(1, 1001):
            if outstanding == 64:
                credit = await raw.read_until(fr.Credit)
                outstanding -= credit.messages
                grants += 1
            await raw.send(fr.Ask("/t", seq, [0x7AFF], seq, 1000))
            outstanding += 1
        assert grants > 10
        carrier = s.links[0]._up[key(8).peer]
        await until(lambda: carrier.link.sizes()["serving"] == 0)
        assert set(s.links[0].received_bytes) <= {0, 0x7A01, 0x7A02, 0x7A03, 0x7A04}


def _prefix(header: int, *payloads: int) -> bytes:
    return struct.pack(f">IH{len(payloads)}I", header, len(payloads), *payloads)


TELL = dumps(fr.Tell("/t", 1, [0x7A01, 1]).plain())
GARBAGE = {
    "random": random.Random(5).randbytes(200),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "huge header": _prefix(2**31),
    "huge payload": _prefix(len(TELL), 2**31) + TELL,
    "many payloads": _prefix(len(TELL), *[1] * 5000)[:100],
    "no header": _prefix(0),
    "trailing bytes": _prefix(len(TELL) + 1) + TELL + b"\x00",
    "not deterministic": _prefix(len(TELL) + 1) + b"\x98" + bytes([TELL[0] - 0x80]) + TELL[1:],
    "no array": _prefix(1) + b"\xa0",
    "unknown kind": _prefix(3) + dumps([99, 1]),
    "a tag": _prefix(3) + b"\xc1\x01\x01",
    "text for a path": _prefix(len(dumps([2, 5, 1, []]))) + dumps([2, 5, 1, []]),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_closes_the_link_with_a_reason(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with hostile() as (s, raw):
        with contextlib.suppress(anyio.BrokenResourceError):
            await raw.send_bytes(GARBAGE[name])
        farewell = await raw.read_until(fr.Bye)
        assert farewell.reason is fr.Reason.PROTOCOL
        assert farewell.text
        await raw.read_end()
        assert "broke the protocol" in s.nodes[0].of(LinkDown)[0].reason
        assert not s.nodes[0].boxes["/t"].got


async def test_a_truncated_frame_ends_with_its_stream_and_is_never_delivered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hostile() as (s, raw):
        await raw.send_bytes(_prefix(len(TELL)) + TELL[:-1])
        await raw.channel.aclose()
        await until(lambda: s.nodes[0].of(LinkDown))
        assert not s.nodes[0].boxes["/t"].got


@pytest.mark.parametrize(
    "data",
    [b"", bytes(range(7, 107)), TELL, b"\0\0\x10\0\0\0" + b"x" * 3000],
    ids=["silent", "a", "b", "c"],
)
async def test_who_never_says_hello_is_let_go(data: bytes, autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory) as s, memory.open(key(8)) as endpoint:
        raw = await Raw.dial(endpoint, s.links[0])
        if data:
            await raw.send_bytes(data)
        started = trio.current_time()
        await raw.read_end()
        assert trio.current_time() - started < 7
        await until(lambda: not s.links[0]._carriers)
        assert not s.links[0]._greetings
        assert not s.nodes[0].facts


async def test_more_than_a_greeting_before_hello_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory) as s, memory.open(key(8)) as endpoint:
        raw = await Raw.dial(endpoint, s.links[0])
        with contextlib.suppress(anyio.BrokenResourceError):
            await raw.send_bytes(_prefix(900_000) + bytes(900_000))
        await raw.read_end()
        assert trio.current_time() < 5


async def test_peers_that_only_connect_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    memory = Memory()
    async with swarm(1, transport=memory, limits=LinkLimits(greetings_max=3)) as s, memory.open(key(8)) as endpoint:
        raws = [await Raw.dial(endpoint, s.links[0]) for _ in range(10)]
        await trio.sleep(1)
        assert len(s.links[0]._carriers) == 3
        await raws[9].read_end()


async def test_links_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with swarm(1, limits=LinkLimits(links_max=2)) as s:
        for _ in range(3):
            await s.start()
        for other in s.links[1:3]:
            await other.dial(s.links[0].addresses[0])
        with pytest.raises(RefusedError, match="2 links, the most it keeps"):
            await s.links[3].dial(s.links[0].addresses[0])


async def test_one_address_with_many_keys_keeps_no_other_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: dict[str, str] = {}
    monkeypatch.setattr(MemoryChannel, "remote", property(lambda channel: hosts.get(channel.peer, "")))
    async with swarm(1, limits=LinkLimits(links_max=4)) as s:
        node = s.links[0]
        for _ in range(8):
            await s.start()
        dialled, *many, honest, other = s.links[1:]
        await node.dial(dialled.addresses[0])
        hosts |= {each.peer: "/ip4/192.0.2.7/tcp/1" for each in many}
        hosts |= {honest.peer: "/ip4/198.51.100.1/tcp/1", other.peer: "/ip4/203.0.113.1/tcp/1"}
        for each in many[:3]:
            await each.dial(node.addresses[0])
        with pytest.raises(RefusedError, match="4 links, the most it keeps"):
            await many[3].dial(node.addresses[0])
        await honest.dial(node.addresses[0])
        assert set(node.peers) == {dialled.peer, many[0].peer, many[1].peer, honest.peer}
        await other.dial(node.addresses[0])
        assert set(node.peers) == {dialled.peer, many[0].peer, honest.peer, other.peer}


async def test_a_peer_cannot_flood_past_its_window(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile(limits=NARROW) as (s, raw):
        slow = s.nodes[0].boxes["/slow"] = Mailbox(room=1)
        for seq in range(1, 67):
            with contextlib.suppress(anyio.BrokenResourceError):
                await raw.send(fr.Tell("/slow", seq, [0x7A01, seq]))
        assert "window" in (await raw.read_until(fr.Bye)).text
        assert len(slow.got) == 1


async def test_an_answer_that_fits_no_type_fails_its_ask_only(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile() as (s, raw):
        a = s.links[0]

        async def answer(value: Any) -> None:
            ask = await raw.read_until(fr.Ask)
            await raw.send(fr.Reply(ask.correlation, value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, "text")
            with pytest.raises(DecodeError):
                await a.ask(key(8).peer, "/x", Double(1), timeout_s=5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, 7)
            assert await a.ask(key(8).peer, "/x", Double(1), timeout_s=5) == 7
        await raw.send(fr.Reply(12345, 1))
        await raw.send(fr.Fail(12345, "SystemExit", "x"))
        await until(lambda: a.dead_letters == 2)


async def test_a_bug_in_the_runtime_below_ends_one_link_and_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with hostile() as (s, raw):

        def broken(*_args: Any, **_options: Any) -> bool:
            raise ZeroDivisionError

        s.nodes[0].deliver_nowait, kept = broken, s.nodes[0].deliver_nowait  # type: ignore[method-assign]
        await raw.send(fr.Tell("/t", 1, [0x7A01, 1]))
        await raw.read_end()
        s.nodes[0].deliver_nowait = kept  # type: ignore[method-assign]
        assert "internal error" in s.nodes[0].of(LinkDown)[0].reason
        assert "ZeroDivisionError" in s.nodes[0].of(LinkDown)[0].reason


@pytest.mark.parametrize("seed", range(5))
async def test_frames_written_past_the_writer_keep_their_order_and_their_bytes(
    seed: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    chance = random.Random(seed)
    handed = []

    def send_nowait(channel: MemoryChannel, item: bytes) -> int:
        """Take a part, as a socket whose buffer is nearly full."""
        sent = len(item) if chance.random() < 0.2 else chance.randint(0, len(item))
        if sent:
            channel._outward._append(memoryview(item)[:sent])
        handed.append((sent, len(item)))
        return sent

    monkeypatch.setattr(MemoryChannel, "send_nowait", send_nowait)
    async with swarm() as pair:
        a, b = pair.links
        box = pair.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: m.number * 2)

        async def ask(number: int) -> None:
            assert await a.ask(b.peer, "/t", Double(number), timeout_s=60) == 2 * number

        for number in range(50):  # one at a time, with a tell now and then
            await ask(number)
            if number % 7 == 0:
                await a.tell(b.peer, "/t", Note(number))
        async with trio.open_nursery() as nursery:  # and many at once
            for number in range(50, 200):
                nursery.start_soon(ask, number)
        assert [m.number for m in box.got if isinstance(m, Note)] == list(range(0, 50, 7))
        assert {m.number for m in box.got if isinstance(m, Double)} == set(range(200))
        assert any(0 < sent < size for sent, size in handed)
        assert any(sent == size for sent, size in handed)
        assert not any(links.dead_letters for links in pair.links)
        await trio.testing.wait_all_tasks_blocked()
        pair.assert_no_leak()
        sent, received = sum(a.sent_bytes.values()), sum(b.received_bytes.values())
        assert sent == received > 0


class Marks:
    """A tracer that numbers what is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def sending(self, path: str, kind: str) -> str | None:
        self.sent.append(f"{kind} {path}")
        return None if kind == "Bulk" else f"mark-{len(self.sent)}" + "x" * (1000 if kind == "Fetch" else 0)

    def handling(self, path: str, kind: str, trace: str | None) -> contextlib.AbstractContextManager[object]:
        raise AssertionError("the links hand it on, the runtime handles")


async def test_the_context_of_a_trace_travels_with_each_kind_of_message(autojump_clock: Any) -> None:
    tracer = Marks()
    async with swarm(tracer=tracer) as pair:
        a, b = pair.links
        box = pair.nodes[1].boxes["/t"] = Mailbox(handle=lambda m: b"x" if isinstance(m, Fetch) else 2)
        await a.tell(b.peer, "/t", Note(1))
        await a.tell(b.peer, "/t", Note(2))
        assert await a.ask(b.peer, "/t", Double(1), timeout_s=5) == 2
        await a.tell_reliably(b.peer, "/t", Note(3))
        await a.flush(b.peer, "/t", timeout_s=5)
        await a.tell(b.peer, "/t", Bulk(memoryview(b"")))  # the tracer leaves it out
        await a.ask(b.peer, "/t", Fetch(1), timeout_s=5)  # longer than a frame may carry
        assert box.traces == ["mark-1", "mark-2", "mark-3", "mark-4", None, None]
        assert tracer.sent == ["Note /t", "Note /t", "Double /t", "Note /t", "Bulk /t", "Fetch /t"]
