"""Who is watched: each peer once, nobody who is no member, and who was down only when it stands for a while."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prime.trainer.swarm.watches import Watches
from prime.transport.facts import LinkDown, LinkUp


class Runtime:
    """Counts the watches that are begun and ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def watch(self, peer: str) -> Callable[[], None]:
        self.begun.append(peer)
        return lambda: self.ended.append(peer)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def watches(runtime: Runtime) -> Watches:
    return Watches(runtime.watch)


def test_a_peer_is_watched_once_until_its_watch_ends(runtime: Runtime, watches: Watches) -> None:
    watches.begin("a", 1.0)
    watches.begin("a", 2.0)
    assert runtime.begun == ["a"]
    watches.lost("a")
    watches.begin("a", 3.0)
    assert runtime.begun == ["a", "a"]
    assert runtime.ended == []  # that of a peer that is down ended by itself


def test_who_is_not_kept_is_watched_no_more(runtime: Runtime, watches: Watches) -> None:
    for peer in "abc":
        watches.begin(peer, 0.0)
    watches.keep({"b", "z"})
    assert sorted(runtime.ended) == ["a", "c"]
    assert watches.peers == {"b"}


def test_a_peer_is_steady_when_its_link_and_its_watch_stand(watches: Watches) -> None:
    assert not watches.is_steady("a", 9.0, 1.0)
    watches.begin("a", 1.0)
    assert not watches.is_steady("a", 9.0, 1.0)  # no link
    watches.observe(LinkUp("a", "", "tcp"))
    assert not watches.is_steady("a", 1.9, 1.0)
    assert watches.is_steady("a", 2.0, 1.0)
    watches.observe(LinkDown("a", "gone"))
    assert not watches.is_steady("a", 9.0, 1.0)


def test_one_look_at_a_peer_is_under_way_at_a_time(watches: Watches) -> None:
    assert watches.want_look("a")
    assert not watches.want_look("a")
    assert watches.want_look("b")
    watches.looked("a")
    assert watches.want_look("a")
