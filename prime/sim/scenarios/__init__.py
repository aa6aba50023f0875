"""Scenarios of our own, run by `prime sim run --scenario prime.sim.scenarios.NAME:FUNCTION`.

- `round:training_round`, played where none is named: the training round, with exact numbers, under every fault there is.
- `round:training_round_fragments`: a vector in fragments, one of which each round carries while training goes on.
- `round:training_round_ends`: the run ends in the storm, for all with one round and one state.
- `round:training_round_feedback`: the same with a codec that leaves out half, and error feedback that brings it later.
- `delivery:delivery`: tells, reliable tells, asks, watches and streams between nodes, under every fault there is.
- `delivery:flipped_bits`: the same over streams without a seal, where bytes change on the way.
- `registers:registers`: readers and writers of the DHT's registers, some of whose electors lie, under the same faults.
- `store:journals`: a journal on each node, under every fault of a disk, with crashes and stalls.
- `store:accounts`: actors that persist, under the same.
- `lookups:lookups`: two dozen nodes of the DHT that join, look up and store in a storm, and then are one swarm.
- `lookups:liars`: the same while a few of them lie.
- `supervision:supervision`: drawn trees of supervisors whose actors fail at every moment, while their nodes do.
"""
