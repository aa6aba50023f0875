"""A link over a network whose packets are dropped for a while goes on within two seconds of its healing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from nets import Internet, Program  # type: ignore[import-not-found]  # beside this file

pytestmark = pytest.mark.network

RESUME_S = 2.0
SLACK_S = 1.0
"""What a busy machine may add; the figure that is printed has none."""
PROGRAM = Path(__file__).with_name("resuming.py")


def resumed(internet: Internet, kind: str, cuts: tuple[float, ...], *, both: bool) -> list[float]:
    """Cut and heal the network between two nodes again and again; return how long after each healing a message came."""
    hosts = [internet.host(name) for name in ("a", "b")]
    nodes: list[Program] = [
        host.start_python(PROGRAM, kind, host.address, str(number)) for number, host in enumerate(hosts)
    ]
    addresses = [node.line() for node in nodes]
    for node, address in zip(nodes, reversed(addresses), strict=True):
        node.say(address)
    for node in nodes if both else nodes[:1]:
        node.say("send")
    heals = []
    for cut_s in cuts:
        time.sleep(2)
        hosts[1].cut()
        time.sleep(cut_s)
        hosts[1].heal()
        heals.append(time.monotonic())
    time.sleep(3)
    for words in ("stop", "end"):
        for node in nodes:
            node.say(words)
        if words == "stop":
            assert [node.line(60) for node in nodes] == ["told", "told"]
    books = [node.object(60) for node in nodes]
    took = []
    for own, other in (books, reversed(books)):
        assert [number for _, number in other["got"]] == list(range(own["told"]))
        if own["told"]:
            took.append([min(at for at, _ in other["got"] if at > healed) - healed for healed in heals])
    worst = [max(each) for each in zip(*took, strict=True)]
    print(f"{kind}: " + ", ".join(f"cut {cut_s:g} s: {s:.2f} s" for cut_s, s in zip(cuts, worst, strict=True)))
    return worst


def test_a_short_black_hole(internet: Internet) -> None:
    assert max(resumed(internet, "tcp", (3.2,), both=True)) <= RESUME_S + SLACK_S


@pytest.mark.nightly
@pytest.mark.timeout(400)
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", ["tcp", "libp2p"])
def test_black_holes_of_any_length(internet: Internet, kind: str, both: bool) -> None:
    if kind == "libp2p":
        pytest.importorskip("libp2p")
    cuts = (0.5, 1, 1.7, 2.4, 3, 3.6, 5, 7, 9.5, 15, 40)
    assert max(resumed(internet, kind, cuts, both=both)) <= RESUME_S + SLACK_S
