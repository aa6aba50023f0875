"""Lookups on the pure core, answered by tables and shelves that are plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.dht.record import Record
from prime.dht.settings import DhtSettings
from prime.transport.peer import PeerId
from tests.dht.strangers import contact, peer, record

SETTINGS = DhtSettings(k=5, replicas=5, beta=3)


def played(
    looking: lk.Lookup, answer: Callable[[Contact], lk.Answered | lk.Failed], now: float = 0.0
) -> tuple[lk.Outcome, list[lk.Request]]:
    """Answer every request at once, in order; return the end and what was asked."""
    todo, asked = looking.step(lk.Begun(), now), []
    while looking.outcome is None:
        if not todo:
            todo = looking.step(lk.Woken(), looking.wakes_at)
            continue
        command = todo.pop(0)
        assert isinstance(command, lk.Request)
        asked.append(command)
        todo += looking.step(answer(command.contact), now)
    return looking.outcome, asked


def swarm(count: int, width: int) -> dict[PeerId, list[Contact]]:
    """Return for each stranger whom it knows: `width` of each of its buckets."""
    everybody = [contact(n) for n in range(count)]
    known = {}
    for one in everybody:
        buckets: dict[int, list[Contact]] = {}
        for other in sorted(everybody, key=lambda c: c.key ^ one.key):
            if other != one:
                buckets.setdefault((other.key ^ one.key).bit_length(), []).append(other)
        known[one.peer] = [other for bucket in buckets.values() for other in bucket[:width]]
    return known


def honest(known: Mapping[PeerId, list[Contact]], key: Key) -> Callable[[Contact], lk.Answered]:
    def answer(asked: Contact) -> lk.Answered:
        nearest = sorted(known[asked.peer], key=lambda one: one.key ^ key)[: SETTINGS.k]
        return lk.Answered(asked.peer, nearest)

    return answer


SWARM = swarm(60, SETTINGS.k)


@settings(max_examples=40)
@given(st.integers(0, 2**256 - 1), st.integers(1, 4))
def test_it_finds_the_nearest_that_brute_force_finds(number: int, paths: int) -> None:
    key = Key(number)
    looking = lk.Lookup(lk.Nearest(key), SETTINGS, SWARM[peer(0)], own=peer(0), now=0.0, paths=paths)
    outcome, asked = played(looking, honest(SWARM, key))
    others = sorted((contact(n) for n in range(1, 60)), key=lambda one: one.key ^ key)
    assert list(outcome.closest) == others[: SETTINGS.k]
    assert len({one.contact.peer for one in asked}) == len(asked), "no peer is asked twice, on whatever path"


def test_a_record_is_found_and_who_lacks_it_is_named() -> None:
    value = record(b"new", 2)
    held: dict[PeerId, Record | None] = {peer(n): value for n in (1, 2, 3)}
    held[peer(4)] = record(b"old", 1)
    looking = lk.Lookup(
        lk.Value(value.key, agreeing=3), SETTINGS, [contact(n) for n in range(1, 6)], own=peer(0), now=0.0, paths=9
    )
    outcome, _ = played(looking, lambda one: lk.Answered(one.peer, record=held.get(one.peer)))
    assert outcome.record == value
    assert set(outcome.holders) == {contact(n) for n in (1, 2, 3)}
    assert set(outcome.stale) <= {contact(4), contact(5)}


def test_causes() -> None:
    want = lk.Value(record(b"").key, agreeing=3)
    starts = [contact(1), contact(2)]

    def cause(answer: Callable[[Contact], lk.Answered | lk.Failed]) -> str:
        return played(lk.Lookup(want, SETTINGS, starts, own=peer(0), now=0.0), answer)[0].cause

    assert cause(lambda one: lk.Failed(one.peer)) == "no peer answered"
    assert cause(lambda one: lk.Answered(one.peer)) == "answered but held nothing"
    assert cause(lambda one: lk.Failed(one.peer, forged=True)) == "found but the signature is bad"
    assert lk.Lookup(want, SETTINGS, [], own=peer(0), now=0.0).step(lk.Begun(), 0.0) == [
        lk.Finished(attrs.evolve(_nothing(), cause="no peer answered"))
    ]


def _nothing() -> lk.Outcome:
    return lk.Outcome((), None, (), (), (), None, 0, 0, 0, 0, in_time=True, cause="")


def test_silence_ends_with_the_deadline_of_a_request_and_a_lookup_with_its_own() -> None:
    looking = lk.Lookup(lk.Nearest(Key(0)), SETTINGS, [contact(1)], own=peer(0), now=0.0)
    looking.step(lk.Begun(), 0.0)
    now = 0.0
    while looking.outcome is None:
        assert looking.wakes_at > now
        now = looking.wakes_at
        looking.step(lk.Woken(), now)
    assert now == SETTINGS.request_s
    assert looking.outcome.in_time


def test_endless_lists_of_nearer_peers_come_to_an_end() -> None:
    fresh = iter(range(1000, 10**9))

    def answer(asked: Contact) -> lk.Answered:
        return lk.Answered(asked.peer, sorted((contact(next(fresh)) for _ in range(9)), key=lambda one: one.key))

    looking = lk.Lookup(lk.Nearest(Key(0)), SETTINGS, [contact(1), contact(2)], own=peer(0), now=0.0)
    outcome, asked = played(looking, answer)
    assert len(asked) <= 2 * lk.REQUESTS_PER_PATH * SETTINGS.k
    assert len(outcome.closest) == SETTINGS.k


def test_an_old_contact_that_a_liar_hands_on_does_not_hide_a_peer() -> None:
    """It leads nowhere, and would mark the peer as one that fails."""
    old, new = contact(9, stamp_ms=1), contact(9, stamp_ms=2)
    looking = lk.Lookup(lk.Nearest(old.key), SETTINGS, [contact(1), contact(2)], own=peer(0), now=0.0, paths=2)
    looking.step(lk.Begun(), 0.0)
    assert looking.step(lk.Answered(peer(1), [old]), 0.0) == [lk.Request(old, 0)]
    assert looking.step(lk.Answered(peer(2), [new]), 0.0) == [], "it is being asked"
    assert looking.step(lk.Failed(peer(9)), 0.0) == [lk.Request(new, 1)]
    assert isinstance(looking.step(lk.Answered(peer(9)), 0.0)[0], lk.Finished)
    assert looking.outcome is not None
    assert looking.outcome.closest[0] == new


def test_a_peer_that_fails_is_not_asked_again_for_what_it_said_before() -> None:
    looking = lk.Lookup(lk.Nearest(Key(0)), SETTINGS, [contact(1), contact(2)], own=peer(0), now=0.0, paths=2)
    looking.step(lk.Begun(), 0.0)
    looking.step(lk.Failed(peer(1)), 0.0)
    assert isinstance(looking.step(lk.Answered(peer(2), [contact(1)]), 0.0)[0], lk.Finished)


def test_one_path_that_names_very_many_providers_hides_none_of_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lk, "PROVIDERS_MAX", 96)
    starts, key, said = [contact(n) for n in range(3)], Key(5), 0

    def answer(asked: Contact) -> lk.Answered:
        nonlocal said
        if asked.peer in {starts[1].peer, starts[2].peer}:
            return lk.Answered(asked.peer, providers=[contact(7)])
        said += 1
        made = [contact(1000 + 40 * said + n) for n in range(32)]
        return lk.Answered(asked.peer, made[:5], providers=made)

    settings = attrs.evolve(SETTINGS, k=20, replicas=20)
    looking = lk.Lookup(lk.Providers(key, 20), settings, starts, own=peer(99), now=0.0)
    todo, late = looking.step(lk.Begun(), 0.0), []
    while todo or late:
        command = todo.pop(0) if todo else late.pop(0)
        if not isinstance(command, lk.Request):
            break
        if todo and command.contact in starts[1:] and command not in late:
            late.append(command)  # the liar answers first, again and again
            continue
        todo += looking.step(answer(command.contact), 0.0)
    assert looking.outcome is not None
    assert looking.outcome.providers[0] == contact(7)
    assert said > 3
