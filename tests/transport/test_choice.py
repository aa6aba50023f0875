"""Transports by their names: Prime's own, a package's, and what is wrong with a package is said with its name."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path

import pytest

import prime
from prime.errors import ConfigError, MissingExtraError
from prime.transport.choice import transport_named, transport_names


@prime.message(tag=0x7D80)
class Call(prime.Ask[int]):
    number: int


class Place(prime.Actor[Call]):
    @prime.on(Call)
    def call(self, m: Call) -> int:
        return m.number + 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, which Python finds."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(folder: Path, package: str, offers: str, code: str = "") -> None:
    """Make a package with entry points, as pip leaves it behind."""
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[prime.transports]\n{offers}\n")
    (folder / f"{package}.py").write_text(textwrap.dedent(code))


EXAMPLE = Path(__file__).parents[2] / "examples" / "07_websocket"


def install_example(folder: Path) -> None:
    """Install the WebSocket example as pip would, from what its `pyproject.toml` says."""
    offers = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]["prime.transports"]
    install(folder, "prime_websocket", "\n".join(f"{name} = {value}" for name, value in offers.items()))
    (folder / "prime_websocket.py").write_text((EXAMPLE / "prime_websocket.py").read_text())


@pytest.mark.parametrize(
    ("name", "given", "listens"),
    [
        ("memory", "", ""),
        ("memory", "/memory/a", "/memory/a"),
        ("tcp", "", "/ip4/127.0.0.1/tcp/0"),
        ("tcp", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"),
        ("libp2p", "", "/ip4/127.0.0.1/tcp/0"),
    ],
)
def test_primes_own(name: str, given: str, listens: str) -> None:
    transport = transport_named(name, given, dial_timeout_s=3.5)
    assert (transport.name, transport.address, transport.dial_timeout_s) == (name, listens, 3.5)


def test_a_local_socket_needs_its_path() -> None:
    assert transport_named("unix", "/unix/run/x").path == "/unix/run/x"
    with pytest.raises(ConfigError, match="a path to listen at"):
        transport_named("unix")


def test_an_unknown_name_is_told_what_there_is(installed: Path) -> None:
    install(installed, "pigeons", "pigeon = pigeons:make")
    with pytest.raises(
        ConfigError, match="no transport 'pidgin'; installed are memory, unix, tcp, libp2p, pigeon"
    ) as caught:
        transport_named("pidgin")
    assert "prime.transports" in caught.value.hint
    assert transport_names()[4:] == ("pigeon",)


def test_a_packages_transport_is_made_with_the_address_and_the_deadline(installed: Path) -> None:
    code = """
        from types import SimpleNamespace

        def make(address, *, dial_timeout_s):
            return SimpleNamespace(name="pigeon", open=print, address=address, dial_timeout_s=dial_timeout_s)
    """
    install(installed, "pigeons_whole", "pigeon = pigeons_whole:make\ntcp = pigeons_whole:nothing", code)
    transport = transport_named("pigeon", "/ip4/127.0.0.1/udp/7/pigeon", dial_timeout_s=2.0)
    assert (transport.address, transport.dial_timeout_s) == ("/ip4/127.0.0.1/udp/7/pigeon", 2.0)
    assert transport_named("tcp").name == "tcp"  # its own names stay Prime's
    assert transport_names().count("tcp") == 1


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("made = None", "AttributeError"),
        ("def make(address): ...", "TypeError"),
        ("def make(address, *, dial_timeout_s): raise RuntimeError('the coop is empty')", "the coop is empty"),
        ("def make(address, *, dial_timeout_s): return None", "a NoneType without `open`"),
        (
            "from prime import Tcp\ndef make(address, *, dial_timeout_s): return Tcp()",
            "its transport calls itself 'tcp'",
        ),
    ],
)
def test_a_broken_package_is_named(installed: Path, code: str, says: str, request: pytest.FixtureRequest) -> None:
    package = f"pigeons_{abs(hash(request.node.name))}"
    install(installed, package, f"pigeon = {package}:make", code)
    with pytest.raises(ConfigError, match=f"'pigeon' of {package} 1.2") as caught:
        transport_named("pigeon")
    assert says in str(caught.value)
    assert caught.value.hint


def test_what_a_package_says_itself_is_kept(installed: Path) -> None:
    code = """
        from prime.errors import MissingExtraError

        def make(address, *, dial_timeout_s):
            raise MissingExtraError("pigeons need corn", hint="pip install corn")
    """
    install(installed, "pigeons_hungry", "pigeon = pigeons_hungry:make", code)
    with pytest.raises(MissingExtraError, match="corn"):
        transport_named("pigeon")


def test_one_name_of_two_packages_is_nobodys(installed: Path) -> None:
    install(installed, "pigeons_a", "pigeon = pigeons_a:make")
    install(installed, "pigeons_b", "pigeon = pigeons_b:make")
    with pytest.raises(ConfigError, match=r"pigeons_a 1\.2 .*, pigeons_b 1\.2 "):
        transport_named("pigeon")


async def reach(name: str) -> str:
    """Ask between two systems over the transport of that name, and return where the far one listens."""
    async with (
        prime.open_system(transport=name) as far,
        prime.open_system(transport=name) as near,
        far.supervisor("s") as sup,
    ):
        await sup.spawn(Place, "place")
        near.learn(far.peer, far.addresses)
        assert await near.ref(far.peer, "/s/place", Place).ask(Call(1), timeout=10) == 2
        return far.addresses[0]


async def test_a_system_is_opened_with_a_name() -> None:
    assert (await reach("tcp")).startswith("/ip4/127.0.0.1/tcp/")
    with pytest.raises(ConfigError, match="no transport 'ttcp'"):
        async with prime.open_system(transport="ttcp"):
            pass


async def test_the_example_works_by_its_name_once_it_is_installed(installed: Path) -> None:
    pytest.importorskip("wsproto")
    install_example(installed)
    assert "/ws/p2p/" in await reach("websocket")
    place = transport_named("websocket", "/ip4/127.0.0.1/tcp/7/ws", dial_timeout_s=2.0)
    assert (place.address, place.dial_timeout_s) == ("/ip4/127.0.0.1/tcp/7/ws", 2.0)
