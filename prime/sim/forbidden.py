"""What simulated code may not call, why, and what to use instead: the table that `traps` sets up (pure)."""

from __future__ import annotations

import attrs


@attrs.frozen
class Reason:
    """Why a call is forbidden, to follow its name in a sentence, and what to do instead."""

    what: str
    hint: str


THREAD = Reason(
    "runs in a thread, and no seed orders threads",
    "do the work in the actor itself, or take who does it as an argument and give the simulation one without threads",
)
PROCESS = Reason(
    "starts a process outside the simulation",
    "let the scenario stand for the other process: a node of the world, or an object that is passed in",
)
SOCKET = Reason(
    "reaches a real network",
    "talk through refs: `node.system()` opens a system on the simulated network",
)
CLOCK = Reason(
    "reads a real clock",
    "use trio.current_time() or the timers of self.ctx; `node.clock` tells the node's time of day, skewed by its faults",
)
SLEEP = Reason("stops everything for real seconds", "await trio.sleep(...), or use the timers of self.ctx")
ENTROPY = Reason(
    "draws from the operating system",
    "draw from self.ctx.system.random, or from `node.random(purpose)`; pass keys and ids in",
)
SHARED = Reason(
    "draws from a generator that the whole process shares",
    "draw from self.ctx.system.random, or from `node.random(purpose)`",
)
UNSEEDED = Reason(
    "is seeded by the operating system",
    "give it a seed: Random(self.ctx.system.random.getrandbits(64)), or use `node.random(purpose)`",
)
WAIT = Reason(
    "waits for what nobody can do meanwhile: everything runs in this thread",
    "await what Trio offers: trio.Event, trio.Condition, trio.Lock, a memory channel",
)
FILE = Reason("reaches a real file", "use `node.disk`, which crashes with its node, or prime.store over it")


@attrs.frozen
class Entry:
    """Names of one module that are forbidden; `Class.method` names a method.

    With `unless` a call that gives the argument at that position (`self` not counted) is allowed.
    """

    module: str
    names: tuple[str, ...]
    reason: Reason
    unless: int | None = None

    def told(self, name: str) -> str:
        """Return the name as programs write it."""
        module = {"builtins": "", "_thread": "threading", "_posixsubprocess": "subprocess"}.get(
            self.module, self.module
        )
        return f"{module}.{name}".removeprefix(".").removesuffix(".__init__").replace("LockType", "Lock")


TABLE: tuple[Entry, ...] = (
    Entry("threading", ("Thread.start",), THREAD),
    Entry("_thread", ("start_new_thread", "start_new", "start_joinable_thread"), THREAD),
    Entry("concurrent.futures.thread", ("ThreadPoolExecutor.submit",), THREAD),
    Entry("trio.to_thread", ("run_sync",), THREAD),
    Entry("trio.lowlevel", ("start_thread_soon",), THREAD),
    Entry("subprocess", ("Popen.__init__",), PROCESS),
    Entry("_posixsubprocess", ("fork_exec",), PROCESS),
    Entry("os", ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "startfile"), PROCESS),
    Entry("os", ("execv", "execve"), PROCESS),
    Entry("trio.lowlevel", ("open_process",), PROCESS),
    Entry(
        "socket",
        ("socket.__init__", "socketpair", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo"),
        SOCKET,
    ),
    Entry("ssl", ("SSLContext.wrap_socket",), SOCKET),
    Entry("ssl", ("SSLContext.wrap_bio", "RAND_bytes"), ENTROPY),
    Entry("time", ("time", "monotonic", "perf_counter", "process_time", "thread_time"), CLOCK),
    Entry("time", ("time_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns"), CLOCK),
    Entry("time", ("clock_gettime", "clock_gettime_ns"), CLOCK),
    Entry("time", ("localtime", "gmtime", "ctime", "asctime"), CLOCK, unless=0),
    Entry("time", ("strftime",), CLOCK, unless=1),
    Entry("datetime", ("datetime.now", "datetime.utcnow"), CLOCK),  # `today` asks time.time
    Entry("os", ("times",), CLOCK),
    Entry("time", ("sleep",), SLEEP),
    Entry("os", ("urandom", "getrandom"), ENTROPY),
    Entry("secrets", ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice"), ENTROPY),
    Entry("uuid", ("uuid1", "uuid4", "uuid6", "uuid7", "getnode"), ENTROPY),
    Entry("random", ("Random.seed",), UNSEEDED, unless=0),
    Entry("select", ("select", "poll"), WAIT),
    Entry("builtins", ("input",), WAIT),
    Entry("os", ("wait", "waitpid", "wait3", "wait4"), WAIT),
    Entry("builtins", ("open",), FILE),
    Entry("os", ("open", "listdir", "scandir", "mkdir", "rmdir", "remove", "unlink"), FILE),
    Entry("os", ("rename", "replace", "truncate", "link", "symlink"), FILE),
    Entry("sqlite3", ("connect",), FILE),
)
"""What is forbidden whenever it is called."""

WAITING: tuple[Entry, ...] = (
    Entry("_thread", ("LockType.acquire", "LockType.__enter__"), WAIT),
    Entry("queue", ("SimpleQueue.get",), WAIT),
)
"""What is forbidden where it would have to wait. Their first two arguments are `block` and `timeout`."""


@attrs.frozen
class Shared:
    """A generator that a process shares: the methods of `generator` that stand in `module` as functions."""

    module: str
    generator: str


SHARED_BY: tuple[Shared, ...] = (Shared("random", "_inst"), Shared("numpy.random.mtrand", "_rand"))

MACHINERY = frozenset(
    {
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_pytest",
        "bdb",
        "cmd",
        "coverage",
        "doctest",
        "hypothesis",
        "importlib",
        "inspect",
        "linecache",
        "logging",
        "pdb",
        "pluggy",
        "pydevd",
        "pytest",
        "pytest_timeout",
        "rich",
        "structlog",
        "tokenize",
        "traceback",
        "warnings",
        "zipimport",
    }
)
"""Packages that watch or load a program. What they call, and what is called through them, is no part of its behaviour."""

RUNNERS = ("trio._core", "trio.testing", "prime.sim")
"""Packages that run the simulation: what they call themselves is allowed, what is called through them is not."""

SIMULATED = ("prime.sim.scenarios", "prime.sim.invariants")
"""What is simulated code, or calls nothing else, though it is under one of `RUNNERS`."""
