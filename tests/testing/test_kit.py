"""The clock, the fixtures as a plugin, the strategies, and what is said where a package is missing."""

from __future__ import annotations

import enum
import subprocess
import sys
from pathlib import Path
from typing import Any, NewType

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prime
from prime import Actor, Ask, Down, Ref, on
from prime.errors import ActorUsageError
from prime.testing import Probe, advance, messages_of, protocol_of, settle, values_of, virtual_clock

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------------------------------------- clock


@pytest.mark.parametrize("jumps", [False, True])
def test_advance_meets_each_deadline_at_its_own_time(jumps: bool) -> None:
    fired: list[float] = []

    async def tick() -> None:
        while True:
            await trio.sleep(10)
            fired.append(trio.current_time())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await advance(0)
            assert fired == []
            await advance(35)
            assert fired == [10, 20, 30]
            await advance(5)
            assert fired == [10, 20, 30, 40]  # what is due at that very moment has run
            nursery.cancel_scope.cancel()

    trio.run(main, clock=virtual_clock(jumps=jumps))


def test_without_jumps_time_stands_still() -> None:
    async def main() -> None:
        with trio.move_on_after(1) as scope:
            await settle()
        assert trio.current_time() == 0 and not scope.cancelled_caught

    trio.run(main, clock=virtual_clock(jumps=False))


def test_the_real_clock_is_not_advanced() -> None:
    for call in (lambda: advance(1), settle):
        with pytest.raises(ActorUsageError, match="real clock"):
            trio.run(call)


def test_time_does_not_go_back() -> None:
    with pytest.raises(ActorUsageError, match="does not go back"):
        trio.run(advance, -1, clock=virtual_clock())


# ---------------------------------------------------------------------------------------------------------- fixtures


USER_TESTS = """
    from __future__ import annotations
    import trio, prime
    from prime import Actor, on

    @prime.message
    class Go: ...

    class Worker(Actor[Go]):
        @on(Go)
        def go(self, _: Go) -> None: ...

    async def test_leaves_nothing(system, supervisor, probe, facts):
        await (await supervisor.spawn(Worker, "w")).tell(Go())
        await trio.sleep(3600)
        await probe.expect_nothing()

    async def test_leaves_a_timer(system):
        system.deadlines.at(trio.current_time() + 1e6, print)

    async def test_has_its_seed(system):
        async with prime.open_system(seed=1) as same:
            assert system.random.random() == same.random.random()
"""


