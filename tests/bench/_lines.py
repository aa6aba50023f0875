"""What a bench and its processes say to each other: a line on their standard input, one of JSON on their output.

The processes are made with `bufsize=0`: a line that came together with the one before it would otherwise lie in a
buffer, where no wait sees it.
"""

from __future__ import annotations

import json
import select
import subprocess
from typing import Any


def tell(process: subprocess.Popen[bytes]) -> None:
    """Let a process go on."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")


def heard(process: subprocess.Popen[bytes], within_s: float) -> dict[str, Any]:
    """Return a process's next line. Ends the bench where none comes in time, or the process has ended."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], within_s)[0]:
        raise SystemExit(f"a process of the bench said nothing for {within_s:g} s")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the bench ended with status {process.wait()}: its error stands above")
    found: dict[str, Any] = json.loads(line)
    return found
