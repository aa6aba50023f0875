"""`prime train submit`, `status`, `watch`, `stop`, `logs`: a run between nodes, founded, looked at and ended.

Each asks the node on this machine through its control socket; `--node` says which one.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.node import socket_of
from prime.cli.options import AsJson, ConfigFile, Node
from prime.cli.output import emit, say

if TYPE_CHECKING:
    from prime.observe.messages import NodeStatus, RunStatus
    from prime.trainer.runs.messages import RunNotice, RunsKnown

RunName = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run, by its name; without one, the run that the node takes part in.")
]

BUILD_S: Final = 240.0
"""How long `submit` waits for the node to build the model: torch is imported, the data read."""
POLL_S: Final = 0.25
ASK_S: Final = 10.0
STILL_S: Final = 60.0
"""How long a node may stand still, as it does while it compiles, before who waits for it gives it up."""
WATCH_S: Final = 0.5
EVERY_ROUND: Final = -1


def submit(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="A job.toml, or the name of a preset (`prime train presets`).")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Train a preset; as NAME for JOB.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="RUN", help="Names the run.")] = None,
    nodes_min: Annotated[int | None, typer.Option("--nodes-min", help="Start once this many nodes take part.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds until the run is done.")] = None,
    inner_steps: Annotated[
        int | None, typer.Option("--inner-steps", metavar="H", help="Steps that each node makes between two rounds.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the job, such as swarm.context; repeatable."),
    ] = None,
    config: ConfigFile = None,
    node: Node = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the node has built the model, or says why it cannot.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Found a run on the node of this machine; the nodes linked with it, and those linked with them, take part.

    No code is sent: the model and the data are presets, or names that each node can import and accepts (runs.accept_functions).
    """
    import trio

    from prime.cli.train import pairs
    from prime.trainer.runs.submission import settings_of, unmeant

    flags: dict[str, object] = {
        "name": name,
        "swarm.nodes_min": nodes_min,
        "swarm.rounds": rounds,
        "swarm.inner_steps": inner_steps,
        **dict(pairs(settings)),
    }
    loaded = _loaded(job, preset, {key: value for key, value in flags.items() if value is not None})
    wanted = settings_of(loaded)
    for text in unmeant(loaded):
        say(f"{text} means nothing to a swarm, and is left out")
    run = loaded.config.name
    notice, own = trio.run(
        functools.partial(_submit, socket_of(config, node), run, wanted, wait_s=BUILD_S if wait else 0)
    )
    emit(
        {"event": "run.submitted", "run": notice.run, "founder": notice.founder, "folder": own},
        "\n".join(_submitted(notice, node)),
        as_json=as_json,
    )


def _loaded(job: str | None, preset: str | None, flags: dict[str, object]) -> Any:
    from prime.errors import UsageError
    from prime.trainer.job import loaded_job
    from prime.trainer.presets.jobs import PRESETS, loaded_preset

    if (job is None) == (preset is None):
        hint = "prime train submit job.toml, or prime train submit charlm; `prime train init` writes a job.toml"
        raise UsageError("name one job: a file or a preset", hint=hint)
    if job is not None and job not in PRESETS and (Path(job).exists() or Path(job).suffix or Path(job).name != job):
        return loaded_job(job, flags)
    return loaded_preset(job or preset or "", flags)


async def _submit(socket: Path, name: str, settings: Any, *, wait_s: float) -> tuple[RunNotice, str]:
    import trio

    from prime.errors import DeadlineError, LinkLostError, UnreachableError
    from prime.node.client import open_runs
    from prime.trainer.runs.messages import ListRuns, SubmitRun

    async with open_runs(socket) as (_, runs):
        notice = await runs.ask(SubmitRun(name, settings), timeout=ASK_S)
        try:
            with trio.move_on_after(wait_s):
                while True:
                    known = await runs.ask(ListRuns(), timeout=STILL_S)
                    found = next((one for one in known.runs if one.run == notice.run), notice)
                    if _built(found):
                        return found, known.folder
                    await trio.sleep(POLL_S)
            known = await runs.ask(ListRuns(), timeout=STILL_S)
        except (LinkLostError, DeadlineError) as error:
            raise UnreachableError(
                f"run {notice.run} is founded, but the node does not answer any more: {error}",
                hint="`prime train status` says how it goes, unless the node has ended; started again it goes on in the run",
            ) from error
        return notice, known.folder


