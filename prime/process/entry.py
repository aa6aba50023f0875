"""The first thing a child process runs, as a file: bind its life to its parent's before anything slow is imported.

`python entry.py --fd N --parent PID --module NAME`: `NAME.live(N)` is what it is for. A parent that is killed while its child is stopped takes it along only
once the death signal is set; so that comes some milliseconds after the start of the interpreter, not after Trio's import.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): which signal this process gets when the thread that started it ends."""


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent's thread ends, and end if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Run the child process; the arguments are `--fd N --parent PID --module NAME`."""
    _, _, descriptor, _, parent, _, module = sys.argv
    die_with(int(parent))
    importlib.import_module(module).live(int(descriptor))


if __name__ == "__main__":
    main()
