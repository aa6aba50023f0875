"""The supervisor equals a small reference model under any schedule of crashes, stops and failing starts.

In the model starts and stops take no time; what takes time are the delays before restarts, and things happen in them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import attrs
import trio
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from prime.actor import Actor, Ref, Restart, Supervisor, System, on
from prime.errors import RestartLimitError
from prime.node.system import open_system
from prime.testing import virtual_clock

WITHIN_S = 20.0


class HopelessError(Exception):
    """What no restart mends, in those supervisors that say so."""


@attrs.frozen
class Leaf:
    """An actor: when it comes back, and which of its starts (0 is the first) fail, and where."""

    name: str
    kind: Any
    failing: dict[int, str]


@attrs.frozen
class Branch:
    """A supervisor."""

    name: str
    kind: Any
    strategy: Any
    restarts_max: int
    hopeless: bool
    children: tuple[Leaf | Branch, ...]

    @property
    def restart(self) -> Restart:
        """Its intensity; the delays are 1, 2, 4, 4 … seconds."""
        return Restart(
            max=self.restarts_max,
            within=WITHIN_S,
            backoff=(1.0, 4.0),
            hopeless=(HopelessError,) if self.hopeless else (),
        )


# ------------------------------------------------------------------- the model


@attrs.define(eq=False)
class Node:
    """A child in the model."""

    spec: Leaf | Branch
    parent: Node | None
    up: bool = False
    due: object = None
    starts: int = 0
    times: list[float] = attrs.field(factory=list)
    children: list[Node] = attrs.field(factory=list)

    @property
    def name(self) -> str:
        return self.spec.name


@attrs.define
class Model:
    """What must happen: `log` holds `(time, +up, !failed start, -stopped)`."""

    root: Node
    now: float = 0.0
    log: list[tuple[float, str]] = attrs.field(factory=list)
    error: type | None = None
    _pending: list[tuple[float, int, Node, tuple[Node, ...], object]] = attrs.field(factory=list)

    @classmethod
    def of(cls, spec: Branch) -> Model:
        model = cls(Node(spec, None))
        model.start(model.root)
        return model

    def note(self, mark: str, node: Node) -> None:
        self.log.append((round(self.now, 6), mark + node.name))

    def until(self, when: float) -> None:
        """Let the restarts happen that are due before `when`."""
        while self._pending and self._pending[0][0] < when and self.error is None:
            self.now, _, sup, group, token = heapq.heappop(self._pending)
            if sup.up:
                self.restart(sup, group, token)
        self.now = when

    @property
    def times_due(self) -> Iterator[float]:
        return (entry[0] for entry in self._pending)

    # what a node does

    def start(self, node: Node) -> str:
        """Start a node; return how that failed, or an empty string."""
        attempt, node.starts = node.starts, node.starts + 1
        node.due = None
        if isinstance(node.spec, Leaf):
            how = node.spec.failing.get(attempt, "")
            if how:
                self.note("!", node)
                if how == "started":
                    self.note("-", node)
                return how
            node.up = True
            self.note("+", node)
            return ""
        node.up, node.times, node.children = True, [], []
        for spec in node.spec.children:
            child = Node(spec, node)
            node.children.append(child)
            self.start(child)
        return ""

    def halt(self, node: Node) -> None:
        """Stop a node in order: a branch from its last child to its first."""
        if not node.up:
            return
        if isinstance(node.spec, Leaf):
            self.note("-", node)
        for child in reversed(node.children):
            self.halt(child)
        node.up, node.children = False, []

    def fail(self, node: Node, error: type | None) -> None:
        """A leaf that is up ends: by a failure, or of itself and in order."""
        self.note("-", node)
        node.up = False
        self.ended(node, error)

    def remove(self, node: Node) -> None:
        """Somebody stops a child for good."""
        self.halt(node)
        assert node.parent is not None
        node.parent.children.remove(node)

    # what a supervisor decides

    def ended(self, node: Node, error: type | None) -> None:
        sup = node.parent
        if sup is None:
            self.error = error
            return
        spec = sup.spec
        assert isinstance(spec, Branch)
        if node.spec.kind == "temporary" or (node.spec.kind == "transient" and error is None):
            sup.children.remove(node)
            return
        if error is HopelessError and spec.hopeless:
            self.give_up(sup, error)
            return
        sup.times = [time for time in sup.times if time > self.now - WITHIN_S]
        if len(sup.times) >= spec.restarts_max:
            self.give_up(sup, RestartLimitError)
            return
        sup.times.append(self.now)
        delay_s = min(2.0 ** (len(sup.times) - 1), 4.0)
        self.schedule(sup, node, delay_s)

    def schedule(self, sup: Node, node: Node, delay_s: float) -> None:
        place = sup.children.index(node)
        assert isinstance(sup.spec, Branch)
        group = {
            "one_for_one": [node],
            "one_for_all": sup.children[:],
            "rest_for_one": sup.children[place:],
        }[sup.spec.strategy]
        token = object()
        for member in reversed(group):
            self.halt(member)
            if member.spec.kind == "temporary":
                sup.children.remove(member)
            else:
                member.due = token
        heapq.heappush(self._pending, (self.now + delay_s, len(self.log), sup, tuple(group), token))

    def restart(self, sup: Node, group: tuple[Node, ...], token: object) -> None:
        for place, member in enumerate(group, 1):
            if member not in sup.children or member.due is not token:
                continue
            if self.start(member):
                later = object()
                for one in group[place:]:
                    if one.due is token:
                        one.due = later
                self.ended(member, OSError)
                if sup.up:
                    self.restart(sup, group[place:], later)
                return

    def give_up(self, sup: Node, error: type) -> None:
        self.halt(sup)
        self.ended(sup, error)

    def find(self, name: str) -> Node | None:
        return next((node for node in nodes(self.root) if node.name == name), None)


def nodes(node: Node) -> Iterator[Node]:
    """Yield the nodes under a node, in start order."""
    for child in node.children:
        yield child
        yield from nodes(child)


# ------------------------------------------------------------------- the truth


@attrs.frozen
class Order:
    what: str


class Part(Actor[Order]):
    """A leaf."""

    def __init__(self, world: World, spec: Leaf, attempt: int) -> None:
        self.world, self.spec = world, spec
        self.how = spec.failing.get(attempt, "")
        if self.how == "factory":
            world.note(f"!{spec.name}")
            raise OSError("no such thing")

    async def started(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.how == "started":
            self.world.note(f"!{self.spec.name}")
            raise OSError("not now")
        self.world.note(f"+{self.spec.name}")

    async def stopping(self) -> None:
        self.world.note(f"-{self.spec.name}")

    @on(Order)
    async def obey(self, m: Order) -> None:
        match m.what:
            case "crash":
                raise ValueError("as told")
            case "hopeless":
                raise HopelessError("as told")
            case "side":
                self.ctx.start_soon(self.fail)
            case "leave":
                self.ctx.stop()

    async def fail(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("beside")


class Unjittered:
    """A source of randomness for which every delay is as long as it may be."""

    def random(self) -> float:
        return 0.0


@attrs.define
class World:
    """The running tree."""

    system: System
    log: list[tuple[float, str]] = attrs.field(factory=list)
    refs: dict[str, Ref[Any]] = attrs.field(factory=dict)
    supervisors: dict[str, Supervisor] = attrs.field(factory=dict)
    parents: dict[str, str] = attrs.field(factory=dict)

    def note(self, entry: str) -> None:
        self.log.append((round(trio.current_time(), 6), entry))

    async def fill(self, sup: Supervisor, spec: Branch) -> None:
        """Spawn the children of a branch."""
        self.supervisors[spec.name] = sup
        for child in spec.children:
            self.parents[child.name] = spec.name
            if isinstance(child, Leaf):
                await self.spawn(sup, child)
            else:
                await sup.spawn_supervisor(
                    child.name,
                    lambda nested, child=child: self.fill(nested, child),
                    strategy=child.strategy,
                    restart=child.restart,
                    kind=child.kind,
                )

    async def spawn(self, sup: Supervisor, spec: Leaf) -> None:
        attempts = iter(range(10_000))
        self.refs[spec.name] = await sup.spawn(lambda: Part(self, spec, next(attempts)), spec.name, kind=spec.kind)

    async def do(self, what: str, name: str) -> None:
        sup = self.supervisors[self.parents[name]]
        if name not in self.refs:
            await sup.stop_supervisor(name)
        elif what == "stop":
            await sup.stop(self.refs[name])
        else:
            await self.refs[name].tell(Order(what))

    def tree(self) -> dict[str, Any]:
        """Return who lives under which path, and how many restarts each supervisor has left."""
        return {
            info.path: ({child.path: child.state for child in info.children}, info.restarts_left)
            for info in self.system.tree()
        }


def tree_of(model: Model) -> dict[str, Any]:
    """Return the model's tree as `World.tree` does."""
    found: dict[str, Any] = {}

    def walk(node: Node, path: str) -> None:
        assert isinstance(node.spec, Branch)
        left = node.spec.restarts_max - sum(time > model.now - WITHIN_S for time in node.times)
        leaves = {
            f"{path}/{child.name}": "running" if child.up else "restarting"
            for child in node.children
            if isinstance(child.spec, Leaf)
        }
        found[path] = (leaves, left)
        for child in node.children:
            if isinstance(child.spec, Branch) and child.up:
                walk(child, f"{path}/{child.name}")

    if model.error is None:
        walk(model.root, "/root")
    return found


