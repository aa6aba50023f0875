"""Replay windows: each signed message is taken once, whatever comes, in whatever order, by whatever clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.errors import ReplayError
from prime.transport.replay import WINDOW, Bounds, ReplayWindows
from prime.wire import Signed

NOW = 1_700_000_000_000
BOUNDS = Bounds(age_ms=300_000, ahead_ms=60_000, signers_max=8, signers_by_peer_max=4)


def said(seq: int, sent_at_ms: int = NOW, signer: str = "A", audience: str | None = None) -> Signed:
    return Signed(signer, seq, sent_at_ms, audience, 1, b"", b"")


def takes(windows: ReplayWindows, signed: Signed, now_ms: int = NOW, peer: str = "A") -> bool:
    try:
        windows.take("Vote", signed, peer, now_ms)
    except ReplayError:
        return False
    return True


def why_not(windows: ReplayWindows, signed: Signed, now_ms: int = NOW, peer: str = "A") -> str:
    with pytest.raises(ReplayError) as caught:
        windows.take("Vote", signed, peer, now_ms)
    assert caught.value.hint
    return str(caught.value)


@pytest.fixture
def windows() -> ReplayWindows:
    return ReplayWindows("here", BOUNDS)


def test_a_message_is_taken_once(windows: ReplayWindows) -> None:
    assert takes(windows, said(5))
    assert "was taken before: number 5 of A is among those taken" in why_not(windows, said(5))


def test_it_is_taken_once_whoever_hands_it_on(windows: ReplayWindows) -> None:
    assert takes(windows, said(5), peer="B")
    assert not takes(windows, said(5), peer="C")
    assert not takes(windows, said(5), peer="A")


def test_one_signers_numbers_are_not_anothers(windows: ReplayWindows) -> None:
    assert takes(windows, said(5))
    assert takes(windows, said(5, signer="B"), peer="B")


@pytest.mark.parametrize("audience", [None, "here"])
def test_what_is_for_this_node_or_for_anyone_is_taken(windows: ReplayWindows, audience: str | None) -> None:
    assert takes(windows, said(5, audience=audience))


def test_what_is_for_another_node_is_not_taken(windows: ReplayWindows) -> None:
    assert "for there, not for this node" in why_not(windows, said(5, audience="there"))
    assert takes(windows, said(5))  # and has used up nothing


def test_they_may_come_in_any_order_within_the_window(windows: ReplayWindows) -> None:
    assert takes(windows, said(WINDOW))
    assert takes(windows, said(1))
    assert not takes(windows, said(1))
    assert "is over" in why_not(windows, said(0))


def test_the_window_moves_with_the_highest_number(windows: ReplayWindows) -> None:
    assert all(takes(windows, said(seq)) for seq in (10, 11, 10 + WINDOW))
    assert not takes(windows, said(10))
    assert not takes(windows, said(11))
    assert takes(windows, said(12))
    assert takes(windows, said(2**62))
    assert not any(takes(windows, said(seq)) for seq in (12, 10 + WINDOW, 13))
    assert takes(windows, said(2**62 - WINDOW + 1))
    assert not takes(windows, said(2**62 - WINDOW))


def test_a_restarted_signer_begins_above_its_last_number(windows: ReplayWindows) -> None:
    assert takes(windows, said(1_000_000 + 5))
    assert takes(windows, said(3_000_000 + 1))
    assert not takes(windows, said(1_000_000 + 5))


def test_age_has_bounds_on_both_sides(windows: ReplayWindows) -> None:
    assert takes(windows, said(1, NOW - BOUNDS.age_ms))
    assert takes(windows, said(2, NOW + BOUNDS.ahead_ms))
    assert "300.0 s ago, by its clock: too old" in why_not(windows, said(3, NOW - BOUNDS.age_ms - 1))
    assert "60.0 s from now" in why_not(windows, said(4, NOW + BOUNDS.ahead_ms + 1))
    assert takes(windows, said(3, NOW))  # what was refused has used up nothing


def test_what_found_no_place_may_come_again(windows: ReplayWindows) -> None:
    assert takes(windows, said(5))
    assert takes(windows, said(9))
    windows.put_back(said(5))
    windows.put_back(said(9))
    assert takes(windows, said(5))
    assert takes(windows, said(9))
    assert not takes(windows, said(5))
    windows.put_back(said(4, signer="nobody"))
    windows.put_back(said(10))
    windows.put_back(said(9 - WINDOW))
    assert not takes(windows, said(9))


def test_a_full_table_refuses_new_signers_and_keeps_the_known_ones(windows: ReplayWindows) -> None:
    for number in range(BOUNDS.signers_max):
        assert takes(windows, said(1, signer=f"S{number}"), peer=f"S{number}")
    assert "one signer more than this node remembers" in why_not(windows, said(1, signer="new"), peer="new")
    assert takes(windows, said(2, signer="S0"))
    assert not takes(windows, said(1, signer="S0"))
    later = NOW + BOUNDS.age_ms + 1
    assert takes(windows, said(1, later, signer="new"), later, peer="new")
    assert len(windows) == 1  # the quiet ones went: nothing of theirs is young enough to come again
    assert not takes(windows, said(2, signer="S0"), later)


def test_one_peer_brings_few_signers(windows: ReplayWindows) -> None:
    assert [takes(windows, said(1, signer=f"S{n}"), peer="B") for n in range(6)] == [True] * 4 + [False] * 2
    assert takes(windows, said(1, signer="C"), peer="C")
    later = NOW + BOUNDS.age_ms + 1
    assert all(takes(windows, said(2, later, signer=f"T{n}"), later, peer="B") for n in range(4))


def test_a_signer_whose_clock_was_set_back_over_a_restart_is_heard_again_once_it_was_forgotten(
    windows: ReplayWindows,
) -> None:
    assert takes(windows, said(10**9))
    assert not takes(windows, said(5, NOW + 1000), NOW + 1000)
    later = NOW + BOUNDS.age_ms + 1
    assert takes(windows, said(7, later), later)
    assert not takes(windows, said(10**9), later)


def test_a_clock_that_is_set_back_brings_nothing_back(windows: ReplayWindows) -> None:
    assert takes(windows, said(5))
    later = NOW + 10 * BOUNDS.age_ms
    assert takes(windows, said(6, later), later)
    assert not takes(windows, said(5), NOW)
    assert not takes(windows, said(6, later), later)


moments = st.one_of(st.integers(-700_000, 700_000), st.sampled_from([-300_000, -300_001, 0, 60_000, 60_001]))
messages = st.tuples(st.sampled_from("ABCDEFGHIJ"), st.one_of(st.integers(0, 12), st.integers(0, 3 * WINDOW)), moments)


@settings(max_examples=300)
@given(st.lists(messages, min_size=1, max_size=12), st.data())
def test_none_is_taken_twice_unless_it_was_put_back(drawn: list[tuple[str, int, int]], data: st.DataObject) -> None:
    """A signature ties number and time together, so each message has one of both."""
    windows = ReplayWindows("here", Bounds(300_000, 60_000, 3, 2))
    fixed: dict[tuple[str, int], int] = {}
    for signer, seq, at in drawn:
        fixed.setdefault((signer, seq), at)
    taken: set[tuple[str, int]] = set()
    for _ in range(data.draw(st.integers(1, 40))):
        key = data.draw(st.sampled_from(sorted(fixed)))
        signed = said(key[1], NOW + fixed[key], key[0])
        if key in taken and data.draw(st.booleans()):
            windows.put_back(signed)
            taken.discard(key)
        elif takes(windows, signed, NOW + data.draw(moments), data.draw(st.sampled_from("PQ"))):
            assert key not in taken
            taken.add(key)
        assert len(windows) <= 3


@settings(max_examples=60)
@given(st.permutations(range(60)))
def test_in_any_order_each_of_a_run_is_taken_once(order: list[int]) -> None:
    windows = ReplayWindows("here", BOUNDS)
    assert all(takes(windows, said(NOW + number)) for number in order)
    assert not any(takes(windows, said(NOW + number)) for number in order)
