"""Who has what: a peer speaks for itself alone, within quotas, until its end."""

from __future__ import annotations

import pytest

from prime import KeyPair
from prime.dht.contact import Contact, make_contact
from prime.dht.key import Key, key_of
from prime.dht.providers import (
    KEY_PROVIDERS_MAX,
    KIND,
    SIZE_BYTES,
    STORE_SHARE,
    TTL_S_MAX,
    Offer,
    Providers,
    ProvisionPlan,
    read_provider,
    read_provision,
)
from prime.dht.settings import DhtSettings
from prime.errors import DecodeError, PrimeInternalError

OWN, KEY = key_of(b"own"), key_of(b"chunk")
NOW = 1_800_000_000_000
DAY_S = 24 * 3600


def contact_of(number: int, stamp_ms: int = NOW) -> Contact:
    signer = KeyPair.from_seed(number.to_bytes(32, "big"))
    return make_contact(signer, (f"/ip4/10.0.0.{number % 250}/tcp/4001",), stamp_ms)


CONTACTS = [contact_of(number) for number in range(KEY_PROVIDERS_MAX + 8)]


def providers_of(**over: int) -> Providers:
    return Providers(OWN, DhtSettings(**over))


def provide(
    providers: Providers, number: int, *, key: Key = KEY, group: str = "10.0", ttl_s: int = DAY_S, now_ms: int = NOW
) -> ProvisionPlan:
    plan = providers.hold(key, CONTACTS[number], CONTACTS[number].peer, group, ttl_s, now_ms)
    providers.commit(plan)
    return plan


def test_who_provides_is_found_until_its_end() -> None:
    providers = providers_of()
    assert provide(providers, 1, ttl_s=60).outcome == "stored"
    assert providers.find(KEY, NOW + 59_999) == (CONTACTS[1],)
    assert providers.find(KEY, NOW + 60_000) == ()
    assert providers.find(key_of(b"other"), NOW) == ()
    assert providers.due_ms == NOW + 60_000
    providers.commit(providers.sweep(NOW + 60_000))
    assert (len(providers), providers.size_bytes, providers.due_ms) == (0, 0, None)


def test_a_peer_provides_for_itself_alone() -> None:
    providers = providers_of()
    plan = providers.hold(KEY, CONTACTS[1], CONTACTS[2].peer, "10.0", DAY_S, NOW)
    assert (plan.outcome, plan.changes) == ("refused", ())
    assert "itself alone" in plan.why


def test_nothing_changes_before_the_plan_is_committed() -> None:
    providers = providers_of()
    plan = providers.hold(KEY, CONTACTS[1], CONTACTS[1].peer, "10.0", DAY_S, NOW)
    assert (providers.find(KEY, NOW), len(providers), providers.size_bytes) == ((), 0, 0)
    providers.commit(plan)
    with pytest.raises(PrimeInternalError):
        providers.commit(plan)


def test_said_again_it_holds_longer_with_the_later_contact_and_never_over_two_days() -> None:
    providers = providers_of()
    provide(providers, 1, ttl_s=60)
    moved = contact_of(1, NOW + 5)
    providers.commit(providers.hold(KEY, moved, moved.peer, "10.9", 10 * DAY_S, NOW))
    assert providers.find(KEY, NOW + 60_000) == (moved,)
    assert providers.find(KEY, NOW + 1000 * TTL_S_MAX) == ()
    provide(providers, 1)
    assert providers.find(KEY, NOW) == (moved,)


def test_who_has_it_no_longer_is_forgotten_at_once() -> None:
    providers = providers_of()
    provide(providers, 1)
    plan = provide(providers, 1, ttl_s=0)
    assert [write.kind for write in plan.writes] == [KIND, "provider-contact"]
    assert providers.find(KEY, NOW) == ()
    assert provide(providers, 1, ttl_s=0).changes == ()


