"""Which network interface leads to another host: gloo takes its name, and guesses by the machine's own name without."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from pathlib import Path
from typing import Final

INTERFACE: Final = "GLOO_SOCKET_IFNAME"
"""The variable in which gloo looks for its interface; what a user has set there stands."""
_SIOCGIFADDR: Final = 0x8915  # linux/sockios.h
_IP6: Final = Path("/proc/net/if_inet6")


def own_address_towards(address: str) -> str:
    """Return this machine's own address on the way to another one; empty where there is no way. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def interface_of(address: str) -> str:
    """Return the interface that has an address; empty where none has it, as behind a translation of addresses."""
    if ":" in address:
        return _interface_of_ip6(address)
    if address.startswith("127."):
        return "lo" if sys.platform == "linux" else "lo0"
    return next((name for _, name in socket.if_nameindex() if _ip4_of(name) == address), "")


def _ip4_of(name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:  # it has no address
            return ""
    return socket.inet_ntoa(found[20:24])


def _interface_of_ip6(address: str) -> str:
    try:
        wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
        lines = _IP6.read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    return next((line.split()[5] for line in lines if line.startswith(wanted)), "")


def free_port(address: str) -> int:
    """Return a port of an own address that nobody has; somebody may take it before it is used."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # behind a translation of addresses it is not this machine's own
            probe.bind(("", 0))
        return int(probe.getsockname()[1])
