"""A deterministic world: the actors that run in production, on virtual time, a seeded scheduler, faulty links and disks.

Everything that goes wrong here goes wrong again, by its seed.
"""

from prime.sim import linear as linear
from prime.sim.disk import Disk as Disk
from prime.sim.heap import HeapChannel as HeapChannel
from prime.sim.heap import HeapNode as HeapNode
from prime.sim.heap import HeapWorld as HeapWorld
from prime.sim.heap import Program as Program
from prime.sim.heap import RecordDisk as RecordDisk
from prime.sim.history import Event as Event
from prime.sim.invariants import ViolationError as ViolationError
from prime.sim.linked import LinkedProgram as LinkedProgram
from prime.sim.notation import as_test as as_test
from prime.sim.plan import NetworkFaults as NetworkFaults
from prime.sim.plan import Plan as Plan
from prime.sim.run import Outcome as Outcome
from prime.sim.run import Scenario as Scenario
from prime.sim.run import run as run
from prime.sim.run import scenario as scenario
from prime.sim.search import run_apart as run_apart
from prime.sim.search import search as search
from prime.sim.shrink import shrink as shrink
from prime.sim.world import Node as Node
from prime.sim.world import World as World