# --------------------------------------------------------------------- the test

KINDS = st.sampled_from(["permanent", "permanent", "transient", "temporary"])
FAILING = st.dictionaries(st.integers(1, 4), st.sampled_from(["factory", "started"]), max_size=2)
STRATEGIES = st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])


@st.composite
def branches(draw: st.DrawFn, name: str = "root", depth: int = 2) -> Branch:
    """Draw a tree of supervisors."""
    children: list[Leaf | Branch] = []
    for index in range(draw(st.integers(2, 4))):
        child = f"{name}-{index}" if name != "root" else f"c{index}"
        if depth and draw(st.integers(0, 2)) == 0:
            children.append(draw(branches(child, depth - 1)))
        else:
            children.append(Leaf(child, draw(KINDS), draw(FAILING)))
    return Branch(
        name,
        draw(KINDS),
        draw(STRATEGIES),
        draw(st.sampled_from([0, 1, 2, 5, 50, 50, 50])),
        draw(st.booleans()),
        tuple(children),
    )


WHATS = st.sampled_from(["crash", "crash", "crash", "side", "hopeless", "leave", "stop"])
GAPS = st.sampled_from([0.3, 0.7, 1.3, 2.9, 5.1, 31.7])
PLANS = st.lists(st.tuples(GAPS, WHATS, st.integers(0, 30)), min_size=3, max_size=14)


