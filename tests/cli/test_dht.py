"""`prime dht`: through two nodes that serve the DHT alone, as a client of theirs, and where something is in the way."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from prime.cli.dht_view import dht_lines, stats_lines
from prime.cli.main import run
from prime.dht.messages import BucketFill, DhtStatus, IpfsStatus, LookupTimes
from prime.testing.nodes import NodeProcess, environment, until

UNKNOWN = "ab" * 32
CID = "ipfs:bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"


@attrs.define
class Told:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        (line,) = self.out.splitlines()
        found = json.loads(line)
        assert found["schema"] == 1
        return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Start two nodes of the role dht, the second through the first."""
    folder = tmp_path_factory.mktemp("dht")
    one, two = (NodeProcess(folder, name, {}) for name in ("one", "two"))
    try:
        one.start(flags=("--role", "dht"))
        one.ready()
        two.start(one.address, flags=("--role", "dht"))
        two.ready()
        until(lambda: all(joined(node) for node in (one, two)), 20, "both know each other")
        yield one, two
    finally:
        one.close()
        two.close()


def joined(node: NodeProcess) -> bool:
    status = node.status()
    return status is not None and status.dht is not None and status.dht.joined and status.dht.contacts == 1


@pytest.fixture
def prime(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command within this process."""
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*words: object, node: NodeProcess | None = None) -> Told:
        through = ["--config", str(node.file)] if node is not None else []
        status = run(["dht", *map(str, words), *through])
        out, err = capsysbinary.readouterr()
        return Told(status, out.decode(), err.decode())

    return command


def test_a_value_by_its_hash(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    put = prime("put", "hello", node=one)
    assert put.status == 0, put.err
    (key,) = put.out.splitlines()
    assert len(bytes.fromhex(key)) == 32
    assert "of 1 peer" in put.err or "of 2 peers" in put.err
    assert (prime("get", key, node=two).out, prime("get", key, node=one).out) == ("hello", "hello")
    told = prime("get", key, "--json", node=two).json
    assert (told["event"], told["key"], told["publisher"]) == ("dht.record", key, one.peer)
    assert (told["value"], told["value_base64"], told["seq"], told["name"]) == ("hello", "aGVsbG8=", 0, "")


def test_a_name_and_its_versions(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    first = prime("name", "set", "greeting", "hello", node=one)
    assert first.status == 0, first.err
    assert first.out.splitlines()[0] == f"{one.peer}/greeting"
    assert prime("name", "resolve", f"{one.peer}/greeting", node=two).out == "hello"
    again = prime("put", "good day", "--name", "greeting", "--json", node=one).json
    assert (again["event"], again["name"]) == ("dht.published", f"{one.peer}/greeting")
    assert prime("get", f"{one.peer}/greeting", node=two).out == "good day"
    assert prime("get", "greeting", node=one).out == "good day"
    gone = prime("remove", "greeting", node=one)
    assert gone.status == 0, gone.err
    missing = prime("get", f"{one.peer}/greeting", node=two)
    assert (missing.status, missing.out) == (6, "")
    assert "hint: " in missing.err


def test_a_value_from_a_file_and_from_standard_input(
    nodes: tuple[NodeProcess, NodeProcess], prime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes
    data = bytes(range(256))
    (tmp_path / "value").write_bytes(data)
    told = prime("put", "--file", tmp_path / "value", "--json", node=one).json
    assert told["value"] is None
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert prime("put", "--json", node=one).json["key"] == told["key"]
    words = ["dht", "get", told["key"], "--config", str(two.file)]
    done = subprocess.run([sys.executable, "-m", "prime", *words], capture_output=True, env=environment(), check=True)
    assert done.stdout == data


def test_a_value_of_the_command_line_is_the_bytes_that_were_typed(
    nodes: tuple[NodeProcess, NodeProcess], prime: Any
) -> None:
    told = prime("put", "\udcff\udcfe", "--json", node=nodes[0]).json
    assert base64.b64decode(told["value_base64"]) == b"\xff\xfe"


def test_providers(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    none = prime("providers", "run:chess", node=two)
    assert (none.status, none.out) == (6, "")
    assert "nobody takes part in a run chess" in none.err
    assert prime("provide", "run:chess", node=one).status == 0
    found = prime("providers", "run:chess", "--json", node=two).json
    assert [peer["peer"] for peer in found["peers"]] == [one.peer]
    assert one.address in found["peers"][0]["addresses"]
    assert prime("provide", "run:chess", "--end", node=one).status == 0


def test_peers(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    assert prime("find", two.peer, node=one).out == f"{two.peer}  {two.address}\n"
    nearest = prime("find", UNKNOWN, "--json", node=one).json
    assert {peer["peer"] for peer in nearest["peers"]} <= {one.peer, two.peer}
    nobody = prime("find", "12D3KooWAgyfzwVp58pnca3nsH8GCvg8acZqk2eBmHqnuz5D8DdA", node=one)
    assert nobody.status == 6


def test_a_register_takes_one_of_two_writers(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    first = prime("put", "1", "--name", "counter", "--if-seq", 0, "--json", node=one)
    assert first.status == 0, first.err
    assert (first.json["seq"], first.json["name"]) == (1, f"{one.peer}/counter")
    late = prime("put", "other", "--name", "counter", "--if-seq", 0, node=one)
    assert (late.status, late.out) == (5, "")
    assert "version 1 is there, not version 0" in late.err
    assert prime("put", "2", "--name", "counter", "--if-seq", 1, node=one).status == 0
    assert prime("get", f"{one.peer}/counter", "--register", node=two).out == "2"
    assert prime("remove", "counter", "--if-seq", 2, node=one).status == 0
    assert prime("get", f"{one.peer}/counter", "--register", node=two).status == 6


def test_stats_and_status(nodes: tuple[NodeProcess, NodeProcess], prime: Any, capsysbinary: Any) -> None:
    one, _ = nodes
    told = prime("stats", "--json", node=one).json
    assert (told["event"], told["peer"], told["server"], told["joined"]) == ("dht.stats", one.peer, True, True)
    assert (told["contacts"], [fill["contacts"] for fill in told["table"]]) == (1, [1])
    assert "1 peer in the table" in prime("stats", node=one).out
    assert run(["status", "--config", str(one.file)]) == 0
    assert "dht: merged, 1 peer in the table" in capsysbinary.readouterr().out.decode()


def test_a_client_without_a_node(nodes: tuple[NodeProcess, NodeProcess], prime: Any, tmp_path: Path) -> None:
    one, two = nodes
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\n[transport]\nkind = "tcp"\n')
    words = ("--join", two.address, "--config", file)
    put = prime("name", "set", "far", "from outside", "--json", *words)
    assert put.status == 0, put.err
    assert prime("get", put.json["name"], node=one).out == "from outside"
    assert prime("get", put.json["key"], *words).out == "from outside"
    assert prime("get", UNKNOWN, *words).status == 6
    assert prime("put", "1", "--name", "counter", "--if-seq", 0, *words).status == 0
    late = prime("put", "2", "--name", "counter", "--if-seq", 0, *words)
    assert (late.status, late.out) == (5, "")
    bare = prime("get", "far", *words)
    assert bare.status == 2
    assert "whose name" in bare.err


def test_as_the_node_that_runs_only_through_it(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    one, two = nodes
    told = prime("name", "set", "x", "y", "--join", two.address, node=one)
    assert told.status == 3
    assert "holds its lock" in told.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("get", "no/such"), "no peer id"),
        (("get", "a:b"), "is no name"),
        (("put", "x", "--if-seq", "1"), "--name"),
        (("put", "x", "--if-seq", "1", "--name", "y", "--ttl", "9"), "without an end"),
        (("get", UNKNOWN, "--register"), "is no name"),
        (("put", "x", "--name", "a/b"), "is no name"),
        (("name", "set", "", "x"), "is no name"),
        (("name", "set", "\udcff", "x"), "is no name"),
        (("put", "x" * 16_385), "16 KiB"),
        (("put", "x", "--file", "y"), "either VALUE or --file"),
        (("put", "--file", "/no/such/file"), "cannot be read"),
        (("remove", "a:b"), "is no name"),
        (("providers", "ipfs:nonsense"), "names no content"),
        (("get", "ipfs:nonsense"), "is no key of a value"),
        (("find", "ipfs:nonsense"), "is no key of a value"),
        (("name", "resolve", UNKNOWN), "is no name"),
        (("get", UNKNOWN, "--node", "a", "--join", "/ip4/127.0.0.1/tcp/1"), "either --node or --join"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(prime: Any, words: tuple[str, ...], text: str) -> None:
    told = prime(*words)
    assert (told.status, told.out) == (2, "")
    assert text in told.err
    assert "hint: " in told.err


@pytest.mark.parametrize("words", [("get", UNKNOWN), ("put", "x"), ("find", UNKNOWN), ("provide", UNKNOWN), ("stats",)])
def test_without_a_node_each_says_where_it_asked(prime: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\ncontrol_socket = "{tmp_path}/none.sock"\n')
    told = prime(*words, "--config", file, "--json")
    assert (told.status, told.out) == (6, "")
    assert f"{tmp_path}/none.sock" in told.err


def test_a_client_that_reaches_nobody(prime: Any, tmp_path: Path) -> None:
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\n[transport]\nkind = "tcp"\n')
    told = prime("get", UNKNOWN, "--join", "/ip4/127.0.0.1/tcp/9", "--deadline", 20, "--config", file)
    assert (told.status, told.out) == (4, "")
    assert "hint: " in told.err


def test_a_lookup_that_takes_too_long(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    """The last test with both nodes: one stands still."""
    one, two = nodes
    os.kill(two.running.pid, signal.SIGSTOP)
    try:
        told = prime("get", UNKNOWN, "--deadline", 0.5, node=one)
    finally:
        os.kill(two.running.pid, signal.SIGCONT)
    assert (told.status, told.out) == (7, "")


def test_libp2p_s_own_dht(prime: Any, tmp_path: Path) -> None:
    pytest.importorskip("libp2p")
    one = NodeProcess(tmp_path, "speaks-libp2p", {"transport.kind": "libp2p"})
    try:
        one.start(flags=("--role", "dht"))
        one.ready()
        file = tmp_path / "client.toml"
        file.write_text(f'[node]\nstate_dir = "{tmp_path}/client"\n[transport]\nkind = "libp2p"\n')
        words = ("--join", one.address, "--config", file)
        alone = prime("provide", CID, node=one)
        assert alone.status == 4, alone.err  # it knows nobody yet, and keeps it in mind
        found = prime("providers", CID, "--json", *words)
        assert [each["peer"] for each in found.json["peers"]] == [one.address.rpartition("/")[2]], found.err
        assert prime("provide", CID, "--end", node=one).status == 0
        assert prime("providers", CID, *words).status == 6
        peer = prime("find", f"ipfs:{one.address.rpartition('/')[2]}", *words)
        assert one.address in peer.out
        assert prime("get", f"ipfs:/prime/{UNKNOWN}", *words).status == 6
        told = prime("stats", node=one)
        assert "in libp2p's DHT a server" in told.out
    finally:
        one.close()


def test_without_libp2p_its_dht_is_named_with_what_to_set(nodes: tuple[NodeProcess, NodeProcess], prime: Any) -> None:
    told = prime("providers", CID, node=nodes[0])
    assert told.status == 5
    assert 'transport.kind = "libp2p"' in told.err


BARE = """
import sys
for name in ("numpy", "torch", "numba", "libp2p", "zeroconf", "safetensors"):
    sys.modules[name] = None
from prime.cli.main import run
sys.exit(run(["node", "start", "--role", "dht", "--config", sys.argv[1], "--parent-eof", "--json"]))
"""


def test_a_node_of_the_dht_alone_needs_the_base_install_alone(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "bare", {})
    command = [sys.executable, "-c", BARE, str(node.file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as bare:
        try:
            assert bare.stdout is not None and bare.stdin is not None
            assert json.loads(bare.stdout.readline())["event"] == "node.ready"
            bare.stdin.close()  # with --parent-eof its end
            assert bare.wait(20) == 130
        finally:
            bare.kill()


@pytest.mark.parametrize(("role", "words"), [("cook", "none of trainer, dht"), ("", "without a role")])
def test_a_role_that_is_none(prime: Any, role: str, words: str, capsysbinary: Any) -> None:
    assert run(["node", "start", "--role", role]) == 3
    assert words in capsysbinary.readouterr().err.decode()


# --------------------------------------------------------------------------------------------- what is shown of it


def status_of(**fields: Any) -> DhtStatus:
    found = {
        "peer": "p", "server": True, "joined": True, "contacts": 3, "records": 2, "record_bytes": 2048, "published": 1,
        "table": (BucketFill(254, 1), BucketFill(255, 2)), "provided": 4, "providers": 5, "served": 7, "refused": 1,
        "lookups": LookupTimes(12, 3, 0.0042, 1.5, 1.25), "phase": "merged", "sight": "it is merged",
    }  # fmt: skip
    return DhtStatus(**{**found, **fields})


def test_the_dht_in_lines() -> None:
    text = "\n".join(dht_lines(status_of()))
    assert "dht: merged, 3 peers in the table (255:2 254:1)" in text
    assert "holds 2 records (2.0 KiB) and 5 providers; publishes 1, provides 4" in text
    assert "12 lookups, p50 4.2 ms, p99 1.5 s, 1.2 hops; 3 found nothing" in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"phase": "alone", "contacts": 0, "table": ()}, "dht: alone, 0 peers in the table"),
        ({"phase": "first"}, "dht: the first node, 3 peers"),
        ({"phase": "joining"}, "dht: joining, 3 peers"),
        ({"phase": ""}, "dht: starting, 3 peers"),
        ({"server": False}, "dht: merged, as a client, 3 peers"),
    ],
)
def test_where_it_stands(fields: dict[str, Any], words: str) -> None:
    assert words in "\n".join(dht_lines(status_of(**fields)))
    assert "lookup" not in "\n".join(dht_lines(status_of(lookups=LookupTimes())))


def test_the_table_bucket_by_bucket() -> None:
    lines = list(stats_lines(status_of()))
    assert "     bucket 255  ## 2" in lines
    assert "     it is merged" in lines
    assert "     answered 7 requests of others, refused 1" in lines
    beside = status_of(ipfs=IpfsStatus(True, 1, 2, 2048, 3, 4, 5))
    assert (
        "     in libp2p's DHT a server, 1 peer in the table; holds 2 values (2.0 KiB) and 3 providers; "
        "answered 4 requests, refused 5"
    ) in list(stats_lines(beside))