def test_one_group_has_a_quota() -> None:
    providers = providers_of(group_records_max=3)
    outcomes = [provide(providers, 1, key=key_of(b"%d" % n)).outcome for n in range(5)]
    assert outcomes == ["stored"] * 3 + ["refused"] * 2
    assert provide(providers, 2, group="10.1").outcome == "stored"
    assert provide(providers, 1, key=key_of(b"0"), ttl_s=5).outcome == "stored"


def test_a_key_that_one_group_filled_has_room_for_others() -> None:
    providers = providers_of()
    for number in range(KEY_PROVIDERS_MAX):
        provide(providers, number, group="66.6", ttl_s=DAY_S + number)
    assert "64 peers" in provide(providers, KEY_PROVIDERS_MAX, group="66.6").why
    for number in range(4):
        assert provide(providers, KEY_PROVIDERS_MAX + number, group=f"10.{number}").outcome == "stored"
    assert len(providers) == KEY_PROVIDERS_MAX
    found = providers.find(KEY, NOW)
    assert len(found) == 20
    assert set(CONTACTS[KEY_PROVIDERS_MAX : KEY_PROVIDERS_MAX + 4]) <= set(found)


def test_a_full_store_gives_up_what_the_heaviest_group_has_farthest_away() -> None:
    providers = providers_of(store_bytes_max=STORE_SHARE * SIZE_BYTES * 4)
    keys = sorted((key_of(b"%d" % n) for n in range(6)), key=lambda key: key ^ OWN)
    for key in keys[:4]:
        assert provide(providers, 1, key=key).outcome == "stored"
    assert provide(providers, 1, key=keys[4]).why == "the store is full"
    assert provide(providers, 2, key=keys[5], group="10.1").outcome == "stored"
    assert providers.find(keys[3], NOW) == ()
    assert providers.find(keys[5], NOW) == (CONTACTS[2],)
    assert len(providers) == 4


def test_what_is_written_is_there_again() -> None:
    providers = providers_of()
    store = {}
    for number, key in ((1, KEY), (2, KEY), (1, key_of(b"other"))):
        for entry in provide(providers, number, key=key).writes:
            store[entry.kind, entry.name] = entry
    provisions = [read_provision(entry) for (kind, _), entry in store.items() if kind == KIND]
    contacts = [read_provider(entry) for (kind, _), entry in store.items() if kind != KIND]
    again = providers_of()
    again.commit(again.restore(provisions, contacts))
    assert again.find(KEY, NOW) == providers.find(KEY, NOW)
    assert (len(again), again.size_bytes, again.due_ms) == (3, providers.size_bytes, providers.due_ms)


def test_a_half_whose_other_half_was_lost_is_forgotten() -> None:
    written = provide(providers_of(), 1).writes
    contact, provision = (entry for entry in written if hasattr(entry, "body"))
    alone = providers_of()
    assert [write.kind for write in alone.restore([read_provision(provision)], []).writes] == [KIND]
    assert len(alone) == 0
    assert [write.kind for write in alone.restore([], [read_provider(contact)]).writes] == ["provider-contact"]
    with pytest.raises(DecodeError):
        read_provision(contact)
    with pytest.raises(DecodeError):
        read_provider(provision)


def test_several_in_one_write_are_answered_as_one_after_the_other() -> None:
    settings = DhtSettings(group_records_max=2)
    alone, together = Providers(KEY, settings), Providers(KEY, settings)
    said = [(0, 1, 60), (1, 1, 60), (2, 1, 60), (0, 1, 0), (3, 1, 60), (3, 2, 60)]
    offers = [
        Offer(key_of(b"%d" % key), CONTACTS[peer], CONTACTS[peer].peer, f"10.{peer}", ttl_s)
        for key, peer, ttl_s in said
    ]
    answers = []
    for each in offers:
        plan = alone.hold_all([each], NOW)
        alone.commit(plan)
        answers += plan.answers
    plan = together.hold_all(offers, NOW)
    together.commit(plan)
    assert [bool(why) for why in answers] == [False, False, True, False, False, False]
    assert plan.answers == tuple(answers)
    assert len(together) == len(alone) == 3
    for key in range(4):
        assert together.find(key_of(b"%d" % key), NOW) == alone.find(key_of(b"%d" % key), NOW)