def _built(notice: RunNotice) -> bool:
    """Tell whether the founder has built the model. Raises `RefusedError` with its reason if it cannot."""
    from prime.cli.words import plain
    from prime.errors import RefusedError
    from prime.trainer.runs.messages import BUILDS
    from prime.trainer.runs.submission import job_keys

    founder = next((member for member in notice.members if member.peer == notice.founder), None)
    if founder is None or (founder.standing == "joining" and founder.why in ("", BUILDS)):
        return False
    if founder.standing == "cannot":
        raise RefusedError(
            f"the node cannot take part in its own run {notice.run}: {plain(job_keys(founder.why))}",
            hint="mend that, and submit it again",
        )
    return True


def _submitted(notice: RunNotice, node: str | None) -> list[str]:
    from prime.cli.words import many
    from prime.trainer.round.names import base_name
    from prime.trainer.swarm.report import shape

    settings, there = notice.settings, sum(member.standing in ("joining", "member") for member in notice.members)
    missing = settings.nodes_min - there
    wait = f"waits for {many(missing, 'more node')}" if missing > 0 else "starts now"
    return [
        f"run {notice.run} is founded, and {wait}",
        f"  {shape(settings, settings.rounds)}, from {many(settings.nodes_min, 'node')} on",
        f"  watch it with: prime train watch {base_name(notice.run)}" + (f" --node {node}" if node else ""),
    ]


def status(run: RunName = "", config: ConfigFile = None, node: Node = None, as_json: AsJson = False) -> None:
    """Show the runs that the node of this machine knows, and how the one that it takes part in goes."""
    import trio

    from prime.cli.swarm_view import as_plain, lines

    found, known = trio.run(ask_runs, socket_of(config, node))
    if run:
        known = _only(known, run)
    emit(as_plain(found, known), "\n".join(lines(found, known)), as_json=as_json)


def _only(known: RunsKnown, name: str) -> RunsKnown:
    import attrs

    from prime.trainer.runs.board import found_run

    run = found_run(known, name)
    one = tuple(notice for notice in known.runs if notice.run == run)
    return attrs.evolve(known, runs=one)  # type: ignore[misc]  # a @record is an attrs class


async def ask_runs(socket: Path) -> tuple[NodeStatus, RunsKnown]:
    """Ask the node behind a control socket for its status, without the history, and for its runs."""
    from prime.node.client import open_runs
    from prime.observe.messages import GetStatus
    from prime.trainer.runs.messages import ListRuns

    async with open_runs(socket) as (status_, runs):
        found = await status_.ask(GetStatus(rounds_after=ROUND_LAST), timeout=ASK_S)
        return found, await runs.ask(ListRuns(), timeout=ASK_S)


ROUND_LAST: Final = 2**53
"""Later than any round: the history stays away."""


def watch(
    run: RunName = "",
    config: ConfigFile = None,
    node: Node = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each round, and one for each change of phase.")
    ] = False,
) -> None:
    """Watch a run until its end: members, chunks, bytes, who is waited for and why. Ctrl-C ends the watching alone."""
    import trio

    trio.run(functools.partial(_watch, socket_of(config, node), run, as_json=as_json))


async def _watch(socket: Path, name: str, *, as_json: bool) -> None:
    import trio

    from prime.cli.swarm_view import view_of
    from prime.node.client import open_runs
    from prime.trainer.runs.board import found_run

    async with open_runs(socket) as refs:
        found, known = await _ask_both(refs, EVERY_ROUND)
        run = found_run(known, name)
        with view_of(as_json=as_json) as view:
            while (notice := next((one for one in known.runs if one.run == run), None)) is not None:
                view.show(found, notice, known)
                if _is_over(notice, known):
                    break
                seen = max((one.round for one in found.run.history), default=EVERY_ROUND) if found.run else EVERY_ROUND
                await trio.sleep(WATCH_S)
                found, known = await _ask_both(refs, seen)
    if notice is not None:
        _tell_end(notice, known, as_json=as_json)


async def _ask_both(refs: Any, rounds_after: int) -> tuple[NodeStatus, RunsKnown]:
    from prime.errors import UnreachableError, WorldError
    from prime.observe.messages import GetStatus
    from prime.trainer.runs.messages import ListRuns

    try:
        known = await refs[1].ask(ListRuns(), timeout=STILL_S)
        return await refs[0].ask(GetStatus(rounds_after), timeout=STILL_S), known
    except WorldError as error:
        raise UnreachableError(
            f"the node does not answer any more: {error}", hint="look at its log; `prime node start` goes on in its run"
        ) from error


def _is_over(notice: RunNotice, known: RunsKnown) -> bool:
    """Tell whether the run is over for this node, or for all where it takes no part."""
    from prime.trainer.runs.board import ACTIVE, STALE_S

    own = next((member for member in notice.members if member.peer == known.peer), None)
    if own is not None and own.standing in ("done", "left"):
        return True
    return not any(member.standing in ACTIVE and member.age_s < STALE_S for member in notice.members)


