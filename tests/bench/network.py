"""The transports against py-libp2p, blocking TLS, a bare echo and other actor systems, in turns, in the same minutes.

Run: python tests/bench/network.py [--json] [--cases bulk_tcp,rtt_tcp] [--pairs 5] [--page FILE]

Each contestant is two processes over loopback, which live through all pairs. Ours and theirs take turns (A B A B ...),
after one turn of each to warm up; a ratio is the median of the pairs' ratios. `reach` is what Prime sets itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE), str(HERE.parents[1])]
sys.path[:0] = PATHS  # a fresh checkout needs no installation
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])  # nor do the children

import _flood  # noqa: E402
import _peers  # noqa: E402
import _small  # noqa: E402
from _blocks import Opening  # noqa: E402
from _cases import Case, add_options, run  # noqa: E402
from _ends import two_ends  # noqa: E402

IN_FLIGHT = 64
FLOODS = ("tells", "asks", "bulk", "many", "stale", "violations", "strangers", "half_open")
CALM = "the same asks beside a peer that only computes"


def ours(transport: str, what: str) -> Opening:
    """Prime's actors over a transport."""
    return two_ends("_net_ours.py", transport, what, needs="libp2p" if transport == "libp2p" else "")


def stock(what: str) -> Opening:
    """Return py-libp2p with Noise and Yamux, otherwise as it comes."""
    return two_ends("_net_peers.py", "stock", what, needs="libp2p")


def cases() -> list[Case]:
    """Return every case."""
    tls, echo = two_ends("_net_peers.py", "tls", "bulk"), two_ends("_net_peers.py", "trio", "echo")
    noise, asks = "py-libp2p, Noise and Yamux", ours("libp2p", "ask_64")
    return [
        Case("bulk_libp2p", ours("libp2p", "bulk"), stock("bulk"), noise, 4, "MB/s"),
        Case("bulk_libp2p_tls", ours("libp2p", "bulk"), tls, "blocking TLS 1.3", 0.5, "MB/s"),
        Case("bulk_tcp", ours("tcp", "bulk"), tls, "blocking TLS 1.3", 0.6, "MB/s"),
        Case("rtt_libp2p", ours("libp2p", "rtt"), stock("rtt"), noise, 2, "ms", "less"),
        Case("rtt_tcp", ours("tcp", "rtt"), stock("rtt"), noise, 3.3, "ms", "less"),
        Case("ask_libp2p_64", asks, echo, "bare TCP echo in Trio, one by one", 2.5),
        Case("ask_libp2p_64_ray", asks, _peers.ray_ask(IN_FLIGHT), "Ray, 64 in flight", 3),
        Case("ask_libp2p_64_monarch", asks, _peers.monarch_ask(IN_FLIGHT), "Monarch, 64 in flight", 3),
        Case("connect", ours("libp2p", "connect"), stock("connect"), "py-libp2p's stock dial", 5, "ms", "less"),
        *(
            Case(f"flood_{flood}_{transport}", *_flood.contestants(flood, transport), CALM, 0.5, "ms", "less")
            for transport in ("tcp", "libp2p")
            for flood in FLOODS
        ),
        Case("encode", _small.encode, _small.encode_bare, "bare cbor2 on the same array", 0.77),
        Case("decode", _small.decode, _small.decode_bare, "bare cbor2 on the same array", 0.77),
    ]


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "turns of each (default 5)")
    run("network", parser, parser.parse_args(), cases())


if __name__ == "__main__":
    main()
