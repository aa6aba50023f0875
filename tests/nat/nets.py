"""Small internets of network namespaces: public hosts on one bridge, private networks behind NAT boxes.

::

    with Internet() as net:
        relay = net.host("relay")                    # 51.0.0.2, reachable by all
        home = net.lan("home", nat="restricted")     # a box with masquerade, 192.168.1.1 inside
        laptop = home.host("laptop")                 # 192.168.1.2, its default route is the box
        server = relay.start("python", "-m", "http.server", "--bind", relay.address, "8000")
        print(laptop.run("curl", "-s", f"http://{relay.address}:8000").stdout)
        home.cut()                                   # the box's outer cable is pulled: nothing passes, nobody is told
        home.heal()

What a box does, by its kind (RFC 4787's words); all drop what comes in unasked without an answer:

==============  ======================  ====================  ================================================
kind            mapping                 filtering             stands for
==============  ======================  ====================  ================================================
``cone``        endpoint-independent    endpoint-independent  a "full cone": the friendliest home router
``restricted``  endpoint-independent    address and port      plain masquerade that keeps the port: most homes
``symmetric``   address and port        address and port      masquerade at random ports: offices, mobile
``blocked``     address and port        address and port      only TCP to ports 80 and 443 goes out
``open``        none                    none                  a router without NAT: its hosts have public addresses
==============  ======================  ====================  ================================================

A namespace is held by a `cat` whose standard input is ours and programs end with us, so that nothing outlives this
process, however it ends. Nothing has a name outside its own namespace: several internets live beside each other.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ("ip", "nft", "nsenter", "setpriv", "unshare")
KINDS: Final = ("cone", "restricted", "symmetric", "blocked", "open")
SET_UP_S: Final = 10.0
RUN_S: Final = 30.0
OPEN_PORTS: Final = (80, 443)
"""What a `blocked` box lets out."""


@cache
def why_not() -> str:
    """Return why there can be no namespaces with NAT here, or nothing."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found (Debian: iproute2, nftables, util-linux)"
    try:
        with Internet() as net:
            net.lan("probe", nat="cone").host("inside")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return f"this kernel or container refuses: {str(error).strip()[-300:]}"
    return ""


class Machine:
    """One namespace: an interface to the world, and programs that run in it. All end with its `Internet`."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.address = ""
        """Its own IPv4 address; of a NAT box, the outer one."""
        self._stack = stack
        self._ports = 0
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(_end, self._holder)
        self._wait_for_holder()
        self.ip("link set lo up")

    def _wait_for_holder(self) -> None:
        """Return once the namespace is made: only then does `cat` echo."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        with suppress(BrokenPipeError):
            self._holder.stdin.write(b"\n")
            self._holder.stdin.flush()
        if self._holder.stdout.read(1) != b"\n":
            raise RuntimeError(f"unshare --net ended with status {self._holder.wait(SET_UP_S)}")

    @property
    def pid(self) -> int:
        """The process that holds the namespace."""
        return self._holder.pid

    # ---- programs

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs `words` in here; it ends when the thread that started it does."""
        return ["nsenter", "--target", str(self.pid), "--net", "setpriv", "--pdeathsig", "KILL", *words]

    def run(self, *words: str, within_s: float = RUN_S, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; unless told otherwise a status other than 0 is an error that shows its output."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=within_s, check=False, env=_environment()
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{self.name}: {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def python(self, code: str, *words: str, within_s: float = RUN_S) -> str:
        """Run a text of Python to its end and return what it printed."""
        return self.run(sys.executable, "-c", code, *words, within_s=within_s).stdout

    def start(self, *words: str, environ: dict[str, str] | None = None) -> Program:
        """Start a program that goes on until it is stopped, or the internet ends."""
        program = Program(self, words, _environment() | (environ or {}))
        self._stack.callback(program.kill)
        return program

    def start_python(self, file: Path | str, *words: str) -> Program:
        """Start a file of Python, as `start` does."""
        return self.start(sys.executable, str(file), *words)

    # ---- the network

    def ip(self, words: str) -> None:
        """Run one `ip` command in here."""
        self.run("ip", *words.split(), within_s=SET_UP_S)

    def nft(self, rules: str) -> None:
        """Load rules of nftables in here."""
        done = subprocess.run(
            self.command("nft", "-f", "-"), input=rules, capture_output=True, text=True, timeout=SET_UP_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: nft refuses: {done.stderr}")

    def cut(self) -> None:
        """Pull its cable: whatever comes in or goes out is lost, and nobody is told. Loopback goes on."""
        self.nft(
            """
            table inet cut {
                chain inward { type filter hook prerouting priority raw; policy drop; iif lo accept; }
                chain outward { type filter hook postrouting priority raw; policy drop; oif lo accept; }
            }
            """
        )

    def heal(self) -> None:
        """Undo `cut`."""
        self.nft("table inet cut {}\ndelete table inet cut")

    def block(self, rule: str) -> None:
        """Lose what matches a rule of nftables, such as `tcp dport 443`; `unblock` takes all of them back."""
        self.nft(
            f"""
            table inet block {{
                chain inward {{ type filter hook prerouting priority raw; policy accept; {rule} drop; }}
                chain outward {{ type filter hook postrouting priority raw; policy accept; {rule} drop; }}
            }}
            """
        )

    def unblock(self) -> None:
        """Undo every `block`."""
        self.nft("table inet block {}\ndelete table inet block")

    def _plug(self, machine: Machine, bridge: str, own: str) -> None:
        """Join a machine's new interface `own` to a bridge in here."""
        port, self._ports = f"p{self._ports}", self._ports + 1
        self.ip(f"link add {port} type veth peer name {own} netns {machine.pid}")
        self.ip(f"link set {port} master {bridge} up")


