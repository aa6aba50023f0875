"""A member that keeps to the order of the protocol and lies in what it says and sends: the honest ones stay alike.

It lies about what it offers, sends other bytes to a backup than to an owner, reduces other bytes for each or names hashes
that no bytes have, and as leader seals other contributors for each, or a first seal late. What it may not do and still be borne, lie about votes and
decisions, is said in `docs/explanation/round.md`
(`test_round_hostile.py::test_a_members_decision_is_taken`).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.view import Value

sys.path.insert(0, str(Path(__file__).parent))
from round_world import Faults, Node, Sym, World, hash_of  # type: ignore[import-not-found]

LIAR = "d"
HONEST = "abc"
LIES = ("offers", "doubles", "results", "hashes", "seals", "late seals")
WEIGHTS = (math.nan, math.inf, -1.0, 0.0, 1e300, 1.0, 2.0, 4.0)
GATED = Terms(rule=Rule("mean", norm_gate=3.0))


class Lying(World):
    """A world in which `LIAR` lies. What is applied is checked against the bytes that each member ever sent."""

    def __init__(self, seed: int, lies: tuple[str, ...], terms: Terms) -> None:
        super().__init__(seed, Faults(delay_s=0.03, loss=0.02, double=0.1), terms=terms)
        self.lies = lies
        self.lied = dict.fromkeys(LIES, 0)
        self.sent: dict[tuple[int, str, int], set[Sym]] = {}
        self._seals: list[msg.Seal] = []

    def obey(self, node: Node, command: cmd.Command) -> None:
        if node.peer == LIAR and not self.quiet:
            self._lie(node, command)
        else:
            super().obey(node, command)

    def _tells(self, lie: str) -> bool:
        told = lie in self.lies and self.random.random() < 0.5
        self.lied[lie] += told
        return told

    def _lie(self, node: Node, command: cmd.Command) -> None:
        match command:
            case cmd.Send(to, msg.Report(reduced=(_, *_) as reduced) as report) if self._tells("hashes"):
                none = tuple(attrs.evolve(one, hash=hash_of("nothing", one.part)) for one in reduced)
                super().obey(node, cmd.Send(to, attrs.evolve(report, reduced=none)))
            case cmd.Send(to, msg.Report(offer=msg.Offer() as offer) as report) if self._tells("offers"):
                super().obey(node, cmd.Send(to, attrs.evolve(report, offer=self._forged(offer))))
            case cmd.Send(to, msg.Seal() as seal):
                self._seals.append(seal)
                super().obey(node, cmd.Send(to, self._other(seal) if self._tells("seals") else seal))
            case cmd.Send(_, msg.Propose() | msg.Beat()) if self._seals and self._tells("late seals"):
                super().obey(node, command)
                super().obey(node, cmd.Send(self.random.choice(HONEST), self.random.choice(self._seals)))
            case cmd.Transfer(round_, part, to) if self._tells("doubles"):
                other = node.mine[round_] + Sym(((f"lie.{to}.{round_}", Fraction(1)),))
                self.post(LIAR, to, self.store(round_, part, LIAR, other))
            case cmd.SendResult(round_, part, _, to) if self._tells("results"):
                other = Sym(((f"result.{to}.{round_}", Fraction(1)),))
                self.post(LIAR, to, self.keep(round_, part, hash_of(part, other), other))
            case _:
                super().obey(node, command)

    def _forged(self, offer: msg.Offer) -> msg.Offer:
        what = self.random.randrange(3)
        if what == 0:
            return attrs.evolve(offer, weight=self.random.choice(WEIGHTS))
        if what == 1:
            return attrs.evolve(offer, base=hash_of("elsewhere"))
        return attrs.evolve(offer, parts=(hash_of("nothing"), *offer.parts[1:]))

    def _other(self, seal: msg.Seal) -> msg.Seal:
        """Return a seal of other contributors, or with other coefficients."""
        if len(seal.shares) > 1 and self.random.random() < 0.5:
            return attrs.evolve(seal, shares=seal.shares[:-1])
        return attrs.evolve(seal, shares=tuple(attrs.evolve(s, coefficient=s.weight * 3) for s in seal.shares))

    # ---- what holds among the honest

    def store(self, round_: int, part: int, sender: str, y: Sym) -> Callable[[Node], None]:
        self.sent.setdefault((round_, sender, part), set()).add(y)
        return super().store(round_, part, sender, y)  # type: ignore[no-any-return]

    def apply(self, node: Node, value: Value, included: bool) -> None:
        assert node.state is not None
        found = [node.results[value.round, part, hash_] for part, hash_ in enumerate(value.parts)]
        if node.peer != LIAR:
            assert hash_of(node.state[1]) == value.base, "applied on another state than the contributions started from"
            for part, result in enumerate(found):
                assert result in set(self._possible(value, part)), "the aggregate is not that of bytes that C sent"
        state = node.state[1]
        for part, result in enumerate(found):
            state = state + result * Fraction(1, 1 + part)
        node.state = node.disk_state = (value.round, state)
        assert self.states.setdefault(value.round, state) == state, "two states after one round"
        self.settle(node, value, included)
        self.step(node, cmd.StateReady(value.round, hash_of(state)))
        self.plan(node)

    def _possible(self, value: Value, part: int) -> Iterator[Sym]:
        """Yield each sum over C of bytes that its members sent of this part, or hold themselves."""
        total = sum(Fraction(share.counts) for share in value.shares)
        choices = []
        for share in value.shares:
            own = {self.frozen[value.round, share.peer, 0][0]}
            choices.append(own | (self.sent.get((value.round, LIAR, part), set()) if share.peer == LIAR else set()))
        for ys in itertools.product(*choices):
            mean = Sym(())
            for y, share in zip(ys, value.shares, strict=True):
                if share.counts:
                    mean = mean + y * (Fraction(share.counts) / total)
            yield mean

    def check_decision(self, value: Value) -> None:
        is_new = value.round not in self.decided
        known = self.decided.setdefault(value.round, value)
        assert known.digest() == value.digest(), f"two decisions of round {value.round}"
        self.decided_at.setdefault(value.round, self.now)
        for share in value.shares if is_new else ():
            if share.peer != LIAR:
                y, weight = self.frozen[value.round, share.peer, 0]
                assert float(weight) == share.weight, f"{share.peer} never weighed that"
                for name, factor in y.terms:
                    assert name not in self.spent, f"{name} was applied twice"
                    self.spent[name] = factor

    def check_mass(self, node: Node) -> None:
        if node.peer != LIAR:
            super().check_mass(node)


def lied_to(seed: int, lies: tuple[str, ...], terms: Terms, seconds: float = 40.0) -> Lying:
    """Let a run of four train among which one lies, and then is honest for a while: the others go on all along."""
    world = Lying(seed, lies, terms)
    world.found("a", 4)
    for peer in "bcd":
        world.join(peer, "a")
    world.run(seconds)
    before = len(world.commits())
    assert before >= 3, f"{before} rounds committed"
    world.sim.calm()
    world.until(lambda: len(world.commits()) >= before + 2)
    world.training = False
    world.run(10.0)
    states = {world.nodes[peer].state for peer in HONEST}
    assert len(states) == 1, "the honest hold several states"
    return world


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("terms", [DEFAULT_TERMS, GATED], ids=["plain", "gated"])
def test_a_lie_of_one_kind_leaves_the_honest_alike(lie: str, terms: Terms) -> None:
    assert sum(lied_to(seed, (lie,), terms).lied[lie] for seed in range(2)) >= 5


@pytest.mark.parametrize("terms", [DEFAULT_TERMS, GATED], ids=["plain", "gated"])
def test_lies_of_all_kinds_leave_the_honest_alike(terms: Terms) -> None:
    for seed in range(10, 16):
        lied_to(seed, LIES, terms)


@pytest.mark.nightly
@given(
    seed=st.integers(0, 2**32),
    lies=st.lists(st.sampled_from(LIES), min_size=1, unique=True).map(tuple),
    gated=st.booleans(),
)
@settings(max_examples=500)
def test_many_lies_leave_the_honest_alike(seed: int, lies: tuple[str, ...], gated: bool) -> None:
    lied_to(seed, lies, GATED if gated else DEFAULT_TERMS)
