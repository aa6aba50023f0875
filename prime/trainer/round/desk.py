"""What one member keeps over all its rounds, and what the step under way has to say (pure data).

The files beside this one are the acts of a round, as functions over a `Desk` and its `Seat`; `round.py` calls them in
turn. They stand in floors, so that each is read with what is below it only: `desk`, then `liveness` and `scatter`, then
`voting`, `outcome`, and on top `leading` and `joining`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.patience import Patience
from prime.trainer.round.roster import Roster
from prime.trainer.round.seat import Seat
from prime.trainer.round.settings import Setting
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member, Value

HISTORY = 64
"""Decisions remembered, so that a member that far behind still learns each outcome in turn."""
CONTACTS_MAX = 256
"""Peers remembered that may be asked to be let in: a node that is in and out for weeks would else ask all who ever were."""
WARNINGS_MAX = 4
"""Warnings about one peer in one round; more are not written."""
WARNED_MAX = 256
"""Peers that are warned about in one round."""
WARNING_CHARACTERS_MAX = 500


class Desk:
    """One member of a run: its seat in the present round, the outcomes it remembers, whom it knows of.

    `now` and `out` belong to the step under way: the clock reading, and the commands so far.
    """

    def __init__(
        self, me: Member, run: str, timing: Timing, *, nodes_min: int = 1, terms: Terms = DEFAULT_TERMS
    ) -> None:
        self.me = me
        self.run = run
        self.timing = timing
        self.nodes_min = nodes_min
        self.terms = terms
        self.settings: tuple[Setting, ...] = ()
        self.boot = 1
        self.seat: Seat | None = None
        self.previous: Seat | None = None
        self.round = 0
        self.decisions: dict[int, Value] = {}
        self.roster = Roster()
        self.patience = Patience()
        self.decided_at = -math.inf
        self.behind = True
        self.own_base: tuple[int, bytes] | None = None
        self.leaving = False
        self.ending = False
        self.joining = False
        self.contacts: dict[str, None] = {}
        self.applying: Value | None = None
        self.applying_since = 0.0
        self.stalled = False
        self.rate_bytes_s: int | None = None
        self.demoted_round = -math.inf
        self.stepped_at = -math.inf
        self.warnings: dict[str, int] = {}
        self.words: dict[str, bytes] = {}
        self.last_report: msg.Report | None = None
        self.reported_to = ""
        self.ticked_at = -math.inf
        self.birth: tuple[msg.Record, ...] = ()
        self.now = 0.0
        self.out: list[cmd.Command] = []

    @property
    def base(self) -> bytes | None:
        """The hash of the state that the present round starts from, if this member holds it."""
        seat, own = self.seat, self.own_base
        return own[1] if seat is not None and own is not None and seat.starts_from(own[0]) else None

    @property
    def over(self) -> bool:
        """Tell whether the run ended with the newest outcome known."""
        return bool(self.decisions) and self.decisions[max(self.decisions)].last

    def remember(self, value: Value) -> None:
        """Keep an outcome for those who ask, and forget those that are too old."""
        self.decisions[value.round] = value
        for old in [r for r in self.decisions if r <= value.round - HISTORY]:
            del self.decisions[old]

    def know(self, peers: Iterable[str]) -> None:
        """Remember whom to ask to be let in, and whose word on a decision counts meanwhile; the latest stay."""
        for peer in peers:
            self.contacts.pop(peer, None)
            if peer != self.me.peer:
                self.contacts[peer] = None
        for peer in list(self.contacts)[: max(len(self.contacts) - CONTACTS_MAX, 0)]:
            del self.contacts[peer]

    # ------------------------------------------------------------------------------------- what the step has to say

    def do(self, command: cmd.Command) -> None:
        """Add a command to those of this step."""
        self.out.append(command)

    def warn(self, about: str, text: str) -> None:
        """Tell a person what another peer did, but only so often in a round: it could do it as often as it likes."""
        self.warnings[about] = self.warnings.get(about, 0) + 1
        if self.warnings[about] <= WARNINGS_MAX and len(self.warnings) <= WARNED_MAX:
            self.do(cmd.Warn(text[:WARNING_CHARACTERS_MAX]))

    def send(self, to: str, message: msg.PeerMessage) -> None:
        """Tell another member; nobody tells itself."""
        if to != self.me.peer:
            self.do(cmd.Send(to, message))

    def head(self, seat: Seat) -> tuple[str, int, int, str]:
        """Return what each message of the round begins with: run, epoch, round and sender."""
        return (self.run, seat.view.epoch, seat.round, self.me.peer)

    def others(self, seat: Seat) -> list[str]:
        """Return the other members, in the order in which they lead."""
        return [p for p in seat.order if p != self.me.peer]
