"""Prime in the DHT of libp2p together with js-libp2p's, py-libp2p's and go-libp2p's own: each finds what the other put there.

Of js and py there are two nodes, of one program; each knows at first only the node of Prime that it dials.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor.contract import PeerId
from prime.dht.ipfs.ipfs import Ipfs, open_ipfs
from prime.dht.ipfs.namespaces import record_name
from prime.dht.record import make_record
from prime.dht.settings import PRESETS
from prime.errors import NotFoundError
from prime.transport.identity import KeyPair
from prime.transport.peer import encode_public_key, peer_bytes, public_key_of
from tests.interop.conftest import JS, Program, go_peer, running

pytest.importorskip("libp2p")

PY = Path(__file__).with_name("py_dht.py")
DEADLINE_S = 60.0
SETTINGS = attrs.evolve(PRESETS["lan"], replicas=20, request_s=5.0, lookup_s=20.0)
KEY = KeyPair.from_seed(bytes(32))
MULTIHASH = b"\x12\x20" + hashlib.sha256(b"a model").digest()
RAW = b"\x01\x55"  # of a CID: version 1, raw bytes
OTHER = b"\x12\x20" + hashlib.sha256(b"another").digest()

pytestmark = pytest.mark.interop


class Greatest:
    """The namespace `app`: the greatest value counts, as at the foreign nodes."""

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
        pass

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return values.index(max(values))


@attrs.frozen
class Ours:
    peer: PeerId
    address: str
    ipfs: Ipfs


@attrs.frozen
class Theirs:
    """One node of a foreign program."""

    program: Program
    number: int
    peer: PeerId
    address: str

    async def do(self, command: str, **fields: Any) -> dict[str, Any]:
        packed = {name: base64.b64encode(x).decode() if isinstance(x, bytes) else x for name, x in fields.items()}
        return await self.program.do(command, node=self.number, **packed)

    async def get(self, key: bytes) -> bytes | None:
        value = (await self.do("get", key=key))["value"]
        return None if value is None else base64.b64decode(value)

    async def find_peer(self, peer: str) -> list[str]:
        return [each["peer"] for each in (await self.do("findPeer", peer=peer))["found"]]

    async def find_providers(self, multihash: bytes) -> dict[str, list[str]]:
        found = (await self.do("findProviders", multihash=multihash))["found"]
        return {each["peer"]: each["addresses"] for each in found}


@pytest.fixture(params=["js", "py"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """What runs the foreign nodes."""
    if request.param == "js":
        return [request.getfixturevalue("node_program"), str(JS / "dht.mjs")]
    return [sys.executable, str(PY)]


@asynccontextmanager
async def network(command: list[str], ours_count: int) -> AsyncIterator[tuple[list[Ours], list[Theirs]]]:
    """Nodes of Prime, each told of the one before, and two foreign ones that dial the first and the last."""
    with trio.fail_after(DEADLINE_S):
        async with AsyncExitStack() as stack:
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = await stack.enter_async_context(running([*command, "2"], **options))
            ours: list[Ours] = []
            for _ in range(ours_count):
                system = await stack.enter_async_context(prime.open_system(transport=prime.Libp2p()))
                told = [ours[-1].address] if ours else []
                opened = open_ipfs(system, settings=SETTINGS, bootstrap=told, namespaces={"app": Greatest()})
                ours.append(Ours(PeerId(system.peer), system.addresses[0], await stack.enter_async_context(opened)))
            program = Program(process)
            said = (await program.started())["nodes"]
            theirs = [Theirs(program, number, **each) for number, each in enumerate(said)]
            for one, other in zip(theirs, (ours[0], ours[-1]), strict=False):
                await one.do("connect", address=other.address)
            for each in ours:
                await known(each.ipfs, 1)
            await known(ours[0].ipfs, 1, theirs[0].peer)
            await known(ours[-1].ipfs, 1, theirs[-1].peer)
            yield ours, theirs


async def known(ipfs: Ipfs, count: int, peer: str = "") -> None:
    """Wait until a node of ours has so many in its table, and that one."""
    table = ipfs.desk.table
    while len(table) < count or (peer and peer not in table):  # noqa: ASYNC110 (the table tells nobody)
        await trio.sleep(0.01)


async def test_a_mixed_network_of_five(command: list[str]) -> None:
    """Three nodes of Prime and two foreign ones; each thing is told to one, and looked for by one that was not told."""
    async with network(command, 3) as (ours, theirs):
        await peers_are_found(ours, theirs)
        await values_are_got(ours, theirs)
        await the_better_value_counts(ours, theirs)
        await providers_are_found(ours, theirs)
        if "dht.mjs" in command[-1]:  # py-libp2p's keys are texts
            await public_keys_are_judged(ours, theirs)


async def peers_are_found(ours: list[Ours], theirs: list[Theirs]) -> None:
    assert await theirs[0].find_peer(ours[2].peer) == [ours[2].peer]
    assert await theirs[0].find_peer(theirs[1].peer) == [theirs[1].peer]
    assert (await ours[0].ipfs.find_peer(theirs[1].peer)).addresses == (theirs[1].address,)
    # A newcomer that was told of a foreign node alone finds Prime's own behind it.
    async with (
        prime.open_system(transport=prime.Libp2p()) as system,
        open_ipfs(system, settings=SETTINGS, bootstrap=[theirs[0].address], server=False) as newcomer,
    ):
        await known(newcomer, 1)
        assert (await newcomer.find_peer(ours[2].peer)).addresses == (ours[2].address,)


async def values_are_got(ours: list[Ours], theirs: list[Theirs]) -> None:
    await theirs[0].do("put", key=b"/app/theirs", value=b"from them")
    for each in ours:
        assert await each.ipfs.get_value(b"/app/theirs") == b"from them"
    put = await ours[0].ipfs.put_value(b"/app/ours", b"from us")
    assert {each.peer for each in theirs} <= set(put.holders)
    for one in theirs:
        assert await one.get(b"/app/ours") == b"from us"
    assert await theirs[1].get(b"/app/nothing") is None
    with pytest.raises(NotFoundError):
        await ours[1].ipfs.get_value(b"/app/nothing")
    record = make_record(KEY, b"v", salt=b"", seq=1, created_ms=int(time.time() * 1000), ttl_s=3600)
    await ours[1].ipfs.put_value(record_name(record.key), record.sealed)
    assert await theirs[0].get(record_name(record.key)) == record.sealed


async def the_better_value_counts(ours: list[Ours], theirs: list[Theirs]) -> None:
    await ours[0].ipfs.put_value(b"/app/x", b"1")
    await theirs[1].do("put", key=b"/app/x", value=b"2")
    assert await ours[2].ipfs.get_value(b"/app/x") == b"2"
    await ours[1].ipfs.put_value(b"/app/x", b"3")
    assert await theirs[0].get(b"/app/x") == b"3"


async def providers_are_found(ours: list[Ours], theirs: list[Theirs]) -> None:
    await theirs[0].do("provide", multihash=MULTIHASH)
    for each in ours:
        found = await each.ipfs.find_providers(MULTIHASH)
        assert [(one.peer, one.addresses) for one in found] == [(theirs[0].peer, (theirs[0].address,))]
    assert await ours[0].ipfs.provide(OTHER) == 4
    for one in theirs:
        providers = await one.find_providers(OTHER)
        assert list(providers) == [ours[0].peer]
        assert place(ours[0].address) in map(place, providers[ours[0].peer])


async def public_keys_are_judged(ours: list[Ours], theirs: list[Theirs]) -> None:
    key = b"/pk/" + peer_bytes(KEY.peer)
    await theirs[0].do("put", key=key, value=encode_public_key(KEY.public_bytes))
    assert await ours[0].ipfs.get_value(key) == encode_public_key(KEY.public_bytes)
    held, refused = (sum(each) for each in zip(*((len(o.ipfs.desk.values), o.ipfs.refused) for o in ours), strict=True))
    await theirs[0].do("put", key=b"/unknown/x", value=b"x")
    assert sum(len(each.ipfs.desk.values) for each in ours) == held
    assert sum(each.ipfs.refused for each in ours) == refused + len(ours)


async def test_go_libp2p_s_dht(daemon: Path, tmp_path: Path) -> None:
    """Of values it takes public keys alone. Two nodes of Prime: one that it is connected with, and one behind that."""
    key, value = b"/pk/" + peer_bytes(KEY.peer), encode_public_key(KEY.public_bytes)
    with trio.fail_after(DEADLINE_S):
        async with (
            go_peer(daemon, tmp_path, "tls", "-dhtServer") as go,
            prime.open_system(transport=prime.Libp2p()) as one,
            prime.open_system(transport=prime.Libp2p()) as other,
            open_ipfs(one, settings=SETTINGS) as near,
            open_ipfs(other, settings=SETTINGS, bootstrap=one.addresses) as far,
        ):
            its = PeerId(go.address.rpartition("/p2p/")[2])
            await go.connect(one.addresses[0])
            await known(near, 2, its)
            await known(far, 1)
            assert await go.dht(go.FIND_PEER, peer=peer_bytes(other.peer)) == [peer_bytes(other.peer)]
            assert (await far.find_peer(its)).addresses == (go.address,)
            await go.dht(go.PUT_VALUE, key=key, value=value)
            assert await far.get_value(key) == value
            other_key, other_value = b"/pk/" + peer_bytes(other.peer), encode_public_key(public_key_of(other.peer))
            assert its in (await far.put_value(other_key, other_value)).holders
            assert await go.dht(go.GET_VALUE, key=other_key) == [other_value]
            await go.dht(go.PROVIDE, cid=RAW + MULTIHASH)
            assert [each.peer for each in await far.find_providers(MULTIHASH)] == [its]
            assert await far.provide(OTHER) == 2
            assert await go.dht(go.FIND_PROVIDERS, cid=RAW + OTHER, count=1) == [peer_bytes(other.peer)]


def place(address: str) -> str:
    return address.partition("/p2p/")[0]
