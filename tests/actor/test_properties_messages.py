"""No message is lost or doubled, order is kept, nobody starves, and it is the same wherever an ask is answered."""

from __future__ import annotations

import contextlib
import contextvars
from collections import Counter
from typing import Any, Literal

import attrs
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st

from prime.actor import Actor, Mailbox, Ref, Restart, on
from prime.errors import ActorCrashedError, DeadlineError, MailboxFullError, PrimeError, RefusedError
from prime.node.system import open_system
from prime.testing import virtual_clock
from prime.wire import Ask

Action = Literal[
    "ok", "crash", "refuse", "stash", "unstash", "defer", "forget", "slow", "stop", "side_crash", "stash_crash"
]
ACTIONS: tuple[Action, ...] = (
    "ok",
    "crash",
    "refuse",
    "stash",
    "stash_crash",
    "unstash",
    "defer",
    "forget",
    "slow",
    "stop",
    "side_crash",
)
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


@attrs.frozen
class Body:
    """What every message here carries: its own number, its sender's, and what the handler shall do."""

    number: int
    sender: int
    action: Action


@attrs.frozen(eq=False)
class Tell:
    body: Body


@attrs.frozen(eq=False)
class AsyncTell:
    body: Body


@attrs.frozen(eq=False)
class Urgent:
    body: Body


@attrs.frozen(eq=False)
class Query(Ask[int]):
    body: Body


@attrs.frozen(eq=False)
class AsyncQuery(Ask[int]):
    body: Body


@attrs.frozen(eq=False)
class UrgentQuery(Ask[int]):
    body: Body


URGENT = (Urgent, UrgentQuery)


@attrs.define
class Book:
    """What became of every message, over all incarnations."""

    seen: list[tuple[type, Body]] = attrs.field(factory=list)
    handled: Counter[int] = attrs.field(factory=Counter)
    broken: Counter[int] = attrs.field(factory=Counter)
    """In hand when the actor failed, or when it was stopped and did not end in time."""
    buried: Counter[int] = attrs.field(factory=Counter)
    variables: list[int] = attrs.field(factory=list)
    later: list[Any] = attrs.field(factory=list)


