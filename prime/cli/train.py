"""`prime train`: a model trained over the devices of this node, watched, stopped in order, and reported on."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson
from prime.errors import PrimeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import trio

    from prime.cli.train_view import ViewThread
    from prime.trainer import Trainer
    from prime.trainer.facts import Fact
    from prime.trainer.gang.follower import Followed, Following
    from prime.trainer.gang.launch import Launch
    from prime.trainer.job import Job

app = typer.Typer(
    help="Train a model, over the devices of this machine or over a swarm of nodes.", no_args_is_help=True
)

JOB_FILE: Final = Path("job.toml")

JobName = Annotated[
    str | None, typer.Argument(metavar="JOB", help="A job.toml, or the name of a preset (`prime train presets`).")
]


@app.command()
def run(
    job: JobName = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Train a preset; as NAME for JOB.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Train until this step.")] = None,
    ranks: Annotated[str | None, typer.Option("--ranks", metavar="N", help="Processes that train, or auto.")] = None,
    codec: Annotated[
        str | None, typer.Option("--codec", metavar="NAME", help="How gradients travel: none, int8, int4, …")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Names the run and its folder, runs/NAME.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any key of the job, such as optimiser.learning_rate or model_options.width; may be given again.",
        ),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Go on from the newest checkpoint, which must be there; or start anew and move what is there aside. "
            "Without either: go on if there is one.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as one line of JSON, and last one with the report.")
    ] = False,
) -> None:
    """Train a job, and report on it. Ctrl-C ends it in order, after a checkpoint; once more ends it at once."""
    from prime.cli.here import look_here
    from prime.trainer.gang.launch import launch_of

    look_here()
    flags = {
        "steps": steps,
        "parallel.ranks": ranks,
        "compression.codec": codec,
        "name": name,
        **dict(pairs(settings)),
    }
    found = _job(job, preset, flags)
    _check_extras()
    launch = launch_of(os.environ)
    if launch is not None and launch.host > 0:
        raise typer.Exit(_Follow(found, launch, as_json=as_json).go())
    folder = found.run_folder.absolute()
    _make_way(folder, resume=resume)
    again = command(job or preset or "", flags)
    raise typer.Exit(_Run(found, folder, again, launch, as_json=as_json).go())


@app.command()
def init(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help="The preset to start from (`prime train presets`).")
    ] = "charlm",
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = JOB_FILE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a job.toml in which every key stands with its meaning; take the # away to change one."""
    from prime.cli.config import write
    from prime.cli.output import emit
    from prime.config.template import template
    from prime.errors import UsageError
    from prime.trainer.job import JOB
    from prime.trainer.presets.jobs import preset_keys

    keys = preset_keys(preset)
    if file.exists() and not force:
        raise UsageError(f"{file} exists", hint="`--force` overwrites it, `--output` names another")
    write(file, template(JOB, _JOB_HEAD.format(preset=preset, file=file), keys))
    emit({"file": str(file), "preset": preset}, f"wrote {file}; next: prime train run {file}", as_json=as_json)


_JOB_HEAD: Final = """\
# A job: what is trained, and how. This one is the preset {preset}; `prime train run {file}` trains it.
# A line behind a # shows a default: take the # away to change it.
"""


@app.command()
def presets(as_json: AsJson = False) -> None:
    """List the presets: models with data that this machine has already."""
    from prime.cli.output import emit
    from prime.trainer.presets.jobs import PRESETS

    found = [{"name": name, "about": preset.about} for name, preset in PRESETS.items()]
    width = max(len(name) for name in PRESETS)
    emit({"presets": found}, "\n".join(f"{one['name']:<{width}}  {one['about']}" for one in found), as_json=as_json)


# ---------------------------------------------------------------------------------------------------- before the run


def pairs(settings: list[str] | None) -> Iterator[tuple[str, str]]:
    """Yield each KEY=VALUE of `--set` as a pair."""
    from prime.errors import UsageError

    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: no KEY=VALUE", hint="such as --set optimiser.learning_rate=3e-4")
        yield key.strip(), value.strip()


