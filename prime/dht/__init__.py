"""The DHT: nodes, records and chunks are found by key, without any server. Kademlia as actors over one pure core.

Keys, the routing table, lookups, records and the replication plan are pure; the actors around them own mailboxes,
timers and the network. Nothing that carries a message waits for a lookup.
"""
