"""What every transport says when it is started in the wrong place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from prime.errors import WrongBackendError
from prime.transport.contract import Transport, require_trio
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p
from prime.transport.memory import Memory
from prime.transport.tcp import Tcp
from prime.transport.unix import Unix


@pytest.mark.parametrize("transport", [Memory(), Tcp(), Libp2p(), Unix("never-made")], ids=lambda each: each.name)
def test_under_asyncio_it_says_what_to_do(transport: Transport) -> None:
    async def start() -> None:
        async with transport.open(KeyPair.generate()):
            pass

    with pytest.raises(WrongBackendError) as caught:
        anyio.run(start, backend="asyncio")
    assert 'anyio.run(main, backend="trio")' in caught.value.hint
    assert not Path("never-made").exists()


def test_outside_any_loop_too() -> None:
    with pytest.raises(WrongBackendError):
        require_trio()


def test_under_anyio_on_trio_all_is_well() -> None:
    async def start() -> int:
        async with Memory().open(KeyPair.generate()) as endpoint:
            return len(endpoint.addresses)

    assert anyio.run(start, backend="trio") == 1


def test_importing_the_transports_loads_no_libp2p() -> None:
    modules = "contract, identity, libp2p, links, memory, tcp, unix"
    code = (
        f"from prime.transport import {modules}\nimport sys; print([m for m in sys.modules if m.startswith('libp2p')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
