"""Script tests: a text file of commands, and under each what the core must say to it, in lines that begin with `>`.

Peers are named by the first hex digits of their keys, so that distances can be read: `8` is far from `0`, `01` near.
Times are seconds. Lines that begin with `#` are comments. A file begins with what it is about:

::

    settings k=2 alpha=1              fields of `DhtSettings`
    table                             the table of the node `0`
      answered 8 [at=ADDRESS] [stamp=N] | heard 8 [at=ADDRESS] | failed 8 | removed 8 | learned 8 stamp=N
      looked 8 | closest 8 3 [doubtful] | buckets | stale | doubtful | wait 60
    join told=2                       a bootstrap over that table; `wake`, `introduced 1`, `looked up own 4`, `sight`
    lookup nearest|peer|value|critical|providers KEY [paths=2] [count=2] [seq=2] STARTS...
      answer 8: 4 2 [record=2:text] [providers=4,2] [group=g] | fail 8 | forge 8 | wait

`python -m tests.dht.script FILES` writes into files what is said now, to be read before it is believed.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import attrs

from prime.dht import bootstrap as bs
from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.dht.record import Record
from prime.dht.settings import DhtSettings
from prime.dht.table import Table
from tests.dht.strangers import peer

PLACES = "/ip4/{}.{}.0.1/tcp/1"


def key(name: str) -> Key:
    """Return the key that begins with these hex digits."""
    return Key(int(name.ljust(64, "0"), 16))


def named(name: str, stamp_ms: int = 0) -> Contact:
    """Return the contact of the peer that stands there."""
    made = Contact(peer(int(name.ljust(4, "0"), 16) + 100_000 * len(name)), (), stamp_ms, b"")
    object.__setattr__(made, "key", key(name))
    return made


@attrs.define
class Script:
    """One run of a script."""

    options: dict[str, Any] = attrs.Factory(dict)
    names: dict[str, str] = attrs.Factory(dict)
    now: float = 0.0
    table: Table | None = None
    join: bs.Bootstrap | None = None
    lookup: lk.Lookup | None = None

    def play(self, line: str) -> list[str]:
        """Do what a line says; return what was said to it."""
        words = [word for word in line.replace(":", " ", line.startswith("answer ")).split() if "=" not in word]
        given = dict(word.split("=", 1) for word in line.split() if "=" in word)
        verb = words[0]
        if verb == "settings":
            self.options = {name: type(getattr(DhtSettings(), name))(float(value)) for name, value in given.items()}
            return []
        if verb == "table":
            self.table = Table(key("0"), self.settings, self.now)
            return []
        if verb == "wait":
            return self._wait(words)
        if verb == "join" or (self.join is not None and verb in {"wake", "introduced", "looked", "sight"}):
            return self._join(words, given)
        if verb == "lookup" or self.lookup is not None:
            return self._lookup(words, given)
        return self._table(words, given)

    @property
    def settings(self) -> DhtSettings:
        return DhtSettings(**{"replicas": 1, "beta": 1, **self.options})

    def _contact(self, name: str, stamp_ms: int = 0) -> Contact:
        contact = named(name, stamp_ms)
        self.names[contact.peer] = name
        return contact

    def _list(self, contacts: Any) -> str:
        return " ".join(self.names[one.peer] for one in contacts) or "nobody"

    def _wait(self, words: list[str]) -> list[str]:
        if self.lookup is None:
            self.now += float(words[1])
            return []
        self.now = self.lookup.wakes_at
        return [f"at {self.now:g} s", *self._commands(self.lookup.step(lk.Woken(), self.now))]

    # ---- the table

    def _table(self, words: list[str], given: dict[str, str]) -> list[str]:
        assert self.table is not None, "begin with `table`"
        verb, *rest = words
        place, stamp_ms = given.get("at", ""), int(given.get("stamp", 0))
        if verb == "answered":
            asked = self.table.answered(self._contact(rest[0], stamp_ms), self.now, seen_at=place)
            return [] if asked is None else [f"ask {self._list([asked])}"]
        if verb == "heard":
            return ["introduce" if self.table.heard(self._contact(rest[0]), self.now, seen_at=place) else "let be"]
        return self._change(self.table, verb, rest, stamp_ms) or self._show(self.table, verb, rest)

    def _change(self, table: Table, verb: str, rest: list[str], stamp_ms: int) -> list[str]:
        match verb:
            case "failed":
                table.failed(self._contact(rest[0]).peer, self.now)
            case "removed":
                table.remove(self._contact(rest[0]).peer)
            case "learned":
                table.learned(self._contact(rest[0], stamp_ms))
            case "looked":
                table.looked_up(key(rest[0]), self.now)
        return []

    def _show(self, table: Table, verb: str, rest: list[str]) -> list[str]:
        match verb:
            case "closest":
                return [self._list(table.closest(key(rest[0]), int(rest[1]), doubtful="doubtful" in rest))]
            case "buckets":
                return [f"{n}: {self._list(seat.contact for seat in table.seats(n))}" for n in sorted(table.fill())]
            case "stale":
                return [" ".join(map(str, table.stale(self.now))) or "none"]
            case "doubtful":
                return [self._list(table.doubtful(self.now, 9))]
        assert verb in {"failed", "removed", "learned", "looked"}, f"no such command: {verb}"
        return []

    # ---- joining

    def _join(self, words: list[str], given: dict[str, str]) -> list[str]:
        assert self.table is not None, "begin with `table`"
        if words[0] == "join":
            self.join = bs.Bootstrap(
                self.table,
                told_of=int(given["told"]),
                settings=self.settings,
                bits=lambda count: 1 << count - 1,
                now=self.now,
            )
            return self._around(self.join.step(bs.Woken(), self.now))
        assert self.join is not None
        if words == ["sight"]:
            return [self.join.sight().words]
        said, event = [], self._happened(words)
        if words == ["wake"]:
            self.now = max(self.now, self.join.wakes_at)
            said = [f"at {self.now:g} s"]
        return [*said, *self._around(self.join.step(event, self.now))]

    def _happened(self, words: list[str]) -> bs.Event:
        match words:
            case ["introduced", count]:
                return bs.Introduced(int(count))
            case ["looked", "up", bucket, count]:
                return bs.LookedUp(bs.OWN if bucket == "own" else int(bucket), int(count))
        assert words == ["wake"], f"no such command: {' '.join(words)}"
        return bs.Woken()

    def _around(self, commands: list[bs.Command]) -> list[str]:
        said = []
        for command in commands:
            match command:
                case bs.IntroduceToAll():
                    said.append("introduce to all")
                case bs.IntroduceTo(contact):
                    said.append(f"introduce to {self._list([contact])}")
                case bs.LookUp(bucket):
                    said.append(f"look up {'own' if bucket == bs.OWN else bucket}")
        return said

    # ---- a lookup

    def _lookup(self, words: list[str], given: dict[str, str]) -> list[str]:
        if words[0] == "lookup":
            want, starts = self._want(words[1], words[2], given), [self._contact(name) for name in words[3:]]
            paths = int(given["paths"]) if "paths" in given else None
            self.lookup = lk.Lookup(want, self.settings, starts, own=peer(0), now=self.now, paths=paths)
            return self._commands(self.lookup.step(lk.Begun(), self.now))
        assert self.lookup is not None
        return self._commands(self.lookup.step(self._event(words, given), self.now))

    def _want(self, kind: str, name: str, given: dict[str, str]) -> lk.Want:
        match kind:
            case "nearest":
                return lk.Nearest(key(name))
            case "peer":
                return lk.Peer(self._contact(name).peer, key(name))
            case "value" | "critical":
                agreeing = 0 if kind == "critical" else self.settings.agreeing
                return lk.Value(key(name), agreeing, int(given.get("seq", 0)))
            case _:
                return lk.Providers(key(name), int(given["count"]))

    def _event(self, words: list[str], given: dict[str, str]) -> lk.Event:
        verb, name, *closer = words
        who = self._contact(name).peer
        if verb in {"fail", "forge"}:
            return lk.Failed(who, forged=verb == "forge")
        assert verb == "answer", f"no such command: {' '.join(words)}"
        held = None
        if "record" in given:
            seq, _, value = given["record"].partition(":")
            held = Record(peer(0), b"salt", int(seq), 0, 3600, value.encode())
        providers = [self._contact(one) for one in given.get("providers", "").split(",") if one]
        return lk.Answered(who, [self._contact(one) for one in closer], held, providers, given.get("group", ""))

    def _commands(self, commands: list[lk.Command]) -> list[str]:
        said = []
        for command in commands:
            match command:
                case lk.Request(contact, path):
                    said.append(f"path {path} asks {self._list([contact])}")
                case lk.Finished(outcome):
                    said += self._told(outcome)
        return said

    def _told(self, outcome: lk.Outcome) -> list[str]:
        said = [f"ended: closest {self._list(outcome.closest)}; hops {outcome.hops}; asked {outcome.asked}"]
        if not outcome.in_time:
            said.append("out of time")
        if outcome.record is not None:
            said.append(f"record {outcome.record.seq}:{outcome.record.value.decode()}")
            said.append(f"holders {self._list(outcome.holders)}; stale {self._list(outcome.stale)}")
        if outcome.providers:
            said.append(f"providers {self._list(outcome.providers)}")
        if outcome.found is not None:
            said.append(f"found {self._list([outcome.found])}")
        if outcome.cause:
            said.append(outcome.cause)
        return said


def played(text: str) -> str:
    """Return a script with what is really said under each command."""
    script, lines = Script(), []
    for line in text.splitlines():
        if line.startswith(">"):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += [f"> {said}" for said in script.play(line.strip())]
    return "\n".join(lines) + "\n"


def difference(path: Path) -> str:
    """Return how a script differs from what is really said; empty if it does not."""
    text = path.read_text(encoding="utf-8")
    return "\n".join(
        difflib.unified_diff(text.splitlines(), played(text).splitlines(), "expected", "said", lineterm="")
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(played(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
