"""A deterministic world: the actors that run in production, on virtual time, a seeded scheduler, faulty links and disks.

Everything that goes wrong here goes wrong again, by its seed.
"""

from prime.errors import ViolationError as ViolationError
from prime.sim import linear as linear
from prime.sim.disk import Disk as Disk
from prime.sim.heap import HeapChannel as HeapChannel
from prime.sim.heap import HeapNode as HeapNode
from prime.sim.heap import HeapWorld as HeapWorld
from prime.sim.heap import Program as Program
from prime.sim.heap import RecordDisk as RecordDisk
from prime.sim.history import Event as Event
from prime.sim.linked import LinkedProgram as LinkedProgram
from prime.sim.notation import as_test as as_test
from prime.sim.plan import ALL as ALL
from prime.sim.plan import DISK as DISK
from prime.sim.plan import NETWORK as NETWORK
from prime.sim.plan import NODE as NODE
from prime.sim.plan import BitFlip as BitFlip
from prime.sim.plan import Crash as Crash
from prime.sim.plan import Cut as Cut
from prime.sim.plan import DiskFaults as DiskFaults
from prime.sim.plan import DiskFull as DiskFull
from prime.sim.plan import DiskGone as DiskGone
from prime.sim.plan import Kind as Kind
from prime.sim.plan import NetworkFaults as NetworkFaults
from prime.sim.plan import Partition as Partition
from prime.sim.plan import Pause as Pause
from prime.sim.plan import Plan as Plan
from prime.sim.plan import Skew as Skew
from prime.sim.plan import SlowReader as SlowReader
from prime.sim.run import Outcome as Outcome
from prime.sim.run import Scenario as Scenario
from prime.sim.run import run as run
from prime.sim.run import scenario as scenario
from prime.sim.search import run_apart as run_apart
from prime.sim.search import search as search
from prime.sim.shrink import shrink as shrink
from prime.sim.world import Node as Node
from prime.sim.world import World as World
