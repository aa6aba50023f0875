"""Peers that are not Prime: js-libp2p nodes from npm and go-libp2p's `p2pd`, each behind the same few calls.

Each offers one security only, so a connection that comes about has it. Both are fetched once and kept: the packages by
`npm ci` beside `js/package-lock.json`, the daemon out of the wheel of hivemind in pytest's cache. Where a tool or the
network is missing the tests are skipped, and fail if `INTEROP_REQUIRED` is set, as the session `interop` does.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import pytest
import trio

from prime.transport import frames as fr
from prime.wire import dumps, loads
from prime.wire.frame import Frame, FrameParser, pack

PROTOCOL = "/prime/actor/1"
FETCH_TIMEOUT_S = 150
START_TIMEOUT_S = 20.0
HIVEMIND = "hivemind==1.1.12"  # its wheel holds `p2pd`, built from go-libp2p-daemon
UNIX = 400  # the code of /unix in a binary multiaddr
DAEMON = "hivemind/hivemind_cli/p2pd"
JS = Path(__file__).with_name("js")


class Identity(NamedTuple):
    """What the identify protocol says of a peer."""

    peer: str
    protocols: list[str]


class Answer(NamedTuple):
    """The value of a REPLY, and the payloads beside it."""

    value: Any
    payloads: list[bytes]


class Foreign(Protocol):
    """A peer that is not Prime. It answers an ask to `echo` with the one field of its message."""

    address: str
    echo: str

    async def identify(self, address: str) -> Identity: ...

    async def ping(self, address: str) -> None: ...

    async def ask(self, address: str, target: str, message: list[Any], payloads: tuple[bytes, ...] = ()) -> Answer: ...

    def kill(self) -> None: ...


OpenForeign = Callable[[], AbstractAsyncContextManager[Foreign]]


class ForeignError(Exception):
    """What went wrong at the foreign peer, in its words."""


def missing(what: str) -> NoReturn:
    """Leave these tests out, or fail where they are required."""
    if os.environ.get("INTEROP_REQUIRED"):
        pytest.fail(what)
    pytest.skip(what)


def fetched(command: list[str], folder: Path) -> None:
    """Run a package manager."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    if done.returncode:
        missing(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr[-500:]}")


@asynccontextmanager
async def running(command: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """Run a program for the length of the block."""
    process = await trio.lowlevel.open_process(command, **options)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


# ----------------------------------------------------------------------------------------------------------- js-libp2p


@pytest.fixture(scope="session")
def node_program() -> str:
    """Node, with the packages of the lock file beside it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("node and npm are not on PATH: js-libp2p was not tried")
    kept = JS / "node_modules" / ".package-lock.json"
    if not kept.exists() or kept.stat().st_mtime < (JS / "package-lock.json").stat().st_mtime:
        fetched([npm, "ci", "--omit=dev", "--ignore-scripts"], JS)
    return node


class Program:
    """A program that does what a line of JSON says, and answers it by one; it says first what it is."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = b""

    async def started(self) -> dict[str, Any]:
        """Return what it says of itself."""
        with trio.fail_after(START_TIMEOUT_S):
            return await self._line()

    async def do(self, command: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"do": command, **fields}).encode() + b"\n")
        found = await self._line()
        if "error" in found:
            raise ForeignError(found["error"])
        return found

    def kill(self) -> None:
        self._process.kill()

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            some = await self._process.stdout.receive_some()
            if not some:
                raise ForeignError(f"it ended with status {await self._process.wait()}")
            self._said += some
        line, _, self._said = self._said.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


class JsPeer(Program):
    """`js/peer.mjs`."""

    echo = "/js/echo"
    address = ""

    async def identify(self, address: str) -> Identity:
        found = await self.do("identify", address=address)
        return Identity(found["peer"], found["protocols"])

    async def ping(self, address: str) -> None:
        await self.do("ping", address=address)

    async def ask(self, address: str, target: str, message: list[Any], payloads: tuple[bytes, ...] = ()) -> Answer:
        carried = [base64.b64encode(payload).decode() for payload in payloads]
        found = await self.do("ask", address=address, target=target, message=message, payloads=carried)
        return Answer(found["value"], [base64.b64decode(payload) for payload in found["payloads"]])


@asynccontextmanager
async def js_peer(node: str, security: str) -> AsyncIterator[JsPeer]:
    """Run a js-libp2p node that offers one security."""
    command = [node, str(JS / "peer.mjs"), security]
    async with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        peer = JsPeer(process)
        peer.address = (await peer.started())["address"]
        yield peer


# ----------------------------------------------------------------------------------------------------------- go-libp2p


