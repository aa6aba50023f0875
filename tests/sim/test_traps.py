# ruff: noqa: PLW0108 - a lambda asks for the name inside the simulation; the function itself was had before
"""What leaves the simulated world fails where it stands, and the run with it; what watches or loads a program does not."""

from __future__ import annotations

import builtins
import concurrent.futures
import datetime  # noqa: ICN001 - the module's usual name is what is tested
import functools
import importlib.util
import io
import logging
import os
import queue
import random
import secrets
import select
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import traceback
import types
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime as early_datetime
from pathlib import Path
from random import choice as early_choice
from time import monotonic as early_monotonic
from typing import Any

import pytest
import structlog
import trio

from prime import Actor, Ask, message, on, sim
from prime.errors import DeterminismError, PrimeError, UsageError
from prime.sim import forbidden
from prime.sim.plan import Plan
from prime.sim.traps import traps

CALM = Plan(storm_s=1.0)


@message(tag=0x2911)
class Do(Ask[int]):
    number: int


class Doer(Actor[Do]):
    """Does what it was made with, in its handler; `careless` swallows what comes of it, as programs do."""

    def __init__(self, act: Callable[[], object], careless: bool) -> None:
        self.act = act
        self.careless = careless

    @on(Do)
    async def do(self, message: Do) -> int:
        try:
            result = self.act()
            if hasattr(result, "__await__"):
                await result
        except Exception:
            if not self.careless:
                raise
        return message.number