class _Net(Machine):
    """A machine with a bridge that others are joined to."""

    def __init__(self, name: str, stack: ExitStack, prefix: str, lan_prefix: str) -> None:
        super().__init__(name, stack)
        self._prefix = prefix
        self._lan_prefix = lan_prefix
        self._lans = 0
        self._next = 2
        self.ip("link add br0 type bridge")
        self.ip(f"addr add {prefix}.1/24 dev br0")
        self.ip("link set br0 up")

    @property
    def gateway(self) -> str:
        """The address that the hosts in here have as their default route."""
        return f"{self._prefix}.1"

    def host(self, name: str) -> Machine:
        """Add a host."""
        host = Machine(name, self._stack)
        self._join(host, "eth0")
        return host

    def lan(self, name: str, *, nat: str = "restricted", prefix: str = "") -> Lan:
        """Add a private network behind a box; `prefix` is the first three parts of its addresses."""
        self._lans += 1
        return Lan(name, self._stack, nat, prefix or f"{self._lan_prefix}.{self._lans}", self)

    def _join(self, machine: Machine, interface: str) -> None:
        machine.address = f"{self._prefix}.{self._next}"
        self._next += 1
        self._plug(machine, "br0", interface)
        machine.ip(f"addr add {machine.address}/24 dev {interface}")
        machine.ip(f"link set {interface} up")
        machine.ip(f"route add default via {self.gateway} dev {interface}")


class Internet(_Net):
    """The public network, 51.0.0.0/24: addresses that count as public, and never leave their namespace."""

    def __init__(self) -> None:
        stack = ExitStack()
        try:
            super().__init__("internet", stack, "51.0.0", "192.168")
            _forward(self)
        except BaseException:
            stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every program and every namespace."""
        self._stack.close()


class Lan(_Net):
    """A private network and its box. `address` is the box's outer address; `cut` and `heal` mean its outer cable."""

    def __init__(self, name: str, stack: ExitStack, nat: str, prefix: str, outside: _Net) -> None:
        if nat not in KINDS:
            raise ValueError(f"{nat!r} is none of {', '.join(KINDS)}")
        own = prefix if nat != "open" else f"52.0.{prefix.rpartition('.')[2]}"
        super().__init__(name, stack, own, "10.0")
        outside._join(self, "wan")
        if nat == "open":
            outside.ip(f"route add {self._prefix}.0/24 via {self.address}")
        _forward(self)
        self.nft(_RULES[nat])

    def serve_upnp(self) -> Program:
        """Start a daemon that maps ports for the hosts inside (UPnP, by miniupnpd); it is up when this returns."""
        self.nft(_UPNP_CHAINS)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="miniupnpd")))
        file = folder / "miniupnpd.conf"
        file.write_text(_UPNP_CONFIGURATION)
        daemon = self.start("miniupnpd", "-d", "-f", str(file), "-P", str(folder / "pid"))
        ask = f"import socket; socket.create_connection(({self.gateway!r}, {_UPNP_PORT}), 0.2)"
        for _ in range(50):
            if self.run("python3", "-c", ask, check=False).returncode == 0:
                return daemon
        raise RuntimeError(f"miniupnpd does not start: {daemon.errors()}")


