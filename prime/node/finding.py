"""Runs in the DHT: who takes part in one says so there, and who waits for one, or wants to be let in, looks there.

What is found are peers to link with: all else about a run they tell themselves (`notices.py`), and who may join they decide.
Nothing here stands in the way of a message; where the DHT answers nothing, a node goes by the links that it has.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from prime.actor.groups import one_error
from prime.dht.key import Key, key_of
from prime.dht.name import run_key, run_salt
from prime.errors import PrimeError
from prime.node.meeting import link_with_strangers
from prime.trainer.round.names import base_name

if TYPE_CHECKING:
    from prime.actor import System
    from prime.dht.contact import Contact
    from prime.dht.dht import Dht
    from prime.node.hosting import RunHost
    from prime.trainer.runs.messages import RunNotice

Look: TypeAlias = "Callable[[], Awaitable[int]]"

SOME_RUN: Final = key_of(b"some run")
"""The key that every node provides which takes part in a run, whatever its name."""
SAY_S: Final = 1.0
"""Between two looks whether this node takes part in another run than it says."""
LOOK_S: Final = 2.0
LOOK_S_MAX: Final = 20.0
"""Between two searches: longer each time that nobody new was found."""
CLOSE_S: Final = 1.0
"""How long a node that stops takes back what it said."""


def state_key(run: str) -> Key:
    """Return the key that those provide who serve the committed state of a run, by its full name."""
    return key_of(b"state:" + run.encode())


class RunFinder:
    """What a node says of its run in the DHT, and how it finds those of others."""

    def __init__(self, system: System, dht: Dht, host: RunHost) -> None:
        self._system = system
        self._dht = dht
        self._host = host
        self._said: RunNotice | None = None

    async def run(self) -> None:
        """Say and look until cancelled; then take back what was said, within `CLOSE_S`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_saying)
                nursery.start_soon(self._keep_looking, self._look_for_runs)
                nursery.start_soon(self._keep_looking, self._look_for_members)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S), contextlib.suppress(PrimeError):
                await self._say_no_more(self._said)

    async def state_providers(self, run: str) -> Sequence[str]:
        """Return who serves the state of a run, members or not (a `Providers` of the trainer's)."""
        return self._learn(await self._dht.find_providers(state_key(run)))

    # ------------------------------------------------------------------------------------------------- what is said

    async def _keep_saying(self) -> None:
        while True:
            notice = self._host.notice()
            if _of(notice) != _of(self._said):
                with contextlib.suppress(PrimeError):
                    await self._say_no_more(self._said)
                    self._said = None
                    await self._say(notice)
                    self._said = notice
            await trio.sleep(SAY_S)

    async def _say(self, notice: RunNotice | None) -> None:
        if notice is None:
            return
        for key in _keys(notice):
            await self._dht.provide(key)
        await self._dht.put(_described(notice), salt=run_salt(base_name(notice.run)))

    async def _say_no_more(self, notice: RunNotice | None) -> None:
        if notice is None:
            return
        async with one_error(), trio.open_nursery() as nursery:
            for key in _keys(notice):
                nursery.start_soon(self._dht.stop_providing, key)
            nursery.start_soon(self._dht.remove, run_salt(base_name(notice.run)))

    # -------------------------------------------------------------------------------------------------- what is found

    async def _keep_looking(self, look: Look) -> None:
        wait_s = LOOK_S
        while True:
            found = 0
            with contextlib.suppress(PrimeError):
                found = await look()
            wait_s = LOOK_S if found else min(2 * wait_s, LOOK_S_MAX)
            await trio.sleep(wait_s)

    async def _look_for_runs(self) -> int:
        """Link with some who take part in a run, as long as this node takes part in none: they tell of it then."""
        if self._host.taking:
            return 1
        return await link_with_strangers(self._system, await self._dht.find_providers(SOME_RUN))

    async def _look_for_members(self) -> int:
        """Ask further members to let this node into its run, as long as it is in no view."""
        training = self._host.training
        if training is None or training.progress.epoch > 0:
            return 1
        found = self._learn(await self._dht.find_providers(run_key(training.run)))
        return await training.ask_too(found)

    def _learn(self, contacts: Iterable[Contact]) -> tuple[str, ...]:
        """Teach the links where these can be dialled, and return their peers but for this node."""
        others = [contact for contact in contacts if contact.peer != self._system.peer]
        for contact in others:
            self._system.learn(contact.peer, contact.addresses)
        return tuple(contact.peer for contact in others)


def _keys(notice: RunNotice) -> tuple[Key, ...]:
    """Return what a node provides that takes part in a run: some run, this one by both its names, and its state."""
    names = dict.fromkeys((notice.run, base_name(notice.run)))
    return (SOME_RUN, *map(run_key, names), state_key(notice.run))


def _described(notice: RunNotice) -> bytes:
    """Return what a member publishes of its run, for people and programs: JSON."""
    settings = attrs.asdict(notice.settings)  # type: ignore[arg-type]  # a @record is an attrs class
    found = {"run": notice.run, "founder": notice.founder, "nonce": notice.nonce, "settings": settings}
    return json.dumps(found, allow_nan=False).encode()


def _of(notice: RunNotice | None) -> str:
    return notice.run if notice is not None else ""
