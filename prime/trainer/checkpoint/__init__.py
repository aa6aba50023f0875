"""Checkpoints: what a run goes on from after a crash, saved by all ranks together and readable on any number of them.

Importing this folder loads no torch; saving, loading and exporting do.
"""

from prime.trainer.checkpoint.checkpoints import Checkpoints
from prime.trainer.checkpoint.folders import Checkpoint, Damage
from prime.trainer.checkpoint.manifest import About, Manifest
from prime.trainer.checkpoint.retention import Retention

__all__ = ["About", "Checkpoint", "Checkpoints", "Damage", "Manifest", "Retention"]