class Clerk(Actor[Tell | AsyncTell | Urgent | Query | AsyncQuery | UrgentQuery]):
    """Does what each message says and keeps the book."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.stashed: set[int] = set()

    @on(Tell, Urgent, Query, UrgentQuery)
    def handle(self, m: Any) -> Any:
        with self._booked(m):
            if m.body.action == "slow":
                return m.body.number
            return self._act(m)

    @on(AsyncTell, AsyncQuery)
    async def handle_async(self, m: Any) -> Any:
        with self._booked(m):
            if m.body.action == "slow":
                await trio.sleep(0.25)
            return self._act(m)

    @contextlib.contextmanager
    def _booked(self, m: Any) -> Any:
        book, number = self.book, m.body.number
        book.seen.append((type(m), m.body))
        book.variables.append(VARIABLE.get())
        VARIABLE.set(number + 1)
        try:
            yield
        except RefusedError:
            book.handled[number] += 1
            raise
        except BaseException:
            book.broken[number] += 1
            raise
        if number in self.stashed:
            return
        book.handled[number] += 1

    def _act(self, m: Any) -> Any:
        body: Body = m.body
        self.stashed.discard(body.number)
        match body.action:
            case "crash":
                raise ValueError(body.number)
            case "refuse" if isinstance(m, Ask):
                raise RefusedError(str(body.number))
            case "stash" if self.book.seen.count((type(m), body)) == 1:
                self.stashed.add(body.number)
                self.ctx.stash()
            case "stash_crash":
                self.ctx.stash()
                raise ValueError(body.number)
            case "unstash":
                self.ctx.unstash_all()
            case "defer" | "forget" if isinstance(m, Ask):
                later = self.ctx.defer()
                self.book.later.append(later)
                if body.action == "defer":
                    self.ctx.start_soon(answer, later, body.number)
            case "stop":
                self.ctx.stop()
            case "side_crash":
                self.ctx.start_soon(fail_soon, body.number)
        return body.number


async def answer(later: Any, number: int) -> None:
    await trio.sleep(0.1)
    later.reply(number)


async def fail_soon(number: int) -> None:
    await trio.sleep(0.1)
    raise ValueError(number)


@attrs.frozen
class Step:
    """One thing that a sender does, after a pause."""

    verb: Literal["tell", "tell_nowait", "ask"]
    kind: type
    action: Action
    pause_s: float
    patience_s: float


def kinds_of(verb: str) -> list[type]:
    return [Query, AsyncQuery, UrgentQuery] if verb == "ask" else [Tell, AsyncTell, Urgent]


PAUSES = st.sampled_from([0.0] * 6 + [0.05, 0.1, 0.3, 1.0])


def steps_of(actions: tuple[Action, ...]) -> st.SearchStrategy[Step]:
    """Draw a step with one of these actions: a case with few of them sees more of what they do to each other."""
    return st.sampled_from(["tell", "tell", "tell_nowait", "ask"]).flatmap(
        lambda verb: st.builds(
            Step,
            verb=st.just(verb),
            kind=st.sampled_from(kinds_of(verb)),
            action=st.sampled_from(actions),
            pause_s=PAUSES,
            patience_s=st.sampled_from([0.0, 0.1, 0.3, 5.0, 50.0, 50.0, 50.0]),
        )
    )


THEMES: list[tuple[Action, ...]] = [
    ("stash", "unstash", "ok"),
    ("stash", "crash", "ok"),
    ("stash", "side_crash"),
    ("stash", "stash_crash", "ok"),
    ("stash", "ok", "slow"),
    ("stash", "unstash", "refuse", "stop"),
    ("ok", "slow", "crash"),
    ("ok", "slow"),
    ("defer", "forget", "crash", "slow"),
    ("defer", "forget", "stop"),
    ("slow", "side_crash", "defer"),
    ACTIONS,
]
SOME_ACTIONS = st.sampled_from(THEMES)
ORDERS = st.tuples(PAUSES, st.sampled_from(["suspend", "resume", "stop", "nothing"]))
MAILBOXES = st.builds(
    Mailbox,
    capacity=st.sampled_from([1, 2, 3, 100]),
    full=st.sampled_from(["wait", "wait", "wait", "reject", "drop_oldest", "drop_newest"]),
    lanes=st.sampled_from([(), (URGENT,)]),
    on_restart=st.sampled_from(["keep", "keep", "clear"]),
    stash=st.just(1000),
)


@attrs.frozen
class Case:
    """A whole schedule: who sends what, what the supervisor is told, and what kind of actor it is."""

    senders: list[list[Step]]
    orders: list[tuple[float, str]]
    mailbox: Mailbox
    kind: Any
    passivate: float | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a schedule in which all happens at once."""
    step = steps_of(draw(SOME_ACTIONS))
    return Case(
        senders=draw(st.lists(st.lists(step, min_size=5, max_size=12), min_size=1, max_size=3)),
        orders=draw(st.lists(ORDERS, max_size=4)),
        mailbox=draw(MAILBOXES),
        kind=draw(st.sampled_from(["permanent", "permanent", "permanent", "transient", "temporary"])),
        passivate=draw(st.sampled_from([None, None, 0.2])),
    )


@st.composite
def calm_cases(draw: st.DrawFn) -> Case:
    """Draw a schedule in which one thing happens after the other."""
    step = steps_of(draw(SOME_ACTIONS)).map(lambda step: attrs.evolve(step, pause_s=1.0, patience_s=0.5))
    return Case(
        senders=[draw(st.lists(step, min_size=4, max_size=12))],
        orders=[],
        mailbox=Mailbox(100, on_restart=draw(st.sampled_from(["keep", "clear"]))),
        kind=draw(st.sampled_from(["permanent", "permanent", "transient", "temporary"])),
        passivate=draw(st.sampled_from([None, 3.0])),
    )


class NullTracer:
    """A tracer that follows nothing; with one, asks are never answered in the asker's task."""

    def sending(self, path: str, kind: str) -> str | None:
        return None

    def handling(self, path: str, kind: str, trace: str | None) -> Any:
        return contextlib.nullcontext()


@attrs.define
class Outcome:
    """What the senders saw, by message number: `sent`, `refused`, `impatient`, an answer, or an error's class."""

    book: Book
    results: dict[int, Any] = attrs.field(factory=dict)
    bodies: dict[int, tuple[Step, Body]] = attrs.field(factory=dict)
    ends: list[str] = attrs.field(factory=list)
    handled: int = 0
    words: list[str] = attrs.field(factory=list)