def test_the_fixtures_are_a_plugin_and_fail_a_test_that_leaves_something(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    pytester.makeconftest(
        'import pytest\npytest_plugins = ["prime.testing.fixtures"]\n@pytest.fixture\ndef system_seed():\n    return 1\n'
    )
    pytester.makepyfile(USER_TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=100)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*the test leaves behind: 1 timers*", "FAILED *test_leaves_a_timer*"])


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("prime.testing.fixtures", "pytest-trio"),
        ("prime.testing.strategies", "hypothesis"),
        ("prime.testing.machine", "hypothesis"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(module: str, missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing.replace('-', '_')!r}] = None\n"
        f"from prime.errors import MissingExtraError\n"
        f"try:\n    import {module}\nexcept MissingExtraError as error:\n    print(error, '|', error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{module} needs {missing} | pip install 'prime-actors[testing]'\n"


def test_the_base_install_is_enough_for_the_probe_and_the_clock() -> None:
    program = (
        "import sys\nfor name in ('pytest', 'pytest_trio', 'hypothesis', 'torch', 'libp2p'): sys.modules[name] = None\n"
        "from prime.testing import Probe, Facts, advance, settle, virtual_clock, check_nothing_left"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# -------------------------------------------------------------------------------------------------------- strategies


Money = NewType("Money", int)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Anything:
    """A class that no wire knows."""


@prime.message
class Local:
    text: str
    price: Money
    colour: Colour
    maybe: tuple[int, ...] | None
    thing: Anything
    by_name: dict[str, list[float]]


@attrs.frozen
class Plain:
    number: int
    nothing: None = None


@prime.message
class Subscribe:
    reply_to: Ref[Plain]
    others: tuple[Ref[Any], ...]
    nested: Plain


@prime.message
class Checked(Ask[int]):
    even: int = attrs.field()

    def __attrs_post_init__(self) -> None:
        if self.even % 2:
            raise ValueError("odd")


class Hub(Actor[Local | Subscribe | Checked | Down]):
    @on(Local, Subscribe, Down)
    def hear(self, m: Local | Subscribe | Down) -> None: ...

    @on(Checked)
    def check(self, m: Checked) -> int:
        return m.even


async def make_ref() -> Ref[Any]:
    async with prime.open_system(seed=0) as system, system.supervisor("s") as sup:
        return (await Probe.spawn(sup)).ref


HERE = trio.run(make_ref)
REFS = st.just(HERE)


@given(messages_of(Local), messages_of(Plain))
@settings(max_examples=30)
def test_local_messages_are_drawn_whatever_they_hold(local: Local, plain: Plain) -> None:
    assert isinstance(local.text, str) and isinstance(local.price, int) and isinstance(local.colour, Colour)
    assert isinstance(local.thing, Anything)
    assert all(isinstance(item, float) for items in local.by_name.values() for item in items)
    assert isinstance(plain.number, int) and plain.nothing is None


@given(messages_of(Checked))
@settings(max_examples=20, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_a_class_refuses_is_not_drawn(checked: Checked) -> None:
    assert checked.even % 2 == 0


@given(messages_of(Subscribe, refs=REFS))
@settings(max_examples=30)
def test_refs_are_drawn_from_what_is_given_at_any_depth(message: Subscribe) -> None:
    assert message.reply_to is HERE
    assert all(ref is HERE for ref in message.others)


def test_a_ref_without_a_choice_is_refused() -> None:
    with pytest.raises(ActorUsageError, match="a field is a prime.actor.ref.Ref"):
        messages_of(Subscribe)
    with pytest.raises(ActorUsageError, match="a field is a"):
        values_of(tuple[Ref[int], ...])


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(ActorUsageError, match="Plain has no field nubmer"):
        messages_of(Plain, nubmer=st.just(1))
    with pytest.raises(ActorUsageError, match="Anything is no message class"):
        messages_of(Anything)


def test_a_message_of_a_function_may_name_its_neighbours() -> None:
    @prime.message
    class Inner:
        number: int

    @prime.message
    class Outer:
        inner: Inner
        later: Ref[Inner] | None

    drawn: list[Outer] = []

    @given(messages_of(Outer, refs=REFS))
    @settings(max_examples=20)
    def draw(message: Outer) -> None:
        drawn.append(message)

    draw()
    assert {type(message.inner) for message in drawn} == {Inner}
    assert {message.later for message in drawn} == {None, HERE}


def test_a_protocol_draws_every_class_of_it_and_nothing_else() -> None:
    drawn: set[type] = set()
    fixed = Checked(2)

    @given(protocol_of(Hub, {Checked: st.just(fixed)}, refs=REFS))
    def draw(message: object) -> None:
        drawn.add(type(message))
        assert not isinstance(message, Checked) or message is fixed

    draw()
    assert drawn == {Local, Subscribe, Checked}


def test_the_protocol_of_a_subclass_and_of_an_actor_of_anything() -> None:
    class Sub(Hub):
        pass

    class Open(Actor[Any]):
        @on(Plain)
        def hear(self, _: Plain) -> None: ...

    class Deaf(Actor[Down]):
        @on(Down)
        def down(self, _: Down) -> None: ...

    assert protocol_of(Sub, refs=REFS) is not None

    @given(protocol_of(Open))
    @settings(max_examples=5)
    def draw(message: object) -> None:
        assert isinstance(message, Plain)

    draw()
    with pytest.raises(ActorUsageError, match="it hears no message"):
        protocol_of(Deaf)
    with pytest.raises(ActorUsageError, match="Plain is not in its protocol"):
        protocol_of(Hub, {Plain: st.just(Plain(1))}, refs=REFS)