def run_with(act: Callable[[], object], *, careless: bool = False) -> sim.Outcome:
    """Let an actor of a node `call`, and return what came of the run."""

    async def program(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("app") as sup:
            ref = await sup.spawn(lambda: Doer(act, careless), "doer")
            await ref.ask(Do(1), timeout=5)

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.start(program)
        await world.storm()

    return sim.run(7, body, CALM)


def trapped(act: Callable[[], object], *, careless: bool = False) -> DeterminismError:
    outcome = run_with(act, careless=careless)
    assert not outcome.ok
    assert isinstance(outcome.cause, DeterminismError), outcome.error
    return outcome.cause


LOCK = threading.Lock()  # made, as all of these, before any simulation
TAKEN = threading.Lock()
TAKEN.acquire()
EVENT = threading.Event()
CONDITION = threading.Condition()
QUEUE: queue.Queue[int] = queue.Queue()
FULL: queue.Queue[int] = queue.Queue(1)
FULL.put(1)
SIMPLE: queue.SimpleQueue[int] = queue.SimpleQueue()
CONTEXT = ssl.create_default_context()


def wait_for_condition() -> None:
    with CONDITION:
        CONDITION.wait()


def enter_taken() -> None:
    with TAKEN:
        pass


async def in_trio_thread() -> None:
    await trio.to_thread.run_sync(int)


async def in_trio_process() -> None:
    await trio.run_process(["true"])


async def in_trio_file() -> None:
    await trio.open_file(__file__)


async def in_trio_stream() -> None:
    await trio.open_tcp_stream("127.0.0.1", 9)


CALLS: dict[str, tuple[Callable[[], object], forbidden.Reason]] = {
    "Thread.start": (lambda: threading.Thread(target=int).start(), forbidden.THREAD),
    "Timer.start": (lambda: threading.Timer(1, int).start(), forbidden.THREAD),
    "_thread": (lambda: sys.modules["_thread"].start_new_thread(int, ()), forbidden.THREAD),
    "futures": (lambda: ThreadPoolExecutor(1).submit(int), forbidden.THREAD),
    "trio.to_thread": (in_trio_thread, forbidden.THREAD),
    "trio.start_thread_soon": (lambda: trio.lowlevel.start_thread_soon(int, print), forbidden.THREAD),
    "trio.open_file": (in_trio_file, forbidden.THREAD),
    "socket": (lambda: socket.socket(), forbidden.SOCKET),
    "socketpair": (lambda: socket.socketpair(), forbidden.SOCKET),
    "create_connection": (lambda: socket.create_connection(("127.0.0.1", 9)), forbidden.SOCKET),
    "getaddrinfo": (lambda: socket.getaddrinfo("localhost", 9), forbidden.SOCKET),
    "trio.socket": (lambda: trio.socket.socket(), forbidden.SOCKET),
    "trio.open_tcp_stream": (in_trio_stream, forbidden.SOCKET),
    "ssl.wrap_bio": (lambda: CONTEXT.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()), forbidden.ENTROPY),
    "ssl.RAND_bytes": (lambda: ssl.RAND_bytes(4), forbidden.ENTROPY),
    "subprocess.run": (lambda: subprocess.run(["true"], check=False), forbidden.PROCESS),
    "subprocess.Popen": (lambda: subprocess.Popen(["true"]), forbidden.PROCESS),
    "trio.run_process": (in_trio_process, forbidden.PROCESS),
    "os.fork": (lambda: os.fork(), forbidden.PROCESS),
    "os.system": (lambda: os.system("true"), forbidden.PROCESS),  # noqa: S605
    "os.popen": (lambda: os.popen("true"), forbidden.PROCESS),  # noqa: S605
    "os.posix_spawn": (lambda: os.posix_spawn("/bin/true", ["true"], {}), forbidden.PROCESS),
    "time.time": (lambda: time.time(), forbidden.CLOCK),
    "time.monotonic": (lambda: time.monotonic(), forbidden.CLOCK),
    "time.perf_counter": (lambda: time.perf_counter(), forbidden.CLOCK),
    "time.process_time": (lambda: time.process_time(), forbidden.CLOCK),
    "time.time_ns": (lambda: time.time_ns(), forbidden.CLOCK),
    "time.monotonic_ns": (lambda: time.monotonic_ns(), forbidden.CLOCK),
    "time.perf_counter_ns": (lambda: time.perf_counter_ns(), forbidden.CLOCK),
    "time.clock_gettime": (lambda: time.clock_gettime(time.CLOCK_REALTIME), forbidden.CLOCK),
    "time.localtime": (lambda: time.localtime(), forbidden.CLOCK),
    "time.gmtime": (lambda: time.gmtime(None), forbidden.CLOCK),
    "time.strftime": (lambda: time.strftime("%H"), forbidden.CLOCK),
    "time.ctime": (lambda: time.ctime(), forbidden.CLOCK),
    "datetime.now": (lambda: datetime.datetime.now(datetime.UTC), forbidden.CLOCK),
    "datetime.utcnow": (lambda: datetime.datetime.utcnow(), forbidden.CLOCK),  # noqa: DTZ003
    "datetime.today": (lambda: datetime.datetime.today(), forbidden.CLOCK),  # noqa: DTZ002
    "date.today": (lambda: datetime.date.today(), forbidden.CLOCK),  # noqa: DTZ011
    "early monotonic": (lambda: early_monotonic(), forbidden.CLOCK),
    "early datetime": (lambda: early_datetime.now(), forbidden.CLOCK),  # noqa: DTZ005
    "os.times": (lambda: os.times(), forbidden.CLOCK),
    "time.sleep": (lambda: time.sleep(0), forbidden.SLEEP),
    "os.urandom": (lambda: os.urandom(4), forbidden.ENTROPY),
    "secrets.token_hex": (lambda: secrets.token_hex(4), forbidden.ENTROPY),
    "secrets.randbits": (lambda: secrets.randbits(4), forbidden.ENTROPY),
    "secrets.choice": (lambda: secrets.choice([1]), forbidden.ENTROPY),
    "SystemRandom": (lambda: random.SystemRandom().random(), forbidden.ENTROPY),
    "uuid1": (lambda: uuid.uuid1(), forbidden.ENTROPY),
    "uuid4": (lambda: uuid.uuid4(), forbidden.ENTROPY),
    "random.random": (lambda: random.random(), forbidden.SHARED),
    "random.choice": (lambda: random.choice([1]), forbidden.SHARED),
    "random.shuffle": (lambda: random.shuffle([1]), forbidden.SHARED),
    "random.seed": (lambda: random.seed(1), forbidden.SHARED),
    "early choice": (lambda: early_choice([1]), forbidden.SHARED),
    "Random()": (lambda: random.Random(), forbidden.UNSEEDED),
    "Random(None)": (lambda: random.Random(None), forbidden.UNSEEDED),
    "Random.seed": (lambda: random.Random(1).seed(), forbidden.UNSEEDED),
    "select": (lambda: select.select([], [], []), forbidden.WAIT),
    "input": (lambda: input(), forbidden.WAIT),
    "Lock.acquire": (lambda: TAKEN.acquire(), forbidden.WAIT),
    "Lock.acquire for a time": (lambda: TAKEN.acquire(timeout=1), forbidden.WAIT),
    "with lock": (enter_taken, forbidden.WAIT),
    "Event.wait": (lambda: EVENT.wait(), forbidden.WAIT),
    "Event.wait for a time": (lambda: EVENT.wait(1.0), forbidden.WAIT),
    "Condition.wait": (wait_for_condition, forbidden.WAIT),
    "Semaphore": (lambda: threading.Semaphore(0).acquire(), forbidden.WAIT),
    "Future.result": (lambda: concurrent.futures.Future[int]().result(), forbidden.WAIT),
    "Queue.get": (lambda: QUEUE.get(), forbidden.WAIT),
    "Queue.get for a time": (lambda: QUEUE.get(timeout=1), forbidden.WAIT),
    "Queue.put": (lambda: FULL.put(2), forbidden.WAIT),
    "SimpleQueue.get": (lambda: SIMPLE.get(), forbidden.WAIT),
    "open": (lambda: open(__file__), forbidden.FILE),  # noqa: PTH123, SIM115
    "io.open": (lambda: io.open(__file__), forbidden.FILE),  # noqa: SIM115, UP020
    "Path.read_text": (lambda: Path(__file__).read_text(), forbidden.FILE),
    "Path.iterdir": (lambda: list(Path(__file__).parent.iterdir()), forbidden.FILE),
    "os.open": (lambda: os.open(__file__, os.O_RDONLY), forbidden.FILE),
    "os.listdir": (lambda: os.listdir(), forbidden.FILE),  # noqa: PTH208
    "os.replace": (lambda: os.replace("/nowhere/a", "/nowhere/b"), forbidden.FILE),  # noqa: PTH105
    "sqlite3": (lambda: sqlite3.connect(":memory:"), forbidden.FILE),
}

