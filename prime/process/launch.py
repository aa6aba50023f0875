"""A child process: started so that it cannot outlive this one, waited for without a thread, always reaped.

The kernel kills it when the thread that started it ends (the death signal). So it is started by the thread that runs
the event loop, which outlives everything in it, and not by a worker thread, which Trio may end when it is idle. It is
the leader of a process group of its own: a terminal's Ctrl-C reaches the parent alone, which decides, and what the
child itself starts is killed with it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

from prime.errors import ActorUsageError, UnreachableError

ENTRY = Path(__file__).with_name("entry.py")
IDLE_S_MIN = 1.0
"""A virtual clock may jump once all tasks wait; with processes only after so many real seconds of that."""


class Child:
    """A running child process: `socket` is our end of its pair, `printed` of its standard output and error."""

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket, printed: int) -> None:
        self._process = process
        self.socket = ours
        self.printed = printed

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    async def ended(self) -> None:
        """Wait until it has ended: with Linux's process descriptors, where it stays a zombie until `reap`, else in a thread."""
        if not hasattr(os, "pidfd_open"):
            await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
            return
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)

    async def reap(self) -> str:
        """Kill it and all of its group, collect it, and return how it ended: at most the kernel's own time."""
        if self._process.returncode is None:  # not collected, so its id is nobody else's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
        await self.ended()
        return how_ended(self._process.wait())


def how_ended(status: int) -> str:
    """Return a process's end in words: `exit status 3`, `signal SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def check_clock() -> None:
    """Raise `ActorUsageError` on a clock that jumps while a process works: each start would run out of time, for ever."""
    idle_s = getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf)
    if idle_s < IDLE_S_MIN:
        raise ActorUsageError(
            "processes work in real time, and this clock jumps while they do",
            hint="test process actors on the real clock with trio.fail_after(...), or virtual_clock(idle_s=5)",
        )


def launch(environment: Mapping[str, str], module: str = "prime.process.child") -> Child:
    """Start a child process, which calls `live` of a module with its end of the pair.

    Call it from the thread that runs the event loop. Raises `UnreachableError`.
    """
    ours, theirs = socket.socketpair()
    printed, prints = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                sys.executable,
                "-P",
                str(ENTRY),
                "--fd",
                str(theirs.fileno()),
                "--parent",
                str(os.getpid()),
                "--module",
                module,
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=prints,
            stderr=prints,
            env=_environment(environment),
            process_group=0,
        )
    except OSError as error:
        ours.close()
        os.close(printed)
        raise UnreachableError(f"a process cannot be started: {error}", hint="free memory or processes") from error
    finally:
        theirs.close()
        os.close(prints)
    return Child(process, ours, printed)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: it finds the modules that this process finds, in the same order."""
    places = dict.fromkeys([*(place or str(Path.cwd()) for place in sys.path), str(Path.cwd())])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1", **extra}
