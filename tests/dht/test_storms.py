"""Whatever strangers sign and ask, in any order, no actor fails of it: what is of no sense is refused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor.facts import ActorFailed
from prime.dht import contact, record
from prime.dht import messages as m
from prime.dht.discovery import DiscoveryActor
from prime.dht.holding import HoldingActor
from prime.dht.providing import ProvidingActor
from prime.dht.registers import messages as rm
from prime.dht.registers.answering import RegistersActor
from prime.dht.registers.proposal import CALL_DOMAIN, PROPOSAL_DOMAIN
from prime.dht.routing import RoutingActor
from prime.dht.sealed import seal
from prime.errors import PrimeError
from tests.dht.swarm import LAN, WALL_S, key_pair, open_nodes

NOW_MS = int(WALL_S * 1000)
NUMBERS = (0, 1, 2, 60, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, NOW_MS, NOW_MS + 10**9)
BYTES = (b"", b"s", bytes(8), bytes(16), bytes(32), bytes(70))
STRANGERS = [key_pair(500 + number) for number in range(4)]
OFTEN = attrs.evolve(LAN, requests_per_s=1e6)


class Storm:
    """Draws questions: signed fields of about the right kinds, with the values that are hardest."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def number(self) -> int:
        return self.random.choice(NUMBERS)

    def odd(self) -> Any:
        return self.random.choice([None, True, 1.5, "text", [], [[]], {}, *BYTES, *NUMBERS])

    def fields(self, *usual: Any) -> list[Any]:
        """Return fields that are as usual but for one, now and then, or that are too few or too many."""
        drawn = list(usual)
        if self.random.random() < 0.4:
            drawn[self.random.randrange(len(drawn))] = self.odd()
        return drawn[: self.random.choice([len(drawn)] * 6 + [1])] + [self.odd()] * (self.random.random() < 0.1)

    def contact(self, of: prime.KeyPair) -> bytes:
        places = [f"/memory/x/p2p/{of.peer}", f"/ip4/127.0.0.1/tcp/1/p2p/{of.peer}", "nowhere"]
        named = self.random.sample(places, self.random.randrange(3))
        return seal(contact.DOMAIN, of, self.fields(named, NOW_MS))

    def record(self) -> bytes:
        salt, value = self.random.choice([None, b"a"]), self.random.choice(BYTES)
        usual = (salt, self.random.choice([0, 1, 2**63 - 1]), NOW_MS, 60, value, self.random.random() < 0.1)
        return seal(record.DOMAIN, self.random.choice(STRANGERS), self.fields(*usual))

    def head(self) -> tuple[Any, ...]:
        term = self.random.choice([0, 0, 1, 2**63 - 1])
        begun = bytes(32) if term else b""
        return (b"a", term, self.random.choice([0, 1, 2**63 - 1]), self.random.randbytes(8), begun, begun)

    def call(self) -> bytes:
        return seal(CALL_DOMAIN, self.random.choice(STRANGERS), self.fields(*self.head()))

    def proposal(self, seat: tuple[str, bytes]) -> bytes:
        head = self.head()
        seats = [[[list(seat)], 0], [[], 0], [[["nobody", bytes(16)]], 5]]
        version = [self.random.choice([0, 1, 2**63 - 1]), NOW_MS, None, bytes(8), []]
        usual = (seats[0 if head[1] else 1], version, self.random.choice([None, *seats]), NOW_MS)
        return seal(PROPOSAL_DOMAIN, self.random.choice(STRANGERS), self.fields(*head, *usual))


@pytest.mark.parametrize("seed", range(3))
async def test_no_actor_fails_of_what_strangers_ask(seed: int, autojump_clock: trio.abc.Clock) -> None:
    memory, storm, me = prime.Memory(), Storm(seed), STRANGERS[0]
    async with (
        open_nodes(2, transport=lambda _: memory, settings=OFTEN) as nodes,
        prime.open_system(transport=memory, key=me, seed=seed) as system,
    ):
        node = nodes[0]
        system.learn(node.dht.peer, node.system.addresses)
        seat = (str(node.dht.peer), node.dht._archive.elector.seat.store)
        key: Callable[[], bytes] = lambda: storm.random.choice([bytes(32), storm.random.randbytes(32)])  # noqa: E731
        card: Callable[[], bytes] = lambda: storm.contact(storm.random.choice(STRANGERS[:2]))  # noqa: E731
        kinds: list[tuple[str, Any, Callable[[], Any]]] = [
            (m.ROUTING_PATH, RoutingActor, lambda: m.FindPeers(key(), card())),
            (m.ROUTING_PATH, RoutingActor, lambda: m.Introduce(card())),
            (m.RECORDS_PATH, HoldingActor, lambda: m.GetRecord(key(), card())),
            (m.RECORDS_PATH, HoldingActor, lambda: m.StoreRecord(storm.record())),
            (m.PROVIDERS_PATH, ProvidingActor, lambda: m.FindProviders(key(), None)),
            (m.PROVIDERS_PATH, ProvidingActor, lambda: m.Provide(key(), card(), storm.number())),
            (m.DISCOVERY_PATH, DiscoveryActor, lambda: m.Register("a", card(), storm.number())),
            (m.DISCOVERY_PATH, DiscoveryActor, lambda: m.Discover("a", storm.number())),
            (m.DISCOVERY_PATH, DiscoveryActor, lambda: m.Unregister("a")),
            (rm.REGISTERS_PATH, RegistersActor, lambda: rm.LookAtRegister(key())),
            (rm.REGISTERS_PATH, RegistersActor, lambda: rm.PrepareRegister(storm.call(), storm.proposal(seat))),
            (rm.REGISTERS_PATH, RegistersActor, lambda: rm.PrepareRegister(storm.call(), None)),
            (rm.REGISTERS_PATH, RegistersActor, lambda: rm.AcceptRegister(storm.proposal(seat))),
        ]
        answered = dict.fromkeys(range(len(kinds)), 0)
        for _ in range(500):
            number = storm.random.randrange(len(kinds))
            path, actor, draw = kinds[number]
            try:
                await system.ref(node.dht.peer, path, actor).ask(draw(), timeout=5)
                answered[number] += 1
            except PrimeError:
                continue
        await trio.sleep(4000)  # what was stored, said and promised is looked after
        assert all(answered.values()), answered
        assert not [fact for each in nodes for fact in each.facts if isinstance(fact, ActorFailed)]
        assert (await nodes[1].dht.get((await node.dht.put(b"value")).record.key)).value == b"value"
