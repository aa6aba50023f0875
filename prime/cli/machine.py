"""What this machine has: free memory, ports, and the programs named `prime` on its PATH."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Final

_PROC_MEMORY: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
_TOOL_TIMEOUT_S: Final = 5


def free_memory_bytes(proc: Path = _PROC_MEMORY, cgroup: Path = _CGROUP) -> int | None:
    """Return the memory that programs may still take, in bytes, or None where the system does not tell.

    On Linux the kernel's estimate (MemAvailable), or what a container's limit leaves if that is less; on macOS the
    free, inactive and speculative pages.
    """
    if proc.exists():
        known = [found for found in (_linux_available(proc), _cgroup_left(cgroup)) if found is not None]
        return min(known, default=None)
    return _macos_available()


def _linux_available(proc: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", proc.read_text(encoding="ascii"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _cgroup_left(folder: Path) -> int | None:
    """Return what a control group's limit (version 2) leaves, or None if there is no limit."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdecimal() else None


def _macos_available() -> int | None:
    try:
        text = subprocess.check_output(["/usr/bin/vm_stat"], text=True, timeout=_TOOL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    page = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.", text, re.MULTILINE)
    return int(page.group(1)) * sum(int(count) for count in pages) if page else None


def cores(cgroup: Path = _CGROUP) -> int:
    """Return the processors that this process may use: those it is bound to, less what a container's quota leaves out."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return min(bound, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit, which is written as `max`
        return bound


def gpus() -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs that the driver lists; none where its tool is missing or does not answer."""
    return _listed("name")


def compute_capability() -> tuple[int, int] | None:
    """Return the compute capability of the oldest NVIDIA GPU that the driver lists, or None where it lists none."""
    found = [re.fullmatch(r"(\d+)\.(\d+)", text) for text in _listed("compute_cap")]
    return min(((int(each[1]), int(each[2])) for each in found if each), default=None)


def _listed(what: str) -> tuple[str, ...]:
    try:
        words = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
        text = subprocess.check_output(words, text=True, timeout=_TOOL_TIMEOUT_S, stderr=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in text.splitlines() if line.strip())


_LISTEN: Final = re.compile(r"/(ip4|ip6)/([^/]+)/(tcp|udp)/(\d+)(?:/|$)")


def port_fault(address: str) -> str:
    """Say why a multiaddr cannot be listened on now, or return an empty text; addresses of other kinds are not tried."""
    found = _LISTEN.match(address)
    if found is None:
        return ""
    version, host, protocol, port = found.groups()
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET if version == "ip4" else socket.AF_INET6, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            if kind == socket.SOCK_STREAM:
                probe.listen(1)
        except (OSError, OverflowError) as error:
            return _bind_fault(error, address)
    return ""


def _bind_fault(error: OSError | OverflowError, address: str) -> str:
    if isinstance(error, OverflowError):
        return f"{address} has a port over 65535"
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use by another program"
    if error.errno == errno.EACCES:
        return f"{address} has a port that only the system may use"
    return f"{address} cannot be listened on: {error.strerror or error}"


def programs_on_path(name: str, path: str) -> list[Path]:
    """Return every executable of that name on a PATH, the one that a shell would run first."""
    candidates = [Path(folder) / name for folder in path.split(os.pathsep) if folder]
    return list(dict.fromkeys(file for file in candidates if file.is_file() and os.access(file, os.X_OK)))
