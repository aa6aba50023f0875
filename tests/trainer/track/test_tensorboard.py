"""TensorBoard's files, read back with its own reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prime.trainer.facts import CheckpointSaved, Evaluated, GenerationBegan, StepMade

pytest.importorskip("tensorboard", reason="the extra [observe] is not installed")

WRITES = """
import sys
from pathlib import Path
from prime.trainer.track.jsonl import read_events
from prime.trainer.track.tensorboard import TensorBoard

tracker = TensorBoard(None, Path(sys.argv[2]))
for fact, _ in read_events(Path(sys.argv[1])):
    tracker.event(fact)
tracker.close()
print([name for name in ("torch", "tensorflow") if name in sys.modules])
"""
STORY = Path(__file__).parent / "testdata" / "charlm"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run")
    words = [sys.executable, "-c", WRITES, str(STORY), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return folder, done.stdout.strip()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf's and tensorboard's own making
def test_the_curves_are_those_of_the_run(written: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(written[0] / "tensorboard"))
    found.Reload()
    steps = [point.step for point in found.Scalars("loss/train")]
    assert steps == list(range(1, 121))  # those made before the rank was lost are there once
    assert found.Scalars("loss/held_out")[-1].step == 100
    assert found.Scalars("bytes/ratio")[0].value == pytest.approx(4.0)
    assert {"optimiser/learning_rate", "optimiser/grad_norm", "speed/samples_per_s", "time/reduce_s"} <= set(
        found.Tags()["scalars"]
    )


def test_neither_torch_nor_tensorflow_is_loaded_for_it(written: tuple[Path, str]) -> None:
    assert written[1] == "[]"


def test_what_is_measured() -> None:
    from prime.trainer.track.tensorboard import scalars

    step = StepMade(step=1, generation=0, loss=2.0, learning_rate=0.1, samples=4, step_s=0.5)
    assert dict(scalars(step))["speed/samples_per_s"] == 8.0
    assert "optimiser/grad_norm" not in dict(scalars(step))
    seen = Evaluated(step=1, generation=0, loss=2.5, measures={"accuracy": 0.5})
    assert dict(scalars(seen)) == {"loss/held_out": 2.5, "held_out/accuracy": 0.5}
    assert dict(scalars(GenerationBegan(generation=3, step=5, world=1))) == {"run/generation": 3}
    assert dict(scalars(CheckpointSaved(step=1, generation=0, path="", size_bytes=7)))["checkpoint/size_bytes"] == 7
