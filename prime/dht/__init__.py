"""The DHT: nodes, records and chunks are found by key, without any server. Kademlia as actors over one pure core.

A program comes in by `dht`: `open_dht` makes a node part of a DHT, and `Dht` is what it does there. Nothing that carries a
message waits for a lookup. From the ground up; `*` marks the actors, which own mailboxes, timers and the network, and most of
the rest is pure and says so in its first line:

- words: `key` and distance, `sealed` bytes under a signature, `contact` (a peer's signed addresses), `record`, `name` (how a
  person writes a key), `settings` and presets, `facts` (what happened), `messages` (what nodes ask each other)
- who is near: `table`, `lookup`, `bootstrap`, `groups` (of addresses, and which a peer may vouch for), `rates`, `rendezvous`;
  `peering` (how this node stands among the others), `routing`*, `looking`* (one actor a lookup), `discovery`*
- what a node holds: `shelf` and its `row`, `providers`, `shares` (whose room it is), `draft` (changes that are tried),
  `replication` (the plan of copies); `archive`, which has all of it outside the actors, so that none loses any by ending, over a
  `backend` out of `backends/`; `holding`* and `providing`*, which answer for it, and the `batches` that they write
- what a node says: `publications`; `storing`* (one actor a record on its way to its holders), `publishing`*
- `registers/`: compare-and-set, by votes of a record's electors
- `blob/`: bytes of any size by content id, from whoever has them
- `ipfs/`: the same cores for programs that are not Prime, over streams of libp2p
"""
