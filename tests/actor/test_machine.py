"""State machines: what is handled where, postponing, timeouts, entering, and what is refused when the class is made."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prime.actor import Actor, DeadLetter, Mailbox, Ref, Restart, StateMachine, System, entered, on, on_timeout
from prime.errors import ActorCrashedError, DeadlineError, MessageError, RefusedError
from prime.node.system import open_system
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message
class Coin(Ask[str]):
    pass


@message
class Push(Ask[str]):
    pass


@message
class Note:
    text: str


@message
class Notes(Ask[list[str]]):
    pass


@message
class Seize:
    pass


class Door(StateMachine[Coin | Push | Note | Notes | Seize]):
    """A turnstile: a coin opens it for five seconds, a push goes through."""

    initial = "locked"

    def __init__(self) -> None:
        self.log: list[str] = []

    @on(Coin, when="locked")
    def unlock(self, _: Coin) -> str:
        self.become("open", timeout=5)
        return "thanks"

    @on(Coin)
    def keep(self, _: Coin) -> str:
        return f"kept while {self.state}"

    @on(Push, when="open")
    def go_through(self, _: Push) -> str:
        self.become("locked")
        return "through"

    @on(Note, when=("open", "locked"))
    def note(self, m: Note) -> None:
        self.log.append(m.text)

    @on(Notes)
    def tell_notes(self, _: Notes) -> list[str]:
        return self.log

    @on(Seize)
    def seize(self, _: Seize) -> None:
        self.become("seized")

    @entered("locked", "open", "seized")
    def log_state(self) -> None:
        self.log.append(f"-> {self.state}")

    @on_timeout("open")
    def shut(self) -> None:
        self.log.append("too late")
        self.become("locked")


class Patient(Door):
    """As a door, but a push waits for the coin."""

    otherwise = "postpone"


def letters(system: System) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    system.subscribe(lambda fact: found.append(fact) if isinstance(fact, DeadLetter) else None)
    return found


async def test_each_state_has_its_handlers(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        door = await sup.spawn(Door, "door")
        with pytest.raises(RefusedError, match="/s/door refuses Push: no handler for it in its state 'locked'"):
            await door.ask(Push(), timeout=1)
        assert await door.ask(Coin(), timeout=1) == "thanks"
        assert await door.ask(Coin(), timeout=1) == "kept while open"
        assert await door.ask(Push(), timeout=1) == "through"
        assert await door.ask(Notes(), timeout=1) == ["-> locked", "-> open", "-> locked"]
        assert system.tree()[0].children[0].restarts == 0
        assert len(system.deadlines) == 0  # leaving `open` cancelled its timeout


async def test_a_tell_without_a_handler_is_a_dead_letter(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        found = letters(system)
        door = await sup.spawn(Door, "door")
        await door.tell(Seize())
        await door.tell(Note("nobody reads it"))
        await door.tell(Push())  # an ask, told
        assert await door.ask(Coin(), timeout=1) == "kept while seized"
        assert [(letter.kind, "'seized'" in letter.reason) for letter in found] == [("Note", True), ("Push", True)]


async def test_a_state_s_timeout_runs_unless_the_state_was_left(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        door = await sup.spawn(Door, "door")
        await door.ask(Coin(), timeout=1)
        await trio.sleep(4.9)
        assert await door.ask(Coin(), timeout=1) == "kept while open"
        await trio.sleep(0.2)
        assert await door.ask(Notes(), timeout=1) == ["-> locked", "-> open", "too late", "-> locked"]
        await door.ask(Coin(), timeout=1)
        await trio.sleep(3)
        await door.ask(Push(), timeout=1)
        await door.ask(Coin(), timeout=1)  # open anew: the first timeout would come in 2 s
        await trio.sleep(3)
        assert await door.ask(Coin(), timeout=1) == "kept while open"


async def test_a_timeout_is_not_lost_in_a_full_mailbox_and_comes_first(autojump_clock: Clock) -> None:
    class Slow(Door):
        @on(Note)
        async def dawdle(self, m: Note) -> None:
            await trio.sleep(10)

        @on(Note, when=("open", "locked"))
        async def note_slowly(self, m: Note) -> None:
            self.log.append(m.text)
            await trio.sleep(6)

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        found = letters(system)
        door = await sup.spawn(Slow, "door", mailbox=Mailbox(2, full="reject"))
        await door.ask(Coin(), timeout=1)
        await door.tell(Note("a"))
        await trio.testing.wait_all_tasks_blocked()
        await door.tell(Note("b"))
        await door.tell(Note("c"))
        await trio.sleep(15)
        notes = await door.ask(Notes(), timeout=10)
        assert notes == ["-> locked", "-> open", "a", "too late", "-> locked", "b", "c"]
        assert found == []


async def test_what_is_postponed_comes_back_in_order_before_anything_newer(autojump_clock: Clock) -> None:
    order: list[str] = []

    class Log(StateMachine[Coin | Note | Seize]):
        initial = "closed"
        otherwise = "postpone"

        @on(Coin, when="closed")
        def open(self, _: Coin) -> str:
            self.become("open")
            return "open"

        @on(Note, when="open")
        def note(self, m: Note) -> None:
            order.append(m.text)

        @on(Seize)
        def close(self, _: Seize) -> None:
            self.become("closed")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        found = letters(system)
        log = await sup.spawn(Log, "log")
        for text in "abc":
            await log.tell(Note(text))
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: log.ask(Coin(), timeout=1))
            await log.tell(Note("d"))
        await log.tell(Seize())
        await log.tell(Note("e"))
        await log.tell(Note("f"))
        await trio.testing.wait_all_tasks_blocked()
        assert order == list("abcd")
        assert await log.ask(Coin(), timeout=1) == "open"  # answered in the asker's own task: it wakes the actor
        await trio.testing.wait_all_tasks_blocked()
        assert order == list("abcdef")
        assert found == []


async def test_a_postponed_ask_is_answered_late_or_not_at_all(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        door = await sup.spawn(Patient, "door")
        answers: list[str] = []

        async def push() -> None:
            answers.append(await door.ask(Push(), timeout=60))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.sleep(1)
            assert answers == []
            with pytest.raises(DeadlineError):
                await door.ask(Push(), timeout=1)
            assert await door.ask(Coin(), timeout=1) == "thanks"
        assert answers == ["through"]
        assert await door.ask(Coin(), timeout=1) == "thanks"  # the late push was never run: the door was locked
        assert len(system.deadlines) == 1  # the state's own


async def test_postponing_is_bounded_and_more_is_refused(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup, trio.open_nursery() as nursery:
        found = letters(system)
        door = await sup.spawn(Patient, "door", mailbox=Mailbox(stash=2))
        for _ in range(2):
            nursery.start_soon(lambda: door.ask(Push(), timeout=100))
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="too many messages are postponed in its state 'locked'"):
            await door.ask(Push(), timeout=1)
        await door.tell(Push())
        await trio.testing.wait_all_tasks_blocked()
        assert [letter.kind for letter in found] == ["Push"]
        assert system.tree()[0].children[0].restarts == 0
        nursery.cancel_scope.cancel()


async def test_a_crash_keeps_what_is_postponed_and_begins_at_the_beginning(autojump_clock: Clock) -> None:
    class Fragile(Patient):
        @on(Seize)
        def seize(self, _: Seize) -> None:
            raise ValueError("boom")

    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=5)) as sup:
        door = await sup.spawn(Fragile, "door")
        answers: list[str] = []

        async def push() -> None:
            answers.append(await door.ask(Push(), timeout=60))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.testing.wait_all_tasks_blocked()
            await door.tell(Seize())
            await trio.sleep(3)
            assert await door.ask(Coin(), timeout=1) == "thanks"
        assert answers == ["through"]


# ----------------------------------------------------------------------------------------------------------- entering


async def test_entering_may_go_on_and_may_wait(autojump_clock: Clock) -> None:
    class Rocket(StateMachine[Coin | Notes]):
        initial = "ground"

        def __init__(self) -> None:
            self.log: list[str] = []

        @on(Coin, when="ground")
        def launch(self, _: Coin) -> str:
            self.become("rising")
            self.log.append("handler done")
            return self.state

        @entered("rising")
        async def rise(self) -> None:
            await trio.sleep(3)
            self.log.append("up")
            self.become("orbit")

        @entered("orbit")
        def circle(self) -> None:
            self.log.append("round")

        @on(Notes)
        def notes(self, _: Notes) -> list[str]:
            return self.log

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        rocket = await sup.spawn(Rocket, "r")
        assert await rocket.ask(Coin(), timeout=10) == "rising"
        assert await rocket.ask(Notes(), timeout=1) == ["handler done", "up", "round"]


async def test_states_that_go_round_are_a_crash_and_not_a_hang(autojump_clock: Clock) -> None:
    class Dizzy(StateMachine[Coin]):
        initial = "still"

        @on(Coin, when="still")
        def spin(self, _: Coin) -> str:
            self.become("left")
            return ""

        @entered("left")
        def turn_right(self) -> None:
            self.become("right")

        @entered("right")
        def turn_left(self) -> None:
            self.become("left")

    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=5)) as sup:
        dizzy = await sup.spawn(Dizzy, "d")
        with pytest.raises(ActorCrashedError, match="went through 100 states"):
            await dizzy.ask(Coin(), timeout=10)


async def test_the_initial_state_is_entered_and_a_failure_there_is_a_failure_to_start(autojump_clock: Clock) -> None:
    class Stillborn(Door):
        @entered("locked")
        def fail(self) -> None:
            raise ValueError("rusty")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        with pytest.raises(ActorCrashedError, match="could not start: ValueError: rusty"):
            await sup.spawn(Stillborn, "d", kind="temporary")


async def test_to_become_what_one_is_only_sets_the_timeout_anew(autojump_clock: Clock) -> None:
    class Lamp(StateMachine[Coin | Notes]):
        initial = "off"

        def __init__(self) -> None:
            self.log: list[str] = []

        @on(Coin)
        def light(self, _: Coin) -> str:
            self.become("on", timeout=5)
            return self.state

        @entered("on", "off")
        def note(self) -> None:
            self.log.append(f"{self.state} at {trio.current_time():.0f}")

        @on_timeout("on")
        async def out(self) -> None:
            await trio.sleep(1)
            self.become("off")

        @on(Notes)
        def notes(self, _: Notes) -> list[str]:
            return self.log

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        lamp = await sup.spawn(Lamp, "lamp")
        for _ in range(3):
            await lamp.ask(Coin(), timeout=1)
            await trio.sleep(4)
        await trio.sleep(10)
        assert await lamp.ask(Notes(), timeout=1) == ["off at 0", "on at 0", "off at 14"]
        assert len(system.deadlines) == 0


async def test_becoming_what_is_not_known_or_not_handled_is_a_mistake(autojump_clock: Clock) -> None:
    class Typo(Door):
        @on(Seize)
        def seize(self, _: Seize) -> None:
            self.become("opne")

        @on(Note)
        def forget(self, _: Note) -> None:
            self.become("seized", timeout=3)

        @on(Note, when=("open", "locked"))
        def note(self, m: Note) -> None:
            self.forget(m)

    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=5)) as sup:
        failures: list[str] = []
        system.subscribe(lambda fact: failures.append(getattr(fact, "error", "")))
        door = await sup.spawn(Typo, "door")
        await door.tell(Seize())
        await door.tell(Note(""))
        await trio.sleep(5)
        text = "\n".join(failures)
        assert "Typo cannot become 'opne': it has the states locked, open, seized" in text
        assert "becomes 'seized' for 3 s, and then?" in text


# ------------------------------------------------------------------------------------------------- making the class


def refused(text: str) -> Any:
    return pytest.raises(MessageError, match=text)


def test_two_handlers_for_one_message_in_one_state_are_refused() -> None:
    with refused("handles Coin in the state 'a' twice: one and two"):

        class Twice(StateMachine[Coin]):
            initial = "a"

            @on(Coin, when=("a", "b"))
            def one(self, _: Coin) -> str:
                return ""

            @on(Coin, when="a")
            def two(self, _: Coin) -> str:
                return ""

    with refused("handles the timeout of 'a' twice"):

        class TwiceLate(StateMachine[Coin]):
            initial = "a"

            @on(Coin, when="a")
            def one(self, _: Coin) -> str:
                return ""

            @on_timeout("a")
            def late(self) -> None: ...

            @on_timeout("a")
            def later(self) -> None: ...


def test_a_state_that_does_not_exist_is_refused() -> None:
    with refused("has no state 'lokced' \\(initial names it\\); it has locked"):

        class NoSuchStart(StateMachine[Coin]):
            initial = "lokced"

            @on(Coin, when="locked")
            def unlock(self, _: Coin) -> str:
                return ""

    with refused("has no state 'opne' \\(@on\\(Coin\\) names it\\); it has locked, open"):

        class Misspelt(StateMachine[Coin]):
            initial = "locked"
            states = ("locked", "open")

            @on(Coin, when=("locked", "opne"))
            def unlock(self, _: Coin) -> str:
                return ""


def test_a_class_must_have_a_beginning_and_keep_its_promises() -> None:
    with refused("has states but no initial one"):

        class NoStart(StateMachine[Coin]):
            @on(Coin, when="a")
            def one(self, _: Coin) -> str:
                return ""

    with refused("promises Push in its protocol"):

        class Broken(StateMachine[Coin | Push]):
            initial = "a"

            @on(Coin, when="a")
            def one(self, _: Coin) -> str:
                return ""

    with refused("otherwise is 'drop'"):

        class Wrong(StateMachine[Coin]):
            initial = "a"
            otherwise = "drop"  # type: ignore[assignment]

            @on(Coin, when="a")
            def one(self, _: Coin) -> str:
                return ""

    with refused("names states with when=, but the class has none"):

        class Plain(Actor[Coin]):
            @on(Coin, when="a")
            def one(self, _: Coin) -> str:
                return ""

    with refused("a state is named by text"):
        entered()


def test_a_subclass_may_take_over_one_state_s_handler() -> None:
    class Generous(Door):
        @on(Push, when="locked")
        def let_in(self, _: Push) -> str:
            return "come in"

    async def main() -> None:
        async with open_system() as system, system.supervisor("s") as sup:
            door = await sup.spawn(Generous, "door")
            assert await door.ask(Push(), timeout=1) == "come in"
            assert await door.ask(Coin(), timeout=1) == "thanks"
            assert await door.ask(Push(), timeout=1) == "through"

    trio.run(main)


# --------------------------------------------------------------------------------------------------- against a model


@given(st.lists(st.sampled_from(["coin", "push", "wait"]), max_size=12))
def test_a_door_is_what_its_table_says(steps: list[str]) -> None:
    async def main() -> None:
        async with open_system(seed=0) as system, system.supervisor("s") as sup:
            door: Ref[Coin | Push | Note | Notes | Seize] = await sup.spawn(Door, "door")
            state, left_s = "locked", 0.0
            for step in steps:
                if step == "wait":
                    await trio.sleep(2)
                    left_s -= 2
                    if state == "open" and left_s <= 0:
                        state = "locked"
                elif step == "coin":
                    answer = await door.ask(Coin(), timeout=1)
                    assert answer == ("thanks" if state == "locked" else "kept while open")
                    if state == "locked":
                        state, left_s = "open", 5.0
                elif state == "locked":
                    with pytest.raises(RefusedError):
                        await door.ask(Push(), timeout=1)
                else:
                    assert await door.ask(Push(), timeout=1) == "through"
                    state = "locked"
            assert len(system.deadlines) == (state == "open")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
