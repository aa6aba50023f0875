"""The test kit, as the type checkers must see it."""

from __future__ import annotations

from typing import Any, assert_type

from hypothesis import strategies as st
from kv import Count, Get, Put, Store

from prime import Ref, Supervisor, System
from prime.actor import ActorFailed
from prime.testing import ActorMachine, Facts, Probe, advance, invariant, messages_of, protocol_of, rule


async def probe(supervisor: Supervisor) -> None:
    probe = await Probe.spawn(supervisor)
    assert_type(probe.ref, Ref[Any])
    assert_type(await probe.expect(Put, within=1, skip=True), Put)
    probe.reply(1)
    await advance(60)


def facts(system: System) -> None:
    assert_type(Facts(system).of(ActorFailed), list[ActorFailed])


def strategies() -> None:
    assert_type(messages_of(Get, key=st.text()), st.SearchStrategy[Get])
    assert_type(protocol_of(Store), st.SearchStrategy[Any])


class StoreMachine(ActorMachine):
    model: dict[str, bytes]

    async def started(self) -> None:
        self.model = {}
        self.store = await self.supervisor.spawn(Store, "store")

    @rule(message=messages_of(Put))
    async def put(self, message: Put) -> None:
        await self.store.tell(message)
        self.model[message.key] = message.value

    @invariant()
    async def counts(self) -> None:
        assert await self.store.ask(Count(), timeout=1) == len(self.model)


async def a_rule_remains_a_method(machine: StoreMachine) -> None:
    await machine.put(Put("a", b""))


TestStore = StoreMachine.TestCase
