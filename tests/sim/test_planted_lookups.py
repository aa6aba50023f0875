"""Faults planted into the DHT's cores: the simulation finds each, by what it breaks. A check that cannot fail is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from prime.dht import lookup as lk
from prime.dht.bootstrap import Bootstrap
from prime.dht.contact import Contact
from prime.dht.settings import PRESETS
from prime.sim.scenarios import lookups
from prime.sim.scenarios.finder import Finder, Swarm

OPEN = attrs.evolve(PRESETS["swarm"], group_table_max=256, group_bucket_max=256)
ASK = Bootstrap._ask


def sybils(**options: Any) -> lookups.Reads:
    return lookups.measure_liars(
        100, share=0.0, records=3, reads=15, sybils=48, lies=("withholding", "misleading"), **options
    )


def test_signatures_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swarm, "is_sound", lambda *_: True)
    assert lookups.measure_liars(100, records=4, reads=20).wrong > 0


def test_a_read_that_believes_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(self: Finder, key: Any, done: Callable[[lk.Outcome], None], *, critical: bool = False) -> None:
        self.look_up(lk.Value(key, 1), done, paths=8 if critical else None)

    liars = {"nodes": 200, "records": 8, "reads": 40, "lies": ("rolling back",)}
    assert lookups.measure_liars(**liars).wrong == 0
    monkeypatch.setattr(Finder, "get", get)
    assert lookups.measure_liars(**liars).wrong > 0


def test_ids_of_one_group_that_nobody_counts() -> None:
    assert sybils().share == 1.0
    assert sybils(settings=OPEN).lost > 0


def test_paths_that_share_what_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one liar that names its friends leads all paths to them."""

    def see(self: Any, _: Any, contact: Contact, hops: int) -> None:
        for path in self._paths:
            inner(self, path, contact, hops)

    inner = lk.Lookup._see
    liars = {"nodes": 200, "share": 0.3, "records": 4, "reads": 12, "lies": ("endless",)}
    assert lookups.measure_liars(**liars).share == 1.0
    monkeypatch.setattr(lk.Lookup, "_deal", _one_path(lk.Lookup._deal))
    monkeypatch.setattr(lk.Lookup, "_see", see)
    assert lookups.measure_liars(**liars).share < 1.0


def _one_path(deal: Any) -> Any:
    def dealt(self: Any, starts: Any, count: int) -> Any:
        self._paths = []
        made = deal(self, starts, count)
        self._paths = made
        for path in made:
            for contact, hops in list(path.contacts.values()):
                self._see(path, contact, hops)
        return made

    return dealt


def only_while_alone(self: Bootstrap, now: float) -> list[Any]:
    return _never(self, now) if self._table.live else ASK(self, now)


def only_once(self: Bootstrap, now: float) -> list[Any]:
    return _never(self, now) if self._tries else ASK(self, now)


def _never(self: Bootstrap, now: float) -> list[Any]:
    self._asks_s = now + 1e6
    return []


@pytest.mark.parametrize("fault", [only_while_alone, only_once])
def test_a_node_that_does_not_go_on_asking_those_it_was_told_of(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    monkeypatch.setattr(Bootstrap, "_ask", fault)
    with pytest.raises(AssertionError, match="have not merged"):
        lookups.measure_late_bootstrap()