@pytest.fixture(scope="session")
def daemon(request: pytest.FixtureRequest) -> Path:
    """The program `p2pd`, out of a wheel."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        missing("p2pd is built for Linux on x86_64 only: go-libp2p was not tried")
    folder = Path(request.config.cache.mkdir(f"interop-{HIVEMIND}"))  # type: ignore[union-attr]
    if not (folder / DAEMON).exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        fetched([*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), HIVEMIND], folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(DAEMON, folder)
        wheel.unlink()
        (folder / DAEMON).chmod(0o755)
    return folder / DAEMON


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Return an unsigned LEB128."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def fields_of(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a protocol buffer by number: those of varints and bytes, which are all there are here."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = varint_at(data, at)
        value, at = varint_at(data, at)
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(data[at : at + value])
            at += value
        else:
            found.setdefault(key >> 3, []).append(value)
    return found


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned LEB128 at a position, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
            return value, at


class Bytes:
    """A socket, read by exact counts."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self.socket = socket
        self._kept = bytearray()

    async def exactly(self, size: int) -> bytes:
        while len(self._kept) < size:
            some = await self.socket.receive_some(1 << 20)
            if not some:
                raise ForeignError(f"the stream ended {size - len(self._kept)} bytes early")
            self._kept += some
        found = bytes(self._kept[:size])
        del self._kept[:size]
        return found

    async def delimited(self) -> bytes:
        """Read a varint, and as many bytes."""
        size = await self.exactly(1)
        while size[-1] & 0x80:
            size += await self.exactly(1)
        return await self.exactly(varint_at(size, 0)[0])


class Link:
    """The link protocol over a stream that `p2pd` passes on: the frames are Prime's, the libp2p below them is go's."""

    def __init__(self, stream: Bytes) -> None:
        self._stream = stream
        self._parser = FrameParser()

    async def write(self, frame: Any, payloads: list[memoryview] | None = None) -> None:
        for piece in pack(dumps(frame.plain()), payloads or []):
            await self._stream.socket.send_all(piece)

    async def read(self) -> tuple[fr.Frame, Frame]:
        while (found := self._parser.next()) is None:
            self._parser.feed(await self._stream.exactly(self._parser.needed_bytes))
        return fr.read_frame(loads(found.header)), found

    async def greet(self, link_id: int) -> None:
        await self.write(fr.Hello(1, "go", (), fr.Allowance(), (), 7, link_id, 0))

    async def ask(self, target: str, message: list[Any], payloads: tuple[bytes, ...]) -> Answer:
        """Speak as the dialler: greet, ask, and wait for the answer."""
        await self.greet(1)
        assert isinstance((await self.read())[0], fr.Hello)
        await self.write(fr.Ask(target, 1, message, 1, 20_000), [memoryview(payload) for payload in payloads])
        while True:
            frame, whole = await self.read()
            if isinstance(frame, fr.Reply | fr.Fail):
                await self.write(fr.Bye(fr.Reason.SHUTDOWN, ""))
            if isinstance(frame, fr.Reply):
                return Answer(frame.value, [bytes(payload) for payload in whole.payloads])
            if isinstance(frame, fr.Fail | fr.Bye):
                raise ForeignError(str(frame))

    async def serve(self, echo: str) -> None:
        """Speak as the acceptor: answer asks until the other side says BYE."""
        hello, _ = await self.read()
        assert isinstance(hello, fr.Hello)
        await self.greet(hello.link_id)
        while True:
            frame, whole = await self.read()
            if isinstance(frame, fr.Bye):
                return
            if isinstance(frame, fr.Ping):
                await self.write(fr.Pong())
            if isinstance(frame, fr.Ask):
                assert frame.target == echo
                await self.write(fr.Credit(frame.target, 1, whole.size_bytes))
                await self.write(fr.Reply(frame.correlation, frame.body[1]), list(whole.payloads))


