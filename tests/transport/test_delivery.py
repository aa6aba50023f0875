"""Reliable delivery, the pure core: a sender, a receiver, and between them links that are lost, late and crossed."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.errors import DeadlineError, LocalProtocolError, RefusedError
from prime.transport import delivery as core
from prime.transport.delivery import Verdict

WINDOW = core.Window(messages=4, size_bytes=100, give_up_s=1000.0, waiting_max=50)


@attrs.define(eq=False)
class Session:
    """One link: what is on its way in each direction, in order."""

    forth: deque[tuple[int, int]] = attrs.field(factory=deque)
    back: deque[tuple[int, str]] = attrs.field(factory=deque)
    waiting: deque[tuple[int, int]] = attrs.field(factory=deque)
    """Came, and told to wait: a link offers one message of a target at a time."""
    alive: bool = True


class World:
    """One series over any number of links, some of them old and not yet dead."""

    def __init__(self, window: core.Window = WINDOW) -> None:
        self.now = 0.0
        self.sender = core.Sender("/t on B", window)
        self.receiver = core.Receiver()
        self.instance = 7
        self.sessions: list[Session] = []
        self.told = 0
        self.names: dict[int, int] = {}
        self.offer: tuple[int, Session] | None = None
        self.mailbox: list[int] = []
        self.lives: list[list[int]] = [self.mailbox]
        self.said: list[Any] = []

    def feed(self, event: core.SenderEvent) -> None:
        for command in self.sender.step(event, self.now):
            self.said.append(command)
            if isinstance(command, core.Accepted):
                self.names[command.number] = command.token
        assert self.sender.sizes()["kept"] <= WINDOW.messages
        assert len(self.receiver) <= 1

    def tell(self) -> None:
        self.told += 1
        self.feed(core.Tell(self.told, 10 + self.told % 50))

    def link(self) -> None:
        self.sessions.append(Session())
        self.feed(core.Linked())

    def send(self) -> bool:
        number = self.sender.next_number
        if not number or not self.sessions or not self.sessions[-1].alive:
            return False
        self.sessions[-1].forth.append((number, self.sender.oldest))
        self.feed(core.Sent(number))
        return True

    def come(self, session: Session) -> bool:
        """Let the next message of a link reach the receiver, or one that was told to wait ask again."""
        source = session.waiting or session.forth
        if not session.alive or not source or (self.offer is not None and self.offer[1] is session):
            return False
        number, oldest = source.popleft()
        verdict = self.receiver.came(self.instance, 1, number, oldest)
        if verdict is Verdict.OFFER:
            assert self.offer is None, "one message on offer at a time"
            self.offer = number, session
        elif verdict is Verdict.WAIT:
            session.waiting.appendleft((number, oldest))
            return False
        return True

    def take(self) -> bool:
        if self.offer is None:
            return False
        number, _ = self.offer
        self.offer = None
        self.receiver.took(self.instance, 1, number)
        self.mailbox.append(number)
        return True

    def put_off(self) -> None:
        if self.offer is not None:
            number, _ = self.offer
            self.offer = None
            self.receiver.put_off(self.instance, 1, number, "no actor there")

    def acknowledge(self) -> bool:
        """Say what was taken on the newest link, if it lives."""
        if not self.sessions or not self.sessions[-1].alive or not self.receiver.owes:
            return False
        for _instance, _series, number, again in self.receiver.acknowledgements():
            self.sessions[-1].back.append((number, again))
        return True

    def hear(self, session: Session) -> bool:
        if not session.back:
            return False
        number, again = session.back.popleft()
        self.feed(core.Acknowledged(number, again))
        return True

    def cut(self, session: Session) -> None:
        """End a link: what was on its way and what it had on offer is gone."""
        session.alive = False
        session.forth.clear()
        session.back.clear()
        session.waiting.clear()
        if self.offer is not None and self.offer[1] is session:
            self.receiver.left(self.instance, 1, self.offer[0])
            self.offer = None

    def restart(self) -> None:
        """The receiver's node dies with all it knew, mailbox included."""
        for session in self.sessions:
            self.cut(session)
        self.receiver = core.Receiver()
        self.mailbox = []
        self.lives.append(self.mailbox)

    def run(self, op: str, which: int) -> None:
        session = self.sessions[which % len(self.sessions)] if self.sessions else None
        if op in {"come", "hear", "cut"}:
            if session is not None:
                getattr(self, op)(session)
        elif op == "tick":
            self.now += 0.05 * which
            self.feed(core.Tick())
        else:
            getattr(self, op)()

    def finish(self) -> None:
        """Let one good link carry all that is left."""
        for session in self.sessions:
            self.cut(session)
        self.link()
        for _ in range(10_000):
            session = self.sessions[-1]
            if any((self.send(), self.come(session), self.take(), self.acknowledge(), self.hear(session))):
                continue
            if self.sender.idle:
                return
            self.now += core.PAUSE_S_MAX
            self.feed(core.Tick())
        raise AssertionError("it never ends")