async def act(spec: Branch, orders: list[tuple[float, str, str]], end: float) -> tuple[World, dict[str, Any], Any]:
    error: type | None = None
    tree: dict[str, Any] = {}
    with trio.fail_after(10_000):
        async with open_system() as system:
            system.random = Unjittered()  # type: ignore[assignment]
            world = World(system)
            try:
                async with system.supervisor("root", strategy=spec.strategy, restart=spec.restart) as sup:
                    await world.fill(sup, spec)
                    for when, what, name in orders:
                        await trio.sleep_until(when)
                        await world.do(what, name)
                    await trio.sleep_until(end)
                    tree = world.tree()
                    world.note("end")
            except (RestartLimitError, HopelessError) as caught:
                error = type(caught)
            assert not any(system.leftovers().values())
    return world, tree, error


def imagine(spec: Branch, plan: list[tuple[float, str, int]]) -> tuple[Model, list[tuple[float, str, str]]]:
    """Play a plan in the model, and return what was done to whom: only who is there can be a target."""
    model = Model.of(spec)
    orders: list[tuple[float, str, str]] = []
    when = 0.0
    for number, (gap, what, choice) in enumerate(plan):
        when += gap + 0.001 * (number + 1)
        model.until(when)
        if model.error is not None:
            break
        targets = [
            node
            for node in nodes(model.root)
            if (what == "stop" and (node.up or isinstance(node.spec, Leaf)))
            or (node.up and isinstance(node.spec, Leaf))
        ]
        if not targets:
            continue
        assume(all(abs(due - when) > 1e-4 for due in model.times_due))
        node = targets[choice % len(targets)]
        orders.append((when, what, node.name))
        if what == "stop":
            model.remove(node)
        else:
            errors = {"crash": ValueError, "side": ValueError, "hopeless": HopelessError, "leave": None}
            model.fail(node, errors[what])
        if model.error is not None:
            break
    return model, orders


@given(spec=branches(), plan=PLANS)
@settings(max_examples=settings().max_examples * 2)
def test_a_tree_of_supervisors_does_what_the_model_says(spec: Branch, plan: list[tuple[float, str, int]]) -> None:
    model, orders = imagine(spec, plan)
    end = model.now + 0.5
    if model.error is None:
        assume(all(abs(due - end) > 1e-4 for due in model.times_due))
        model.until(end)
    world, tree, error = trio.run(act, spec, orders, end, clock=virtual_clock())
    assert error == model.error
    if error is None:
        assert tree == tree_of(model)
        assert world.log[: world.log.index((round(end, 6), "end"))] == model.log
    else:
        assert world.log == model.log
    event(f"gave up: {error is not None}")