async def send(ref: Ref[Any], step: Step, message: Any) -> Any:
    match step.verb:
        case "ask":
            return await ref.ask(message, timeout=step.patience_s)
        case "tell":
            with trio.move_on_after(step.patience_s) as scope:
                await ref.tell(message)
            return "impatient" if scope.cancelled_caught else "sent"
    ref.tell_nowait(message)
    return "sent"


async def play_sender(ref: Ref[Any], place: int, steps: list[Step], out: Outcome) -> None:
    for index, step in enumerate(steps):
        await trio.sleep(step.pause_s)
        body = Body(place * 100 + index, place, step.action)
        out.bodies[body.number] = (step, body)
        try:
            result = await send(ref, step, step.kind(body))
        except PrimeError as error:
            result = type(error)
            out.words.append(str(error))
        assert body.number not in out.results
        out.results[body.number] = result


async def play(case: Case, *, tracer: Any = None, statistics: bool = True) -> Outcome:
    out = Outcome(Book())
    with trio.fail_after(10_000):
        async with open_system(seed=0, tracer=tracer, statistics=statistics) as system:
            bury = system.dead_letter

            def note(path: str, message: Any, reason: str) -> None:
                out.book.buried[message.body.number] += 1
                bury(path, message, reason)

            system.dead_letter = note  # type: ignore[method-assign]
            restart = Restart(max=1000, within=1e9, backoff=(0.1, 0.2))
            async with system.supervisor("s", restart=restart) as sup:
                ref = await sup.spawn(
                    lambda: Clerk(out.book),
                    "clerk",
                    mailbox=case.mailbox,
                    kind=case.kind,
                    passivate=case.passivate,
                    shutdown=1,
                )
                system.watch(ref, out.ends.append)
                async with trio.open_nursery() as nursery:
                    for place, steps in enumerate(case.senders):
                        nursery.start_soon(play_sender, ref, place, steps, out)
                    for pause_s, order in case.orders:
                        await trio.sleep(pause_s)
                        with contextlib.suppress(PrimeError):
                            match order:
                                case "stop":
                                    await sup.stop(ref)
                                case "suspend":
                                    sup.suspend(ref)
                                case "resume":
                                    sup.resume(ref)
                    await trio.sleep(30)
                    with contextlib.suppress(PrimeError):
                        sup.resume(ref)
                await trio.sleep(100)
                out.handled = ref.cell.handled  # type: ignore[attr-defined]
                assert not out.ends or ref.cell.state == "dead"  # type: ignore[attr-defined]
                assert not ref.cell.queue and not ref.cell.waiting  # type: ignore[attr-defined]
                await sup.stop(ref)
                assert not ref.cell.queue and not ref.cell.waiting and not ref.cell.stash  # type: ignore[attr-defined]
                await trio.sleep(10)
            assert not any(system.leftovers().values()), system.leftovers()
            assert not system._cells
    return out


def check_fates(case: Case, out: Outcome) -> None:
    book = out.book
    for number, (step, body) in out.bodies.items():
        fates = book.handled[number], book.broken[number], book.buried[number]
        result = out.results[number]
        told = f"{step.kind.__name__} {body}: {fates}, {result}"
        if result == "sent":
            assert sum(fates) == 1, told
        elif result in {"impatient", MailboxFullError}:
            assert sum(fates) == 0, told
            assert result is MailboxFullError or step.patience_s < 50, told
        elif result is DeadlineError:
            assert sum(fates) <= 1, told
            # Nobody waits that long for an actor that is suspended at most half of it, unless it keeps the ask.
            assert step.patience_s < 50 or body.action in {"forget", "stash"}, told
        elif result is ActorCrashedError:
            assert sum(fates) == 1 and not book.buried[number], told
        elif result is RefusedError:
            assert fates == (1, 0, 0) and body.action == "refuse", told
        elif isinstance(result, int):
            assert result == number and fates == (1, 0, 0), told
        else:
            assert book.buried[number] == 1, told
    assert len(out.ends) == 1
    for fate in (book.handled, book.broken, book.buried):
        event(f"{min(sum(fate.values()), 3)} or more")


