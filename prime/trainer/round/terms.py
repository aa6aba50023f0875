"""What all members of a run hold to when they lead a round: the rule of aggregation, and who is asked to contribute."""

from __future__ import annotations

import attrs

from prime.trainer.robust.rules import Rule


@attrs.frozen(kw_only=True)
class Terms:
    """Equal on all nodes of a run; `participation` is the fraction of the members that each round asks to contribute."""

    rule: Rule = attrs.field(factory=Rule)
    participation: float = attrs.field(
        default=1.0, validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.le(1))
    )


DEFAULT_TERMS = Terms()
"""A weighted mean of everyone's contributions."""
