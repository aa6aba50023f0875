"""Prime nodes behind NATs that talk through a standard libp2p relay."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import Internet  # type: ignore[import-not-found]

pytest.importorskip("libp2p")
pytestmark = pytest.mark.network

NODE = Path(__file__).with_name("circuit_node.py")
STOCK = Path(__file__).with_name("stock_libp2p.py")


def test_a_node_behind_a_nat_is_dialled_through_py_libp2p_s_relay(internet: Internet) -> None:
    machine = internet.host("relay")
    stock = machine.start_python(STOCK, "/ip4/0.0.0.0/tcp/4001", "hop")
    relay = f"/ip4/{machine.address}/tcp/4001/p2p/{stock.object(60)['peer']}"
    inside = internet.lan("home").host("inside").start_python(NODE, "listen", relay)
    [address] = inside.object()
    caller = internet.lan("office", nat="symmetric").host("caller").start_python(NODE, "call", address)
    for letters in ("10", "200000"):
        caller.say(letters)
        assert caller.object() == [[True], True]  # one link, by a circuit; and the answer is right
