"""Refs as capabilities: in messages, across machines, narrowed, and what is refused at the wire."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from prime.actor import Actor, DeadLetter, Ref, System, on
from prime.actor.ref import FarRef, LocalRef
from prime.errors import ActorUsageError, DeadlineError, LocalProtocolError, NoSuchActorError, RefusedError
from prime.node.system import open_system
from prime.transport.memory import Memory, MemoryHub
from prime.wire import Ask, message, to_plain

Clock = trio.testing.MockClock


@message(tag=0x7D01)
class Put:
    text: str


@message(tag=0x7D02)
class Get(Ask[list[str]]):
    pass


@message(tag=0x7D03)
class Share(Ask[None]):
    """Keep a ref, to use it later."""

    ref: Ref[Any]


@message(tag=0x7D04)
class Use(Ask[str]):
    """Use the ref that was shared: ask it, or tell it."""

    put: bool


@message(tag=0x7D05)
class GiveBack(Ask[Ref[Any]]):
    pass


class Store(Actor[Put | Get]):
    def __init__(self) -> None:
        self.texts: list[str] = []

    @on(Put)
    def put(self, m: Put) -> None:
        self.texts.append(m.text)

    @on(Get)
    def get(self, _: Get) -> list[str]:
        return self.texts


class Friend(Actor[Share | Use | GiveBack]):
    ref: Ref[Any]

    @on(Share)
    def share(self, m: Share) -> None:
        self.ref = m.ref

    @on(GiveBack)
    def give_back(self, _: GiveBack) -> Ref[Any]:
        return self.ref

    @on(Use)
    async def use(self, m: Use) -> str:
        if m.put:
            await self.ref.tell(Put("from afar"))
            return "told"
        return ",".join(await self.ref.ask(Get(), timeout=5))


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[System, System]]:
    hub = MemoryHub()
    async with (
        open_system(seed=1, transport=Memory(hub=hub)) as here,
        open_system(seed=2, transport=Memory(hub=hub)) as there,
    ):
        await here.network.dial(there.addresses[0])  # type: ignore[union-attr]
        yield here, there


async def test_a_ref_in_a_message_works_on_the_other_side(autojump_clock: Clock) -> None:
    async with two() as (here, there), here.supervisor("h") as h, there.supervisor("t") as t:
        store = await h.spawn(Store, "store")
        await t.spawn(Friend, "friend")
        friend = here.ref(there.peer, "/t/friend", Friend)
        await friend.ask(Share(store), timeout=5)
        assert await friend.ask(Use(put=True), timeout=5) == "told"
        await trio.sleep(1)
        assert await friend.ask(Use(put=False), timeout=5) == "from afar"
        back = await friend.ask(GiveBack(), timeout=5)
        assert back == store  # home again, it is the local ref
        assert isinstance(back, LocalRef)


async def test_a_narrowed_ref_is_held_to_it_by_its_own_node(autojump_clock: Clock) -> None:
    async with two() as (here, there), here.supervisor("h") as h, there.supervisor("t") as t:
        letters: list[Any] = []
        here.subscribe(letters.append)
        store = await h.spawn(Store, "store", remote=())
        await store.tell(Put("mine"))
        await t.spawn(Friend, "friend")
        friend = here.ref(there.peer, "/t/friend", Friend)
        await friend.ask(Share(store.narrow(Get)), timeout=5)
        assert await friend.ask(Use(put=False), timeout=5) == "mine"
        # The far side does not know that the ref is narrow: it is refused here, where it counts.
        await friend.ask(Use(put=True), timeout=5)
        await trio.sleep(1)
        assert await store.ask(Get(), timeout=5) == ["mine"]
        assert await friend.ask(GiveBack(), timeout=5) == store.narrow(Get)
        # By its path alone nothing is taken.
        by_path = there.ref(here.peer, "/h/store", Store)
        with pytest.raises(RefusedError, match="takes nothing from other nodes by its path"):
            await by_path.ask(Get(), timeout=5)
        # A name that nobody handed out opens nothing.
        forged: Ref[Any] = FarRef(there, there.network, here.peer, "/h/store!" + "0" * 32)  # type: ignore[arg-type]
        with pytest.raises(NoSuchActorError):
            await forged.ask(Get(), timeout=5)
        assert here.leftovers()["passports"] == 1
        await h.stop(store)
        assert here.leftovers()["passports"] == 0
        with pytest.raises(NoSuchActorError):
            await friend.ask(Use(put=False), timeout=5)
        assert [f for f in letters if isinstance(f, DeadLetter)]


async def test_what_far_nodes_may_send_by_path_can_be_limited(autojump_clock: Clock) -> None:
    async with two() as (here, there), here.supervisor("h") as h:
        await h.spawn(Store, "store", remote=(Get,))
        far = there.ref(here.peer, "/h/store", Store)
        await far.tell(Put("no"))
        assert await far.ask(Get(), timeout=5) == []


@pytest.mark.parametrize("remote", [(), (Get,)])
async def test_a_path_that_others_may_not_use_is_not_used_for_them(
    remote: tuple[type, ...], autojump_clock: Clock
) -> None:
    async with two() as (here, there), here.supervisor("h") as h:
        secret = await h.spawn(Store, "secret", remote=remote)
        await h.spawn(Friend, "deputy")
        deputy = there.ref(here.peer, "/h/deputy", Friend)
        await deputy.ask(Share(there.ref(here.peer, "/h/secret", Store)), timeout=5)
        with pytest.raises(RefusedError):
            await deputy.ask(Use(put=True), timeout=5)
        if remote:
            assert await deputy.ask(Use(put=False), timeout=5) == ""
        assert await secret.ask(Get(), timeout=1) == []


async def test_a_far_question_that_is_told_and_refused_crashes_nobody(autojump_clock: Clock) -> None:
    class Strict(Actor[Get]):
        @on(Get)
        def get(self, _: Get) -> list[str]:
            raise RefusedError("not today")

    async with two() as (here, there), here.supervisor("h") as h:
        await h.spawn(Strict, "strict")
        far: Ref[Any] = there.ref(here.peer, "/h/strict", Strict)
        await far.tell(Get())
        with pytest.raises(RefusedError, match="not today"):
            await far.ask(Get(), timeout=5)
        assert here.tree()[0].children[0].restarts == 0
        assert here.dead_letters == 1


async def test_a_ref_to_one_of_ours_that_is_gone_crashes_nobody_who_tells_it(autojump_clock: Clock) -> None:
    async with two() as (here, there), there.supervisor("t") as t:
        await t.spawn(Friend, "friend")
        friend = here.ref(there.peer, "/t/friend", Friend)
        gone: Ref[Any] = FarRef(here, here.network, there.peer, "/t/nobody")  # type: ignore[arg-type]
        await friend.ask(Share(gone), timeout=5)
        assert await friend.ask(Use(put=True), timeout=5) == "told"
        assert there.dead_letters == 1
        with pytest.raises(NoSuchActorError):
            await friend.ask(Use(put=False), timeout=5)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_far_ask_without_time_is_not_sent(timeout: float, autojump_clock: Clock) -> None:
    async with two() as (here, there), here.supervisor("h") as h:
        await h.spawn(Store, "store")
        with pytest.raises(DeadlineError, match="was not sent"):
            await there.ref(here.peer, "/h/store", Store).ask(Get(), timeout=timeout)
        await trio.sleep(1)
        assert here.tree()[0].children[0].handled == 0


async def test_narrow_here_refuses_at_once(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        store = await sup.spawn(Store, "store")
        reader: Ref[Any] = store.narrow(Get)
        assert await reader.ask(Get(), timeout=1) == []
        with pytest.raises(RefusedError, match="takes Get, not Put"):
            await reader.tell(Put("x"))
        with pytest.raises(RefusedError):
            reader.tell_nowait(Put("x"))
        with pytest.raises(ActorUsageError, match="takes nothing"):
            reader.narrow(Put)  # never more than it had
        assert reader != store
        assert reader == store.narrow(Get)
        assert "for Get" in repr(reader)


async def test_a_ref_cannot_leave_a_system_without_a_network(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        store = await sup.spawn(Store, "store")
        with pytest.raises(LocalProtocolError, match="without a network"):
            to_plain(Share(store), [])
