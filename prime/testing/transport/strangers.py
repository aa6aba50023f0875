"""Cases: who connects and is no peer. They need the kit's wire."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

from contextlib import suppress

import trio

from prime.errors import UnreachableError
from prime.testing.transport.kit import (
    CASE_TIMEOUT_S,
    TransportKit,
    astray,
    check,
    dial_if_possible,
    echo,
    meet,
    meet_again,
    met,
    opened,
    pattern,
    raises,
    wire_of,
)
from prime.transport.admission import Admission
from prime.transport.contract import Endpoint, Guarded
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import TcpPlace, parse_address

STRANGERS = 5
SHOWN_OUT_S = 5.0  # how long a listener that gives a proof half a second may keep a stranger
_GARBAGE = (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", pattern(200_000))


async def survives_strangers(kit: TransportKit) -> None:
    """Garbage, a half handshake and a caller that hangs up at once disturb nobody."""
    async with met(kit) as m:
        for garbage in _GARBAGE:
            await _knock_and_hang_up(kit, m.listener.addresses[0], garbage)
        await echo(m, b"undisturbed")
        await echo(await meet(m.dialler, m.listener), b"accepting still")


async def survives_handshakes_that_stop(kit: TransportKit) -> None:
    """A caller that stops anywhere in a true handshake, and stays or hangs up, disturbs nobody."""
    async with met(kit) as m:
        said = await _recorded(kit, m.listener)
        async with trio.open_nursery() as nursery:
            for place in range(1, len(said), max(1, len(said) // STRANGERS)):
                await _knock_and_hang_up(kit, m.listener.addresses[0], said[:place])
                nursery.start_soon(_knock_and_stay, kit, m.listener.addresses[0], said[:place])
            await trio.sleep(0.05)
            await echo(m, b"undisturbed")
            await echo(await meet_again(m.dialler, m.listener), b"accepting still")
            nursery.cancel_scope.cancel()


async def believes_no_handshake_played_back(kit: TransportKit) -> None:
    """What a peer said on one connection proves nothing on another."""
    async with met(kit) as m:
        said = await _recorded(kit, m.listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_knock_and_stay, kit, m.listener.addresses[0], said)
            with trio.move_on_after(0.3):
                await m.listener.accept()
                check(False, "a handshake that was played back was believed")
            nursery.cancel_scope.cancel()
        await echo(await meet_again(m.dialler, m.listener), b"still here")


async def shows_who_says_nothing_the_door(kit: TransportKit) -> None:
    """Callers that stay silent, or drip, are shown out in time, and peers are let in meanwhile."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with (
            opened(kit.make_hurried(), kit.make_hurried()) as (dialler, listener),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_accept_and_close, listener)
            async with trio.open_nursery() as strangers:
                for number in range(STRANGERS):
                    strangers.start_soon(_until_shown_out, kit, listener.addresses[0], 0.05 * (number % 2))
                await trio.sleep(0.05)
                strangers.start_soon(_until_let_in, dialler, listener.addresses[0])
            nursery.cancel_scope.cancel()


async def keeps_out_whom_its_admission_denies(kit: TransportKit) -> None:
    """An endpoint that asks an admission hangs up on a denied source before it has proved anything."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with (
            opened(kit.make(), kit.make()) as (dialler, listener),
            kit.make().open(KeyPair.generate()) as open_to_all,
        ):
            remote = (await meet(dialler, open_to_all)).far.remote
            place = parse_address(remote).place if remote else None
            if not isinstance(listener, Guarded) or not isinstance(place, TcpPlace):
                return  # it bounds its callers on its own, or does not know where they are
            listener.guard(Admission(deny=[place.host]))
            with raises(UnreachableError):
                await dialler.dial(listener.addresses[0])
            with trio.move_on_after(0.1):
                await listener.accept()
                check(False, "a denied source was let in")


async def _recorded(kit: TransportKit, listener: Endpoint) -> bytes:
    """Return what a dialler says on the wire in a handshake and behind it."""
    async with astray(kit, listener) as (third, detour):
        m = await meet(third, listener, detour.address)
        await m.near.send(b"a message")
        await m.far.receive()
        await m.near.aclose()
        await m.far.aclose()
        return bytes(detour.sent)


async def _knock_and_hang_up(kit: TransportKit, address: str, data: bytes) -> None:
    async with await wire_of(kit).knock(address) as stream:
        with suppress(trio.BrokenResourceError):  # it may be shown the door before it has finished
            await stream.send_all(data)


async def _knock_and_stay(kit: TransportKit, address: str, data: bytes) -> None:
    async with await wire_of(kit).knock(address) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await trio.sleep_forever()


async def _until_shown_out(kit: TransportKit, address: str, drips_s: float) -> None:
    async with await wire_of(kit).knock(address) as stream, trio.open_nursery() as nursery:
        if drips_s:
            nursery.start_soon(_drip, stream, drips_s)
        with trio.move_on_after(SHOWN_OUT_S * STRANGERS) as scope, suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        check(not scope.cancelled_caught, "a stranger was let stay")
        nursery.cancel_scope.cancel()


async def _until_let_in(dialler: Endpoint, address: str) -> None:
    with trio.fail_after(SHOWN_OUT_S * STRANGERS):
        while True:
            if await dial_if_possible(dialler, address):
                return
            await trio.sleep(0.05)


async def _drip(stream: trio.SocketStream, drips_s: float) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"\x16")
            await trio.sleep(drips_s)


async def _accept_and_close(listener: Endpoint) -> None:
    while True:
        await (await listener.accept()).aclose()
