"""A slow line with a long queue, on which an answer comes seconds late, is used on: it is not dialled anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.nat.nets import Internet
from tests.nat.slow_line import SIZE_BYTES

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("tc") is None, reason="needs tc (iproute2), which shapes a line"),
]

PROGRAM = Path(__file__).with_name("slow_line.py")
RATE_BYTES_S = 2_000_000


@pytest.mark.parametrize("frames", ["whole", "pieces"])
@pytest.mark.parametrize("kind", ["tcp", "libp2p"])
def test_a_big_payload_goes_over_a_slow_line_in_one_link(internet: Internet, kind: str, frames: str) -> None:
    if kind == "libp2p":
        pytest.importorskip("libp2p")
    host = internet.host("a")
    host.run("ip", "link", "set", "lo", "mtu", "1500")
    shape = f"rate {8 * RATE_BYTES_S} burst 32kb latency 1500ms"
    host.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *shape.split())
    found = host.start_python(PROGRAM, kind, frames).object(60)
    assert found["took_s"] > 0.9 * SIZE_BYTES / RATE_BYTES_S
    assert (found["came"], found["links"]) == (SIZE_BYTES, 1)
