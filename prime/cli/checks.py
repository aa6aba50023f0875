"""What `prime doctor` looks at. Each check returns one finding, and a finding that is not well has its fix."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

from prime.cli.demo import NODE_BYTES
from prime.cli.machine import compute_capability, cores, free_memory_bytes, gpus, port_fault, programs_on_path
from prime.cli.version import installed_version
from prime.config import Config, load, places
from prime.errors import ConfigError, PrimeError
from prime.trainer.codec.cpu import cpu_choice
from prime.trainer.codec.cuda import choose, triton_fault

PYTHON_MIN: Final = (3, 11)
EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "hf": ("datasets", "pyarrow"),
    "lan": ("zeroconf", "miniupnpc"),
    "libp2p": ("libp2p",),
    "observe": ("tensorboard",),
    "train": ("torch", "numpy", "numba", "safetensors", "matplotlib"),
}
"""The packages of each extra, by import name (which for these is the distribution's too)."""
DEMO_BYTES: Final = 3 * NODE_BYTES
"""What the default demo takes, with its three nodes."""

Status = Literal["ok", "warn", "fail"]


@frozen
class Finding:
    """What one check found. A failing one has the exit status that running on would end with."""

    check: str
    status: Status
    text: str
    fix: str = ""
    exit_code: int = 0


def ok(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", text)


def examine(
    config_file: Path | None, environ: Mapping[str, str], transport: str | None = None, node: str | None = None
) -> Iterator[Finding]:
    """Run every check, one after the other; `transport` and the node's name stand for the configured ones."""
    yield python_check(sys.version_info[:2])
    yield from (extra_check(extra, modules) for extra, modules in EXTRAS.items())
    config, finding = configuration_check(config_file, environ, node)
    yield finding
    yield key_check(places(config.node, environ).key_file)
    yield transport_check(transport or config.transport.kind)
    yield port_check(config.transport.listen)
    yield dht_check(places(config.node, environ).control_socket)
    yield memory_check(free_memory_bytes(), config.node.memory_free_bytes_min)
    yield codec_check()
    if (capability := compute_capability()) is not None:
        yield cuda_check(capability, triton_fault())
    yield training_check(gpus(), cores(), installed_version("torch"))
    yield script_check(environ.get("PATH", ""), {Path(sysconfig.get_path("scripts")), Path(sys.executable).parent})


def python_check(version: tuple[int, ...]) -> Finding:
    """Check Python's version."""
    text = (
        f"{platform.python_implementation()} {'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    )
    if version >= PYTHON_MIN:
        return ok("python", text)
    wanted = ".".join(map(str, PYTHON_MIN))
    return Finding("python", "fail", text, f"install Python {wanted} or newer", exit_code=2)


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def extra_check(extra: str, modules: tuple[str, ...], is_there: Callable[[str], bool] = _is_there) -> Finding:
    """Check that the packages of an extra are installed; nothing is imported."""
    check = f"extra {extra}"
    missing = [module for module in modules if not is_there(module)]
    if not missing:
        return ok(check, ", ".join(f"{module} {installed_version(module) or '(no metadata)'}" for module in modules))
    fix = f"pip install 'prime-actors[{extra}]'"
    if extra == "libp2p" and (needs := _missing_build_packages()):
        fix += f" (where it has no wheel, first: {needs})"
    return Finding(check, "warn", f"not installed: {', '.join(missing)}", fix)


def _missing_build_packages() -> str:
    """Return the command that installs what building libp2p's C parts needs, or nothing if it is all there."""
    headers = any(
        Path(folder, "gmp.h").exists() for folder in ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
    )
    headers = headers or bool(list(Path("/usr/include").glob("*/gmp.h")))
    if headers and shutil.which("cc"):
        return ""
    return "brew install gmp" if sys.platform == "darwin" else "apt install build-essential libgmp-dev"


def configuration_check(
    file: Path | None, environ: Mapping[str, str], node: str | None = None
) -> tuple[Config, Finding]:
    """Load the configuration; where it cannot be used, go on with the defaults."""
    try:
        loaded = load(file, environ=environ, flags={"node.name": node} if node else {})
    except ConfigError as error:
        return Config(), Finding("configuration", "fail", str(error), error.hint, error.exit_code)
    return loaded.config, ok("configuration", ", ".join(loaded.files) or "no file: the defaults")


def key_check(file: Path) -> Finding:
    """Check that the node's key can be used and is readable by its owner alone."""
    from prime.transport.identity import KeyPair

    if not os.path.lexists(file):
        return ok("key", f"{file} will be made at the first start")
    try:
        return ok("key", f"{file}: {KeyPair.load(file).peer}")
    except ConfigError as error:
        return Finding("key", "fail", str(error), error.hint, error.exit_code)


def transport_check(kind: str) -> Finding:
    """Check that the configured transport is installed and, if a package offers it, that the package works."""
    from prime.transport.choice import transport_named, transport_names

    if kind == "auto":
        return ok("transport", f"auto; installed are {', '.join(transport_names())}")
    try:
        return ok("transport", transport_named(kind, "/unix/run/prime" if kind == "unix" else "").name)
    except PrimeError as error:
        return Finding("transport", "fail", str(error), error.hint, error.exit_code)


def port_check(address: str) -> Finding:
    """Check that the configured address is free to listen on."""
    if not address:
        return ok("port", "the transport's own choice: a free one")
    fault = port_fault(address)
    if not fault:
        return ok("port", f"{address} is free")
    fix = "stop that program, or `prime config set transport.listen` another address (port 0 takes a free one)"
    return Finding("port", "fail", fault, fix, exit_code=4)


def dht_check(socket: Path) -> Finding:
    """Say what the node that runs here, if any, sees of the DHT."""
    import trio

    from prime.node.client import ask_status

    try:
        found = trio.run(ask_status, socket).dht
    except PrimeError:
        return ok(
            "dht", "no node runs here; --node looks at one of another name, --network --join ADDRESS at that of others"
        )
    if found is None:
        return Finding("dht", "warn", "the node here is in none", "remove dht.enabled = false, and start it again")
    if found.phase == "alone":
        fix = "name nodes that run in transport.join; `prime doctor --network` says who of them answers"
        return Finding("dht", "warn", found.sight, fix)
    return ok("dht", found.sight)


def memory_check(free_bytes: int | None, needed_bytes: int) -> Finding:
    """Check that there is memory for a node, and for the demo."""
    if free_bytes is None:
        return Finding(
            "memory", "warn", "this system does not tell its free memory", f"a node takes {_mib(needed_bytes)}"
        )
    text = f"{_mib(free_bytes)} free"
    if free_bytes < needed_bytes:
        fix = f"close programs: a node does not start under {_mib(needed_bytes)} (node.memory_free_bytes_min)"
        return Finding("memory", "fail", text, fix, exit_code=8)
    if free_bytes < DEMO_BYTES:
        return Finding(
            "memory", "warn", text, f"`prime demo` wants {_mib(DEMO_BYTES)}: close programs, or give --nodes 2"
        )
    return ok("memory", text)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def codec_check(library: str = "numba") -> Finding:
    """Say which engine the codec has on the CPU: without its compiler it is numpy, which is slow."""
    choice = cpu_choice(library)
    if choice.engine == "numba":
        return ok("codec", f"{choice.why} on the CPU")
    if not _is_there("numpy"):
        return Finding("codec", "warn", "no engine: numpy is not installed", choice.fix)
    return Finding("codec", "warn", f"{choice.engine} on the CPU, which is slow: {choice.why}", choice.fix)


def cuda_check(capability: tuple[int, int], fault: str) -> Finding:
    """Say which engine serves tensors on the GPUs: where Triton does not, the codec is torch's operations, which are slow."""
    choice = choose(capability, fault)
    if choice.engine == "triton":
        return ok("cuda", f"the codec's kernels are Triton's: {choice.why}")
    return Finding(
        "cuda", "warn", f"the codec is {choice.engine}'s operations, which are slow: {choice.why}", choice.fix
    )


def training_check(found: tuple[str, ...], processors: int, torch: str | None) -> Finding:
    """Say which devices ranks would train on, and what would carry their gradients; torch is not loaded for it."""
    if not torch:
        return Finding("training", "warn", "torch is not installed", "pip install 'prime-actors[train]'")
    on_cpu = f"ranks on {'1 core' if processors == 1 else f'{processors} cores'}, over gloo"
    if not found:
        return ok("training", f"torch {torch}; no NVIDIA GPU: {on_cpu}")
    names = ", ".join(f"{found.count(name)} x {name}" for name in dict.fromkeys(found))
    if "+cpu" in torch:
        fix = "install a CUDA build of torch (its install page has the line for it)"
        return Finding("training", "warn", f"torch {torch} cannot use {names}: {on_cpu}", fix)
    return ok("training", f"torch {torch}; {names}: a rank for each, over nccl")


def script_check(path: str, own_folders: set[Path]) -> Finding:
    """Check that `prime` on the PATH is this program: another package owns a script of that name."""
    found = programs_on_path("prime", path)
    if not found:
        return Finding(
            "script", "warn", "no `prime` on the PATH", "run `python -m prime`, or add the scripts folder to it"
        )
    if found[0].parent in own_folders:
        return ok("script", str(found[0]))
    other = "another installation of Prime" if _is_prime(found[0]) else "another package's program"
    return Finding("script", "warn", f"`prime` runs {found[0]}, {other}", "run `prime-actors` or `python -m prime`")


def _is_prime(script: Path) -> bool:
    try:
        return b"prime.cli" in script.read_bytes()[:4096]
    except OSError:
        return False
