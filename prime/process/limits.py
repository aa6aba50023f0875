"""What a parent and its child process allow each other on their pair."""

from __future__ import annotations

import math

from prime.transport.frames import Allowance
from prime.transport.link import LinkLimits


def pair_limits(silent_s: float) -> LinkLimits:
    """Return the limits of a pair: its other end is this same program, so bulk passes and only silence ends it."""
    allowance = Allowance(
        frame_bytes_max=2**33,
        payloads_max=65_535,
        window_messages=4096,
        window_bytes=2**34,
        link_bytes=2**34,
        asks_max=65_536,
    )
    return LinkLimits(
        allowance,
        heartbeat_interval_s=min(2.0, silent_s / 3),
        heartbeat_timeout_s=silent_s,
        heartbeat_rest_s=0.0,
        write_s=silent_s,
        dial_s=math.inf,
        greeting_s=math.inf,
        farewell_s=0.5,
        answers_bytes=2**30,
        urgent_bytes_max=2**30,
    )
