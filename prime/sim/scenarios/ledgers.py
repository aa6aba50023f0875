"""What must hold of a training round among simulated members, checked at the moment that each of them acts.

The rules of the decision itself are those of `prime.sim.decision`. Here it is said what a decision is worth: the value is
the exact sum over its contributors, each contribution counts once, nothing of a living member vanishes, and all who
hold a state hold the same. Source: `spec/protocols/round.md`, "What holds".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import attrs

from prime.errors import ViolationError
from prime.sim.decision import Decisions
from prime.sim.exact import Exact, Sum
from prime.sim.world import Node, World
from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.partition import cuts
from prime.trainer.round.view import Value, counted
from prime.trainer.swarm.carry import Frozen, Ledger
from prime.trainer.swarm.parts import chunks, digest_of

Settlement = cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp
"""What the core says of an outcome."""

ELEMENTS = 60
"""Of the vectors of a simulated run: enough for several chunks of each part."""


@attrs.define(eq=False)
class Life:
    """One life of a node's program, as long as it is the present one, and what its trainer made in it."""

    node: Node
    number: int
    steps: int = 0
    produced: set[str] = attrs.Factory(set)
    dropped: set[str] = attrs.Factory(set)
    unsent: dict[int, Sum] = attrs.Factory(dict)
    """What rounds took of each fragment, less what arrived of that."""

    @property
    def is_over(self) -> bool:
        """Whether the node has crashed since: what still runs of this life has no effect."""
        return not self.node.is_up or self.node.lives != self.number


