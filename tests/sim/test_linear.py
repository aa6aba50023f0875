"""The judge of histories, itself judged: by histories of known verdict, by brute force, and by real atomic objects."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from prime import sim
from prime.errors import RefusedError, UnreachableError, UsageError
from prime.sim import linear
from prime.sim.linear import CompareAndSet, FencedRegister, Grant, Lease, Model, Operation, Register

INF = math.inf


def op(
    client: str, name: str, *arguments: Any, at: tuple[float, float], result: Any = None, key: str = "x"
) -> Operation:
    """An operation; one that never returns is unknown."""
    outcome: linear.Outcome = "unknown" if at[1] == INF else "returned"
    return Operation(client, key, name, arguments, at[0], at[1], outcome, result)


def wrote(client: str, value: Any, *at: float, key: str = "x") -> Operation:
    return op(client, "write", value, at=(at[0], at[1]), key=key)


def read(client: str, value: Any, *at: float, key: str = "x") -> Operation:
    return op(client, "read", at=(at[0], at[1]), result=value, key=key)


def cas(client: str, old: Any, new: Any, result: bool, *at: float) -> Operation:
    return op(client, "cas", old, new, at=(at[0], at[1]), result=result)


def acquired(holder: str, token: int, until: float, *at: float, ttl_s: float = 10.0) -> Operation:
    return op(holder, "acquire", holder, ttl_s, at=(at[0], at[1]), result=Grant(token, until))


def refused(holder: str, *at: float, ttl_s: float = 10.0) -> Operation:
    return op(holder, "acquire", holder, ttl_s, at=(at[0], at[1]), result=None)


def renewed(holder: str, token: int, until: float | None, *at: float, ttl_s: float = 10.0) -> Operation:
    grant = None if until is None else Grant(token, until)
    return op(holder, "renew", holder, token, ttl_s, at=(at[0], at[1]), result=grant)


def released(holder: str, token: int, done: bool, *at: float) -> Operation:
    return op(holder, "release", holder, token, at=(at[0], at[1]), result=done)


def used(holder: str, token: int, *at: float) -> Operation:
    return op(holder, "use", holder, token, at=(at[0], at[1]))


def fenced(client: str, token: int, value: Any, taken: bool, *at: float) -> Operation:
    return op(client, "write", token, value, at=(at[0], at[1]), result=taken)


REGISTER, SWAP, LEASE, FENCE = Register(0), CompareAndSet(0), Lease(), FencedRegister(0)

GOOD: dict[str, tuple[Model, list[Operation]]] = {
    "nothing": (REGISTER, []),
    "one after the other": (
        REGISTER,
        [wrote("a", 1, 0, 1), read("b", 1, 2, 3), wrote("b", 2, 4, 5), read("a", 2, 6, 7)],
    ),
    # Herlihy and Wing 1990, section 1.1, for a register: both reads overlap the write, and the second sees it.
    "old then new during a write": (REGISTER, [wrote("a", 1, 0, 9), read("b", 0, 1, 2), read("b", 1, 3, 4)]),
    "a read overlapping sees what is not answered yet": (REGISTER, [wrote("a", 1, 0, 9), read("b", 1, 1, 2)]),
    "two writes in either order": (REGISTER, [wrote("a", 1, 0, 3), wrote("b", 2, 1, 2), read("c", 1, 4, 5)]),
    "an unknown write was done": (REGISTER, [wrote("a", 1, 0, INF), read("b", 0, 1, 2), read("b", 1, 100, 101)]),
    "an unknown write was never done": (REGISTER, [wrote("a", 1, 0, INF), read("b", 0, 1, 2), read("b", 0, 100, 101)]),
    "an unknown write settled": (REGISTER, [attrs.evolve(wrote("a", 1, 0, INF), returned_at=4), read("b", 1, 3, 9)]),
    "at one time, so in either order": (REGISTER, [wrote("a", 1, 0, 1), read("b", 0, 1, 2)]),
    "keys are objects of their own": (REGISTER, [wrote("a", 1, 0, 1), read("b", 0, 2, 3, key="y")]),
    "one of two swaps": (SWAP, [cas("a", 0, 1, True, 0, 3), cas("b", 0, 2, False, 1, 2), read("c", 1, 4, 5)]),
    "swaps in a row": (SWAP, [cas("a", 1, 2, True, 0, 9), cas("b", 0, 1, True, 0, 9), read("c", 2, 10, 11)]),
    "a late swap by who timed out": (
        SWAP,
        [cas("a", 1, 2, True, 0, INF), cas("b", 0, 1, True, 5, 6), read("c", 1, 7, 8), read("c", 2, 9, 10)],
    ),
    "a lease after the other": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), refused("b", 9, 9.9), acquired("b", 2, 21, 11, 11.1)],
    ),
    "granted while it ran out": (LEASE, [acquired("a", 1, 10, 0, 0.1), acquired("b", 2, 20, 9.5, 10.1)]),
    "granted early after a release": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), released("a", 1, True, 1, 2), acquired("b", 2, 12, 2, 3)],
    ),
    "renewed in time": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), renewed("a", 1, 18, 8, 8.1), refused("b", 12, 13), used("a", 1, 17, 17.5)],
    ),
    "renewal of a lost one is refused": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), acquired("b", 2, 21, 11, 11.1), renewed("a", 1, None, 12, 13)],
    ),
    "the grant that nobody heard of": (LEASE, [op("a", "acquire", "a", 10.0, at=(0, INF)), refused("b", 5, 6)]),
    "acquired again by its holder": (LEASE, [acquired("a", 1, 10, 0, 0.1), acquired("a", 1, 12, 2, 2.1)]),
    "an old token before any new": (FENCE, [fenced("a", 1, "a", True, 0, 1), fenced("a", 1, "b", True, 2, 3)]),
    "an old token after a new one": (
        FENCE,
        [fenced("b", 2, "b", True, 0, 1), fenced("a", 1, "a", False, 2, 3), read("c", "b", 4, 5)],
    ),
}

BAD: dict[str, tuple[Model, list[Operation]]] = {
    "stale read": (REGISTER, [wrote("a", 1, 0, 1), read("b", 0, 2, 3)]),
    "read of nothing written": (REGISTER, [wrote("a", 1, 0, 1), read("b", 7, 0, 3)]),
    "read from the future": (REGISTER, [read("b", 1, 0, 1), wrote("a", 1, 2, 3)]),
    "new then old during a write": (REGISTER, [wrote("a", 1, 0, 9), read("b", 1, 1, 2), read("b", 0, 3, 4)]),
    "two readers disagree": (
        REGISTER,
        [wrote("a", 1, 0, 9), wrote("b", 2, 0, 9), read("c", 1, 10, 11), read("d", 2, 12, 13)],
    ),
    "lost write": (REGISTER, [wrote("a", 1, 0, 1), wrote("b", 2, 2, 3), read("c", 1, 4, 5)]),
    "dirty read of an unknown write": (REGISTER, [wrote("a", 1, 0, INF), read("b", 1, 1, 2), read("b", 0, 3, 4)]),
    "an unknown write done after it settled": (
        REGISTER,
        [attrs.evolve(wrote("a", 1, 0, INF), returned_at=4), read("b", 0, 5, 6), read("b", 1, 7, 8)],
    ),
    "an unknown write done twice": (
        REGISTER,
        [wrote("a", 1, 0, INF), read("b", 1, 1, 2), wrote("b", 2, 3, 4), read("b", 1, 5, 6)],
    ),
    "lost update": (SWAP, [cas("a", 0, 1, True, 0, 3), cas("b", 0, 2, True, 1, 2)]),
    "a swap refused without a reason": (SWAP, [cas("a", 0, 1, False, 0, 1)]),
    "a swap done though refused": (SWAP, [cas("a", 5, 1, False, 0, 1), read("b", 1, 2, 3)]),
    "double grant": (LEASE, [acquired("a", 1, 10, 0, 0.1), acquired("b", 2, 15, 5, 5.1)]),
    "double grant at once": (LEASE, [acquired("a", 1, 10, 0, 1), acquired("b", 2, 10, 0, 1)]),
    "the same token twice": (LEASE, [acquired("a", 1, 10, 0, 0.1), acquired("b", 1, 21, 11, 11.1)]),
    "tokens fall": (LEASE, [acquired("a", 5, 10, 0, 0.1), acquired("b", 4, 21, 11, 11.1)]),
    "longer than was asked for": (LEASE, [acquired("a", 1, 12, 0, 0.1)]),
    "refused though free": (LEASE, [refused("a", 0, 1)]),
    "refused though over": (LEASE, [acquired("a", 1, 10, 0, 0.1), refused("b", 10.5, 11)]),
    "refused by one that nobody heard of, for too long": (
        LEASE,
        [op("a", "acquire", "a", 10.0, at=(0, INF)), refused("b", 5, 6), refused("b", 17, 18)],
    ),
    "renewed after the end": (LEASE, [acquired("a", 1, 10, 0, 0.1), renewed("a", 1, 22, 12, 13)]),
    "renewed by the other": (LEASE, [acquired("a", 1, 10, 0, 0.1), renewed("b", 1, 12, 2, 3)]),
    "renewal refused though held": (LEASE, [acquired("a", 1, 10, 0, 0.1), renewed("a", 1, None, 2, 3)]),
    "release refused though held": (LEASE, [acquired("a", 1, 10, 0, 0.1), released("a", 1, False, 2, 3)]),
    "used after its end": (LEASE, [acquired("a", 1, 10, 0, 0.1), used("a", 1, 10.5, 11)]),
    "used after another's grant": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), acquired("b", 2, 21, 11, 11.1), used("a", 1, 12, 13)],
    ),
    "used after its release": (LEASE, [acquired("a", 1, 10, 0, 0.1), released("a", 1, True, 1, 2), used("a", 1, 3, 4)]),
    "an unheard renewal frees nothing": (
        LEASE,
        [acquired("a", 1, 10, 0, 0.1), op("a", "renew", "a", 1, 10.0, at=(4, INF)), acquired("b", 2, 15, 5, 6)],
    ),
    "an old token let through": (FENCE, [fenced("b", 2, "b", True, 0, 1), fenced("a", 1, "a", True, 2, 3)]),
    "a good token refused": (FENCE, [fenced("a", 1, "a", True, 0, 1), fenced("b", 2, "b", False, 2, 3)]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_an_atomic_object_could_have_made_is_accepted(name: str) -> None:
    model, operations = GOOD[name]
    verdict = linear.check(operations, model)
    assert verdict.ok, str(verdict)
    verdict.require()
    for key in verdict.keys:
        holds(model, [one for one in operations if one.key == key.key], key.order)


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_atomic_object_could_have_made_is_refused(name: str) -> None:
    model, operations = BAD[name]
    verdict = linear.check(operations, model)
    assert verdict.verdict == "violated"
    with pytest.raises(AssertionError, match="not linearizable"):
        verdict.require()


def test_a_clock_off_by_the_slack_is_forgiven_and_no_more() -> None:
    operations = [acquired("a", 1, 10, 0, 0.1), acquired("b", 2, 19.2, 9.2, 9.3)]
    assert not linear.check(operations, Lease(slack_s=0.5)).ok
    assert linear.check(operations, Lease(slack_s=1.0)).ok


# ---------------------------------------------------------------------------------------------------------- brute force


def holds(model: Model, operations: list[Operation], order: Iterable[Operation]) -> None:
    """Assert that `order` is a witness: the model allows it, all known ones are in it once, real time is kept."""
    done = list(order)
    assert allows(model, done)
    known = [one for one in operations if one.outcome == "returned"]
    assert all(sum(one is other for other in done) == 1 for one in known)
    assert all(one.outcome != "failed" for one in done)
    assert keeps_time(done)


def allows(model: Model, order: Iterable[Operation]) -> bool:
    states = {model.start()}
    for one in order:
        states = {after for state in states for after in model.step(state, one)}
    return bool(states)


def keeps_time(order: list[Operation]) -> bool:
    return not any(
        (later.returned_at, later.ended) < (one.invoked_at, one.began)
        for one, later in itertools.combinations(order, 2)
    )


def by_force(model: Model, operations: list[Operation]) -> bool:
    """Try every order of the known operations and of each choice of the unknown ones."""
    known = [one for one in operations if one.outcome == "returned"]
    unknown = [one for one in operations if one.outcome == "unknown"]
    choices = itertools.chain.from_iterable(itertools.combinations(unknown, n) for n in range(len(unknown) + 1))
    orders = (list(order) for chosen in choices for order in itertools.permutations([*known, *chosen]))
    return any(keeps_time(order) and allows(model, order) for order in orders)


@st.composite
def small_histories(draw: st.DrawFn, calls: st.SearchStrategy[tuple[str, tuple[Any, ...], Any]]) -> list[Operation]:
    """Up to six operations whose answers are anything: some could be, some not."""
    made = []
    for number in range(draw(st.integers(1, 6))):
        name, arguments, result = draw(calls)
        start = draw(st.integers(0, 12))
        end = draw(st.integers(start, 13))
        outcome: linear.Outcome = draw(st.sampled_from(("returned", "returned", "returned", "unknown", "failed")))
        end_at = INF if outcome == "unknown" and draw(st.booleans()) else end
        made.append(Operation(f"c{number}", "x", name, arguments, start, end_at, outcome, result))
    return made


VALUES = st.integers(0, 2)
SWAPS = st.one_of(
    st.tuples(st.just("read"), st.just(()), VALUES),
    st.tuples(st.just("write"), st.tuples(VALUES), st.none()),
    st.tuples(st.just("cas"), st.tuples(VALUES, VALUES), st.booleans()),
)
HOLDERS, TOKENS, TTLS = st.sampled_from("ab"), st.integers(1, 2), st.sampled_from((3.0, 6.0))
GRANTS = st.none() | st.builds(Grant, TOKENS, st.integers(1, 15).map(float))
LEASES = st.one_of(
    st.tuples(st.just("acquire"), st.tuples(HOLDERS, TTLS), GRANTS),
    st.tuples(st.just("acquire"), st.tuples(HOLDERS, TTLS), GRANTS),
    st.tuples(st.just("renew"), st.tuples(HOLDERS, TOKENS, TTLS), GRANTS),
    st.tuples(st.just("release"), st.tuples(HOLDERS, TOKENS), st.booleans()),
    st.tuples(st.just("use"), st.tuples(HOLDERS, TOKENS), st.none()),
)


def agrees(model: Model, operations: list[Operation]) -> None:
    verdict = linear.check(operations, model)
    assert verdict.verdict == ("ok" if by_force(model, operations) else "violated"), str(verdict)
    for key in verdict.keys:
        if verdict.ok:
            holds(model, operations, key.order)


@given(small_histories(SWAPS))
@settings(max_examples=400, deadline=None)
def test_brute_force_agrees_about_swaps(operations: list[Operation]) -> None:
    agrees(SWAP, operations)


@given(small_histories(LEASES))
@settings(max_examples=400, deadline=None)
def test_brute_force_agrees_about_leases(operations: list[Operation]) -> None:
    agrees(LEASE, operations)


# ----------------------------------------------------------------------------------------------------------- real objects


@attrs.define
class Arbiter:
    """A lease as one would write it: the time it acts at is its clock."""

    holder: str | None = None
    token: int = 0
    until: float = -INF

    def acquire(self, now: float, holder: str, ttl_s: float) -> Grant | None:
        if self.holder not in (None, holder) and now < self.until:
            return None
        if self.holder != holder or now >= self.until:
            self.token += 1
            self.until = now
        self.holder, self.until = holder, max(self.until, now + ttl_s)
        return Grant(self.token, self.until)

    def renew(self, now: float, holder: str, token: int, ttl_s: float) -> Grant | None:
        if not self.use(now, holder, token):
            return None
        self.until = max(self.until, now + ttl_s)
        return Grant(self.token, self.until)

    def release(self, now: float, holder: str, token: int) -> bool:
        if not self.use(now, holder, token):
            return False
        self.holder = None
        return True

    def use(self, now: float, holder: str, token: int) -> bool:
        return (self.holder, self.token) == (holder, token) and now < self.until


def lived(seed: int, count: int, overlap: float, unknown: float, act: Any) -> list[Operation]:
    """Operations of a real object: each acts at one moment of its own, somewhere within its call and its answer."""
    draw = random.Random(seed)
    moments = sorted(draw.random() * count for _ in range(count))
    made = []
    for number, moment in enumerate(moments):
        before, after = draw.random() * overlap, draw.random() * overlap
        name, arguments, result, heard = act(draw, moment)
        lost = draw.random() < unknown or not heard
        end, outcome = (INF, "unknown") if lost else (moment + after, "returned")
        made.append(
            Operation(f"c{number}", "x", name, arguments, moment - before, end, outcome, None if lost else result)
        )
    return made


def swapping(unknown: float) -> Any:
    value = [0]

    def act(draw: random.Random, _now: float) -> tuple[str, tuple[Any, ...], Any, bool]:
        name = draw.choice(("read", "write", "cas"))
        if draw.random() < unknown:
            return name, (draw.randrange(4),) * {"read": 0, "write": 1, "cas": 2}[name], None, False
        if name == "read":
            return name, (), value[0], True
        if name == "write":
            value[0] = draw.randrange(4)
            return name, (value[0],), None, True
        old, new = draw.randrange(4), draw.randrange(4)
        swaps = value[0] == old
        value[0] = new if swaps else value[0]
        return name, (old, new), swaps, True

    return act


def leasing(unknown: float) -> Any:
    """Holders of a lease, who know no token that they never heard of."""
    arbiter = Arbiter()
    tokens: dict[str, int] = {}

    def act(draw: random.Random, now: float) -> tuple[str, tuple[Any, ...], Any, bool]:
        holder, ttl_s = draw.choice("abc"), draw.choice((0.5, 2.0, 6.0))
        name, heard = draw.choice(("acquire", "acquire", "renew", "release", "use")), draw.random() >= unknown
        if name == "acquire":
            grant = arbiter.acquire(now, holder, ttl_s)
            if grant and heard:
                tokens[holder] = grant.token
            return name, (holder, ttl_s), grant, heard
        token = tokens.get(holder, 0)
        if name == "renew":
            return name, (holder, token, ttl_s), arbiter.renew(now, holder, token, ttl_s), heard
        if name == "use" and arbiter.use(now, holder, token):
            return name, (holder, token), None, True
        return "release", (holder, token), arbiter.release(now, holder, token), heard

    return act


@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0, 4), st.sampled_from((0.0, 0.1, 0.3)))
@settings(max_examples=150, deadline=None)
def test_what_a_real_register_did_is_accepted(seed: int, count: int, overlap: float, unknown: float) -> None:
    operations = lived(seed, count, overlap, unknown, swapping(unknown))
    verdict = linear.check(operations, SWAP)
    assert verdict.ok, str(verdict)
    holds(SWAP, operations, verdict.keys[0].order)


@given(st.integers(0, 2**32), st.integers(1, 30), st.floats(0, 3), st.sampled_from((0.0, 0.1, 0.3)))
@settings(max_examples=150, deadline=None)
def test_what_a_real_lease_did_is_accepted(seed: int, count: int, overlap: float, unknown: float) -> None:
    operations = lived(seed, count, overlap, 0.0, leasing(unknown))
    verdict = linear.check(operations, Lease(slack_s=1e-9))
    assert verdict.ok, str(verdict)


@given(st.integers(0, 2**32), st.integers(0, 39))
@settings(max_examples=100, deadline=None)
def test_one_wrong_answer_among_many_is_found(seed: int, which: int) -> None:
    operations = lived(seed, 40, 0.0, 0.0, swapping(0.0))
    one = operations[which]
    wrong = {"read": 9, "write": None, "cas": not one.result}[one.name]
    operations[which] = attrs.evolve(one, result=wrong)
    verdict = linear.check(operations, SWAP)
    assert verdict.ok == (one.name == "write")
    if not verdict.ok:
        assert verdict.counterexample and verdict.counterexample.culprit is operations[which]


# ------------------------------------------------------------------------------------------------------------- the answer


def test_a_counterexample_can_be_read() -> None:
    operations = [
        wrote("alice", 1, 0, 1),
        wrote("alice", 2, 2, INF),
        read("bob", 2, 3, 4),
        read("carol", 1, 5, 6),
        read("dave", 1, 7, 8),
        wrote("alice", 3, 20, 21),
    ]
    verdict = linear.check(operations, REGISTER)
    found = verdict.counterexample
    assert found and found.culprit is operations[3]
    assert found.operations == tuple(operations[:4])
    assert str(verdict).splitlines() == [
        "not linearizable: key 'x', 4 operations; no order explains read() → 1 of carol",
        "",
        "  alice  ├─┤              0.000..1.000 s     write(1) → None",
        "  alice      ├─────────┄  2.000..… s         write(2), unknown",
        "  bob          ├─┤        3.000..4.000 s     read() → 2",
        "  carol            ├─┤    5.000..6.000 s     read() → 1  ✗",
        "",
        "before it, the object could be:",
        "  2  after alice: write(1) → None < alice: write(2), unknown < bob: read() → 2",
    ]


def test_a_long_counterexample_shows_its_end() -> None:
    operations = [wrote("a", n, 2 * n, 2 * n + 1) for n in range(100)]
    text = str(linear.check([*operations, read("b", 3, 500, 501)], REGISTER))
    assert "… 85 operations before these" in text
    assert "write(99)" in text and "write(84)" not in text
    assert len(text.splitlines()) < 30


def test_the_culprit_is_the_first_over_all_keys() -> None:
    verdict = linear.check([read("a", 5, 4, 5, key="y"), read("a", 6, 1, 2, key="z"), read("a", 0, 1, 2)], REGISTER)
    assert verdict.counterexample and verdict.counterexample.key == "z"
    assert [key.verdict for key in verdict.keys] == ["violated", "violated", "ok"]


def test_work_is_bounded_and_the_answer_says_so() -> None:
    together = [wrote(f"w{n}", n, 0, 100) for n in range(1, 13)]
    verdict = linear.check([*together, *(read(f"r{n}", n, 0, 100) for n in range(1, 13))], REGISTER, work_max=2000)
    assert verdict.verdict == "unknown" and not verdict.ok
    assert verdict.steps == 2001 and verdict.keys[0].ways_max > 1
    assert "gave up at" in str(verdict) and "raise work_max" in str(verdict)
    with pytest.raises(AssertionError, match="work ran out"):
        verdict.require()


def test_a_violation_of_one_key_outweighs_doubt_about_another() -> None:
    together = [wrote(f"w{n}", n, 0, 100) for n in range(1, 13)]
    crowd = [*together, *(read(f"r{n}", n, 0, 100) for n in range(1, 13))]
    verdict = linear.check([*crowd, read("a", 5, 0, 1, key="y")], REGISTER, work_max=2000)
    assert verdict.verdict == "violated"


def test_an_operation_that_the_model_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="Register has no operation 'cas'"):
        linear.check([cas("a", 0, 1, True, 0, 1)], REGISTER)


# -------------------------------------------------------------------------------------------------------------- the cost


def test_thousands_of_operations_take_about_a_second() -> None:
    operations = lived(7, 5000, 1.5, 0.0, swapping(0.0))
    began = time.process_time()
    verdict = linear.check(operations, SWAP)
    assert verdict.ok
    assert verdict.steps < 100_000
    assert time.process_time() - began < 10, "ten times what it takes on a slow machine"


def test_many_unknown_writes_do_not_multiply() -> None:
    lost = [wrote(f"l{n}", n, n, INF) for n in range(1, 60)]
    seen = [read("r", n, 100 + 2 * n, 101 + 2 * n) for n in range(1, 60)]
    verdict = linear.check([*lost, *seen], REGISTER)
    assert verdict.ok and verdict.steps < 100_000
    assert not linear.check([*lost, *seen, read("r", 30, 400, 401)], REGISTER).ok


def test_unknown_acquires_that_settle_do_not_multiply() -> None:
    lost = [op(f"l{n}", "acquire", f"l{n}", 5.0, at=(float(n), INF)) for n in range(200)]
    settled = [attrs.evolve(one, returned_at=one.invoked_at + 6) for one in lost]
    asked = [refused(f"r{n}", n + 0.1, n + 0.5) for n in range(200)]
    verdict = linear.check([*settled, *asked], LEASE)
    assert verdict.ok and verdict.steps < 200_000, str(verdict)
    assert linear.check([*lost, *asked], LEASE, work_max=10_000).verdict == "unknown"


# --------------------------------------------------------------------------------------------------------------- recording


class Tick:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_recorded_is_what_happened() -> None:
    clock = Tick()
    history = linear.History(clock)
    with history.operation("a", "x", "write", (1,)) as one:
        clock.now = 1.5
        one.returned()
    with pytest.raises(UnreachableError), history.operation("a", "x", "write", (2,)):
        raise UnreachableError("nobody there", hint="wait")
    with pytest.raises(RefusedError), history.operation("a", "x", "write", (3,)):
        raise RefusedError("no", hint="ask another")
    with history.operation("b", "x", "read") as one:
        one.returned(2)
    assert [(o.invoked_at, o.returned_at, o.outcome, o.result) for o in history.operations] == [
        (0.0, 1.5, "returned", None),
        (1.5, INF, "unknown", None),
        (1.5, 1.5, "failed", None),
        (1.5, 1.5, "returned", 2),
    ]
    assert history.check(REGISTER).ok


def test_calls_and_ends_are_noted_in_the_history_of_the_run() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        history = linear.History(trio.current_time, note=world.note)
        with history.operation("a", "x", "cas", (0, 1)) as one:
            one.returned(True)

    outcome = sim.run(0, body)
    assert [(e.kind, e.subject, e.detail) for e in outcome.history if e.kind in {"calls", "ends"}] == [
        ("calls", "a: cas(0, 1)", "key=x"),
        ("ends", "a: cas(0, 1) → True", "key=x"),
    ]


def test_the_order_at_one_time_is_the_recorded_one() -> None:
    history = linear.History(lambda: 0.0)
    with history.operation("a", "x", "write", (1,)) as one:
        one.returned()
    with history.operation("b", "x", "read") as one:
        one.returned(0)
    assert history.check(REGISTER).verdict == "violated"


def test_what_was_never_ended_is_unknown() -> None:
    history = linear.History(lambda: 0.0)
    hanging = history.operation("a", "x", "write", (1,))
    hanging.__enter__()
    with history.operation("b", "x", "read") as one:
        one.returned(1)
    assert history.operations[0].outcome == "unknown"
    assert history.check(REGISTER).ok


async def test_who_is_cancelled_does_not_know(autojump_clock: trio.testing.MockClock) -> None:
    history = linear.History(trio.current_time)
    with trio.move_on_after(1), history.operation("a", "x", "write", (1,)):
        await trio.sleep_forever()
    assert [(one.outcome, one.returned_at) for one in history.operations] == [("unknown", INF)]


async def test_an_unknown_operation_settles_when_it_said_so(autojump_clock: trio.testing.MockClock) -> None:
    history = linear.History(trio.current_time)
    start = trio.current_time()
    with trio.move_on_after(1), history.operation("a", "x", "write", (1,), settles_s=2.0):
        await trio.sleep_forever()
    assert [(one.outcome, one.returned_at - start) for one in history.operations] == [("unknown", 3.0)]


def test_an_answer_before_an_exception_counts() -> None:
    history = linear.History(lambda: 0.0)
    with pytest.raises(ValueError), history.operation("a", "x", "write", (1,)) as one:
        one.returned()
        raise ValueError
    assert history.operations[0].outcome == "returned"


def test_an_end_is_said_and_said_once() -> None:
    history = linear.History(lambda: 0.0)
    with pytest.raises(UsageError, match="nothing was said"), history.operation("a", "x", "read"):
        pass
    with pytest.raises(UsageError, match="ends once"), history.operation("a", "x", "read") as one:
        one.failed()
        one.returned(1)
    assert [one.outcome for one in history.operations] == ["unknown", "failed"]


def test_a_history_is_bounded_and_takes_only_what_can_be_compared() -> None:
    history = linear.History(lambda: 0.0, operations_max=1)
    with pytest.raises(UsageError, match="cannot be hashed"), history.operation("a", "x", "write", ([],)):
        pytest.fail("not reached")
    with history.operation("a", "x", "write", (1,)) as one:
        one.unknown()
    with pytest.raises(UsageError, match="more than 1"), history.operation("a", "x", "read"):
        pytest.fail("not reached")


# ------------------------------------------------------------------------------------------- unknown ones that settle


def test_of_two_alike_the_one_that_settles_first_may_be_used_first() -> None:
    early = Operation("a", "x", "write", (1,), 0.0, 10.0, "unknown")
    late = Operation("b", "x", "write", (1,), 1.0, 3.0, "unknown")
    rest = [read("c", 1, 2.0, 2.5), wrote("c", 0, 4.0, 5.0), read("c", 1, 6.0, 7.0)]
    assert linear.check([early, late, *rest], Register(0)).ok
    once = linear.check([attrs.evolve(early, returned_at=3.0), late, *rest], Register(0))
    assert once.verdict == "violated"  # both are settled before the second read


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"invoked_at": 2.0}, "it lasts from 2.0 to 1.0"),
        ({"invoked_at": math.nan}, "it lasts from nan"),
        ({"returned_at": math.nan}, "to nan"),
        ({"outcome": "lost"}, "its outcome is 'lost'"),
        ({"arguments": ([1],)}, "cannot be hashed"),
    ],
)
def test_an_operation_that_cannot_have_been_is_refused(changes: dict[str, Any], told: str) -> None:
    one = attrs.evolve(wrote("a", 1, 0.0, 1.0), **changes)
    with pytest.raises(UsageError, match=told) as raised:
        linear.check([one], Register(0))
    assert raised.value.hint


@pytest.mark.parametrize("settles_s", [-1.0, math.nan])
def test_an_operation_settles_no_earlier_than_it_ends(settles_s: float) -> None:
    history = linear.History(lambda: 0.0)
    with pytest.raises(UsageError, match="settles_s"), history.operation("a", "x", "read", settles_s=settles_s):
        raise AssertionError("never begun")
    assert history.operations == ()