if importlib.util.find_spec("numpy") is not None:  # an extra: the other tests run without it
    import numpy as np

    CALLS["numpy.random.rand"] = (lambda: np.random.rand(), forbidden.SHARED)  # noqa: NPY002
    CALLS["numpy.random.default_rng"] = (lambda: np.random.default_rng(), forbidden.ENTROPY)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_leaves_the_world_fails_the_run_and_says_where(name: str) -> None:
    act, reason = CALLS[name]
    error = trapped(act)
    assert reason.what in str(error)
    assert error.hint == reason.hint
    assert error.place.startswith(f"{__file__}:")
    assert error.where == "node n1, actor /app/doer"
    assert f"{error.place}, {error.where}" in str(error)
    assert isinstance(error, UsageError)


def test_the_run_fails_also_where_the_error_is_swallowed() -> None:
    assert trapped(lambda: time.time(), careless=True).call == "time.time"


def test_the_outcome_says_what_to_do_instead() -> None:
    def stamp() -> None:
        time.time()

    outcome = run_with(stamp)
    line = stamp.__code__.co_firstlineno + 1
    assert outcome.error.startswith("DeterminismError: time.time reads a real clock (")
    assert f"{__file__}:{line} in " in outcome.error
    assert "stamp, node n1, actor /app/doer)" in outcome.error
    assert outcome.error.endswith(forbidden.CLOCK.hint)


def test_what_the_scenario_itself_does_is_trapped() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        await trio.sleep(0.5)
        random.random()

    outcome = sim.run(0, body, CALM)
    assert isinstance(outcome.cause, DeterminismError)
    assert (outcome.cause.where, outcome.at_s) == ("", 0.5)


def test_what_a_check_does_is_trapped() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.always("punctual", lambda: time.time() > 0)
        world.note("is looked at")
        await world.storm()

    assert isinstance(sim.run(0, body, CALM).cause, DeterminismError)


# --------------------------------------------------------------------------- where no frame is the program's own


TASKS: dict[str, tuple[Callable[[], tuple[Any, ...]], forbidden.Reason, str]] = {
    "to_thread": (lambda: (trio.to_thread.run_sync, int), forbidden.THREAD, ""),
    "run_process": (lambda: (trio.run_process, ["true"]), forbidden.PROCESS, "task trio._subprocess."),
    "Path": (lambda: (trio.Path("/nowhere/x").write_text, "hello"), forbidden.THREAD, "task trio._path."),
    "open_file": (lambda: (trio.open_file, __file__), forbidden.THREAD, "task trio._file_io.open_file"),
    "open_tcp_stream": (lambda: (trio.open_tcp_stream, "localhost", 1), forbidden.SOCKET, "task trio._highlevel"),
    "a bare function": (lambda: (time.time,), forbidden.CLOCK, ""),
    "a partial": (lambda: (functools.partial(random.random),), forbidden.SHARED, ""),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_whose_function_is_a_librarys_is_trapped(name: str) -> None:
    make, reason, told = TASKS[name]

    async def start() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(*make())

    error = trapped(start)
    assert reason.what in str(error)
    assert error.where.startswith("node n1, actor /app/doer")
    assert told in error.where
    assert told or error.place.startswith(f"{__file__}:")


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial])
def test_a_check_that_is_a_bare_function_is_trapped(wrap: Callable[[Any], Any]) -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        await world.eventually("r", wrap(random.random), 1)

    error = sim.run(0, body, CALM).cause
    assert isinstance(error, DeterminismError)
    assert error.call == "random.random"


