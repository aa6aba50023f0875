"""Which addresses a peer may vouch for, and which share a group."""

from __future__ import annotations

import pytest

from prime.dht.groups import Scope, counted_group, group_of, scope_of, vouched
from tests.dht.strangers import peer

RELAY = peer(7)


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("/ip4/8.8.8.8/tcp/4001", Scope.PUBLIC),
        ("/ip6/2600:1f18::1/tcp/4001", Scope.PUBLIC),
        ("/ip4/8.8.8.8/udp/4001/quic-v1", Scope.PUBLIC),
        ("/ip4/10.1.2.3/tcp/1", Scope.SITE),
        ("/ip4/172.16.0.1/tcp/1", Scope.SITE),
        ("/ip4/192.168.0.9/tcp/1", Scope.SITE),
        ("/ip4/169.254.169.254/tcp/80", Scope.SITE),  # where clouds keep their secrets
        ("/ip4/100.64.0.1/tcp/1", Scope.SITE),
        ("/ip6/fd00::1/tcp/1", Scope.SITE),
        ("/ip6/fe80::1/tcp/1", Scope.SITE),
        ("/dns4/example.org/tcp/1", Scope.SITE),
        ("/dns4/0xcafe.lan/tcp/1", Scope.SITE),
        ("/dns4/localhost.example.org/tcp/1", Scope.SITE),
        ("/dns4/localhost/tcp/1", Scope.MACHINE),
        ("/dns6/Node.LocalHost./tcp/1", Scope.MACHINE),
        ("/dns4/127.0.0.1/tcp/1", Scope.MACHINE),
        ("/dns/2130706433/tcp/1", Scope.MACHINE),
        ("/dns/0x7f.1/tcp/1", Scope.MACHINE),
        ("/ip4/127.0.0.1/tcp/1", Scope.MACHINE),
        ("/ip4/127.9.9.9/tcp/1", Scope.MACHINE),
        ("/ip6/::1/tcp/1", Scope.MACHINE),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Scope.MACHINE),
        ("/ip6/2002:7f00:1::1/tcp/1", Scope.MACHINE),  # 6to4 of 127.0.0.1
        ("/ip6/64:ff9b::7f00:1/tcp/1", Scope.MACHINE),  # NAT64 of it
        ("/ip6/::ffff:10.0.0.1/tcp/1", Scope.SITE),
        ("/ip6/2001:0:53aa:64c:0:0:80ff:fffe/tcp/1", Scope.MACHINE),  # Teredo of it
        ("/ip6/::7f00:1/tcp/1", Scope.NEVER),
        ("/unix/run/node.sock", Scope.MACHINE),
        ("/memory/alice", Scope.MACHINE),
        ("/ip4/224.0.0.1/tcp/1", Scope.NEVER),
        ("/ip6/ff02::1/tcp/1", Scope.NEVER),
        ("/ip4/0.0.0.0/tcp/1", Scope.NEVER),
        ("/ip6/::/tcp/1", Scope.NEVER),
        ("/ip4/255.255.255.255/tcp/1", Scope.NEVER),
        ("/ip4/240.0.0.1/tcp/1", Scope.NEVER),
        ("/ip4/0.1.2.3/tcp/1", Scope.NEVER),
        ("/ip4/8.8.8.8/tcp/0", Scope.NEVER),
        ("nonsense", Scope.NEVER),
        ("", Scope.NEVER),
        (f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit", Scope.PUBLIC),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit", Scope.MACHINE),
    ],
)
def test_scopes(address: str, scope: Scope) -> None:
    assert scope_of(address) is scope


PUBLIC, SITE, LOOPBACK, MULTICAST = (
    "/ip4/8.8.8.8/tcp/1",
    "/ip4/192.168.0.9/tcp/1",
    "/ip4/127.0.0.1/tcp/1",
    "/ip4/224.0.0.1/tcp/1",
)


@pytest.mark.parametrize(
    ("seen_at", "allowed"),
    [
        ("/ip4/9.9.9.9/tcp/50000", (PUBLIC,)),
        ("/ip4/10.0.0.1/tcp/50000", (PUBLIC, SITE)),
        ("/ip4/127.0.0.1/tcp/50000", (PUBLIC, SITE, LOOPBACK)),
        ("/memory/a", (PUBLIC, SITE, LOOPBACK)),
        (f"/ip4/9.9.9.9/tcp/1/p2p/{RELAY}/p2p-circuit", (PUBLIC,)),
        ("", (PUBLIC,)),
    ],
)
def test_a_peer_vouches_for_nothing_nearer_than_itself(seen_at: str, allowed: tuple[str, ...]) -> None:
    assert vouched((PUBLIC, SITE, LOOPBACK, MULTICAST), seen_at) == allowed


def test_groups_are_what_one_owner_easily_has_much_of() -> None:
    assert group_of("/ip4/8.8.8.8/tcp/1") == group_of("/ip4/8.8.200.1/udp/9/quic-v1") == "8.8.0.0/16"
    assert group_of("/ip6/2600:1f18:1::1/tcp/1") == group_of("/ip6/2600:1f18:ffff::1/tcp/1") == "2600:1f18::/32"
    assert group_of("/ip6/::ffff:8.8.8.8/tcp/1") == "8.8.0.0/16", "no second group for one machine"
    assert group_of(f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit") == "8.8.0.0/16"
    assert group_of("/memory/a") == group_of("/dns4/example.org/tcp/1") == group_of("nonsense") == ""


def test_only_public_groups_are_counted() -> None:
    assert counted_group("/ip4/8.8.8.8/tcp/1") == "8.8.0.0/16"
    assert counted_group("/ip4/192.168.1.1/tcp/1") == counted_group("/ip4/127.0.0.1/tcp/1") == ""
