"""What a run leaves in its folder on a node: its facts as they come, and at its end the report, the curves and the model."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from prime.actor import ActorFailed, SupervisorGaveUp
from prime.errors import MissingExtraError
from prime.node.training import Training
from prime.store.files import SystemFiles
from prime.trainer.checkpoint.flat import write_model
from prime.trainer.round.names import lineage
from prime.trainer.track.files import CURVES, REPORT

RECORD: Final = "run.json"
EVENTS: Final = "events.jsonl"
EARLIER: Final = "events.1.jsonl"
EVENTS_BYTES_MAX: Final = 8 << 20
"""A file of facts that is larger becomes the earlier one, and the one before that goes."""
_ROOMS: Final = ("prime.trainer.", "prime.node.")


def run_folder(runs: Path, run: str) -> Path:
    """Return where a node keeps what a run leaves behind, in its folder of all `runs`: a successor goes on in its run's."""
    return runs / lineage(run)[0]


class RunLog:
    """An observer for `System.subscribe`: appends the facts of a run to its folder, a line of JSON each.

    Where nothing can be written, nothing is: the node's log has it all. Close it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._size_bytes = 0
        self._file: Any = None
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open()

    def __call__(self, fact: Any) -> None:
        """Append a fact, if it is one of training."""
        if not (isinstance(fact, ActorFailed | SupervisorGaveUp) or type(fact).__module__.startswith(_ROOMS)):
            return
        line = json.dumps(_fields(fact), ensure_ascii=False, default=_plain) + "\n"
        with contextlib.suppress(OSError, ValueError):  # a full disk; a file that is closed
            if self._file is not None:
                self._file.write(line)
                self._size_bytes += len(line)
            if self._size_bytes > EVENTS_BYTES_MAX:
                self.close()
                self._path.replace(self._path.with_name(EARLIER))
                self._open()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._size_bytes = self._path.stat().st_size


def _fields(fact: Any) -> dict[str, Any]:
    head = {"at_s": round(time.time(), 3), "event": type(fact).__name__}
    if isinstance(fact, ActorFailed):
        return {**head, "text": str(fact)}
    return {**head, **(attrs.asdict(fact, recurse=False) if attrs.has(type(fact)) else {})}


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the facts in a run's folder, the oldest first; lines that are none are passed over."""
    for name in (EARLIER, EVENTS):
        with contextlib.suppress(OSError), (folder / name).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict) and "event" in found:
                        yield found


def read_names(folder: Path, own_name: str) -> dict[str, str]:
    """Return the names of a run's nodes, by peer, as far as its folder knows them; at its end the report has them all.

    `own_name` is that of the node whose folder it is.
    """
    names: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        names[str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["peer"])] = own_name
    for file, key in ((RECORD, "members"), (REPORT, "contributors")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            found = json.loads((folder / file).read_text(encoding="utf-8"))
            names |= {str(one["peer"]): str(one["name"]) for one in found[key] if one["name"]}
    return names


def write_run(report: Mapping[str, Any], training: Training, folder: Path) -> None:
    """Write the report, the curves and the model into a run's folder; blocks. What cannot be written is left out.

    `report["files"]` of what stands there then names what was written.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {"events": EVENTS, "report": REPORT}
    if _write_model(report, training, folder / f"{report['name']}.safetensors"):
        files["model"] = f"{report['name']}.safetensors"
    if _draw(report, folder / CURVES):
        files["curves"] = CURVES
    with contextlib.suppress(OSError):
        draft = folder / f"{REPORT}.new"
        draft.write_text(json.dumps({**report, "files": files}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(folder / REPORT)


def _write_model(report: Mapping[str, Any], training: Training, path: Path) -> bool:
    parameters, metadata = training.parameters, training.progress.metadata
    if parameters is None or metadata is None:
        return False
    about = {key: report[key] for key in ("run", "round", "loss", "state_hash", "settings")}
    try:
        write_model(np.ascontiguousarray(parameters, "<f4").view(np.uint8).data, metadata, path, about, SystemFiles())
    except OSError:
        return False
    return True


def _draw(report: Mapping[str, Any], path: Path) -> bool:
    from prime.trainer.track.plot import draw_rounds

    try:
        draw_rounds(report, path)
    except (MissingExtraError, OSError):
        return False
    return True
