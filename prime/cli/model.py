"""`prime model`: the checkpoints of a run, and the model in them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson
from prime.cli.output import console, emit
from prime.errors import CorruptedError, MissingExtraError, NotFoundError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from prime.trainer.checkpoint import Checkpoint, Checkpoints, Damage, Manifest

app = typer.Typer(help="The checkpoints of a run, the model in them, and models of others.", no_args_is_help=True)

RUNS: Final = Path("runs")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

Run = Annotated[
    str, typer.Argument(metavar="RUN|FOLDER", help="A run of ./runs by its name, its folder, or one of checkpoints.")
]
Step = Annotated[int | None, typer.Option("--step", min=0, metavar="N", help="The step; else the newest whole one.")]


@app.command("list")
def list_(run: Run, as_json: AsJson = False) -> None:
    """List a run's checkpoints: step, time, loss, size, and whether each is whole."""
    checkpoints = of(run)
    found, aside = checkpoints.list(), _aside(checkpoints)
    if as_json:
        emit(
            {"folder": str(checkpoints.folder), "checkpoints": [_told(one) for one in found], "aside": aside},
            "",
            as_json=True,
        )
        return
    screen = console()
    if found:
        screen.print(_table(found))
    for line in _below(found, aside, run):
        screen.print(line, soft_wrap=True, markup=False)


