"""A plain loop of the user's own: three changed lines, one process or several, one loss curve."""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from prime.errors import ConfigError, UsageError  # noqa: E402 - after the check that torch is there
from prime.trainer import attach  # noqa: E402
from prime.trainer.loop.wrap import _cut, _length  # noqa: E402
from tests.trainer.loop import plain_ranks  # noqa: E402

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "09_plain_loop.py"
Found = dict[str, Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def alone() -> Found:
    torch.set_num_threads(1)
    return plain_ranks.everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two ranks found, started with the variables that torchrun sets."""
    folder = tmp_path_factory.mktemp("plain")
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "plain_ranks.py"), str(folder / f"{rank}.json")],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def plain_text(text: str) -> str:
    """Return the example as it was before."""
    kept = [line for line in text.splitlines() if not line.endswith("# new")]
    return "\n".join(re.sub(r"in loop\.share\(loader\):.*", "in loader:", line) for line in kept) + "\n"


def test_the_example_differs_from_a_plain_loop_by_three_lines() -> None:
    text = EXAMPLE.read_text()
    before = plain_text(text)
    assert "attach" not in before
    assert "loop." not in before.partition('"""\n\n')[2]
    bare = [re.sub(r"  # (new|was: .*)$", "", line) for line in text.splitlines()]
    changes = [line for line in difflib.ndiff(before.splitlines(), bare) if line[:2] in ("+ ", "- ")]
    assert len([line for line in changes if line.startswith("+")]) == 3
    assert len([line for line in changes if line.startswith("-")]) == 1


def test_the_plain_loop_runs_without_prime_and_comes_to_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for text in (EXAMPLE.read_text(), plain_text(EXAMPLE.read_text())):
        names: dict[str, Any] = {"__name__": "example"}
        exec(compile(text.replace("range(12)", "range(4)").replace("4_000", "400"), "example", "exec"), names)  # noqa: S102 - our own file
        names["main"]()
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "epoch 4: loss" in said[0]


@pytest.mark.parametrize("name", ["shuffled", "workers", "list", "stream", "accumulated"])
def test_the_loss_curve_is_that_of_one_process(alone: Found, two: list[Found], name: str) -> None:
    assert alone[name]["world"] == 1
    losses = alone[name]["losses"]
    assert sum(losses[-5:]) < sum(losses[:5])
    for found in two:
        assert found[name]["world"] == 2
        assert found[name]["losses"] == pytest.approx(alone[name]["losses"], rel=1e-4)
    assert two[0][name]["weights"] == two[1][name]["weights"]


def test_compressed_gradients_have_about_the_same_curve(alone: Found, two: list[Found]) -> None:
    assert two[0]["int8"]["losses"] == pytest.approx(alone["int8"]["losses"], rel=0.05)
    assert two[0]["int8"]["weights"] == two[1]["int8"]["weights"]
    sent, exact = two[0]["int8"]["bytes"]
    assert 0 < sent < 0.6 * exact  # biases go as fp16, and the model is tiny


def test_a_batch_with_fewer_samples_than_ranks_is_left_out(alone: Found, two: list[Found]) -> None:
    batches = -(-plain_ranks.SAMPLES // 4)
    assert len(alone["tiny batches"]["losses"]) == plain_ranks.EPOCHS * batches
    assert len(two[0]["tiny batches"]["losses"]) == plain_ranks.EPOCHS * (batches - 1)


def test_a_gradient_that_is_not_finite_on_one_rank_is_refused_on_both(two: list[Found]) -> None:
    errors = [found["refused"]["error"] for found in two]
    assert errors[0] == errors[1]
    assert re.match(r"NonFiniteError: the gradient of \S+ on rank 1 is not finite", errors[0])


def test_alone_a_loader_stays_itself() -> None:
    loader = [1, 2, 3]
    loop = attach(torch.nn.Linear(1, 1))
    assert loop.share(loader) is loader
    assert loop.is_first
    assert loop.mean(torch.tensor(2.5)) == 2.5
    assert (loop.bytes_sent, loop.bytes_exact) == (0, 0)


def test_batches_of_any_nesting_are_cut_along_their_first_dimension() -> None:
    batch = {"x": torch.arange(8).view(4, 2), "more": [torch.arange(4), (torch.arange(4),)]}
    assert _length(batch) == 4
    cut = _cut(batch, slice(1, 3))
    assert cut["x"].tolist() == [[2, 3], [4, 5]]
    assert cut["more"][1][0].tolist() == [1, 2]
    with pytest.raises(UsageError, match="holds a str, which has no first dimension"):
        _length(("text",))


def test_what_cannot_be_attached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        attach(torch.nn.Linear(1, 1), codec="int5")
    with pytest.raises(ConfigError, match="no trainable parameters"):
        attach(torch.nn.ReLU())
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="no way to the other ranks") as caught:
        attach(torch.nn.Linear(1, 1))
    assert "torchrun" in caught.value.hint