# ------------------------------------------------------------------------------------------------------- libraries


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, for a module `simlib`."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("simlib", None)


EARLY = """
import time, uuid, random
from time import perf_counter
from random import Random
from uuid import uuid4 as identity

LOADED_AT = time.time()
DRAWN = random.random(), Random().random(), identity()

def elapsed():
    return perf_counter()

def named():
    return identity()
"""


def test_a_library_is_trapped_under_the_names_it_imported_early(library: Path) -> None:
    (library / "simlib.py").write_text(EARLY)
    simlib = __import__("simlib")
    error = trapped(simlib.elapsed)
    assert error.call == "time.perf_counter"
    assert error.place == f"{library / 'simlib.py'}:11 in elapsed"
    assert trapped(simlib.named).call == "uuid.uuid4"
    assert simlib.elapsed() > 0  # and it is as it was afterwards
    assert simlib.perf_counter is time.perf_counter


def test_a_module_may_be_imported_inside_reading_the_clock_as_it_loads(library: Path) -> None:
    (library / "simlib.py").write_text(EARLY)
    drawn: list[float] = []

    def act() -> None:
        drawn.append(__import__("simlib").DRAWN[0])

    assert run_with(act).ok
    assert drawn


def test_a_module_imported_inside_is_trapped_and_holds_no_trap_afterwards(library: Path) -> None:
    (library / "simlib.py").write_text(EARLY)
    assert trapped(lambda: __import__("simlib").elapsed()).call == "time.perf_counter"
    simlib = sys.modules["simlib"]
    assert simlib.perf_counter is time.perf_counter
    assert simlib.identity is uuid.uuid4
    assert run_with(lambda: None).ok


def test_a_trap_kept_by_a_class_made_inside_is_the_function_it_stands_for_afterwards(library: Path) -> None:
    (library / "simlib.py").write_text("import time\nclass Watch:\n    clock = time.monotonic\n")
    assert run_with(lambda: __import__("simlib")).ok
    watch = sys.modules["simlib"].Watch()
    before = time.monotonic()
    assert before <= watch.clock() <= time.monotonic()
    assert watch.clock.__name__ == "monotonic"


def test_the_function_of_the_standard_library_that_was_called_is_named() -> None:
    import tempfile

    error = trapped(lambda: tempfile.TemporaryDirectory())
    assert "tempfile" in str(error)
    assert error.place.startswith(__file__)


# ------------------------------------------------------------------------------------------------ what is not trapped


