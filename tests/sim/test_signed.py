"""Signed messages in simulated worlds: keys, numbers and times of the world, and crashes of signer and receiver."""

from __future__ import annotations

import attrs
import trio

from prime import Actor, message, on, sim
from prime.errors import PrimeError
from prime.sim import plan as p
from prime.sim.world import EPOCH_S


@message(tag=0x7B30, signed=True)
class Say:
    number: int


@attrs.define
class Heard:
    numbers: list[int] = attrs.Factory(list)
    signers: set[str] = attrs.Factory(set)
    seqs: list[int] = attrs.Factory(list)
    ages_s: list[float] = attrs.Factory(list)
    refused: int = 0
    said: int = 0


class Listener(Actor[Say]):
    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    @on(Say)
    def hear(self, m: Say) -> None:
        signed = self.ctx.signed(m)
        self.heard.numbers.append(m.number)
        self.heard.signers.add(signed.signer)
        self.heard.seqs.append(signed.seq)
        self.heard.ages_s.append(trio.current_time() + EPOCH_S - signed.sent_at_ms / 1000)


def played(plan: p.Plan, seed: int = 0) -> tuple[sim.Outcome, Heard, sim.World]:
    heard, worlds = Heard(), list[sim.World]()

    async def listen(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("app") as sup:
            await sup.spawn(lambda: Listener(heard), "listener")
            try:
                await trio.sleep_forever()
            finally:
                heard.refused += getattr(system.network, "signed_refused", 0)

    async def speak(node: sim.Node) -> None:
        async with node.system() as system:
            ref = system.ref(node.world.node("n2").peer, "/app/listener", Listener, reliable=True)
            while True:
                try:
                    await ref.tell(Say(heard.said))
                except PrimeError as error:
                    node.note("refused", detail=str(error))
                heard.said += 1
                await trio.sleep(0.1)

    @sim.scenario(nodes=2)
    async def body(world: sim.World) -> None:
        worlds.append(world)
        world.node("n2").start(listen)
        world.node("n1").start(speak)
        await world.storm()
        await trio.sleep(10)

    outcome = sim.run(seed, body, plan)
    assert outcome.ok, outcome.error
    return outcome, heard, worlds[0]


def test_keys_numbers_and_times_are_the_worlds() -> None:
    plan = p.Plan(p.NetworkFaults(jitter_s=0.1), storm_s=10)
    (first, heard, world), (second, again, _) = played(plan, 1), played(plan, 1)
    assert first.trace == second.trace
    assert heard == again
    assert heard.signers == {world.node("n1").peer}
    assert heard.numbers == list(range(len(heard.numbers)))
    assert heard.seqs[0] == EPOCH_S * 10**6
    assert all(0 <= age < 2 for age in heard.ages_s)


def test_a_cut_link_makes_no_replay_and_a_restarted_signer_is_heard() -> None:
    actions = (p.Cut("n1", "n2", 1.0, 2.0), p.Crash("n1", 5.0, 1.0), p.Cut("n1", "n2", 8.0, 1.0))
    _, heard, _ = played(p.Plan(p.NetworkFaults(jitter_s=0.05), actions=actions, storm_s=12), 3)
    assert heard.numbers == sorted(set(heard.numbers))
    assert heard.seqs == sorted(set(heard.seqs))
    assert heard.said - len(heard.numbers) < 15  # what the crashed run had not sent yet
    assert heard.refused == 0


def test_a_clock_that_is_wrong_by_minutes_is_not_believed() -> None:
    _, heard, _ = played(p.Plan(actions=(p.Skew("n1", 5.0, 400.0, rate=1.0),), storm_s=10))
    assert 40 < len(heard.numbers) < 60
    assert heard.refused > 50
