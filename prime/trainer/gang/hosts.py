"""Where members of a gang live: as processes of this one, or of another host's over one connection."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from prime.actor import Actor
from prime.errors import PrimeError
from prime.trainer.gang.messages import EndHost, GetNews, News, Setup, StartMember, StopMember

if TYPE_CHECKING:
    from prime.actor.ref import Ref
    from prime.actor.supervisor import Supervisor
    from prime.actor.system import System

SHUTDOWN_S: Final = 0.0
"""A rank has nothing to end in order: what it wants to keep it has saved before it says that it has finished."""
STOP_S: Final = 10.0
"""How long another host may take to say that a process is gone; it ends all of them, too, once the connection is lost."""
SUPERVISOR: Final = "host"
NAME: Final = "follower"
"""The paths of a host that follows: its actor's, and below that of the supervisor of its members."""
MEMBERS: Final = "members"
ORDERS_MAX: Final = 64
"""Orders that wait for another host to take them. There are a few in a generation."""


class MemberHandle(Protocol):
    """A member that runs."""

    async def news(self) -> News:
        """Wait for news.

        Raises `ActorCrashedError` or `NoSuchActorError` once it is gone, `LinkLostError` or `UnreachableError` once its
        host is.
        """
        ...

    def order(self, order: Any) -> None:
        """Tell it something, after whatever it was told before."""
        ...


class Host(Protocol):
    """Who starts members. `name` is that of the machine, empty for this one."""

    name: str
    local: int
    interface: str

    async def start(self, number: int, start_s: float) -> MemberHandle:
        """Start a member's process."""
        ...

    async def stop(self, number: int) -> None:
        """See to it that a member is gone, whatever it does, even while it starts."""
        ...


async def start_process(
    members: Supervisor, number: int, setup: Setup, start_s: float, environment: dict[str, str]
) -> Ref[Any]:
    """Start a member as a process actor of `members`."""
    return await members.spawn_process(
        "prime.trainer.gang.worker:GangWorker",
        f"member-{number}",
        kind="temporary",
        shutdown=SHUTDOWN_S,
        args=(setup,),
        starting=start_s,
        silent=math.inf,
        output="facts",
        environment=environment,
    )


class LocalHost:
    """This process, with the supervisor of its rank processes."""

    name = ""

    def __init__(self, members: Supervisor, setup: Setup, environment: dict[str, str], local: int = 0) -> None:
        self._members = members
        self._setup = setup
        self._environment = environment
        self._refs: dict[int, Ref[Any]] = {}
        self.local = local
        self.interface = ""

    async def start(self, number: int, start_s: float) -> LocalMember:
        """See `Host.start`."""
        ref = self._refs[number] = await start_process(self._members, number, self._setup, start_s, self._environment)
        return LocalMember(ref)

    async def stop(self, number: int) -> None:
        """See `Host.stop`; a start that is cancelled leaves nothing behind."""
        ref = self._refs.pop(number, None)
        if ref is not None:
            await self._members.stop(ref)


class LocalMember:
    """A process of this one."""

    def __init__(self, ref: Ref[Any]) -> None:
        self._ref = ref

    async def news(self) -> News:
        """See `MemberHandle.news`."""
        news: News = await self._ref.ask(GetNews(), timeout=math.inf)
        return news

    def order(self, order: Any) -> None:
        """See `MemberHandle.order`."""
        self._ref.tell_nowait(order)


class FarHost:
    """Another host's process. `start_soon` runs a task as long as the gang lives."""

    def __init__(
        self, system: System, peer: str, name: str, local: int, interface: str, start_soon: Callable[..., None]
    ) -> None:
        self.name = name
        self.local = local
        self.interface = interface
        self._system = system
        self._peer = peer
        self._ref: Ref[Any] = system.ref(peer, f"/{SUPERVISOR}/{NAME}", Actor)
        self._start_soon = start_soon
        self._members: dict[int, FarMember] = {}

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify` once, with why, when the host's process or the connection to it is gone."""
        return self._system.watch(self._ref, notify)

    async def start(self, number: int, start_s: float) -> FarMember:
        """See `Host.start`."""
        await self._ref.ask(StartMember(number, start_s), timeout=start_s)
        ref: Ref[Any] = self._system.ref(self._peer, f"/{MEMBERS}/member-{number}", Actor)
        member = self._members[number] = FarMember(ref)
        self._start_soon(member.carry_orders)
        return member

    async def stop(self, number: int) -> None:
        """See `Host.stop`. A host that is gone has taken its processes with it."""
        member = self._members.pop(number, None)
        if member is not None:
            member.close()
        with trio.move_on_after(STOP_S):
            await quietly(self._ref.ask(StopMember(number), timeout=STOP_S))

    async def end(self, order: EndHost) -> None:
        """Tell the host how the run ended; if it is gone it needs no telling."""
        with trio.move_on_after(STOP_S):
            await quietly(self._ref.ask(order, timeout=STOP_S))


class FarMember:
    """A process of another host."""

    def __init__(self, ref: Ref[Any]) -> None:
        self._ref = ref
        self._orders, self._taken = trio.open_memory_channel[Any](ORDERS_MAX)

    async def carry_orders(self) -> None:
        """Send the orders on, one after the other: whether they come through shows in the news."""
        async with self._taken:
            async for order in self._taken:
                await quietly(self._ref.tell(order))

    async def news(self) -> News:
        """See `MemberHandle.news`."""
        news: News = await self._ref.ask(GetNews(), timeout=math.inf)
        return news

    def order(self, order: Any) -> None:
        """See `MemberHandle.order`. What finds no room is dropped: its host is stuck, and found so by its silence."""
        with contextlib.suppress(trio.WouldBlock):
            self._orders.send_nowait(order)

    def close(self) -> None:
        """Take no orders any more."""
        self._orders.close()


async def quietly(said: Awaitable[Any]) -> None:
    """Say something to a host that may be gone: then there is nobody to hear it."""
    with contextlib.suppress(PrimeError):
        await said
