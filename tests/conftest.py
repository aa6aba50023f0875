"""What every test shares: the Hypothesis profiles, and Ctrl-C.

`ci` (the default) draws the same examples on every run, so that a red run is red again; `nightly` draws new ones, many
more of them. `HYPOTHESIS_PROFILE=nightly` or pytest's `--hypothesis-profile=nightly` chooses.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# No deadline and no health check on time: a shared machine's pauses say nothing about the code.
settings.register_profile(
    "ci",
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly",
    max_examples=2_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell has what it starts in the background ignore Ctrl-C, and whatever that starts, too: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