class GoPeer:
    """`p2pd`, told by protocol buffers over a Unix socket (`p2pd.proto` of go-libp2p-daemon)."""

    echo = "/go/echo"
    IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER, DHT = range(5)
    FIND_PEER, FIND_PROVIDERS, GET_VALUE, PUT_VALUE, PROVIDE = 0, 2, 5, 7, 8
    BEGIN, VALUE, END = range(3)

    def __init__(self, process: trio.Process, folder: Path) -> None:
        self._process = process
        self._control = folder / "control"
        self._handler = folder / "handler"
        self._open_sockets: list[trio.SocketStream] = []
        self.address = ""

    async def started(self, nursery: trio.Nursery) -> None:
        """Wait for the daemon, and have it pass on what others open for our protocol."""
        from libp2p.peer.id import ID
        from multiaddr import Multiaddr

        answer = await self._first_answer()
        found = fields_of(answer[4][0])
        self.address = f"{Multiaddr(found[2][0])}/p2p/{ID(found[1][0])}"
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(str(self._handler))
        socket.listen()
        nursery.start_soon(trio.serve_listeners, self._handle, [trio.SocketListener(socket)])
        path = str(self._handler).encode()
        place = varint(UNIX) + varint(len(path)) + path  # the package multiaddr leaves the path's first slash out
        wanted = field(1, place) + field(2, PROTOCOL.encode()) + field(3, 0)
        await self._request(self.STREAM_HANDLER, field(4, wanted))

    async def _first_answer(self) -> dict[int, list[Any]]:
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):  # it does not listen yet
                return (await self._request(self.IDENTIFY))[1]
            await trio.sleep(0.01)

    async def identify(self, address: str) -> Identity:
        from libp2p.peer.id import ID

        stream = await self._open(address, "/ipfs/id/1.0.0")
        found = fields_of(await stream.delimited())
        key = fields_of(found[1][0])[2][0]
        peer = ID.from_string(address.rpartition("/")[2])
        assert peer.to_bytes().endswith(key)  # an Ed25519 peer id is its key
        return Identity(str(peer), [protocol.decode() for protocol in found[3]])

    async def ping(self, address: str) -> None:
        stream = await self._open(address, "/ipfs/ping/1.0.0")
        for turn in range(2):
            sent = bytes([turn]) * 32
            await stream.socket.send_all(sent)
            assert await stream.exactly(32) == sent

    async def ask(self, address: str, target: str, message: list[Any], payloads: tuple[bytes, ...] = ()) -> Answer:
        return await Link(await self._open(address, PROTOCOL)).ask(target, message, payloads)

    async def connect(self, address: str) -> None:
        from libp2p.peer.id import ID
        from multiaddr import Multiaddr

        place, _, name = address.rpartition("/p2p/")
        peer = field(1, ID.from_string(name).to_bytes()) + field(2, Multiaddr(place).to_bytes())
        await self._request(self.CONNECT, field(2, peer))

    async def dht(self, kind: int, **fields: Any) -> list[bytes]:
        """Ask its DHT; return the ids of the peers, or the values, that it answers."""
        numbers = {"peer": 2, "cid": 3, "key": 4, "value": 5, "count": 6}
        body = b"".join(field(numbers[name], value) for name, value in fields.items())
        stream, answer = await self._request(self.DHT, field(5, field(1, kind) + body + field(7, int(START_TIMEOUT_S))))
        found = [fields_of(answer[5][0])] if 5 in answer else []
        if found and found[0].get(1, [self.BEGIN]) == [self.BEGIN]:
            found = []
            while (one := fields_of(await stream.delimited()))[1] != [self.END]:
                found.append(one)
        return [fields_of(one[2][0])[1][0] if 2 in one else one[3][0] for one in found]

    def kill(self) -> None:
        self._process.kill()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            for socket in self._open_sockets:
                await socket.aclose()

    async def _open(self, address: str, protocol: str) -> Bytes:
        """Connect to an address and open a stream; what the answer came by is then the stream."""
        from libp2p.peer.id import ID

        await self.connect(address)
        peer = field(1, ID.from_string(address.rpartition("/p2p/")[2]).to_bytes())
        stream, _ = await self._request(self.STREAM_OPEN, field(3, peer + field(2, protocol.encode())))
        return stream

    async def _request(self, kind: int, body: bytes = b"") -> tuple[Bytes, dict[int, list[Any]]]:
        stream = Bytes(await trio.open_unix_socket(str(self._control)))
        self._open_sockets.append(stream.socket)
        request = field(1, kind) + body
        await stream.socket.send_all(varint(len(request)) + request)
        answer = fields_of(await stream.delimited())
        if answer[1] != [0]:
            raise ForeignError(fields_of(answer[2][0])[1][0].decode())
        return stream, answer

    async def _handle(self, socket: trio.SocketStream) -> None:
        stream = Bytes(socket)
        await stream.delimited()  # who opened it, and for what
        async with socket:
            with suppress(ForeignError, trio.BrokenResourceError):  # the node of the test ends as the test does
                await Link(stream).serve(self.echo)


@asynccontextmanager
async def go_peer(daemon: Path, folder: Path, security: str, *flags: str) -> AsyncIterator[GoPeer]:
    """Run `p2pd` with one security."""
    other = "noise" if security == "tls" else "tls"
    listen = [
        f"-listen=/unix{folder}/control",
        "-hostAddrs=/ip4/127.0.0.1/tcp/0",
    ]
    command = [str(daemon), *listen, f"-{other}=false", "-relay=false", "-relayService=false", *flags]
    async with (
        running(
            command,
        ) as process,
        trio.open_nursery() as nursery,
    ):
        peer = GoPeer(process, folder)
        with trio.fail_after(START_TIMEOUT_S):
            await peer.started(nursery)
        try:
            yield peer
        finally:
            await peer.aclose()
            nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------------------- fixture


@pytest.fixture
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> OpenForeign:
    """What opens the peer that the parameter names, such as `js-tls`."""
    runtime, security = request.param.split("-")
    if runtime == "js":
        return partial(js_peer, request.getfixturevalue("node_program"), security)
    return partial(go_peer, request.getfixturevalue("daemon"), tmp_path, security)
