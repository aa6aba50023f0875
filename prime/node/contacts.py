"""Finding the first members of a run, whose addresses are dialled until one answers, and keeping links with those known."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

import attrs
import trio

from prime.actor import System
from prime.errors import PrimeError, UnreachableError, WorldError
from prime.node.links import linked_peers
from prime.transport.multiaddr import parse_address

DIAL_RETRY_S = 0.5
DIAL_AGAIN_S = 2.0
"""Between two tries of an address while another one has answered."""
DIAL_DEADLINE_S = 30.0
"""How long addresses that nobody listens on yet are tried."""

LINK_AGAIN_S = 3.0
"""Between two tries of addresses whose peer has no link."""
DIALS_MAX = 8
"""Addresses that are dialled at once."""


@attrs.frozen
class Contacts:
    """Who may be asked to be let into a run: peers that there is a link to, and addresses that did not answer yet."""

    peers: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


async def find_contacts(
    system: System, contacts: Sequence[str], deadline_s: float, on_wait: Callable[[str], None] | None = None
) -> Contacts:
    """Dial the multiaddrs among `contacts` until one answers, unless there are ids of peers among them.

    The others may be the only ones that are in the run: hand `silent` to `dial_silent`. `on_wait(text)` is called once
    if nobody answers at first. Raises `UnreachableError` after `deadline_s`, and at once what trying again cannot mend,
    such as `WrongPeerError`.
    """
    known = tuple(dict.fromkeys(contact for contact in contacts if not contact.startswith("/")))
    addresses = tuple(dict.fromkeys(contact for contact in contacts if contact.startswith("/")))
    deadline = trio.current_time() + deadline_s
    while addresses and not known:
        found, errors = await _dial_each(system, addresses)
        if found:
            silent = tuple(address for address in addresses if address not in found)
            return Contacts(tuple(dict.fromkeys(found.values())), silent)
        if not all(isinstance(error, UnreachableError) for error in errors) or trio.current_time() > deadline:
            raise errors[0]
        if on_wait is not None:
            on_wait(f"{errors[0]}; trying again for up to {deadline_s:g} s")
            on_wait = None
        await trio.sleep(DIAL_RETRY_S)
    return Contacts(known, addresses)


async def dial_silent(
    system: System, addresses: Sequence[str], on_found: Callable[[tuple[str, ...]], Awaitable[object]]
) -> None:
    """Go on dialling addresses that did not answer, until all have or the caller cancels it.

    Two newcomers that find only each other would ask each other for ever, while the member they did not reach is back.
    """
    while addresses:
        await trio.sleep(DIAL_AGAIN_S)
        found, _ = await _dial_each(system, addresses)
        if found:
            await on_found(tuple(dict.fromkeys(found.values())))
            addresses = [address for address in addresses if address not in found]


async def keep_linked(system: System, wanted: Callable[[], Iterable[str]], *, every_s: float = LINK_AGAIN_S) -> None:
    """Dial each of the `wanted` addresses whose peer has no link, again and again, until the caller cancels it.

    A peer that was started again does not know who had a link with it, and may have another address than before: so
    those who know one have to come to it. An address without a peer's id means the peer that answered there first.
    """
    peers: dict[str, str] = {}
    while True:
        await trio.sleep(every_s)
        linked = set(linked_peers(system))
        missing = [each for each in dict.fromkeys(wanted()) if (peers.get(each) or _peer_in(each)) not in linked]
        async with trio.open_nursery() as nursery:
            for address in missing[:DIALS_MAX]:
                nursery.start_soon(_dial, system, address, peers)


async def _dial(system: System, address: str, peers: dict[str, str]) -> None:
    if system.network is not None:
        with contextlib.suppress(PrimeError):
            peers[address] = await system.network.dial(address)


def _peer_in(address: str) -> str:
    """Return the id of the peer that an address names, or an empty text."""
    try:
        return parse_address(address).peer or ""
    except PrimeError:
        return ""


async def _dial_each(system: System, addresses: Sequence[str]) -> tuple[dict[str, str], list[WorldError]]:
    found: dict[str, str] = {}
    errors: list[WorldError] = []
    if system.network is None:
        return found, [UnreachableError("this system has no network", hint="open_system(transport=prime.Tcp(...))")]
    for address in addresses:
        try:
            found[address] = await system.network.dial(address)
        except WorldError as error:
            errors.append(error)
    return found, errors