def ops(*more: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    names = ["tell", "tell", "link", "send", "send", "come", "come", "take", "put_off", "acknowledge", "hear", "cut"]
    return st.lists(st.tuples(st.sampled_from([*names, "tick", *more]), st.integers(0, 7)), max_size=150)


@given(ops())
@settings(max_examples=400)
def test_each_message_is_taken_once_and_in_order_over_any_links(schedule: list[tuple[str, int]]) -> None:
    world = World()
    for op, which in schedule:
        world.run(op, which)
    world.finish()
    assert world.mailbox == list(range(1, world.told + 1))
    assert [world.names[number] for number in world.mailbox] == list(range(1, world.told + 1)), "in the order told"
    assert world.sender.sizes() == {"kept": 0, "waiting": 0, "flushes": 0}
    assert not any(command.lost for command in world.said if isinstance(command, core.Forget))


@given(ops("restart"))
def test_over_restarts_of_the_receiver_each_message_is_taken_at_least_once(schedule: list[tuple[str, int]]) -> None:
    world = World()
    for op, which in schedule:
        world.run(op, which)
    world.finish()
    assert {number for life in world.lives for number in life} == set(range(1, world.told + 1))
    for life in world.lives:
        assert life == list(range(life[0], life[0] + len(life))) if life else True, "in order, each once, in each life"


# -------------------------------------------------------------------------------------------------- named scenarios


def accepted(commands: list[Any]) -> list[int]:
    return [command.token for command in commands if isinstance(command, core.Accepted)]


def sender(**changes: Any) -> core.Sender:
    return core.Sender("/t on B", attrs.evolve(WINDOW, **changes))


def test_a_teller_waits_while_the_window_is_full_and_goes_in_order() -> None:
    one = sender()
    assert [accepted(one.step(core.Tell(token, 10), 0.0)) for token in range(1, 8)] == [[1], [2], [3], [4], [], [], []]
    one.step(core.Withdraw(6), 0.0)
    commands = one.step(core.Acknowledged(3), 0.0)
    assert [command.number for command in commands if isinstance(command, core.Forget)] == [1, 2, 3]
    assert accepted(commands) == [5, 7]


def test_a_message_larger_than_the_window_goes_alone() -> None:
    one = sender()
    assert accepted(one.step(core.Tell(1, 5000), 0.0)) == [1]
    assert not accepted(one.step(core.Tell(2, 1), 0.0))
    assert accepted(one.step(core.Acknowledged(1), 0.0)) == [2]


def test_a_new_link_begins_with_the_oldest_that_is_kept() -> None:
    one = sender()
    for token in (1, 2, 3):
        one.step(core.Tell(token, 1), 0.0)
    assert one.next_number == 0  # no link yet
    for expected in (1, 2, 3):
        one.step(core.Linked() if expected == 1 else core.Sent(expected - 1), 0.0)
        assert one.next_number == expected
    one.step(core.Acknowledged(1), 0.0)
    one.step(core.Linked(), 0.0)
    assert (one.next_number, one.oldest) == (2, 2)


def test_what_cannot_be_taken_now_is_sent_again_after_growing_pauses() -> None:
    one, now = sender(), 0.0
    one.step(core.Tell(1, 1), now)
    one.step(core.Linked(), now)
    pauses = []
    for _ in range(8):
        one.step(core.Sent(1), now)
        one.step(core.Acknowledged(0, "no actor there"), now)
        one.step(core.Acknowledged(0, "no actor there"), now)  # of a message behind it: no pause of its own
        assert one.next_number == 0
        pauses.append(one.due - now)
        now = one.due
        one.step(core.Tick(), now)
        assert one.next_number == 1
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_a_series_that_is_not_taken_in_time_is_given_up_whole() -> None:
    one = sender(give_up_s=60.0)
    for token in range(1, 7):
        one.step(core.Tell(token, 1), float(token))
    one.step(core.Flush(99), 7.0)
    one.step(core.Trouble("the link to B was lost"), 8.0)
    assert one.due == 61.0
    assert one.step(core.Tick(), 60.9) == []
    commands = one.step(core.Tick(), 61.0)
    lost = [command for command in commands if isinstance(command, core.Forget)]
    assert [command.number for command in lost] == [1, 2, 3, 4]
    assert all("the link to B was lost" in command.lost for command in lost)
    rejected = [command for command in commands if isinstance(command, core.Rejected)]
    assert [command.token for command in rejected] == [5, 6, 99]
    assert all(isinstance(command.error, DeadlineError) and command.error.hint for command in rejected)
    assert len({id(command.error) for command in rejected}) == 3
    assert one.over
    assert one.idle
    (refused,) = one.step(core.Tell(100, 1), 62.0)
    assert isinstance(refused, core.Rejected)
    assert one.sizes() == {"kept": 0, "waiting": 0, "flushes": 0}


def test_an_acknowledgement_gives_later_messages_their_own_time() -> None:
    one = sender(give_up_s=60.0)
    one.step(core.Tell(1, 1), 0.0)
    one.step(core.Tell(2, 1), 50.0)
    one.step(core.Acknowledged(1), 59.0)
    assert one.step(core.Tick(), 61.0) == []
    assert one.due == 110.0


def test_a_message_that_no_link_takes_ends_the_series_at_once() -> None:
    one = sender()
    one.step(core.Tell(1, 1), 0.0)
    (lost,) = one.step(core.Fail(LocalProtocolError("too big")), 0.0)
    assert isinstance(lost, core.Forget)
    assert "too big" in lost.lost
    (rejected,) = one.step(core.Tell(2, 1), 0.0)
    assert isinstance(rejected, core.Rejected)
    assert isinstance(rejected.error, LocalProtocolError)


def test_tellers_beyond_the_most_are_refused() -> None:
    one = sender(waiting_max=2)
    for token in range(1, 7):
        one.step(core.Tell(token, 1), 0.0)
    (refused,) = one.step(core.Tell(7, 1), 0.0)
    assert isinstance(refused, core.Rejected)
    assert isinstance(refused.error, RefusedError)


def test_a_flush_waits_for_what_was_told_before_it_and_no_more() -> None:
    one = sender()
    assert one.step(core.Flush(50), 0.0) == [core.Flushed(50)]
    one.step(core.Tell(1, 1), 0.0)
    assert one.step(core.Flush(51), 0.0) == []
    one.step(core.Tell(2, 1), 0.0)
    assert core.Flushed(51) in one.step(core.Acknowledged(1), 0.0)


@pytest.mark.parametrize("number", [3, 99, 2**62])
def test_an_acknowledgement_of_what_was_never_told_is_ignored(number: int) -> None:
    one = sender()
    one.step(core.Tell(1, 1), 0.0)
    one.step(core.Tell(2, 1), 0.0)
    assert one.step(core.Acknowledged(number), 0.0) == []
    assert one.sizes()["kept"] == 2


def test_a_receiver_remembers_a_bounded_number_of_series() -> None:
    receiver = core.Receiver(series_max=8)
    for series in range(1000):
        assert receiver.came(1, series, 1, 1) is Verdict.OFFER
        receiver.took(1, series, 1)
        assert len(receiver) <= 8
    assert len(receiver.acknowledgements()) <= 8


def test_a_series_with_a_message_on_offer_is_not_forgotten() -> None:
    receiver = core.Receiver(series_max=4)
    receiver.came(1, 0, 1, 1)
    for series in range(1, 50):
        receiver.came(1, series, 1, 1)
        receiver.took(1, series, 1)
    assert receiver.came(1, 0, 1, 1) is Verdict.WAIT


def test_a_forgotten_series_goes_on_where_its_sender_is_and_skips_nothing() -> None:
    receiver = core.Receiver(series_max=1)
    receiver.came(1, 5, 1, 1)
    receiver.took(1, 5, 1)
    receiver.came(1, 6, 1, 1)
    receiver.took(1, 6, 1)  # series 5 is forgotten
    assert receiver.came(1, 5, 4, 3) is Verdict.SKIP, "its sender still keeps 3: what is before 4 must come first"
    assert (1, 5, 2, "one before it is missing") in receiver.acknowledgements()
    assert receiver.came(1, 5, 3, 3) is Verdict.OFFER


def test_a_new_run_of_the_sender_begins_afresh() -> None:
    receiver = core.Receiver()
    for number in (1, 2, 3):
        receiver.came(1, 1, number, 1)
        receiver.took(1, 1, number)
    receiver.came(1, 1, 4, 1)
    receiver.renew(2)
    assert receiver.came(1, 1, 4, 4) is Verdict.SKIP, "a late link of the run that is gone"
    assert receiver.came(2, 1, 1, 1) is Verdict.OFFER
    receiver.took(1, 1, 4)  # of the run that is gone
    receiver.took(2, 1, 1)
    assert receiver.acknowledgements() == [(2, 1, 1, "")]


def test_what_came_before_is_acknowledged_again() -> None:
    receiver = core.Receiver()
    for number in itertools.chain(range(1, 4), range(1, 3)):
        if receiver.came(1, 1, number, 1) is Verdict.OFFER:
            receiver.took(1, 1, number)
    assert receiver.acknowledgements() == [(1, 1, 3, "")]
    assert receiver.came(1, 1, 3, 1) is Verdict.SKIP
    assert receiver.acknowledgements() == [(1, 1, 3, "")]
    assert receiver.acknowledgements() == []
