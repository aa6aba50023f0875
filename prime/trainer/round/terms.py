"""What all members of a run hold to when they lead a round: the rule, who is asked to contribute, when the run ends."""

from __future__ import annotations

import attrs

from prime.trainer.robust.rules import Rule


@attrs.frozen(kw_only=True)
class Terms:
    """Equal on all nodes of a run; `participation` is the fraction of the members that each round asks to contribute.

    The first round from `rounds` on with `contributors_final_min` contributors is the last one; 0 rounds: none is.
    """

    rule: Rule = attrs.field(factory=Rule)
    participation: float = attrs.field(
        default=1.0, validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.le(1))
    )
    rounds: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    contributors_final_min: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    def is_last(self, round_: int, contributors: int) -> bool:
        """Tell whether a round with so many contributors ends the run."""
        return 0 < self.rounds <= round_ and contributors >= self.contributors_final_min


DEFAULT_TERMS = Terms()
"""A weighted mean of everyone's contributions."""