_UPNP_PORT: Final = 5000
_UPNP_CONFIGURATION: Final = f"""
ext_ifname=wan
listening_ip=br0
http_port={_UPNP_PORT}
enable_upnp=yes
enable_natpmp=no
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000001
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
_UPNP_CHAINS: Final = """
table inet upnp {
    chain forward { type filter hook forward priority -5; policy accept; }
    chain prerouting { type nat hook prerouting priority -105; policy accept; }
    chain postrouting { type nat hook postrouting priority 105; policy accept; }
}
"""


def _rules(postrouting: str, *, prerouting: str = "", forward: str = "", sets: str = "") -> str:
    return f"""
    table inet walls {{
        chain forward {{
            type filter hook forward priority filter; policy accept;
            ct state established,related accept
            ct status dnat accept
            {forward}
            iifname "wan" drop
        }}
        chain input {{
            type filter hook input priority filter; policy accept;
            ct state established,related accept
            iifname "wan" drop
        }}
    }}
    table ip nat {{
        {sets}
        chain prerouting {{
            type nat hook prerouting priority dstnat; policy accept;
            {prerouting}
        }}
        chain postrouting {{
            type nat hook postrouting priority srcnat; policy accept;
            {postrouting}
        }}
    }}
    """


_ONLY_WEB = "\n".join(
    f'oifname "wan" {rule} drop'  # out: what is bridged within may pass these chains too
    for rule in (f"tcp dport != {{ {', '.join(map(str, OPEN_PORTS))} }}", "ip protocol != tcp")
)
_RULES: Final = {
    # Whoever went out from a port is remembered, and all that comes in for the port goes there.
    "cone": _rules(
        """
        oifname "wan" meta l4proto tcp update @out_tcp { tcp sport : ip saddr }
        oifname "wan" meta l4proto udp update @out_udp { udp sport : ip saddr }
        oifname "wan" masquerade
        """,
        prerouting="""
        iifname "wan" meta l4proto tcp dnat to tcp dport map @out_tcp
        iifname "wan" meta l4proto udp dnat to udp dport map @out_udp
        """,
        sets="""
        map out_tcp { type inet_service : ipv4_addr; size 4096; flags dynamic,timeout; timeout 5m; }
        map out_udp { type inet_service : ipv4_addr; size 4096; flags dynamic,timeout; timeout 5m; }
        """,
    ),
    "restricted": _rules('oifname "wan" masquerade'),
    "symmetric": _rules('oifname "wan" masquerade fully-random'),
    "blocked": _rules('oifname "wan" masquerade fully-random', forward=_ONLY_WEB),
    "open": "",
}


class Program:
    """A running program: lines from its standard output, lines to its standard input."""

    def __init__(self, machine: Machine, words: tuple[str, ...], environ: dict[str, str]) -> None:
        self.name = f"{machine.name}: {' '.join(words)[:200]}"
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by `kill`
        self._pending = b""
        self.process = subprocess.Popen(
            machine.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environ
        )

    def line(self, within_s: float = RUN_S) -> str:
        """Return its next line; `RuntimeError`, with its standard error, if there is none in time or it has ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._pending:
            left_s = max(deadline - time.monotonic(), 0)
            if not select.select([self.process.stdout], [], [], left_s)[0]:
                raise RuntimeError(f"{self.name}: no line within {within_s:g} s; {self.errors()}")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                raise RuntimeError(f"{self.name}: ended with {self.process.wait(SET_UP_S)}; {self.errors()}")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def object(self, within_s: float = RUN_S) -> Any:
        """Return its next line as JSON."""
        return json.loads(self.line(within_s))

    def say(self, line: str) -> None:
        """Send a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def errors(self) -> str:
        """Return the end of what it wrote to its standard error."""
        self._errors.seek(max(self._errors.seek(0, os.SEEK_END) - 4000, 0))
        return self._errors.read().decode(errors="replace")

    def stop(self, within_s: float = RUN_S) -> int:
        """Ask it to end (SIGTERM), and return its status; -9 if it did not end in time."""
        self.process.terminate()
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def kill(self) -> None:
        """End it at once; nothing if it has ended."""
        _end(self.process)
        self._errors.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(SET_UP_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was still to be written
                pipe.close()


def _forward(machine: Machine) -> None:
    machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _environment() -> dict[str, str]:
    """Return what programs see: this tree's Prime, and none of the user's settings of it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIME_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
