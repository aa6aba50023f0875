"""What js-libp2p lacks on older Nodes: the last row of the traps (tests/transport/test_traps.py)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop

JS = Path(__file__).with_name("js")
CALL = "Promise.withResolvers"
TELL = (
    f"const before = typeof {CALL}; await import('./polyfill.mjs');"
    f"console.log(process.versions.node.split('.')[0], before, typeof {CALL})"
)


def test_a_node_before_22_needs_the_polyfill(node_program: str) -> None:
    command = [node_program, "--input-type=module", "--eval", TELL]
    done = subprocess.run(command, cwd=JS, capture_output=True, text=True, timeout=60, check=True)
    major, before, after = done.stdout.split()
    assert CALL in (JS / "node_modules/@libp2p/utils/dist/src/stream-utils.js").read_text()
    assert before == ("undefined" if int(major) < 22 else "function")
    assert after == "function"
