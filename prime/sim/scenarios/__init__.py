"""Scenarios of our own, run by `prime sim run --scenario prime.sim.scenarios.NAME:FUNCTION`.

- `delivery:delivery`: tells, reliable tells, asks, watches and streams between nodes, under every fault there is.
- `delivery:flipped_bits`: the same over streams without a seal, where bytes change on the way.
"""
