"""The how-to about data: each of its job files can be opened, trained for a step, and gives what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from prime.trainer.data.names import open_dataset  # noqa: E402 - after the check that torch is there
from prime.trainer.data.tensors import on_device  # noqa: E402
from prime.trainer.job import load_job  # noqa: E402
from prime.trainer.task import built  # noqa: E402

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:toml|python)\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
JOBS = [text for name, text in BLOCKS if name == "job.toml"]
FILES = {name: text for name, text in BLOCKS if name != "job.toml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the page's jobs name."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'prime-actors[hf]'")
    from pyarrow import Table

    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    subprocess.run([sys.executable, "save.py"], cwd=folder, check=True, timeout=120, capture_output=True)
    (folder / "letters").mkdir()
    for i in range(25):
        (folder / "letters" / f"{i}.txt").write_text("Dear reader,\n" * 20)
    (folder / "posts.jsonl").write_text(json.dumps({"body": "a post " * 20}) + "\n" * 2)
    with (folder / "posts.jsonl").open("a") as file:
        file.writelines(json.dumps({"body": f"post {i} " * 20}) + "\n" for i in range(39))
    rows = [{"length": i, "width": i / 2, "height": 3, "kind": ("rose", "iris")[i % 2]} for i in range(60)]
    parquet.write_table(Table.from_pylist(rows), folder / "flowers.parquet")
    return folder


def test_the_page_has_them_all() -> None:
    assert len(JOBS) == 6
    assert set(FILES) == {"save.py", "mine.py", "waves.py"}


@pytest.mark.parametrize("number", range(6))
def test_each_job_of_the_page_can_be_trained(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "job.toml").write_text(JOBS[number])
    job = load_job(folder / "job.toml")
    data, model = open_dataset(job), built(job.model, "model", job)
    batch = on_device(data.batch(np.arange(job.batch_size)))
    loss = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert data.held_out(2)


def test_a_file_is_found_beside_the_job_also_from_elsewhere(folder: Path) -> None:
    (folder / "job.toml").write_text(JOBS[-1])
    assert len(open_dataset(load_job(folder / "job.toml"))) == 10**9
