"""The plan of copies, step by step, and its laws under any order of events. After Kademlia, section 2.5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import attrs

from prime.actor.contract import PeerId
from prime.dht import replication as rp
from prime.dht.contact import Contact
from prime.dht.key import Key, key_of
from prime.dht.settings import DhtSettings
from prime.transport.peer import peer_from_public_key

SETTINGS = DhtSettings(replicas=3, agreeing=3)
HOUR = SETTINGS.replicate_s
KEY = key_of(b"record")


def contact_of(number: int) -> Contact:
    return Contact(peer_from_public_key(Random(number).randbytes(32)), (), 0, b"")


NEAREST = sorted(map(contact_of, range(40)), key=lambda each: each.key ^ KEY)
"""Forty nodes, from near to far."""


class Node:
    """A node at a place of `NEAREST`, that knows those at others."""

    def __init__(self, place: int, known: Sequence[int], chance: Callable[[], float] = lambda: 0.5) -> None:
        self.known = [NEAREST[each] for each in known]
        self.core = rp.Replication(NEAREST[place].peer, SETTINGS, self.near, chance)

    def near(self, key: Key) -> list[Contact]:
        return sorted(self.known, key=lambda each: each.key ^ key)[:3]

    def step(self, event: rp.Event, now: float = 0.0) -> list[rp.Command]:
        return [each for each in self.core.step(event, now) if not isinstance(each, rp.Wake)]

    def wakes_at(self, event: rp.Event, now: float) -> float:
        (wake,) = [each for each in self.core.step(event, now) if isinstance(each, rp.Wake)]
        return wake.at

    def join(self, place: int, now: float = 0.0) -> list[rp.Command]:
        self.known.append(NEAREST[place])
        return self.step(rp.Joined(NEAREST[place]), now)

    def leave(self, place: int, now: float = 0.0) -> list[rp.Command]:
        self.known.remove(NEAREST[place])
        return self.step(rp.Left(NEAREST[place].peer), now)

    def handed(self, place: int, outcome: str = "stored", now: float = 0.0) -> list[rp.Command]:
        return self.step(rp.Handed(KEY, NEAREST[place].peer, outcome), now)  # type: ignore[arg-type]


def hands(*places: int) -> list[rp.Command]:
    return [rp.Hand(KEY, NEAREST[place]) for place in places]


def peer(place: int) -> PeerId:
    return NEAREST[place].peer


def located(*places: int) -> rp.Located:
    return rp.Located(KEY, tuple(NEAREST[place] for place in places))


def test_every_hour_a_holder_looks_for_the_nearest_and_hands_it_to_them() -> None:
    node = Node(1, [0, 2, 3])
    assert node.wakes_at(rp.Taken(KEY, peer(9)), 0.0) == HOUR
    assert node.step(rp.Tick(), HOUR - 1) == []
    assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
    assert node.step(located(0, 2, 3), HOUR) == hands(0, 2)
    assert node.handed(0, now=HOUR) == []
    assert node.handed(2, now=HOUR) == []
    assert node.step(rp.Tick(), 2 * HOUR) == [rp.Locate(KEY)]


def test_a_holder_to_which_another_holder_handed_it_is_spared_its_turn() -> None:
    node = Node(1, [0, 2, 3])
    node.step(rp.Taken(KEY, peer(9)))
    node.step(rp.Taken(KEY, peer(0)), HOUR - 1)
    assert node.step(rp.Tick(), HOUR) == []
    assert node.step(rp.Tick(), 2 * HOUR) == [rp.Locate(KEY)]


def test_a_stranger_or_one_holder_alone_does_not_keep_a_holder_from_its_turn_for_ever() -> None:
    node = Node(1, [0, 2, 3])
    node.step(rp.Taken(KEY, peer(9)))
    node.step(rp.Taken(KEY, peer(9)), HOUR - 1)
    assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
    alone = Node(1, [0, 2, 3])
    alone.step(rp.Taken(KEY, peer(0)))
    alone.step(rp.Taken(KEY, peer(0)), HOUR - 1)
    alone.step(rp.Taken(KEY, peer(0)), 2 * HOUR - 2)
    assert alone.step(rp.Tick(), 2 * HOUR) == [rp.Locate(KEY)]
    two = Node(1, [0, 2, 3])
    two.step(rp.Taken(KEY, peer(9)))
    turns = 0
    for minute in range(60 * 20):
        turns += rp.Locate(KEY) in two.step(rp.Taken(KEY, peer(2 * (minute % 2))), minute * 60.0)
    assert turns >= 1


def test_when_a_holder_leaves_the_next_one_gets_it_at_once_from_the_nearest() -> None:
    nodes = [Node(0, [1, 2, 3]), Node(1, [0, 2, 3])]
    for node in nodes:
        node.step(rp.Taken(KEY, peer(9)))
    assert [node.leave(2) for node in nodes] == [hands(3), []]


def test_when_a_nearer_node_joins_it_gets_it_from_the_nearest_that_has_it() -> None:
    nodes = [Node(1, [2, 3]), Node(2, [1, 3])]
    for node in nodes:
        node.step(rp.Taken(KEY, peer(9)))
    assert [node.join(0) for node in nodes] == [hands(0), []]


def test_a_node_that_comes_back_gets_it_again_as_nobody_knows_what_it_still_has() -> None:
    node = Node(0, [1, 2, 3])
    node.step(rp.Taken(KEY, peer(9)))
    node.leave(1)
    node.handed(3)
    assert node.join(1) == hands(1)


def test_a_node_farther_than_the_holders_changes_nothing() -> None:
    node = Node(0, [1, 2])
    node.step(rp.Taken(KEY, peer(9)))
    assert node.join(7) == []
    assert node.leave(7) == []


def test_it_is_given_up_only_after_all_nearer_ones_have_it() -> None:
    node = Node(3, [1, 2, 4])
    node.step(rp.Taken(KEY, peer(9)))
    node.join(0)  # now three are nearer; who of them has it is not this node's affair
    now = rp.HANDOVER_S
    assert node.step(rp.Tick(), now) == [rp.Locate(KEY)]
    assert node.step(located(0, 1, 2, 4), now) == hands(0, 1, 2)
    assert node.handed(0, now=now) == node.handed(1, now=now) == []
    assert node.handed(2, now=now) == [rp.Drop(KEY)]
    assert len(node.core) == 0


def test_it_is_not_given_up_where_a_nearer_one_left_meanwhile() -> None:
    node = Node(3, [0, 1, 2, 4])
    node.step(rp.Taken(KEY, None))
    assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
    assert node.step(located(0, 1, 2, 4), HOUR) == hands(0, 1, 2)
    assert node.handed(0, now=HOUR) == node.handed(1, now=HOUR) == []
    assert node.leave(1, HOUR) == []
    assert node.handed(2, now=HOUR) == []
    assert len(node.core) == 1


def test_who_comes_nearer_while_it_is_handed_on_gets_it_right_after() -> None:
    node = Node(0, [1, 2, 5])
    node.step(rp.Taken(KEY, None))
    assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
    assert node.step(located(1, 2, 5), HOUR) == hands(1, 2)
    assert node.leave(1, HOUR) == []
    assert node.handed(1, now=HOUR) == []
    assert node.handed(2, now=HOUR) == hands(5)


def test_it_is_kept_while_one_of_the_nearer_ones_has_not_got_it() -> None:
    for outcome in ("failed", "refused"):
        node = Node(3, [0, 1, 2])
        node.step(rp.Taken(KEY, None))
        assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
        node.step(located(0, 1, 2), HOUR)
        node.handed(0, now=HOUR)
        node.handed(1, outcome, now=HOUR)
        assert node.handed(2, now=HOUR) == []
        assert len(node.core) == 1


def test_who_did_not_answer_is_tried_again_soon_and_then_ever_later() -> None:
    node, now, gaps = Node(0, [1, 2]), HOUR, []
    node.step(rp.Taken(KEY, peer(9)))
    for _ in range(9):
        assert node.step(rp.Tick(), now) == [rp.Locate(KEY)]
        node.step(located(1, 2), now)
        node.handed(1, "failed", now)
        before, now = now, node.wakes_at(rp.Handed(KEY, peer(2), "stored"), now)
        gaps.append(now - before)
    assert gaps[:3] == [rp.AGAIN_S, 2 * rp.AGAIN_S, 4 * rp.AGAIN_S]
    assert max(gaps) == gaps[-1] == HOUR


def test_while_nobody_answers_nothing_is_given_up() -> None:
    node = Node(3, [])
    node.step(rp.Taken(KEY, None))
    assert node.step(rp.Tick(), HOUR) == [rp.Locate(KEY)]
    assert node.step(rp.Located(KEY, ()), HOUR) == []
    assert len(node.core) == 1


def test_what_has_expired_is_cared_for_no_longer_wherever_it_stands() -> None:
    node = Node(0, [1, 2])
    node.step(rp.Taken(KEY, peer(9)))
    node.step(rp.Tick(), HOUR)
    assert node.step(rp.Gone(KEY), HOUR) == []
    assert node.step(located(1, 2), HOUR) == []
    assert node.handed(1) == []
    assert (len(node.core), node.core.waiting) == (0, 0)


def test_work_is_bounded_in_every_step() -> None:
    node = Node(0, [1, 2, 3])
    keys = [key_of(b"%d" % number) for number in range(1000)]
    for key in keys:
        node.step(rp.Taken(key, None))
    started = [each for each in node.step(rp.Tick(), 2 * HOUR) if isinstance(each, rp.Locate)]
    assert len(started) == rp.AT_ONCE_MAX
    node.known.remove(NEAREST[1])
    calls = 0
    near = node.near

    def counted(key: Key) -> list[Contact]:
        nonlocal calls
        calls += 1
        return near(key)

    node.core._near = counted
    node.core.step(rp.Left(peer(1)), 2 * HOUR)
    assert calls <= rp.REVIEWS_MAX


# ---- laws


@attrs.define(eq=False)
class Small:
    """A swarm of a dozen nodes whose messages take a moment, and whose tables are right at once."""

    random: Random
    nodes: dict[int, rp.Replication] = attrs.field(factory=dict)
    held: dict[int, set[Key]] = attrs.field(factory=dict)
    now: float = 0.0
    queue: list[tuple[float, int, int, rp.Event]] = attrs.field(factory=list)
    wakes: dict[int, float] = attrs.field(factory=dict)

    def start(self, place: int, keys: set[Key]) -> None:
        near = lambda key: self.nearest(key, place)  # noqa: E731
        core = self.nodes[place] = rp.Replication(peer(place), SETTINGS, near, self.random.random)
        self.held[place] = set(keys)
        for key in keys:
            self.feed(place, core, rp.Taken(key, None))
        for other, its in list(self.nodes.items()):
            if other != place:
                self.feed(other, its, rp.Joined(NEAREST[place]))

    def stop(self, place: int) -> None:
        del self.nodes[place]
        for other, core in list(self.nodes.items()):
            self.feed(other, core, rp.Left(peer(place)))

    def nearest(self, key: Key, but: int = -1) -> list[Contact]:
        there = [NEAREST[place] for place in self.nodes if place != but]
        return sorted(there, key=lambda each: each.key ^ key)[:3]

    def feed(self, place: int, core: rp.Replication, event: rp.Event) -> None:
        for command in core.step(event, self.now):
            match command:
                case rp.Wake(at):
                    self.wakes[place] = at
                case rp.Locate(key):
                    self.later(place, rp.Located(key, tuple(self.nearest(key, place))))
                case rp.Hand(key, contact):
                    assert key in self.held[place], "it hands on what it has given up"
                    self.hand(place, key, contact)
                case rp.Drop(key):
                    nearer = [each for each in self.nearest(key) if each.peer != peer(place)]
                    assert len(nearer) == 3
                    self.held[place].discard(key)

    def hand(self, place: int, key: Key, contact: Contact) -> None:
        there = next((each for each in self.nodes if peer(each) == contact.peer), None)
        if there is None or self.random.random() < 0.1:
            self.later(place, rp.Handed(key, contact.peer, "failed"))
            return
        self.held[there].add(key)
        self.later(there, rp.Taken(key, peer(place)))
        self.later(place, rp.Handed(key, contact.peer, "stored"))

    def later(self, place: int, event: rp.Event) -> None:
        self.queue.append((self.now + self.random.random(), len(self.queue), id(self.nodes[place]), event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due = min(self.queue, default=None, key=lambda each: each[:2])
            wake = min(((at, place) for place, at in self.wakes.items() if place in self.nodes), default=None)
            at = min(due[0] if due else until, wake[0] if wake else until)
            if at >= until:
                break
            self.now = max(self.now, at)
            if due is not None and due[0] <= at:
                self.queue.remove(due)
                found = next(((place, core) for place, core in self.nodes.items() if id(core) == due[2]), None)
                if found is not None:
                    self.feed(*found, due[3])
            elif wake is not None:
                del self.wakes[wake[1]]
                self.feed(wake[1], self.nodes[wake[1]], rp.Tick())
        self.now = until


def test_after_quiet_exactly_the_nearest_hold_each_record_whatever_came_before() -> None:
    for seed in range(25):
        random = Random(seed)
        small, places = Small(random), list(range(12))
        keys = [key_of(b"%d" % number) for number in range(6)]
        for place in random.sample(places, random.randint(1, 6)):
            small.start(place, set())
        for key in keys:
            small.held[random.choice(list(small.nodes))].add(key)
        for place, core in list(small.nodes.items()):
            for key in small.held[place]:
                small.feed(place, core, rp.Taken(key, None))
        small.run(2 * HOUR)
        for _ in range(12):
            out = [place for place in places if place not in small.nodes]
            if out and random.random() < 0.6:
                kept = small.held.get(out[0], set()) if random.random() < 0.5 else set()
                small.start(random.choice(out), kept)
            elif len(small.nodes) > 3:
                small.stop(random.choice(list(small.nodes)))
            small.run(random.choice([1.0, 60.0, 600.0]))
        left = {key for place in small.nodes for key in small.held[place]}
        small.run(4 * HOUR)
        for key in left:
            holders = {peer(place) for place in small.nodes if key in small.held[place]}
            assert holders == {each.peer for each in small.nearest(key)}, f"seed {seed}"
