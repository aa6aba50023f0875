"""How a node learns whether others can dial it: what it makes of their answers, and whom it lets knock where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import prime
from prime.errors import RefusedError
from prime.transport import reachability as core
from prime.transport.dialback import KNOCKS_MAX, ReachabilityActor, believable, doors
from prime.transport.facts import ReachabilityChanged
from prime.transport.identity import KeyPair
from prime.transport.messages import REACHABILITY_PATH, Attempt, DialBack, DialledBack
from prime.transport.multiaddr import parse_address
from prime.transport.reachability import (
    ASK_AGAIN_S,
    ASK_FIRST_S,
    ASK_SILENT_S,
    WITNESSES_MAX,
    Evidence,
    Judge,
    Reachability,
    Scope,
    scope_of,
)
from tests.transport.relaying import until

PEER = KeyPair.from_seed(bytes(32)).peer
HERE = f"/ip4/203.0.113.5/tcp/4001/p2p/{PEER}"


def heard(peer: str, *, reached: bool, address: str = HERE) -> core.Heard:
    text = "" if reached else "connection refused"
    return core.Heard(peer, "/ip4/203.0.113.5/tcp/50000", (Evidence(peer, address, reached, text),))


def asked(*peers: str) -> Judge:
    judge = Judge()
    for peer in peers:
        judge.step(core.Linked(peer, relayed=False), 0.0)
    judge.step(core.Tick(), ASK_FIRST_S)
    return judge


def changes(commands: list[core.Command]) -> list[tuple[str, str]]:
    return [(c.before.value, c.after.value) for c in commands if isinstance(c, core.Changed)]


def test_a_peer_is_asked_a_moment_after_its_link_and_again_much_later() -> None:
    judge = Judge()
    judge.step(core.Linked("a", relayed=False), 0.0)
    assert judge.step(core.Tick(), ASK_FIRST_S - 0.1) == []
    assert judge.step(core.Tick(), ASK_FIRST_S) == [core.Ask("a")]
    assert judge.step(core.Tick(), ASK_FIRST_S + 100) == []  # it has not answered yet
    judge.step(heard("a", reached=True), 2.0)
    assert judge.step(core.Tick(), 2.0 + ASK_AGAIN_S - 1) == []
    assert judge.step(core.Tick(), 2.0 + ASK_AGAIN_S) == [core.Ask("a")]


def test_who_is_linked_through_a_relay_or_no_more_is_not_asked() -> None:
    judge = Judge()
    judge.step(core.Linked("a", relayed=True), 0.0)
    judge.step(core.Linked("b", relayed=False), 0.0)
    judge.step(core.Unlinked("b"), 0.5)
    assert judge.step(core.Tick(), 10.0) == []
    assert judge.is_settled


def test_a_peer_that_does_not_dial_back_says_nothing() -> None:
    judge = asked("a")
    assert not judge.is_settled
    assert judge.step(core.Heard("a", "", ()), 2.0) == []
    assert judge.is_settled
    assert judge.outcome is Reachability.UNKNOWN
    assert judge.step(core.Tick(), 2.0 + ASK_SILENT_S) == [core.Ask("a")]


def test_the_majority_of_the_latest_answers_counts() -> None:
    judge = asked("a", "b", "c")
    assert changes(judge.step(heard("a", reached=False), 2.0)) == [("unknown", "client-only")]
    assert changes(judge.step(heard("b", reached=True), 2.0)) == [("client-only", "public")]
    assert changes(judge.step(heard("c", reached=False), 2.0)) == [("public", "client-only")]
    assert judge.why == "2 of 3 peers could not dial this node"
    assert changes(judge.step(heard("a", reached=True), 3.0)) == [("client-only", "public")]
    assert judge.why == "2 of 3 peers dialled this node, over the local network"


def test_a_slot_makes_a_client_relayed() -> None:
    judge = asked("a")
    judge.step(heard("a", reached=False), 2.0)
    assert changes(judge.step(core.Slots(1), 3.0)) == [("client-only", "relayed")]
    assert judge.why.endswith("; 1 relay keeps a slot")
    assert changes(judge.step(core.Slots(0), 4.0)) == [("relayed", "client-only")]


def test_addresses_where_others_got_through_are_found_and_lost() -> None:
    judge = asked("a")
    assert core.Found((HERE,)) in judge.step(heard("a", reached=True), 2.0)
    assert core.Found((HERE,)) not in judge.step(heard("a", reached=True), 3.0)
    assert core.Found(()) in judge.step(core.Moved(), 4.0)
    assert judge.outcome is Reachability.UNKNOWN
    assert judge.step(core.Tick(), 4.0) == [core.Ask("a")]


def test_what_is_remembered_is_bounded() -> None:
    judge = Judge()
    judge.step(core.Linked("gone", relayed=False), 0.0)
    judge.step(core.Unlinked("gone"), 0.0)
    for n in range(100):
        judge.step(core.Linked(f"p{n}", relayed=False), 0.0)
    assert len(judge.step(core.Tick(), 10.0)) == WITNESSES_MAX
    judge.step(heard("stranger", reached=True), 10.0)
    assert judge.evidence == ()


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("/ip4/127.0.0.1/tcp/1", Scope.MACHINE),
        ("/ip6/::1/tcp/1", Scope.MACHINE),
        ("/ip4/0.0.0.0/tcp/1", Scope.MACHINE),
        ("/memory/a", Scope.MACHINE),
        ("/unix/run/a", Scope.MACHINE),
        ("/ip4/192.168.1.4/tcp/1", Scope.LOCAL),
        ("/ip4/100.64.0.1/tcp/1", Scope.LOCAL),
        ("/ip6/fe80::1/tcp/1", Scope.LOCAL),
        ("/ip4/8.8.8.8/tcp/1", Scope.INTERNET),
        ("/dns4/example.org/tcp/1", Scope.INTERNET),
    ],
)
def test_scopes(address: str, scope: Scope) -> None:
    assert scope_of(parse_address(address).place) is scope


# ------------------------------------------------------------------------------------------------ whom it knocks at


def test_only_the_host_that_a_link_comes_from_is_dialled() -> None:
    claimed = (
        "/ip4/192.168.1.2/tcp/4001",
        "/ip4/198.51.100.7/tcp/22",
        "/ip4/198.51.100.7/tcp/4001",
        "/dns4/x.org/tcp/1",
    )
    assert doors("/ip4/203.0.113.5/tcp/999", claimed, PEER) == (
        f"/ip4/203.0.113.5/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/22/p2p/{PEER}",
        f"/ip4/203.0.113.5/tcp/1/p2p/{PEER}",
    )
    assert doors("/ip6/2001:db8::1/tcp/999", claimed[:1], PEER) == (f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}",)


def test_nobody_is_dialled_for_one_whose_host_is_not_known() -> None:
    assert doors("", ("/ip4/203.0.113.5/tcp/4001", "nonsense", "/unix/run/x", "/ip4/203.0.113.5/tcp/0"), PEER) == ()


def test_few_doors_are_knocked_at_for_one_request() -> None:
    claimed = tuple(f"/ip4/203.0.113.5/tcp/{port}" for port in range(1, 9))
    assert len(doors("/ip4/203.0.113.5/tcp/999", claimed, PEER)) == KNOCKS_MAX


def test_another_transport_is_dialled_at_the_same_host() -> None:
    found = doors("/ip4/203.0.113.5/tcp/999", ("/ip4/10.0.0.1/tcp/443/tls/ws",), PEER)
    assert found == (f"/ip4/203.0.113.5/tcp/443/tls/ws/p2p/{PEER}",)


SEEN = "/ip4/203.0.113.5/tcp/999"
OWN = ("/ip4/192.168.1.2/tcp/4001",)


def test_what_cannot_be_true_is_not_believed() -> None:
    """A peer cannot make this node announce another's address, another port, or words that move a terminal's cursor."""
    attempts = (
        Attempt(f"/ip4/198.51.100.7/tcp/4001/p2p/{PEER}", reached=True, text=""),
        Attempt(f"/ip4/203.0.113.5/tcp/22/p2p/{PEER}", reached=True, text=""),
        Attempt("nonsense", reached=True, text=""),
        Attempt("", reached=True, text="\x1b[2Jgone" + "x" * 1000),
        Attempt(HERE, reached=True, text="fine"),
    )
    found = believable(PEER, DialledBack(SEEN, attempts), OWN, PEER)
    assert [(each.address, each.reached) for each in found.evidence] == [("", False), (HERE, True)]
    assert found.evidence[0].text.startswith("[2Jgonex")
    assert len(found.evidence[0].text) < 260


@pytest.mark.parametrize("seen", ["", "nonsense", "/memory/a", "/dns4/example.org/tcp/1", "/ip4/203.0.113.5"])
def test_a_place_that_is_none_is_no_place(seen: str) -> None:
    found = believable(PEER, DialledBack(seen, (Attempt(HERE, reached=True, text=""),)), OWN, PEER)
    assert (found.seen, found.evidence) == ("", ())


def test_one_peer_alone_among_several_moves_nobodys_dials() -> None:
    judge = asked("a", "b", "c")
    other = f"/ip4/203.0.113.5/tcp/22/p2p/{PEER}"
    judge.step(heard("a", reached=True), 2.0)
    judge.step(heard("b", reached=True), 2.0)
    assert not any(isinstance(c, core.Found) for c in judge.step(heard("c", reached=True, address=other), 2.0))


# ------------------------------------------------------------------------------------------------------- the whole


def outcome(system: Any) -> str:
    return str(system.network.reachability.outcome.value)


@pytest.mark.parametrize("make", [lambda: prime.Tcp("/ip4/127.0.0.1/tcp/0"), lambda: prime.Tcp("/ip4/0.0.0.0/tcp/0")])
async def test_a_node_that_can_be_dialled_learns_it(make: Callable[[], Any]) -> None:
    facts: list[Any] = []
    async with (
        prime.open_system(transport=make(), reachability=True) as helper,
        prime.open_system(transport=make(), reachability=True) as node,
    ):
        node.subscribe(facts.append)
        await node.network.dial(helper.addresses[-1])
        await until(lambda: outcome(node) == "public")
        (changed,) = [fact for fact in facts if isinstance(fact, ReachabilityChanged)]
        assert (changed.before, changed.after) == ("unknown", "public")
        assert "1 of 1 peers dialled this node" in changed.why


class DeafTcp(prime.Tcp):
    """Listens where it does not say, as a node behind a router does: nobody gets through to the port that it claims."""

    def open(self, key: KeyPair) -> Any:
        return _deaf(super().open(key))


class _Deaf:
    def __init__(self, inner: Any, is_deaf: Callable[[], bool]) -> None:
        self._inner = inner
        self._is_deaf = is_deaf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"/ip4/127.0.0.1/tcp/1/p2p/{self._inner.peer}",) if self._is_deaf() else self._inner.addresses


class _deaf:  # noqa: N801 - used like a function
    def __init__(self, opening: Any, is_deaf: Callable[[], bool] = lambda: True) -> None:
        self._opening = opening
        self._is_deaf = is_deaf

    async def __aenter__(self) -> _Deaf:
        return _Deaf(await self._opening.__aenter__(), self._is_deaf)

    async def __aexit__(self, *error: object) -> Any:
        return await self._opening.__aexit__(*error)


async def test_a_node_that_cannot_be_dialled_goes_through_its_relay_and_says_so() -> None:
    async with (
        prime.open_system(
            transport=prime.Tcp("/ip4/127.0.0.1/tcp/0"), relay=prime.RelayLimits(), reachability=True
        ) as relay,
        prime.open_system(transport=DeafTcp(), via=relay.addresses, reachability=True) as node,
    ):
        await until(lambda: outcome(node) == "relayed" and node.network.reachability.evidence)
        (evidence,) = node.network.reachability.evidence
        assert not evidence.reached
        assert "refused" in evidence.text
        assert "1 relay keeps a slot" in node.network.reachability.why


async def test_a_node_that_can_be_dialled_gives_its_slot_back() -> None:
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with (
        prime.open_system(transport=tcp, relay=prime.RelayLimits(), reachability=True) as relay,
        prime.open_system(transport=tcp, via=relay.addresses, reachability=True) as node,
    ):
        await until(lambda: any("p2p-circuit" in address for address in node.addresses))
        await until(lambda: outcome(node) == "public" and not node.network.announced("circuits"))


class ShutTcp(prime.Tcp):
    """Can be dialled until it is `shut`: its port is another then, and nobody gets through."""

    shut = False

    def open(self, key: KeyPair) -> Any:
        return _deaf(super().open(key), lambda: ShutTcp.shut)


async def test_a_node_that_cannot_be_dialled_any_more_reserves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: list[Any] = []
    async with (
        prime.open_system(
            transport=prime.Tcp("/ip4/127.0.0.1/tcp/0"), relay=prime.RelayLimits(), reachability=True
        ) as relay,
        prime.open_system(transport=ShutTcp(), via=relay.addresses, reachability=True) as node,
    ):
        node.subscribe(facts.append)
        await until(lambda: outcome(node) == "public" and not node.network.announced("circuits"))
        monkeypatch.setattr(ShutTcp, "shut", True)
        await until(lambda: outcome(node) == "relayed" and node.network.announced("circuits"))
        changes = [fact.after for fact in facts if isinstance(fact, ReachabilityChanged)]
        assert changes[-3:] in (["unknown", "client-only", "relayed"], ["public", "client-only", "relayed"])


async def test_a_peer_that_does_not_dial_back_leaves_the_outcome_unknown() -> None:
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with prime.open_system(transport=tcp) as plain, prime.open_system(transport=tcp, reachability=True) as node:
        await node.network.dial(plain.addresses[0])
        judge = node.network.reachability
        await until(lambda: judge._witnesses and judge.is_settled)
        assert outcome(node) == "unknown"
        assert judge.why == "no peer has dialled back yet"


async def test_who_asks_too_often_is_refused() -> None:
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with prime.open_system(transport=tcp, reachability=True) as helper, prime.open_system(transport=tcp) as node:
        await node.network.dial(helper.addresses[0])
        far = node.ref(helper.peer, REACHABILITY_PATH, ReachabilityActor)
        answer = await far.ask(DialBack(node.addresses), timeout=5)
        assert answer.seen.startswith("/ip4/127.0.0.1/tcp/")
        assert [attempt.reached for attempt in answer.attempts] == [True]
        answer = await far.ask(DialBack(()), timeout=5)
        assert [attempt.reached for attempt in answer.attempts] == [False]
        with pytest.raises(RefusedError, match="no more just now"):
            for _ in range(10):
                await far.ask(DialBack(()), timeout=5)


async def test_dialled_back_over_libp2p_a_new_connection_is_made() -> None:
    pytest.importorskip("libp2p")
    make = lambda: prime.Libp2p("/ip4/127.0.0.1/tcp/0")  # noqa: E731
    async with (
        prime.open_system(transport=make(), reachability=True) as helper,
        prime.open_system(transport=make(), reachability=True) as node,
    ):
        await node.network.dial(helper.addresses[0])
        await until(lambda: outcome(node) == "public")