@app.command()
def verify(
    run: Run,
    step: Annotated[int | None, typer.Option("--step", min=0, metavar="N", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a run's checkpoints, and compare it with what was written; status 8 if anything differs."""
    checkpoints = of(run)
    chosen = [checkpoints.at(step)] if step is not None else list(checkpoints.list())
    if not chosen:
        raise NotFoundError(f"{checkpoints.folder}: no checkpoint is there yet", hint="one is saved at the run's end")
    found = {one.step: checkpoints.verify(one.step) for one in chosen}
    told = [
        {"step": one.step, "ok": not found[one.step], "damage": [_damage(damage) for damage in found[one.step]]}
        for one in chosen
    ]
    emit({"folder": str(checkpoints.folder), "checkpoints": told}, "\n".join(_verdicts(chosen, found)), as_json=as_json)
    if any(found.values()):
        damaged = [number for number, damages in found.items() if damages]
        raise CorruptedError(
            f"{checkpoints.folder}: not as written: step{'s' * (len(damaged) > 1)} {_steps(damaged)}",
            hint="a run goes on from the newest whole one by itself; look at the disk",
        )


@app.command("roll-back")
def roll_back(
    run: Run,
    step: Annotated[
        int | None, typer.Option("--step", min=0, metavar="N", help="The checkpoint to go back to.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last roll back moved aside.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an older checkpoint the newest: later ones are moved aside, where `--undo` finds them."""
    if undo == (step is not None):
        raise UsageError("either --step N or --undo", hint=f"`prime model list {run}` shows the steps")
    checkpoints = of(run)
    moved = checkpoints.undo_roll_back() if step is None else checkpoints.roll_back(step)
    newest = checkpoints.at().step
    result = {"folder": str(checkpoints.folder), "moved": list(moved), "newest": newest}
    emit(result, _moved(moved, newest, undo=undo), as_json=as_json)


@app.command()
def export(
    run: Run,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.safetensors", help="Where to write the model.")],
    step: Step = None,
    as_json: AsJson = False,
) -> None:
    """Write the model of a checkpoint as one safetensors file, and what it is of as JSON beside it."""
    if to.suffix != ".safetensors":
        raise UsageError(f"{to} should end in .safetensors", hint="for example --to model.safetensors")
    manifest = exported(of(run), step, to)
    result = {
        "file": str(to),
        "about": str(to.with_suffix(".json")),
        "step": manifest.step,
        "tensors": len(manifest.layout()),
        "size_bytes": to.stat().st_size,
    }
    emit(result, _exported(manifest, to), as_json=as_json)


def exported(checkpoints: Checkpoints, step: int | None, to: Path) -> Manifest:
    """Write the model of a checkpoint to a file. Raises `MissingExtraError`, and as `Checkpoints.export`."""
    checkpoints.at(step)  # what is not there is told before torch is loaded
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"an export needs {' and '.join(missing)}", hint="pip install 'prime-actors[train]'")
    return checkpoints.export(step, to)


def of(run: str) -> Checkpoints:
    """Return the checkpoints that a name or a folder means; raises `NotFoundError`."""
    from prime.trainer.checkpoint import Checkpoints
    from prime.trainer.checkpoint.names import CHECKPOINTS

    places = [Path(run) / CHECKPOINTS, Path(run)]
    if Path(run).name == run:
        places.insert(0, RUNS / run / CHECKPOINTS)
    with contextlib.suppress(OSError, ValueError):  # no path, such as a name of thousands of letters
        for place in places:
            if place.is_dir() and (place.name == CHECKPOINTS or any(place.glob("step-*"))):
                return Checkpoints(place)
    raise NotFoundError(f"no checkpoints of {run!r} here", hint=_where(run))


def _where(run: str) -> str:
    from prime.trainer.checkpoint.names import CHECKPOINTS

    known = sorted(path.parent.name for path in RUNS.glob(f"*/{CHECKPOINTS}"))
    if known:
        return f"these runs are in ./runs: {', '.join(known[:10])}{', …' if len(known) > 10 else ''}"
    looked = Path(run) if os.path.isdir(run) else RUNS  # noqa: PTH112 - it takes what is no path, too
    return f"{looked} has none; name the run's folder, or start one with `prime train run`"


def _aside(checkpoints: Checkpoints) -> list[int]:
    """Return the steps that the last roll back moved aside: those that `--undo` puts back."""
    from prime.trainer.checkpoint.names import aside_number

    found = checkpoints.look()
    last = max((aside_number(one.name) for one in found), default=0)
    return [one.step for one in found if last and aside_number(one.name) == last]


def _told(one: Checkpoint) -> dict[str, Any]:
    manifest = one.manifest
    if manifest is None:
        return {"step": one.step, "path": str(one.path), "is_whole": False, "complaint": one.complaint}
    return {
        "step": one.step,
        "path": str(one.path),
        "is_whole": True,
        "saved_at_s": manifest.saved_at_s,
        "loss": manifest.about.loss,
        "world": manifest.world,
        "size_bytes": manifest.size_bytes,
        "tensors": len(manifest.tensors),
        "parameters": _parameters(manifest),
        "job": manifest.about.job,
        "dataset": manifest.about.dataset,
        "versions": manifest.versions,
    }


def _table(found: Sequence[Checkpoint]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("step", "saved", "loss", "ranks", "size", "state"):
        table.add_column(column, justify="left" if column in ("saved", "state") else "right", no_wrap=True)
    newest = max((one.step for one in found if one.is_whole), default=None)
    for one in found:
        state = Text("whole", style="green") if one.is_whole else Text("damaged", style="bold red")
        if one.step == newest:
            state.append(", the newest")
        table.add_row(str(one.step), *_figures(one), state)
    return table


def _figures(one: Checkpoint) -> tuple[str, str, str, str]:
    manifest = one.manifest
    if manifest is None:
        return "", "", "", ""
    saved = datetime.fromtimestamp(manifest.saved_at_s).astimezone().strftime("%Y-%m-%d %H:%M")
    loss = "" if manifest.about.loss is None else f"{manifest.about.loss:.4f}"
    return saved, loss, str(manifest.world), size(manifest.size_bytes)


def _short(one: Checkpoint) -> str:
    """Return what is wrong with a checkpoint without the path that stands above it."""
    return one.complaint.removeprefix(f"{one.path}/")


def _below(found: Sequence[Checkpoint], aside: Sequence[int], run: str) -> Iterator[str]:
    """Yield what a person may want to do next."""
    if not found:
        yield "no checkpoint is there yet"
    if aside:
        yield f"aside: {_steps(aside)} (`prime model roll-back {run} --undo` puts them back)"
    damaged = [one for one in found if not one.is_whole]
    yield from (f"step {one.step}: {_short(one)}" for one in damaged)
    if damaged:
        yield "a run goes on from the newest whole one"


def _verdicts(chosen: Sequence[Checkpoint], found: dict[int, Sequence[Damage]]) -> Iterator[str]:
    for one in chosen:
        damages = found[one.step]
        if not damages and one.manifest is not None:
            count = len(one.manifest.files)
            yield f"step {one.step}: as written ({count} file{'s' * (count != 1)}, {size(one.manifest.size_bytes)})"
        for damage in damages:
            yield f"step {one.step}: {damage.file}: {damage.complaint}"


def _damage(damage: Damage) -> dict[str, str]:
    return {"file": damage.file, "complaint": damage.complaint}


def _moved(moved: Sequence[int], newest: int, *, undo: bool) -> str:
    what = "put back" if undo else "moved aside"
    return f"{what}: {_steps(moved) or 'nothing'}; the newest is step {newest}"


def _exported(manifest: Manifest, to: Path) -> str:
    count = len(manifest.layout())
    return (
        f"{to}: step {manifest.step}, {_parameters(manifest):,} numbers in {count} tensors, {size(to.stat().st_size)}\n"
        f"{to.with_suffix('.json')}: the layout, the job, the loss"
    )


def _parameters(manifest: Manifest) -> int:
    import math

    return sum(math.prod(tensor.shape) for tensor in manifest.layout())


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def size(size_bytes: int) -> str:
    """Return a size as a person reads it."""
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value = size_bytes / 1024**power
    return f"{value:.1f} {_UNITS[power]}" if power else f"{size_bytes} B"
