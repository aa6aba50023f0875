"""The clocks of a round, in one place (pure)."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Timing:
    """How long a round waits for what. All seconds, all counted from the round's first activity unless said.

    `seal_s` should be several times the spread between the fastest and the slowest member; `deadline_s` is when a
    member without the outcome is in doubt and asks around.
    """

    resend_s: float = attrs.field(default=0.25, validator=attrs.validators.gt(0))
    """Between two sendings of what was not answered; also the leader's heartbeat."""
    transfer_s: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    """Before bytes that nobody confirmed are offered again."""
    beat_s: float = attrs.field(default=0.2, validator=attrs.validators.gt(0))
    """Between two heartbeats of a member in a round under way."""
    phi: float = attrs.field(default=8.0, validator=attrs.validators.gt(0))
    """How strange a member's silence must be to be suspected (`rhythm.py`): its parts move, another one leads."""
    pause_s: float = attrs.field(default=0.2, validator=attrs.validators.ge(0))
    """A silence that is always forgiven, on top of what the heartbeats' rhythm explains."""
    suspect_s: float = attrs.field(default=2.0, validator=attrs.validators.gt(0))
    """Silence after which an active member counts as gone whatever its rhythm was, and is left out of the next view
    unless it contributed. A broken link is enough at once."""
    stagger_s: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    """Between one would-be leader and the next."""
    seal_s: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    """How long the leader waits for living members that have not contributed."""
    seal_min_s: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    """How long it waits at least for those that have often been late (`patience.py`), counted from when there was enough
    to seal; between this and `seal_s` it is as long as they are worth."""
    reduce_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """How long owners may take after the seal before their parts move on."""
    deadline_s: float = attrs.field(default=20.0, validator=attrs.validators.gt(0))
    """When a member without the outcome is in doubt; again after each further such time."""
    join_ttl_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """How long a join request counts without being repeated."""
    quorum: float = attrs.field(
        default=0.5, validator=attrs.validators.and_(attrs.validators.ge(0), attrs.validators.le(1))
    )
    """The least share of the view's weight that a seal needs."""
