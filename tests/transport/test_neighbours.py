"""Who is on the local network: what is read of an announcement, whom a newcomer joins, and who founds."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError
from prime.transport.identity import KeyPair
from prime.transport.neighbours import (
    ADDRESSES_MAX,
    ANNOUNCERS_MAX,
    CONTACTS_MAX,
    PATIENCE,
    Announcement,
    Begin,
    Found,
    Gone,
    Join,
    Newcomer,
    Seen,
    WakeAt,
    Woke,
    read_announcement,
    run_digest,
    write_announcement,
)

PEERS = sorted(KeyPair.generate().peer for _ in range(4))
RUN = run_digest("main")
LAN = (ipaddress.IPv4Network("192.168.1.0/24"), ipaddress.IPv4Network("10.1.0.0/16"))
WAIT_S = 3.0


def said(peer: int = 0, *, member: bool = True, **other: Any) -> Announcement:
    announcement = Announcement(PEERS[peer], RUN, "tcp", member, ((f"192.168.1.{peer + 2}", 4001),))
    return attrs.evolve(announcement, **other)


def newcomer(peer: int = 3) -> Newcomer:
    core = Newcomer(PEERS[peer], RUN, "tcp", LAN, WAIT_S)
    assert core.step(Begin(), 0) == [WakeAt(WAIT_S)]
    return core


def record(announcement: Announcement) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in write_announcement(announcement).items()}


# ------------------------------------------------------------------------------------------------------ announcements


@given(
    st.builds(
        Announcement,
        st.sampled_from(PEERS),
        st.text(min_size=1).map(run_digest),
        st.sampled_from(["tcp", "libp2p"]),
        st.booleans(),
        st.lists(
            st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65535)), min_size=1, max_size=ADDRESSES_MAX
        ).map(tuple),
    )
)
def test_what_is_announced_is_what_is_read(announcement: Announcement) -> None:
    assert read_announcement(record(announcement)) == announcement
    assert sum(len(key) + len(value or b"") + 2 for key, value in record(announcement).items()) < 400  # one packet


def test_the_run_s_name_is_not_told() -> None:
    assert run_digest("secret") != run_digest("secreu")
    assert b"secret" not in b"".join(value or b"" for value in record(said(run=run_digest("secret"))).values())


@given(st.dictionaries(st.binary(max_size=300), st.none() | st.binary(max_size=300), max_size=64))
def test_any_record_is_read_or_refused(found: dict[bytes, bytes | None]) -> None:
    try:
        read_announcement(found)
    except DecodeError:
        return
    raise AssertionError(found)  # no random record has a peer id


@given(st.sampled_from(sorted(record(said()))), st.none() | st.binary(max_size=80))
def test_a_record_with_one_wrong_value_is_read_within_bounds_or_refused(key: bytes, value: bytes | None) -> None:
    try:
        read = read_announcement({**record(said()), key: value})
    except DecodeError:
        return
    assert read.peer == PEERS[0]
    assert all(ipaddress.IPv4Address(host) and 0 < port < 65536 for host, port in read.addresses)


@pytest.mark.parametrize(
    "text",
    ["", "192.168.1.2", "192.168.1.2:", "192.168.1.2:0", "192.168.1.2:65536", "host:1", "::1:1", "1.2.3.4:\u0661"],
)
def test_what_is_no_address_is_left_out(text: str) -> None:
    assert read_announcement({**record(said()), b"a0": text.encode()}).addresses == ()


def test_a_record_of_too_many_keys_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="100 keys"):
        read_announcement({str(n).encode(): b"" for n in range(100)})


# ---------------------------------------------------------------------------------------------------------- newcomers


def test_a_newcomer_joins_the_member_that_it_hears_at_once() -> None:
    assert newcomer().step(Seen("a", said(1)), 0.1) == [Join((("192.168.1.3", 4001, PEERS[1]),))]


def test_alone_it_founds_after_its_wait() -> None:
    core = newcomer()
    assert core.step(Woke(), WAIT_S) == [Found()]
    assert core.step(Seen("a", said()), WAIT_S) == []  # the decision stands


@pytest.mark.parametrize(
    "stranger",
    [
        said(run=run_digest("other")),
        said(transport="libp2p"),
        said(peer=3),  # its own echo
        said(addresses=()),
        said(addresses=(("51.0.0.2", 22),)),  # not of this network: nobody makes it dial elsewhere
        said(addresses=(("127.0.0.1", 22), ("0.0.0.0", 1), ("224.0.0.251", 5353))),  # noqa: S104
    ],
)
def test_who_is_of_no_use_is_not_joined(stranger: Announcement) -> None:
    core = newcomer()
    assert core.step(Seen("a", stranger), 0.1) == []
    assert core.step(Woke(), WAIT_S) == [Found()]


def test_of_an_announcement_only_near_addresses_are_dialled() -> None:
    addresses = (("8.8.8.8", 53), ("10.1.2.3", 4001), ("192.168.1.9", 4001))
    joined = newcomer().step(Seen("a", said(addresses=addresses)), 0.1)
    assert joined == [Join((("10.1.2.3", 4001, PEERS[0]), ("192.168.1.9", 4001, PEERS[0])))]


def test_of_newcomers_the_lowest_founds_and_the_others_wait_for_it() -> None:
    low, high = newcomer(0), newcomer(1)
    low.step(Seen("b", said(1, member=False)), 0.1)
    high.step(Seen("a", said(0, member=False)), 0.1)
    assert high.step(Woke(), WAIT_S) == [WakeAt(2 * WAIT_S)]
    assert low.step(Woke(), WAIT_S) == [Found()]
    assert high.step(Seen("a", said(0)), WAIT_S + 0.1) == [Join((("192.168.1.2", 4001, PEERS[0]),))]


def test_a_newcomer_that_never_founds_is_waited_for_no_longer_than_that() -> None:
    core, wakes = newcomer(), 0
    core.step(Seen("a", said(0, member=False)), 0.1)
    while core.step(Woke(), wakes * WAIT_S) != [Found()]:
        wakes += 1
    assert wakes == PATIENCE


def test_a_newcomer_that_goes_is_waited_for_no_more() -> None:
    core = newcomer()
    core.step(Seen("a", said(0, member=False)), 0.1)
    core.step(Gone("a"), 1)
    assert core.step(Woke(), WAIT_S) == [Found()]


def test_a_name_means_what_was_said_last() -> None:
    core = newcomer()
    core.step(Seen("a", said(0, member=False)), 0.1)
    core.step(Seen("a", said(0, member=False, run=run_digest("other"))), 0.2)
    assert core.step(Woke(), WAIT_S) == [Found()]


def test_a_flood_of_announcers_is_heard_up_to_a_bound() -> None:
    core = newcomer()
    for n in range(10 * ANNOUNCERS_MAX):
        core.step(Seen(str(n), said(0, member=False)), 0.1)
    assert len(core._heard) == ANNOUNCERS_MAX
    addresses = tuple((f"10.1.0.{n}", 1) for n in range(1, ADDRESSES_MAX + 1))
    [joined] = [c for n in range(20) for c in core.step(Seen(str(n), said(1, addresses=addresses)), 0.2)]
    assert isinstance(joined, Join)
    assert len(joined.contacts) <= CONTACTS_MAX


events = st.one_of(
    st.builds(
        Seen,
        st.sampled_from("abc"),
        st.builds(said, st.integers(0, 3), member=st.booleans(), run=st.sampled_from([RUN, "x"])),
    ),
    st.builds(Gone, st.sampled_from("abc")),
    st.just(Woke()),
)


@given(st.lists(events, max_size=30))
def test_whatever_it_hears_it_decides_once(heard: list[Any]) -> None:
    core, now = newcomer(2), 0.0
    decisions = []
    for event in [*heard, *[Woke()] * (PATIENCE + 1)]:
        now += WAIT_S
        commands = core.step(event, now)
        assert len(commands) <= 1
        decisions += [command for command in commands if not isinstance(command, WakeAt)]
    assert len(decisions) == 1
