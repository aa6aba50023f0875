"""How bytes and messages cross machines: one contract, one file per transport, the same peer id everywhere.

`Memory`, `Unix`, `Tcp` and `Libp2p` are what a user passes to `open_system`. From the wire up:

======================  ===============================================================================================
what                    where
======================  ===============================================================================================
who a node is           `identity`, `peer`; where it is dialled: `multiaddr`
the contract            `contract`: transport, endpoint, channel; by name: `choice`
transports              `memory` (over `pipe`), `unix`, `tcp` (over `tls`), `libp2p/` (over `tls`, `yamux`, `multistream`);
                        what their sockets share: `sockets`; to a child process: `pair`
one link                the core `link`, with `frames`, `pieces`, `heartbeat`; its shell `carrier`; errors across: `failures`
all links of a node     `links`; who dials: `dialling`; who comes: `callers`; whose turn it is: `turns`; how often: `rates`
who may link            the core `admission`; its shells `gate` (who has proved a peer id) and `sockets.Doorway` (who has not)
reliable delivery       the core `delivery`; its shell `series`
signed messages         making one: `signing`; taking it once: `replay`
relays of Prime's own   `relay/`; direct connections instead of circuits: `hole`, and `punch` in `relay/` and `libp2p/`
how others reach it     the core `reachability`; its actor `dialback`; a port of the router: the core `lease`, its shell `upnp`
on the local network    the core `neighbours`; its shell `mdns`
said and observed       `messages` (between nodes), `facts` (to whoever observes this one)
======================  ===============================================================================================

Nothing here imports libp2p until a `Libp2p` transport is opened.
"""

from __future__ import annotations
