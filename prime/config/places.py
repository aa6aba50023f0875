"""Where a node keeps its state, its key and its control socket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from prime.config.schema import NodeConfig


@frozen
class Places:
    """The paths of one node; none of them is made here. The folders belong to the user alone (0700)."""

    state: Path
    key_file: Path
    control_socket: Path


def places(node: NodeConfig, environ: Mapping[str, str]) -> Places:
    """Return the paths of a node.

    The control socket lies in the user's run-time folder (XDG_RUNTIME_DIR), or, without one, beside the state: never in
    a folder that others may write to.
    """
    state = _expanded(node.state_dir, environ) / node.name
    return Places(state, state / _expanded(node.key_file, environ), _socket(node, state, environ))


def _socket(node: NodeConfig, state: Path, environ: Mapping[str, str]) -> Path:
    if node.control_socket:
        return state / _expanded(node.control_socket, environ)
    run_time = environ.get("XDG_RUNTIME_DIR", "")
    if run_time.startswith("/"):
        return Path(run_time) / "prime" / f"{node.name}.sock"
    return state / "control.sock"


def _expanded(text: str, environ: Mapping[str, str]) -> Path:
    """Expand a leading `~` by HOME."""
    if text == "~" or text.startswith("~/"):
        return Path(environ.get("HOME") or Path.home()) / text[2:]
    return Path(text)