def command(job: str, flags: Mapping[str, object]) -> str:
    """Return the command that goes on with a run."""
    from prime.trainer.job import JOB

    words = ["prime", "train", "run", job]
    for key, value in flags.items():
        if value is not None:
            option = JOB.flag(key)
            words += [option, f"{key}={value}" if option == JOB.setter else str(value)]
    return shlex.join(words)


def _job(job: str | None, preset: str | None, flags: Mapping[str, object]) -> Job:
    """Return the job of a file or a preset; `ConfigError` names file and line, or the flag."""
    from prime.errors import UsageError
    from prime.trainer.job import load_job
    from prime.trainer.presets.jobs import PRESETS, preset_job

    if (job is None) == (preset is None):
        hint = "prime train run job.toml, or prime train run charlm; `prime train init` writes a job.toml"
        raise UsageError("name one job: a file or a preset", hint=hint)
    if job is not None and job not in PRESETS and (Path(job).exists() or Path(job).suffix or Path(job).name != job):
        return load_job(job, flags)
    return preset_job(job or preset or "", flags)


def _check_extras() -> None:
    """Refuse before anything is started."""
    import importlib.util

    from prime.errors import MissingExtraError

    missing = [name for name in ("numpy", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"training needs {' and '.join(missing)}", hint="pip install 'prime-actors[train]'")


def _make_way(folder: Path, *, resume: bool | None) -> None:
    """See to the folder of an earlier run as the options say; nothing is ever deleted."""
    from prime.cli.output import say
    from prime.errors import NotFoundError
    from prime.trainer.checkpoint import Checkpoints
    from prime.trainer.checkpoint.names import CHECKPOINTS
    from prime.trainer.gang.lock import sole_trainer

    if resume is False and folder.exists():
        with sole_trainer(folder):  # nobody trains in what is moved
            say(f"{folder} was moved to {folder.rename(_free_name(folder))}")
    if resume and Checkpoints(folder / CHECKPOINTS).newest_whole() is None:
        raise NotFoundError(
            f"{folder} has no checkpoint to go on from", hint="leave --resume away to start a run there"
        )


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


# --------------------------------------------------------------------------------------------------------- the run


class _Run:
    """One run of the command, from the first fact to the exit status."""

    def __init__(self, job: Job, folder: Path, again: str, launch: Launch | None, *, as_json: bool) -> None:
        from prime.trainer.track.course import Course

        self._job = job
        self._folder = folder
        self._again = again
        self._launch = launch
        self._as_json = as_json
        self._course: Course = Course()
        self._exit = 0
        self._cut_off = False

    def go(self) -> int:
        """Train, report, and return the exit status."""
        import trio

        from prime.trainer.track.jsonl import read_events

        for fact, at_s in read_events(self._folder):
            self._course.take(fact, at_s)
        try:
            trio.run(self._train)
        except* PrimeError as group:
            if self._course.ended is not None and (self._as_json or self._course.steps_made):
                self._tell()
            raise self._in_short(group) from None
        self._tell()
        return 0 if self._course.phase == "done" else self._exit

    async def _train(self) -> None:
        import trio

        from prime.cli.train_view import ViewThread, view_of
        from prime.trainer import Trainer

        course, token = copy.deepcopy(self._course), trio.lowlevel.current_trio_token()
        trainer = Trainer(self._job, self._launch)

        def nobody_reads() -> None:
            token.run_sync_soon(trainer.stop, "nobody reads the output")

        with ViewThread(view_of(course, as_json=self._as_json), course, nobody_reads) as view:
            trainer.subscribe(self._observer(view))
            async with trio.open_nursery() as nursery:
                await nursery.start(self._signals, trainer, nursery.cancel_scope)
                await trainer.train()
                nursery.cancel_scope.cancel()

    def _observer(self, view: ViewThread) -> Callable[[Fact], None]:
        def observe(fact: Fact) -> None:
            now_s = time.time()
            self._course.take(fact, now_s)
            view.take(fact, now_s)

        return observe

    async def _signals(self, trainer: Trainer, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        """Drain on the first signal; end at once on the second."""
        import trio

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                if self._exit:
                    self._cut_off = True
                    scope.cancel()
                    return
                self._exit = 128 + number
                trainer.stop(signal.Signals(number).name)

    # ------------------------------------------------------------------------------------------------ what came of it

    def _tell(self) -> None:
        """Print the result: the table, where things are, and what to do next; of a run that was cut off, that alone."""
        from prime.cli.output import emit

        found = self._found()
        next_step = self._next(found)
        emit(
            {**found, "event": "train.result", "folder": str(self._folder), "next": next_step},
            "\n".join(_table(found, self._folder, next_step)),
            as_json=self._as_json,
        )

    def _in_short(self, group: ExceptionGroup[PrimeError]) -> Exception:
        """Return an error without the traceback in its text: the report has it."""
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            if len(error.exceptions) > 1:
                return group
            (error,) = error.exceptions
        head, traced, _ = str(error).partition("\nTraceback ")
        if not traced or not isinstance(error, PrimeError) or os.environ.get("PRIME_DEBUG"):
            return error
        where = _shortened(self._folder) / "report.json"
        return type(error)(head, hint=f"{error.hint}; {where} has the traceback")

    def _found(self) -> dict[str, Any]:
        """Return the report that was written, or, of a run that was cut off, that of what was seen."""
        from prime.trainer.track.files import REPORT
        from prime.trainer.track.report import report

        if not self._cut_off:
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads((self._folder / REPORT).read_text(encoding="utf-8"))
                return found
        return report(self._course)

    def _next(self, found: Mapping[str, Any]) -> str:
        if found["outcome"] != "done":
            return self._again
        folder, file = str(_shortened(self._folder)), f"{found['name']}.safetensors"
        return shlex.join(["prime", "model", "export", folder, "--to", file])


class _Follow:
    """The command on a host that is not the first: it starts ranks here, and ends with the run."""

    def __init__(self, job: Job, launch: Launch, *, as_json: bool) -> None:
        self._job = job
        self._launch = launch
        self._as_json = as_json
        self._exit = 0

    def go(self) -> int:
        """Follow the first host, and return the exit status: as the first host's."""
        import trio

        from prime.cli.output import emit

        followed: list[Followed] = []
        trio.run(self._follow, followed)
        if not followed:
            return self._exit
        (ended,) = followed
        found = {"event": "train.followed", "host": self._launch.host, "outcome": ended.outcome, "step": ended.step}
        emit(found, f"host {self._launch.host}: the run is {ended.outcome} at step {ended.step}", as_json=self._as_json)
        return 0 if ended.outcome == "done" else self._exit

    async def _follow(self, followed: list[Followed]) -> None:
        import trio

        from prime.cli.output import say
        from prime.trainer.gang.follower import Following

        following = Following(self._job, self._launch, say)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._signals, following, nursery.cancel_scope)
            followed.append(await following.run())
            nursery.cancel_scope.cancel()

    async def _signals(
        self, following: Following, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Ask the first host to end the run on the first signal; end here at once on the second."""
        import trio

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                if self._exit:
                    scope.cancel()
                    return
                self._exit = 128 + number
                following.stop(signal.Signals(number).name)


def _shortened(folder: Path) -> Path:
    with contextlib.suppress(ValueError):
        return folder.relative_to(Path.cwd())
    return folder


def _table(found: Mapping[str, Any], folder: Path, next_step: str) -> Iterator[str]:
    from prime.trainer.track.report import rows

    lines = [*rows(found), *_files(found, folder), ("next", next_step)]
    width = max(len(name) for name, _ in lines)
    yield from (f"{name:<{width}}  {text}" for name, text in lines)


def _files(found: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    names = found.get("files", {"events": "events.jsonl"})
    yield "folder", str(_shortened(folder))
    yield "files", ", ".join(names.values())