def _tell_end(notice: RunNotice, known: RunsKnown, *, as_json: bool) -> None:
    """Say how the run ended here, with its report. Raises `RunFailedError` where this node could not take part."""
    import json

    from prime.errors import RunFailedError
    from prime.node.run_files import run_folder
    from prime.trainer.swarm.report import rows
    from prime.trainer.track.files import REPORT

    own = next((member for member in notice.members if member.peer == known.peer), None)
    if own is not None and own.standing == "cannot":
        raise RunFailedError(f"this node cannot take part in {notice.run}: {own.why}", hint="others may: see `status`")
    folder = run_folder(Path(known.folder), notice.run)
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    lines = [*rows(report), ("folder", str(folder)), ("files", ", ".join(report["files"].values()))] if report else []
    width = max((len(name) for name, _ in lines), default=0)
    standing = own.standing if own is not None else "over"
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in lines) or f"run {notice.run}: {standing}"
    emit({"event": "run.over", "run": notice.run, "standing": standing, "report": report}, text, as_json=as_json)


def stop(
    run: RunName = "",
    leave: Annotated[
        bool, typer.Option("--leave", help="Only the node of this machine leaves; the run goes on without it.")
    ] = False,
    config: ConfigFile = None,
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """End a run for all: its members finish the round in hand, and end with one and the same model.

    Any node that takes part can be asked. Below a majority nothing can be decided, and the run ends once there is one.
    """
    import trio

    from prime.trainer.runs.messages import EndRun, LeaveRun

    async def ask(socket: Path) -> tuple[str, bool, RunStatus | None]:
        from prime.node.client import open_runs
        from prime.observe.messages import GetStatus

        async with open_runs(socket) as (status_, runs):
            if leave:
                name, called_off = await runs.ask(LeaveRun(run), timeout=ASK_S), False
            else:
                ending = await runs.ask(EndRun(run), timeout=ASK_S)
                name, called_off = ending.run, ending.called_off
            found = await status_.ask(GetStatus(rounds_after=ROUND_LAST), timeout=ASK_S)
            return name, called_off, found.run

    name, called_off, run_ = trio.run(ask, socket_of(config, node))
    event, stalled = "run.leaving" if leave else "run.ending", run_.stalled if run_ is not None else ""
    result = {"event": event, "run": name, "called_off": called_off, "stalled": stalled}
    emit(result, "\n".join(_stopping(name, run_, leave=leave, called_off=called_off)), as_json=as_json)


def _stopping(name: str, run: RunStatus | None, *, leave: bool, called_off: bool) -> list[str]:
    from prime.cli.words import plain

    if leave:
        return [f"the node leaves {name} once its round in hand is over"]
    if called_off:
        return [f"{name} is called off: it had no round yet"]
    ends = f"{name} ends with the next round that its members decide"
    if run is None:
        return [ends]
    if not run.stalled:
        return [
            f"{ends}; this node has made {min(run.round_step, run.inner_steps):,} of its {run.inner_steps:,} steps for it"
        ]
    kept = "the wish is kept, also when this node is started again; `prime train stop --leave` takes this node out now"
    return [ends, f"nothing is decided now: {plain(run.stalled)}", kept]


def recover(
    new_view: Annotated[
        bool,
        typer.Option(
            "--new-view", help="Found the run's successor on this node alone, from the state that it holds now."
        ),
    ] = False,
    as_new: Annotated[
        str,
        typer.Option("--as-new", metavar="RUN", help="Join that successor as a new member; what is here is set aside."),
    ] = "",
    config: ConfigFile = None,
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """Go on when a majority of a run's members is gone for good; the run then has a new name, and they may join it as new.

    Only you can know that they are gone: to the node a broken network looks the same. If they live and go on, there are
    two runs, which never mix.
    """
    import trio

    from prime.errors import UsageError

    if new_view == bool(as_new):
        raise UsageError(
            "say how to go on", hint="--new-view where the run shall go on, then --as-new RUN on nodes that come back"
        )

    async def ask(socket: Path) -> str:
        from prime.node.client import open_runs
        from prime.trainer.runs.messages import RecoverRun

        async with open_runs(socket) as (_, runs):
            return await runs.ask(RecoverRun(as_new), timeout=ASK_S)

    run = trio.run(ask, socket_of(config, node))
    next_step = "" if as_new else f"; on a node of the old run that comes back: prime train recover --as-new {run}"
    emit({"event": "run.recovering", "run": run}, f"the node goes on in {run}{next_step}", as_json=as_json)


def logs(
    run: RunName = "",
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Print the last N.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come, until Ctrl-C.")] = False,
    config: ConfigFile = None,
    node: Node = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each as a line of JSON.")] = False,
) -> None:
    """Print what happened in a run at the node of this machine: rounds, members, states fetched, failures."""
    import time

    from prime.cli.output import json_line
    from prime.cli.swarm_view import fact_words
    from prime.node.run_files import read_log, read_names

    folder = _folder_of(run, config, node)
    names = read_names(folder, folder.parents[1].name)
    shown: int | None = None
    while True:
        found = list(read_log(folder))
        fresh = found[-last:] if shown is None else found[shown:] if len(found) >= shown else found
        for fact in fresh:
            print(json_line(fact) if as_json else fact_words(fact, names), flush=True)  # noqa: T201 - the result, line by line
        shown = len(found)
        if not follow:
            return
        time.sleep(WATCH_S)


def _folder_of(name: str, config: Path | None, node: str | None) -> Path:
    """Return the folder that a node keeps of a run, also of one that it has forgotten, and where no node runs now."""
    import os

    import trio

    from prime.config import load, places
    from prime.errors import NotFoundError, UsageError
    from prime.trainer.round.names import base_name, lineage
    from prime.trainer.runs.board import found_run

    loaded = load(config, flags={"node.name": node} if node else {})
    folder = places(loaded.config.node, os.environ).state / RUNS
    if not name:
        try:
            _, known = trio.run(ask_runs, socket_of(config, node))
            name = found_run(known, "")
        except NotFoundError:
            pass
    name = lineage(name)[0]  # a successor goes on in its run's folder
    kept = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime) if folder.is_dir() else []
    fitting = [one for one in kept if not name or name in (one.name, base_name(one.name))]
    exact = [one for one in fitting if one.name == name]
    if not fitting:
        names = ", ".join(one.name for one in kept) or "none"
        raise NotFoundError(f"{folder} has no run {name}".rstrip(), hint=f"there are: {names}")
    if name and not exact and len(fitting) > 1:
        several = ", ".join(one.name for one in fitting)
        raise UsageError(f"{len(fitting)} runs fit: {several}", hint="name one of them in full")
    return (exact or fitting)[-1]


RUNS: Final = "runs"


def audit(run: RunName = "", config: ConfigFile = None, node: Node = None, as_json: AsJson = False) -> None:
    """Recompute the last decided round from the contributions that its owners show, and name who made something else.

    The contributions are signed, and their bytes are fetched again from the owners: it takes about as long as a round.
    """
    import attrs
    import trio

    from prime.cli.swarm_view import NAME_SHOWN
    from prime.cli.words import plain
    from prime.errors import CorruptedError
    from prime.trainer.runs.messages import AuditRun, ListRuns, RoundAudit

    async def ask(socket: Path) -> tuple[RoundAudit, RunsKnown]:
        from prime.node.client import open_runs

        async with open_runs(socket) as (_, runs):
            return await runs.ask(AuditRun(run), timeout=AUDIT_S), await runs.ask(ListRuns(), timeout=ASK_S)

    found, known = trio.run(ask, socket_of(config, node))
    members = next((one.members for one in known.runs if one.run == found.run), ())
    names = {member.peer: plain(member.name)[:NAME_SHOWN] for member in members}
    wrong = [finding for finding in found.findings if finding.judgement == "wrong"]
    head = f"round {found.round} of {found.run}, reduced by {found.rule}"
    width = max((len(name) for name in names.values()), default=0)
    lines = [
        f"{_part(each.part):<8}  {each.judgement:<9}  {names.get(each.peer, ''):<{width}}  {each.peer}  {each.reason}".rstrip()
        for each in found.findings
    ]
    emit({"event": "run.audited", **attrs.asdict(found)}, "\n".join([head, *lines]), as_json=as_json)  # type: ignore[arg-type]  # a @record
    if wrong:
        named = ", ".join(sorted({finding.peer for finding in wrong}))
        raise CorruptedError(
            f"round {found.round} of {found.run} is not what its contributions give: {named}",
            hint="keep that member out (admission.deny), and go back to a state from before the round",
        )


def _part(part: int) -> str:
    return "seal" if part < 0 else f"part {part}"


AUDIT_S: Final = 600.0
"""How long an audit may take: all contributions travel once more."""


def beside(app: typer.Typer) -> typer.Typer:
    """Return `prime train` with the commands of this file after its own; `app` itself is left as it is."""
    whole = copy.copy(app)
    whole.registered_commands = list(app.registered_commands)
    for command in (submit, status, watch, stop, logs, recover, audit):
        whole.command()(command)
    return whole
