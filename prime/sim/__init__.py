"""A deterministic world: the actors that run in production, on virtual time, a seeded scheduler, faulty links and disks.

Everything that goes wrong here goes wrong again, by its seed.
"""