ALLOWED: dict[str, Callable[[], object]] = {
    "time of a moment": lambda: (time.localtime(0), time.gmtime(0), time.strftime("%H", time.gmtime(0)), time.ctime(0)),
    "a date": lambda: early_datetime(2020, 1, 1, tzinfo=datetime.UTC).isoformat(),
    "seeded randomness": lambda: (random.Random(1).random(), random.Random("a").choice([1])),
    "uuid of a name": lambda: uuid.uuid5(uuid.NAMESPACE_DNS, "a"),
    "a free lock": lambda: (LOCK.acquire(), LOCK.release(), TAKEN.acquire(blocking=False), TAKEN.acquire(timeout=0)),
    "a queue with something in it": lambda: (FULL.get(), FULL.put(1)),
    "an event that is set": lambda: (e := threading.Event(), e.set(), e.wait()),
    "bytes in memory": lambda: io.BytesIO(b"a").read(),
    "a lazy import": lambda: __import__("colorsys"),
    "the traceback of an error": lambda: traceback.format_stack(),
    "a log line": lambda: logging.getLogger("sim").warning("at %s", "work"),
    "a log line of structlog": lambda: structlog.get_logger().msg("at work"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_gives_the_same_each_time_is_allowed(name: str) -> None:
    outcome = run_with(ALLOWED[name])
    assert outcome.ok, outcome.error


def test_log_handlers_write_files_and_times(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("sim.file")
    logger.addHandler(handler)
    try:
        outcome = run_with(lambda: logger.error("hello"))
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert outcome.ok, outcome.error
    assert "hello" in (tmp_path / "log").read_text()


def test_a_warning_is_written_with_its_source_line(library: Path) -> None:
    (library / "simlib.py").write_text("import warnings\ndef warn():\n    warnings.warn('odd')  # this line\n")
    simlib = __import__("simlib")
    lines: list[str] = []

    def act() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            simlib.warn()
        lines.extend(warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in caught)

    assert run_with(act).ok
    assert "# this line" in lines[0]


def test_pytest_and_hypothesis_work_inside() -> None:
    from hypothesis import given, settings, strategies

    def act() -> None:
        with pytest.raises(ZeroDivisionError):
            _ = 1 / 0

        @settings(max_examples=5, database=None, derandomize=True, deadline=1000)
        @given(strategies.integers())
        def holds(number: int) -> None:
            assert number == number  # noqa: PLR0124

        holds()

    outcome = run_with(act)
    assert outcome.ok, outcome.error


def test_other_threads_go_on() -> None:
    asked, answered, end = threading.Event(), threading.Event(), threading.Event()
    seen: list[float] = []

    def elsewhere() -> None:
        asked.wait(10)
        seen.append(time.time())
        seen.append(random.random())
        with open(__file__) as file:  # noqa: PTH123
            seen.append(len(file.read()))
        answered.set()
        end.wait(10)

    thread = threading.Thread(target=elsewhere)
    thread.start()

    def act() -> None:
        asked.set()
        while not answered.is_set():
            pass

    try:
        outcome = run_with(act)
    finally:
        end.set()
        thread.join()
    assert outcome.ok, outcome.error
    assert len(seen) == 3


# ------------------------------------------------------------------------------------------------- nothing stays behind


def picture() -> dict[str, object]:
    """What stands under each forbidden name, and all that loaded modules hold."""
    held: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and name != __name__:
            held.update({f"{name}.{key}": value for key, value in vars(module).items() if callable(value)})
    for entry in (*forbidden.TABLE, *forbidden.WAITING):
        for name in entry.names:
            owner, _, method = name.partition(".")
            cls = getattr(sys.modules.get(entry.module), owner, None)
            if method and cls is not None:
                held[f"{entry.module}.{name}"] = vars(cls).get(method)
    return held


def test_nothing_stays_patched_after_a_run() -> None:
    run_with(lambda: None)  # what is imported lazily is there now
    before = picture()
    assert run_with(lambda: None).ok
    trapped(lambda: time.time())
    after = picture()
    assert [name for name, value in before.items() if after.get(name) is not value] == []
    assert time.time() > 0
    assert early_datetime.now(datetime.UTC).year > 2000


def test_everything_is_put_back_when_a_run_is_torn_off() -> None:
    before = picture()
    with pytest.raises(KeyboardInterrupt), traps(str, lambda _: None):
        raise KeyboardInterrupt
    after = picture()
    assert [name for name, value in before.items() if after.get(name) is not value] == []


def test_a_name_that_the_program_changed_inside_stays_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setattr(time, "thread_time", time.thread_time)
    with traps(str, lambda _: None):
        time.thread_time = mine  # type: ignore[assignment]
    assert time.thread_time is mine  # type: ignore[comparison-overlap]


def test_one_simulation_at_a_time() -> None:
    with traps(str, lambda _: None), pytest.raises(UsageError, match="runs in this process already") as raised:  # noqa: SIM117
        with traps(str, lambda _: None):
            pass
    assert isinstance(raised.value, PrimeError)
    assert raised.value.hint
    with traps(str, lambda _: None):
        pass


def test_every_name_in_the_table_is_there_or_belongs_to_another_version() -> None:
    elsewhere = {
        ("os", "startfile"),  # Windows
        ("os", "getrandom"),  # Linux
        ("os", "posix_spawn"),
        ("os", "posix_spawnp"),
        ("os", "forkpty"),
        ("uuid", "uuid6"),  # Python 3.14
        ("uuid", "uuid7"),
        ("_thread", "start_joinable_thread"),  # Python 3.13
        ("trio.lowlevel", "open_process"),
    }
    missing = []
    for entry in (*forbidden.TABLE, *forbidden.WAITING):
        for name in entry.names:
            found: Any = __import__(entry.module, fromlist=["x"])
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is None and (entry.module, name) not in elsewhere:
                missing.append((entry.module, name))
    assert missing == []
    assert isinstance(builtins.open, types.BuiltinFunctionType)