class Book:
    """Everything that the members of one run decided, contributed and applied. A broken rule fails the world."""

    def __init__(self, world: World, run: str, numbers: Exact, fragments: int = 1) -> None:
        self.world = world
        self.numbers = numbers
        self.fragments = Fragments(ELEMENTS, fragments)
        self.rules = Decisions(run)
        self.values: dict[int, Value] = {}
        self.frozen: dict[tuple[int, str], Frozen[Sum]] = {}
        self.bases: dict[tuple[int, str], bytes] = {}
        self.spent: dict[str, int] = {}
        self.states: dict[int, bytes] = {}
        self.born: dict[str, int] = {}
        """Which life each peer's disk is in."""

    def check(self, act: Callable[[], object]) -> None:
        """Do `act`, whose assertions are about the world: an error in an actor would be that actor's alone."""
        try:
            act()
        except AssertionError as error:
            self.world.fail(ViolationError(str(error)))

    @property
    def last(self) -> Value | None:
        """The newest decision."""
        return self.values[max(self.values)] if self.values else None

    def commits(self) -> int:
        """Return how many rounds committed."""
        return sum(not value.aborted for value in self.values.values())

    def name_of(self, life: Life, fragment: int) -> str:
        """Return the name of the delta that a life's newest step made in a fragment."""
        step = f"{life.node.name}.{life.number}.{life.steps}"
        return step if self.fragments.count == 1 else f"{step}.{fragment}"

    # ------------------------------------------------------------------------------------------- what a member does

    def wrote(self, life: Life, record: msg.Record, parts: Sequence[memoryview]) -> None:
        """Take what is on a member's disk now: a record, and the bytes beside it."""
        peer = life.node.peer
        held = not isinstance(record, msg.Accepted) or record.value.parts == self._digests(record.value, parts)
        self.check(lambda: self.rules.wrote(peer, record, bytes_held=held))
        if isinstance(record, msg.Born):
            self.born[peer] = record.member.incarnation
        if isinstance(record, msg.Decided):
            life.node.note("decides", f"round {record.value.round}", value=record.value.digest().hex()[:8])
            self.check(lambda: self._decided(record.value))

    def lost_disk(self, life: Life) -> None:
        """Take that a member's disk is empty: it is another life now, once that is on the new one."""
        self.rules.lost_disk(life.node.peer)
        self.born.pop(life.node.peer, None)

    def said(self, life: Life, message: msg.PeerMessage) -> None:
        """Take what a member sends."""
        self.check(lambda: self.rules.said(life.node.peer, message))

    def froze(self, life: Life, round_: int, frozen: Frozen[Sum], base: bytes) -> None:
        """Take a contribution, and the state that it starts from: what a member says of a round is said once."""
        key = (round_, life.node.peer)
        self.bases.setdefault(key, base)
        known = self.frozen.setdefault(key, frozen)
        told = f"{life.node.name} contributes twice to round {round_}: {known.y.text()}, then {frozen.y.text()}"
        self.check(lambda: _hold("one_contribution", known.y == frozen.y and known.weight == frozen.weight, told))

    def holds_state(self, life: Life, round_: int, state: bytes) -> None:
        """Take the state that a member has after a round: everybody's is the same."""
        known = self.states.setdefault(round_, state)
        self.check(lambda: _hold("one_state", known == state, f"{life.node.name} has another state after {round_}"))

    def settles(self, life: Life, before: Ledger[Sum], command: Settlement, after: Ledger[Sum]) -> None:
        """Take what a member does to what it owes: it was applied, is carried, or was dropped and counted."""
        self.check(lambda: self._settled(life, before, command, after))

    def owes(self, life: Life, before: Ledger[Sum], after: Ledger[Sum]) -> None:
        """Take what a contribution did to what a member owes."""
        self.check(lambda: self._count(life, before, after, names(before) - names(after)))

    def applies(self, life: Life, value: Value, aggregate: Sum, base: bytes) -> None:
        """Take a sum that a member applies to the state `base`."""
        exact = self.exact(value)
        name = life.node.name
        self.check(lambda: _hold("exact_sum", aggregate == exact, f"{name} applies {aggregate.text()}"))
        self.check(lambda: _hold("same_base", base == value.base, f"{name} applies round {value.round} elsewhere"))

    def _digests(self, value: Value, pieces: Sequence[memoryview]) -> tuple[bytes, ...]:
        """Return the hashes of the parts whose chunks these are, one after the other."""
        rest = iter(pieces)
        parts = self._cuts(value) if value.parts else ()
        counts = [len(chunks(part, self.numbers.chunk_elements)) for part in parts]
        return tuple(digest_of(itertools.islice(rest, count)) for count in counts)

    # --------------------------------------------------------------------------------------------------- the checks

    def exact(self, value: Value) -> Sum:
        """Return the weighted mean of what the contributors of a decision froze."""
        _, aggregate = self._reduced(value)
        return aggregate

    def _cuts(self, value: Value) -> tuple[slice, ...]:
        """Return the parts of a round's vector: the decision before fixed its view."""
        elements = self.fragments.elements_of(value.round)
        return cuts(elements, self.values[value.round - 1].next_view.members, self.numbers.grain)

    def _reduced(self, value: Value) -> tuple[list[bytes], Sum]:
        shares = counted(value.shares)
        frozen = [self.frozen[value.round, share.peer] for share in shares]
        weights = [share.counts for share in shares]
        numbers, hashes, room = self.numbers, [], self.numbers.room(ELEMENTS)
        for part in self._cuts(value):
            pieces = []
            for cut in chunks(part, numbers.chunk_elements):
                pieces.append(numbers.reduce([numbers.encode(one.y, cut) for one in frozen], weights, cut))
                room.decode(pieces[-1], cut)
            hashes.append(digest_of(pieces))
        return hashes, room.vector()

    def _decided(self, value: Value) -> None:
        if self.values.setdefault(value.round, value) is not value:
            return  # the same value: the rules see to that
        before = self.values.get(value.round - 1)
        if before is not None:
            _hold("epoch", value.epoch == before.next_view.epoch, f"round {value.round} is of epoch {value.epoch}")
            strangers = set(value.contributors()) - set(before.next_view.peers())
            _hold("contributors", not strangers, f"round {value.round} takes from {sorted(strangers)}")
            same = value.next_view.members == before.next_view.members
            _hold("epoch", (value.next_view.epoch == value.epoch) == same, f"the view after {value.round} has no epoch")
        over = [one.round for one in self.values.values() if one.last]
        _hold("last", over in ([], [max(self.values)]), f"round {over} was the last, and {max(self.values)} is decided")
        _hold("last", not (value.last and value.aborted), f"round {value.round} is the last and was given up")
        if not value.aborted:
            self._committed(value)

    def _committed(self, value: Value) -> None:
        for share in value.shares:
            frozen = self.frozen.get((value.round, share.peer))
            _hold("contributors", frozen is not None, f"{share.peer} did not contribute to round {value.round}")
            if frozen is not None:
                self._of_fragment(value.round, mixed(frozen))
                _hold("exact_sum", frozen.weight == share.weight, f"{share.peer} weighs {share.weight}")
                started = self.bases[value.round, share.peer] == value.base
                _hold("same_base", started, f"{share.peer} started round {value.round} elsewhere")
                for name in sorted(mixed(frozen).names()):
                    earlier = self.spent.setdefault(name, value.round)
                    _hold("once", earlier == value.round, f"{name} is in round {earlier} and {value.round}")
        hashes, _ = self._reduced(value)
        _hold("exact_sum", tuple(hashes) == value.parts, f"round {value.round} decides other bytes")

    def _of_fragment(self, round_: int, contribution: Sum) -> None:
        """Hold that what a round adds was learnt in the fragment that it carries."""
        if self.fragments.count > 1:
            end = f".{self.fragments.of_round(round_)}"
            strange = [name for name in contribution.names() if not name.endswith(end)]
            _hold("one_fragment", not strange, f"round {round_} adds {sorted(strange)}")

    def _settled(self, life: Life, before: Ledger[Sum], command: Settlement, after: Ledger[Sum]) -> None:
        frozen = before.frozen
        held = names(before)
        rest = held - names(after)
        match command:
            case cmd.Keep():
                carried = before.carry.names() if before.carry is not None else frozenset()
                _hold("conserved", carried <= names(after), f"{life.node.name} loses what it carried in an abort")
                return
            case (
                cmd.Apply(value, included) | cmd.Settle(value, included) | cmd.CatchUp(_, _, Value() as value, included)
            ):
                is_in = life.node.peer in value.contributors()
                _hold("exactly_once", included == is_in, f"{life.node.name} takes round {value.round} the other way")
                if included and frozen is not None and frozen.round == value.round:
                    applied = {name for name in rest if self.spent.get(name) == value.round}
                    _hold(
                        "exactly_once", mixed(frozen).names() <= applied, f"{life.node.name} is in C and was not added"
                    )
                    rest -= applied
            case _:
                pass
        self._count(life, before, after, rest)
        self._feed_back(life, before, command, after)

    def _feed_back(self, life: Life, before: Ledger[Sum], command: Settlement, after: Ledger[Sum]) -> None:
        """Hold that what bytes left out of contributions is what is owed, to a fraction, or was lost and counted."""
        frozen = before.frozen
        fragment = self.fragments.of_round(round_of(command) if frozen is None else frozen.round)
        unsent = life.unsent.get(fragment, Sum())
        if frozen is not None and getattr(command, "included", False) and after.residuals_lost == before.residuals_lost:
            unsent = unsent + mixed(frozen) - self.numbers.coded(frozen.y)
        if after.residuals_lost > before.residuals_lost:
            unsent = Sum()
        life.unsent[fragment] = unsent
        owed = after.residual if after.residual is not None else Sum()
        _hold("fed_back", owed == unsent, f"{life.node.name} owes {owed.text()}, not {unsent.text()}")

    @staticmethod
    def _count(life: Life, before: Ledger[Sum], after: Ledger[Sum], rest: set[str]) -> None:
        counted = after.dropped > before.dropped
        _hold("conserved", counted == bool(rest), f"{life.node.name} loses {sorted(rest)} without counting it")
        life.dropped |= rest


def round_of(command: Settlement) -> int:
    """Return the round whose outcome a command brings."""
    return command.round if isinstance(command, cmd.CatchUp) else command.value.round


def mixed(frozen: Frozen[Sum]) -> Sum:
    """Return what a contribution is made of, without the residual: the deltas that are in no round yet."""
    return frozen.y if frozen.residual is None else frozen.y - frozen.residual


def names(ledger: Ledger[Sum]) -> set[str]:
    """Return the deltas that a member owes; what a codec left out of one that was added is owed by its factor."""
    parts = [ledger.carry]
    if ledger.frozen is not None:
        parts += [mixed(ledger.frozen), ledger.frozen.delta]
    return {name for part in parts if part is not None for name in part.names()}


def _hold(rule: str, holds: bool, detail: str) -> None:  # noqa: FBT001 - reads as a sentence: hold the rule that ...
    if not holds:
        raise AssertionError(f"{rule}: {detail}")
