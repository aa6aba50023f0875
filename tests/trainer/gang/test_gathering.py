"""How hosts find and prove each other: the file in the run's folder, and the keys made of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from prime.errors import ConfigError, PrimeError, UnreachableError
from prime.trainer.gang.gathering import (
    FILE,
    Gathering,
    gathering_at,
    open_first,
    open_networked,
    read_gathering,
    resolve,
    write_gathering,
)
from prime.trainer.gang.interfaces import free_port, interface_of, own_address_towards
from prime.trainer.gang.launch import Launch

GATHERING = Gathering(bytes(range(32)), 4001, "/run-x/ranks", "slurm 7")
LAUNCH = Launch(launcher="torchrun", host=0, hosts=2, leader="127.0.0.1", one_each=False)


def test_the_file_is_the_users_alone_and_reads_as_it_was_written(tmp_path: Path) -> None:
    with gathering_at(tmp_path, GATHERING):
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
        assert read_gathering(tmp_path, "slurm 7") == GATHERING
    assert not any(tmp_path.iterdir())


def test_the_secret_is_in_no_text(tmp_path: Path) -> None:
    assert GATHERING.secret.hex() not in repr(GATHERING)
    assert "secret" not in repr(GATHERING)
    write_gathering(tmp_path, GATHERING)


def test_another_run_of_the_launcher_is_not_this_one(tmp_path: Path) -> None:
    write_gathering(tmp_path, GATHERING)
    assert read_gathering(tmp_path, "slurm 8") is None
    assert read_gathering(tmp_path / "nowhere", "slurm 7") is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"secret": "00", "port": 1, "path": "/", "run": "slurm 7"}', b"\xff"]
)
def test_what_is_no_such_file_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / FILE).write_bytes(text)
    (tmp_path / FILE).chmod(0o600)
    assert read_gathering(tmp_path, "slurm 7") is None


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_gathering(tmp_path, GATHERING)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        read_gathering(tmp_path, "slurm 7")


def test_each_host_has_a_key_of_its_own_that_the_secret_fixes() -> None:
    peers = {GATHERING.key(host).peer for host in range(4)}
    assert len(peers) == 4
    assert Gathering(bytes(range(32)), 1, "/").key(3).peer == GATHERING.key(3).peer
    assert Gathering(bytes(32), 4001, "/run-x/ranks").key(3).peer not in peers


async def test_who_has_the_secret_links_and_nobody_else(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_first(tmp_path, LAUNCH, "/run-x/ranks") as (system, first):
            found = read_gathering(tmp_path, "")
            assert found == first.gathering
            address = f"/ip4/127.0.0.1/tcp/{found.port}/p2p/{system.peer}"
            stranger = Gathering(bytes(32), 0, "/")
            async with open_networked(found.key(1), "/ip4/127.0.0.1/tcp/0", [system.peer]) as follower:
                assert follower.network is not None
                assert await follower.network.dial(address) == system.peer
            async with open_networked(stranger.key(1), "/ip4/127.0.0.1/tcp/0", [system.peer]) as other:
                assert other.network is not None
                with pytest.raises(PrimeError):
                    await other.network.dial(address)
    assert not (tmp_path / FILE).exists()


async def test_a_name_without_an_address_says_which_variable() -> None:
    with pytest.raises(UnreachableError, match="MASTER_ADDR"):
        await resolve("no-such-host.invalid")


def test_the_interface_towards_another_host() -> None:
    assert own_address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""
    own = own_address_towards("192.0.2.1")
    if own:
        assert interface_of(own) in {name for _, name in socket.if_nameindex()}


def test_a_free_port_is_free() -> None:
    for address in ("127.0.0.1", "192.0.2.1"):
        with socket.create_server(("127.0.0.1", free_port(address))):
            pass