def check_order(case: Case, out: Outcome) -> None:
    """Per sender and lane, messages are first seen in the order in which they were sent."""
    first: dict[int, tuple[type, Body]] = {}
    for kind, body in out.book.seen:
        first.setdefault(body.number, (kind, body))
    for urgent in (False, True):
        for sender in range(len(case.senders)):
            numbers = [
                number
                for number, (kind, body) in first.items()
                if body.sender == sender and (not case.mailbox.lanes or (kind in URGENT) == urgent)
            ]
            assert numbers == sorted(numbers)


def check_stash(case: Case, out: Outcome) -> None:
    """Within a lane, what was stashed comes back in the order in which it came."""
    sights: dict[int, list[int]] = {}
    for place, (_, body) in enumerate(out.book.seen):
        sights.setdefault(body.number, []).append(place)
    for urgent in (False, True):
        back = [
            places
            for number, places in sights.items()
            if out.bodies[number][1].action == "stash"
            and len(places) > 1
            and (not case.mailbox.lanes or (out.bodies[number][0].kind in URGENT) == urgent)
        ]
        event(f"{min(len(back), 3)} come back")
        assert [places[1] for places in back] == sorted(places[1] for places in back)


@given(case=cases(), traced=st.booleans())
@settings(max_examples=settings().max_examples * 2)
def test_each_message_is_handled_once_or_is_a_dead_letter_or_was_in_hand_at_a_crash(case: Case, traced: bool) -> None:
    out = trio.run(lambda: play(case, tracer=NullTracer() if traced else None), clock=virtual_clock())
    check_fates(case, out)
    check_order(case, out)
    check_stash(case, out)


# ----------------------------------------------------- in the asker's task or not


@given(case=calm_cases())
def test_an_ask_is_the_same_in_the_askers_task_and_in_the_actors(case: Case) -> None:
    here, there = (
        trio.run(lambda tracer=tracer: play(case, tracer=tracer), clock=virtual_clock())
        for tracer in (None, NullTracer())
    )
    assert here.results == there.results
    assert here.words == there.words
    assert here.book.seen == there.book.seen
    assert here.book.variables == there.book.variables
    assert (here.book.handled, here.book.broken, here.book.buried) == (
        there.book.handled,
        there.book.broken,
        there.book.buried,
    )
    assert here.handled == there.handled


@attrs.frozen
class Begin:
    other: Ref[Any]
    then: Ref[Any] | None = None


@attrs.frozen
class Back(Ask[str]):
    asker: Ref[Any]
    then: Ref[Any] | None = None


@attrs.frozen
class Hint:
    text: str


class Talker(Actor[Begin | Back | Hint]):
    """Asks another, which tells it something before it answers, and may ask on."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    @on(Begin)
    async def begin(self, m: Begin) -> None:
        try:
            self.log.append(await m.other.ask(Back(self.ctx.self_ref, m.then), timeout=5))
        except PrimeError as error:
            self.log.append(f"{type(error).__name__}: {error}")

    @on(Back)
    def back(self, m: Back) -> Any:
        m.asker.tell_nowait(Hint("before the answer"))
        if m.then is None:
            return "the answer"
        then, later = m.then, self.ctx.defer()
        self.ctx.self_ref.tell_nowait(Begin(then))
        self.ctx.start_soon(settle, later)
        return later

    @on(Hint)
    def hint(self, m: Hint) -> None:
        self.log.append(m.text)


async def settle(later: Any) -> None:
    await trio.sleep(1)
    later.reply("late")


def test_whom_it_asks_and_who_asks_it_are_the_same_in_the_askers_task_and_in_the_actors() -> None:
    async def main(tracer: Any) -> list[str]:
        log: list[str] = []
        async with open_system(tracer=tracer) as system, system.supervisor("s") as sup:
            a, b = await sup.spawn(lambda: Talker(log), "a"), await sup.spawn(lambda: Talker(log), "b")
            for begin in (Begin(b), Begin(a), Begin(b, then=a)):
                await a.tell(begin)
                await trio.sleep(10)
        return log

    here, there = (trio.run(main, tracer, clock=virtual_clock()) for tracer in (None, NullTracer()))
    assert here == there
    assert here[:2] == ["the answer", "before the answer"]
    assert here[2].startswith("AskCycleError: /s/a asks itself: it would wait for ever")
    assert here[3].startswith("AskCycleError: /s/b asks itself through /s/b -> /s/a -> /s/b")
    assert here[4:] == ["late", "before the answer"]
