"""The DHT's faces for programs that are not Prime: streams of libp2p, over the same pure cores.

| file | what it is |
|---|---|
| `protobuf.py` | the fields of a protocol buffer, read within limits |
| `message.py` | the messages of `/ipfs/kad/1.0.0` (libp2p specifications, "kad-dht") |
| `multiaddrs.py` | addresses in their binary form |
| `nodes.py` | contacts of peers that sign none |
| `namespaces.py` | what may stand under a key, and which of several values counts |
| `values.py` | the values that a node holds |
| `desk.py` | what a node answers |
| `streams.py` | messages on a stream, each with a deadline |
| `asking.py` | one request, and lookups made of many |
| `answering.py` | the actor: it answers, joins and keeps up |
| `ipfs.py` | `open_ipfs`, and what a program does with it |
| `kad.py` | Prime's own requests of the DHT on streams, `/prime/kad/1` |

All files down to `desk.py` are pure.
"""
