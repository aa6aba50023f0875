"""Relaying: how a node that nobody can dial is reached through one that everybody can.

The *relay* carries *circuits*: connections between two other nodes whose bytes it passes on and cannot read. It works over
any transport, because it needs of one no more than the contract: the node that cannot be dialled keeps a link to the relay
and reserves a slot; whoever dials `<address of the relay>/p2p-circuit/p2p/<node>` asks the relay for a circuit; the relay
offers it to the node over their link; the node connects once more and takes it up. Over the circuit the two ends run TLS
with each other, and a link as over any channel. The rules are in spec/protocols/relay.md.

`ledger`, `keeper` and `preface` are pure; `hop` and `dialler` move the bytes; `actors` own the timers.
"""
