"""The boxes do what their kind says: otherwise no test behind them shows anything."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from nets import KINDS, Internet, Machine  # type: ignore[import-not-found]

pytestmark = pytest.mark.network

ECHO = """
import json, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 4000))
print("ready", flush=True)
while True:
    data, sender = udp.recvfrom(100)
    udp.sendto(json.dumps(sender).encode(), sender)
"""
"""Tells each caller as whom it came."""

ASK = """
import json, socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 4100))
for host in sys.argv[1:]:
    udp.settimeout(5)
    udp.sendto(b"?", (host, 4000))
    print(udp.recv(100).decode(), flush=True)
sys.stdin.readline()
udp.settimeout(0.2)
try:
    print(json.dumps(udp.recvfrom(100)[1]), flush=True)
except TimeoutError:
    print("null", flush=True)
"""
"""Asks each host as whom it comes, then, when told to, tells who else has sent something."""

TCP = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.3).close()
    print("open")
except OSError as error:
    print(type(error).__name__)
"""


def echo(host: Machine) -> Machine:
    assert host.start("python3", "-c", ECHO).line() == "ready"
    return host


def mapped(inside: Machine, *asked: Machine, stranger: Machine, box: Machine) -> tuple[list[Any], Any]:
    """Return as whom each host saw a port of `inside`, and who came through when a stranger sent to that."""
    program = inside.start("python3", "-c", ASK, *(host.address for host in asked))
    seen = [program.object() for _ in asked]
    send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'!', {tuple(seen[0])!r})"
    stranger.run("python3", "-c", send)
    program.say("")
    assert {host for host, _ in seen} == {box.address}
    return [port for _, port in seen], program.object()


@pytest.mark.parametrize(
    ("nat", "one_mapping", "open_to_strangers"),
    [("cone", True, True), ("restricted", True, False), ("symmetric", False, False)],
)
def test_a_box_maps_and_filters_as_its_kind_says(
    internet: Internet, nat: str, one_mapping: bool, open_to_strangers: bool
) -> None:
    a, b, stranger = echo(internet.host("a")), echo(internet.host("b")), internet.host("stranger")
    box = internet.lan("home", nat=nat)
    ports, came = mapped(box.host("inside"), a, b, stranger=stranger, box=box)
    assert (len(set(ports)) == 1) is one_mapping
    assert (ports == [4100, 4100]) is one_mapping  # it keeps the port
    assert (came is not None and came[0] == stranger.address) is open_to_strangers


def test_a_blocked_network_lets_out_only_the_web(internet: Internet) -> None:
    server, box = internet.host("server"), internet.lan("office", nat="blocked")
    inside = box.host("inside")
    for port in ("443", "4001"):
        server.start("python3", "-c", LISTEN, port).line()
    assert inside.python(TCP, server.address, "443").strip() == "open"
    assert inside.python(TCP, server.address, "4001").strip() == "TimeoutError"  # dropped, not refused


LISTEN = """
import socket, sys, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(60)
"""


def test_nobody_comes_in_unasked_through_any_nat(internet: Internet) -> None:
    outside = internet.host("outside")
    reached = {}
    for nat in KINDS:
        box = internet.lan(nat, nat=nat)
        inside = box.host("inside")
        inside.start("python3", "-c", LISTEN, "4001").line()
        reached[nat] = outside.python(TCP, inside.address if nat == "open" else box.address, "4001").strip()
    assert reached == {nat: "open" if nat == "open" else "TimeoutError" for nat in KINDS}


def test_neighbours_reach_each_other_within_a_network(internet: Internet) -> None:
    box = internet.lan("home", nat="blocked")
    inside, beside = box.host("inside"), box.host("beside")
    inside.start("python3", "-c", LISTEN, "4001").line()
    assert beside.python(TCP, inside.address, "4001").strip() == "open"


def test_a_box_behind_a_box_is_two_translations(internet: Internet) -> None:
    a = echo(internet.host("a"))
    carrier = internet.lan("carrier", nat="restricted")
    home = carrier.lan("home", nat="restricted")
    ports, _ = mapped(home.host("inside"), a, stranger=a, box=carrier)
    assert ports == [4100]
    assert home.address.startswith("192.168.1.") and home.gateway == "10.0.1.1"


def test_a_cut_loses_everything_and_a_heal_lets_it_through_again(internet: Internet) -> None:
    server, box = internet.host("server"), internet.lan("home")
    inside = box.host("inside")
    server.start("python3", "-c", LISTEN, "4001").line()
    answers = [inside.python(TCP, server.address, "4001").strip()]
    for machine in (box, inside, server):
        machine.cut()
        answers.append(inside.python(TCP, server.address, "4001").strip())
        machine.heal()
    server.block("tcp dport 4001")
    answers.append(inside.python(TCP, server.address, "4001").strip())
    server.unblock()
    answers.append(inside.python(TCP, server.address, "4001").strip())
    assert answers == ["open", *["TimeoutError"] * 4, "open"]


def test_two_internets_live_beside_each_other(internet: Internet) -> None:
    with Internet() as other:
        first, second = internet.host("a"), other.host("a")
        assert first.address == second.address
        first.start("python3", "-c", LISTEN, "4001").line()
        caller = other.host("caller")
        assert caller.python(TCP, second.address, "4001").strip() == "ConnectionRefusedError"


def test_programs_and_namespaces_end_with_their_internet(internet: Internet) -> None:
    with Internet() as other:
        host = other.host("a")
        sleeper, holder = host.start("sleep", "60"), host.pid
        assert Path(f"/proc/{holder}/ns/net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino
    assert sleeper.process.returncode == -9
    assert not Path(f"/proc/{holder}").exists()


def test_they_end_with_a_process_that_is_killed(internet: Internet) -> None:
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import nets
host = nets.Internet().host("a")
sleeper = host.start("sh", "-c", "echo up; exec sleep 60")
sleeper.line()
print(host.pid, sleeper.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    folder = str(Path(__file__).parent)
    done = subprocess.run(["python3", "-c", code, folder], capture_output=True, text=True, timeout=30, check=False)
    pids = done.stdout.split()
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def alive(pid: str) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
