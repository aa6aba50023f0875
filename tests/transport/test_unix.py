"""The local socket: who may connect, and what is left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest
import trio

from prime.errors import AddressInUseError, ConfigError, UnreachableError, WrongPeerError
from prime.testing.transport import meet, opened
from prime.transport import unix
from prime.transport.identity import KeyPair
from prime.transport.unix import Unix

KEY, OTHER = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1] * 32))


async def test_socket_and_folder_are_private_and_cleaned_up(tmp_path: Path) -> None:
    path = tmp_path / "made" / "node.sock"
    async with Unix(path).open(KEY) as endpoint:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert endpoint.addresses == (f"/unix{path}/p2p/{KEY.peer}",)
    assert path.name not in os.listdir(path.parent)  # noqa: PTH208 (names only)


async def test_a_path_or_an_address_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (f"/unix{tmp_path}/s", str(tmp_path / "s"), "s", f"/unix{tmp_path}/s/p2p/{KEY.peer}"):
        async with Unix(path).open(KEY) as endpoint:
            assert endpoint.addresses == (f"/unix{tmp_path}/s/p2p/{KEY.peer}",)


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/memory/alice", "/dns4/example.org/tcp/1", "/ip6/::1"])
async def test_the_address_of_another_transport_is_no_path(address: str) -> None:
    with pytest.raises(ConfigError, match="no local socket|is no address"):
        async with Unix(address).open(KEY):
            pass


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o1777])
async def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    os.chmod(tmp_path, mode)  # noqa: PTH101 (no event loop waits in this test)
    with pytest.raises(ConfigError, match="Others may enter") as caught:
        async with Unix(tmp_path / "s").open(KEY):
            pass
    assert f"chmod 700 {tmp_path}" in caught.value.hint


async def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with opened(Unix(path), Unix(tmp_path / "t")) as (listener, dialler):
        await meet(dialler, listener)


async def test_the_live_socket_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen(0)
        with pytest.raises(AddressInUseError, match=str(path)):
            async with Unix(path).open(KEY):
                pass
    assert path.name in os.listdir(tmp_path)  # noqa: PTH208 (names only)


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        async with Unix(tmp_path / "s").open(KEY):
            pass
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_long_path_is_refused_before_the_system_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the system allows"):
        async with Unix(tmp_path / ("x" * 100)).open(KEY):
            pass


async def test_an_address_for_another_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another peer"):
        async with Unix(f"/unix{tmp_path}/s/p2p/{OTHER.peer}").open(KEY):
            pass


async def test_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(tmp_path / "foreign"))
        plain.listen()
        async with Unix(tmp_path / "s").open(KEY) as endpoint:
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
            monkeypatch.setattr(unix.struct, "unpack", lambda *_: (1, 54321, 54321))
            with pytest.raises(WrongPeerError, match="user 54321"):
                await endpoint.dial(f"/unix{tmp_path}/foreign")


def impostor_hello() -> bytes:
    return unix.MAGIC + OTHER.public_bytes + bytes(32)


async def test_a_caller_cannot_claim_the_id_of_another(tmp_path: Path) -> None:
    async with Unix(tmp_path / "s").open(KEY) as endpoint:
        stream = await trio.open_unix_socket(str(tmp_path / "s"))
        await stream.send_all(impostor_hello() + bytes(64))
        with trio.move_on_after(0.2):
            pytest.fail(f"accepted {(await endpoint.accept()).peer}")
        await stream.aclose()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (impostor_hello() + bytes(64), WrongPeerError, "cannot prove it"),
        (b"HTTP/1.1 400 Bad Request" + bytes(200), UnreachableError, "does not speak"),
        (b"short", UnreachableError, "hung up"),
    ],
)
async def test_a_listener_that_is_not_prime(tmp_path: Path, answer: bytes, error: type[Exception], text: str) -> None:
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "fake"))
        listener.listen()
        async with Unix(tmp_path / "s").open(KEY) as endpoint, trio.open_nursery() as nursery:
            nursery.start_soon(answer_once, listener, answer)
            with pytest.raises(error, match=text) as caught:
                await endpoint.dial(f"/unix{tmp_path}/fake")
            assert caught.value.hint


async def answer_once(listener: trio.socket.SocketType, answer: bytes) -> None:
    socket_, _ = await listener.accept()
    with socket_:
        await socket_.send(answer)
        await socket_.recv(1000)


async def test_a_torn_channel_stays_broken(tmp_path: Path) -> None:
    async with opened(Unix(tmp_path / "a"), Unix(tmp_path / "b")) as (dialler, listener):
        m = await meet(dialler, listener)
        with trio.move_on_after(0.1):
            await m.near.send(bytes(10 << 20))
        with pytest.raises(anyio.BrokenResourceError):
            await m.near.send(b"more")
