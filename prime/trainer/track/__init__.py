"""Keeping track of a run: its facts in a file, in TensorBoard or wherever a tracker takes them, and the report at its end.

All of it runs in the process that supervises the ranks, and none of it loads torch.
"""

from prime.trainer.track.contract import Tracker as Tracker
from prime.trainer.track.contract import TrackerFactory as TrackerFactory
from prime.trainer.track.course import Course as Course
from prime.trainer.track.tracking import open_tracking as open_tracking
