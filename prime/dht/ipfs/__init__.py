"""The DHT's faces for programs that are not Prime: streams of libp2p, over the same pure cores.

| file | what it is |
|---|---|
| `protobuf.py` | the fields of a protocol buffer, read within limits |
| `message.py` | the messages of `/ipfs/kad/1.0.0` (libp2p specifications, "kad-dht") |
| `multiaddrs.py` | addresses in their binary form |
"""
