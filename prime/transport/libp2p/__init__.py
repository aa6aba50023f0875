"""libp2p streams: Prime's own TLS 1.3 and Yamux, standard on the wire, for networks that speak libp2p.

| file | what it is |
|---|---|
| `transport.py` | what a user chooses: where to listen |
| `endpoint.py` | dials, accepts, and keeps one connection with each peer |
| `answering.py` | protocols of rooms above, on the streams that peers open |
| `connection.py` | a connection's two tasks, and its streams as channels, over `prime.transport.yamux` |
| `conduit.py` | what a connection's bytes go through: TLS over a socket |
| `security.py` | TLS and Noise, as py-libp2p's options and for Prime's own dials |
| `muxer.py` | a connection and its streams as py-libp2p wants to see them |
| `circuit.py` | circuits through standard relays, as their client |
| `punch.py` | the agreement (DCUtR) on a direct connection instead of a circuit |
| `host.py` | py-libp2p's host, for identify, ping and what else is spoken over libp2p |

Only this folder imports libp2p, and only when an endpoint is opened. The actors' protocol is `/prime/actor/1`.
"""

from __future__ import annotations

from prime.transport.libp2p.transport import PROTOCOL, Libp2p

__all__ = ["PROTOCOL", "Libp2p"]
