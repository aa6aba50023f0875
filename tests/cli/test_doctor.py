"""`prime doctor`: each check well and not well, and what it says to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prime.cli import checks
from prime.cli.machine import compute_capability, cores, free_memory_bytes, gpus, port_fault, programs_on_path
from prime.cli.main import run
from prime.node import client


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def findings(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, dict[str, str]]:
    assert run(["doctor", "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] == (status == 0)
    return {finding["check"]: finding for finding in answer["findings"]}


def test_a_fresh_home_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys, 0)
    assert {
        "python",
        "extra libp2p",
        "extra hf",
        "extra lan",
        "extra observe",
        "extra train",
        "configuration",
        "key",
        "transport",
        "port",
        "dht",
        "memory",
        "codec",
        "training",
        "script",
    } == set(found)
    assert all(finding["fix"] for finding in found.values() if finding["status"] != "ok")


def test_text_for_people_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "ok   configuration no file: the defaults" in capsys.readouterr().out


def test_a_bad_configuration_is_found_and_the_rest_still_looked_at(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "prime.toml").write_text("[train]\nsed = 1\n")
    found = findings(capsys, 3)
    assert found["configuration"]["text"] == "prime.toml:2: there is no key train.sed"
    assert found["port"]["status"] == "ok"


def test_a_key_that_others_may_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "new"]) == 0
    next(home.glob(".local/state/prime/node/node.key")).chmod(0o644)
    capsys.readouterr()
    found = findings(capsys, 3)
    assert "chmod 600" in found["key"]["fix"]


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        monkeypatch.setenv("PRIME_TRANSPORT__LISTEN", address)
        found = findings(capsys, 4)
    assert found["port"]["text"] == f"{address} is in use by another program"
    assert "transport.listen" in found["port"]["fix"]


@pytest.mark.parametrize(
    ("phase", "sight", "status"),
    [("merged", "it is merged and knows 3 peers", "ok"), ("alone", "nobody answers: 0 of 2", "warn")],
)
def test_what_a_node_here_sees_of_the_dht(phase: str, sight: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: Path) -> Any:
        return SimpleNamespace(dht=SimpleNamespace(phase=phase, sight=sight))

    monkeypatch.setattr(client, "ask_status", ask)
    found = checks.dht_check(Path("c.sock"))
    assert (found.check, found.status, found.text) == ("dht", status, sight)
    assert bool(found.fix) == (status == "warn")


def test_a_node_here_that_is_in_no_dht(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: Path) -> Any:
        return SimpleNamespace(dht=None)

    monkeypatch.setattr(client, "ask_status", ask)
    assert "dht.enabled" in checks.dht_check(Path("c.sock")).fix
    monkeypatch.undo()
    assert "no node runs here" in checks.dht_check(Path("c.sock")).text


def test_a_transport_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIME_TRANSPORT__KIND", "carrier-pigeon")
    found = findings(capsys, 3)["transport"]
    assert "no transport 'carrier-pigeon'" in found["text"] and "memory, unix, tcp, libp2p" in found["text"]
    assert "install the package" in found["fix"]


@pytest.mark.parametrize("kind", ["memory", "unix", "tcp", "auto"])
def test_a_transport_that_is_there(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIME_TRANSPORT__KIND", kind)
    found = findings(capsys, 0)["transport"]
    assert found["status"] == "ok" and found["text"].startswith(kind)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/ip4/127.0.0.1/tcp/0", ""),
        ("/ip4/127.0.0.1/udp/0/quic-v1", ""),
        ("/dns4/example/tcp/1", ""),
        ("/ip4/127.0.0.1/tcp/70000", "port over 65535"),
        ("/ip4/192.0.2.1/tcp/0", "cannot be listened on"),
    ],
)
def test_addresses_to_listen_on(address: str, says: str) -> None:
    fault = port_fault(address)
    assert says in fault
    assert bool(says) == bool(fault)


def test_memory() -> None:
    assert checks.memory_check(8 * 2**30, 2**29).status == "ok"
    assert checks.memory_check(2**30, 2**29).status == "warn"
    scarce = checks.memory_check(2**20, 2**29)
    assert (scarce.status, scarce.exit_code, scarce.text) == ("fail", 8, "1 MiB free")
    assert checks.memory_check(None, 2**29).status == "warn"


def test_free_memory_is_what_the_kernel_or_the_containers_limit_leaves(tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert free_memory_bytes(proc, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    assert free_memory_bytes(proc, tmp_path) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes(proc, tmp_path) == 2048 * 1024


def test_python() -> None:
    assert checks.python_check((3, 11)).status == "ok"
    old = checks.python_check((3, 10))
    assert (old.status, old.exit_code) == ("fail", 2)


def test_a_missing_extra_says_how_to_install_it() -> None:
    found = checks.extra_check("train", ("torch", "numpy"), is_there=lambda module: module == "numpy")
    assert (found.status, found.text) == ("warn", "not installed: torch")
    assert found.fix == "pip install 'prime-actors[train]'"


def test_a_codec_without_its_compiler_is_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = checks.codec_check("no_such_engine")
    assert (missing.status, missing.fix) == ("warn", "pip install 'prime-actors[train]'")
    assert missing.text == "numpy on the CPU, which is slow: no_such_engine is not installed"
    (tmp_path / "broken_engine.py").write_text("raise ImportError('no native half')")
    (tmp_path / "whole_engine.py").write_text("__version__ = '1.2'")
    monkeypatch.syspath_prepend(tmp_path)
    broken = checks.codec_check("broken_engine")
    assert (broken.status, broken.fix) == ("warn", "pip install --force-reinstall broken_engine")
    assert broken.text.endswith("which is slow: broken_engine does not load: no native half")
    assert checks.codec_check("whole_engine") == checks.ok("codec", "whole_engine 1.2 on the CPU")
    monkeypatch.setattr(checks, "_is_there", lambda module: False)
    assert checks.codec_check("no_such_engine").text == "no engine: numpy is not installed"


def test_what_ranks_would_train_on() -> None:
    assert checks.training_check((), 2, None).fix == "pip install 'prime-actors[train]'"
    without = checks.training_check((), 2, "2.13.0")
    assert (without.status, without.text) == ("ok", "torch 2.13.0; no NVIDIA GPU: ranks on 2 cores, over gloo")
    assert "1 core," in checks.training_check((), 1, "2.13.0").text
    with_two = checks.training_check(("H200", "H200"), 16, "2.13.0+cu130")
    assert (with_two.status, with_two.text) == ("ok", "torch 2.13.0+cu130; 2 x H200: a rank for each, over nccl")
    blind = checks.training_check(("H200",), 16, "2.13.0+cpu")
    assert blind.status == "warn"
    assert "CUDA build" in blind.fix


def test_the_kernels_for_cuda_need_triton_and_a_device_that_is_new_enough() -> None:
    with_both = checks.cuda_check((9, 0), "")
    assert (with_both.status, with_both.text) == ("ok", "the codec's kernels are Triton's: compute capability 9.0")
    old = checks.cuda_check((7, 5), "")
    assert (old.status, old.fix) == ("warn", "a newer GPU")
    assert old.text.endswith("which are slow: Triton wants compute capability 8.0, the GPU has 7.5")
    without = checks.cuda_check((10, 0), "No module named 'triton'")
    assert (without.status, without.fix) == ("warn", "pip install triton")
    assert without.text.endswith("Triton does not load: No module named 'triton'")


def test_cores_are_what_the_process_may_use(tmp_path: Path) -> None:
    bound = cores(tmp_path)
    assert bound >= 1
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) == bound


def test_gpus_are_those_that_the_drivers_tool_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H200\n")
    tool.chmod(0o755)
    assert gpus() == ("NVIDIA H200", "NVIDIA H200")
    tool.write_text("#!/bin/sh\necho 9.0\necho 8.6\necho '[N/A]'\n")
    assert compute_capability() == (8, 6)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert gpus() == ()
    assert compute_capability() is None


def program(folder: Path, text: str) -> Path:
    folder.mkdir()
    script = folder / "prime"
    script.write_text(text)
    script.chmod(0o755)
    return script


def test_another_packages_script(tmp_path: Path) -> None:
    ours = program(tmp_path / "ours", "#!python\nfrom prime.cli.main import run\n")
    other = program(tmp_path / "other", "#!/bin/sh\necho 2 3 5 7\n")
    path = f"{other.parent}:{ours.parent}"
    assert programs_on_path("prime", path) == [other, ours]
    clash = checks.script_check(path, {ours.parent})
    assert (clash.status, clash.fix) == ("warn", "run `prime-actors` or `python -m prime`")
    assert "another package's program" in clash.text
    assert checks.script_check(f"{ours.parent}:{other.parent}", {ours.parent}).status == "ok"
    assert "another installation of Prime" in checks.script_check(str(ours.parent), set()).text
    assert checks.script_check("", set()).status == "warn"
