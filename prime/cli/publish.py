"""`prime model push`, `pull`, `shared` and `withdraw`: models published under a name, and fetched from whoever has them.

They go through the node on this machine, over its control socket; `--node` says which one. What is under way goes on in the
node, and this program shows it; Ctrl-C stops it, and what is here of it is kept.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson, ConfigFile, Node
from prime.cli.output import console, emit, json_line
from prime.cli.words import many, plain
from prime.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prime.trainer.publish.card import ModelCard
    from prime.trainer.publish.messages import ModelsShared, PullModel, PushModel, SharedModel, TransferShown

EXPORTS: Final = "exports"
"""The folder beside a run's checkpoints that pushed models are exported to, and served from."""
POLL_S: Final = 0.2
JSON_EVERY_S: Final = 1.0
ASK_S: Final = 10.0
STILL_S: Final = 60.0
"""How long the node may stand still, as it does while it compiles, before it is given up."""
STOP_S: Final = 5.0

Progress = Annotated[bool, typer.Option("--json", help="Print progress and the result as lines of JSON.")]


def push(
    what: Annotated[
        str,
        typer.Argument(metavar="FILE|RUN|FOLDER", help="A safetensors file, or a run whose checkpoint is exported."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name; else the file's or the run's.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=0, metavar="N", help="Of a run: the step; else the newest whole one.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="TEXT", help="Its licence: a name such as Apache-2.0, or a short text.")
    ] = "",
    config: ConfigFile = None,
    node: Node = None,
    as_json: Progress = False,
) -> None:
    """Let others fetch a model, and publish it under a name of this node: PEER/NAME.

    The file stays where it is and is served from there, each piece checked as it is read: do not change it, push it again.
    """
    from prime.cli.node import socket_of
    from prime.dht.name import salt_of

    socket = socket_of(config, node)
    _check_node(socket)
    if name is not None:
        salt_of(name)
    order = push_order(what, name, step, licence)
    shown = _carried_out(socket, order, as_json=as_json)
    card = _card(shown)
    result = {
        "event": "model.pushed",
        "name": card.name,
        "content": shown.content,
        "file": shown.file,
        "holders": shown.holders,
        "asked": shown.asked,
        **_about(card),
    }
    emit(result, "\n".join(_pushed(shown, card)), as_json=as_json)


def push_order(what: str, name: str | None, step: int | None, licence: str) -> PushModel:
    """Return the order to push a file, or a run's checkpoint, which is exported first.

    Raises `UsageError`, `NotFoundError`, `DataError` for what is no model, and as `Checkpoints.export`.
    """
    from prime.trainer.publish.card import LICENCE_MAX
    from prime.trainer.publish.header import read_layout
    from prime.trainer.publish.messages import PushModel
    from prime.trainer.publish.publishing import origin_beside

    if len(licence) > LICENCE_MAX:
        raise UsageError(
            f"a licence of {len(licence):,} characters, where {LICENCE_MAX:,} are allowed",
            hint="name it, as SPDX does: --licence Apache-2.0",
        )
    file = Path(what)
    if file.suffix == ".safetensors" or _is_file(file):
        if step is not None:
            raise UsageError("--step is of a run's checkpoints", hint="name the run, or leave --step away")
        if not _is_file(file):
            raise NotFoundError(f"{what}: no such file", hint="name a safetensors file, a run, or a run's folder")
        default = file.stem
    else:
        file, default = _exported(what, step)
    read_layout(file, name or default)  # what is no model is told before anything is begun
    told = origin_beside(file)
    return PushModel(
        str(file.absolute()), name or default, told.run, told.step, told.round, told.loss, licence or told.licence
    )


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file; there is none where the disk refuses to look."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_place(path: Path) -> bool:
    """Tell whether a file is there, or could be."""
    try:
        return (path.is_file() or not path.exists()) and path.absolute().parent.is_dir()
    except OSError:
        return False


def _exported(run: str, step: int | None) -> tuple[Path, str]:
    """Write a checkpoint's model to a file of its own, which stays; return it and the run's name."""
    from prime.cli.model import exported, of

    checkpoints = of(run)
    chosen = checkpoints.at(step).step
    folder = checkpoints.folder.absolute().parent
    (folder / EXPORTS).mkdir(mode=0o700, exist_ok=True)
    file = folder / EXPORTS / f"step-{chosen}.safetensors"
    exported(checkpoints, chosen, file)
    return file, folder.name


def pull(
    what: Annotated[
        str, typer.Argument(metavar="PEER/NAME|CID", help="A model's name, a name of this node's own, or a content id.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where to write the model.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    config: ConfigFile = None,
    node: Node = None,
    as_json: Progress = False,
) -> None:
    """Fetch a model from all who have it, each piece checked; it goes on where it was when it is called again.

    It is FILE.part until it is whole. From then on this node provides it, too.
    """
    from prime.cli.node import socket_of
    from prime.dht.blob.content import is_content
    from prime.dht.name import split_name
    from prime.trainer.publish.messages import PullModel

    if not is_content(what):
        split_name(what)
    if not _is_place(to):
        raise UsageError(f"{to} is no place for a file", hint="name a file in a folder that is there")
    socket = socket_of(config, node)
    _check_node(socket)
    order = PullModel(what, str(to.absolute()), overwrite)
    shown = _carried_out(socket, order, as_json=as_json)
    result = {
        "event": "model.pulled",
        "content": shown.content,
        "file": shown.file,
        "size_bytes": shown.size_bytes,
        "fetched_bytes": _fetched(shown),
        "providers": dict(shown.sent),
        **({} if shown.card is None else {"name": shown.card.name, **_about(shown.card)}),
    }
    emit(result, "\n".join(_pulled(shown)), as_json=as_json)


def shared(config: ConfigFile = None, node: Node = None, as_json: AsJson = False) -> None:
    """List what others can fetch from the node of this machine: models that were pushed, and those that it fetched."""
    import attrs

    from prime.cli.model import size
    from prime.cli.node import socket_of
    from prime.trainer.publish.messages import ListShared

    found: ModelsShared = _asked(socket_of(config, node), ListShared())
    lines = [
        f"{plain(one.name) or '-'}  {size(one.size_bytes)}  {one.content}  {one.file}"
        + ("" if one.is_whole else "  not whole")
        for one in found.models
    ]
    models = [attrs.asdict(one) for one in found.models]  # type: ignore[arg-type]  # a @record is an attrs class
    emit({"peer": found.peer, "models": models}, "\n".join(lines) or "nothing yet", as_json=as_json)


def withdraw(
    what: Annotated[str, typer.Argument(metavar="NAME|CID", help="A model of this node, or a content id that it has.")],
    config: ConfigFile = None,
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """Let others fetch a model from this node no more, and take its name back. The file stays; so does what others have."""
    from prime.cli.node import socket_of
    from prime.trainer.publish.messages import WithdrawModel

    gone: SharedModel = _asked(socket_of(config, node), WithdrawModel(what))
    result = {"event": "model.withdrawn", "name": gone.name, "content": gone.content, "file": gone.file}
    stays = f"; {gone.file} stays" if gone.is_whole else ""
    emit(result, f"{plain(gone.name) or gone.content} is shared no more{stays}", as_json=as_json)


def _asked(socket: Path, order: Any) -> Any:
    import trio

    from prime.node.client import open_models_of

    async def ask() -> Any:
        async with open_models_of(socket) as models:
            return await models.ask(order, timeout=STILL_S)

    return trio.run(ask)


def _check_node(socket: Path) -> None:
    from prime.node.client import no_node

    if not socket.exists():
        raise no_node(socket)


# ------------------------------------------------------------------------------------------------- what is under way


def _carried_out(socket: Path, order: PushModel | PullModel, *, as_json: bool) -> TransferShown:
    import trio

    with _lines() if as_json else _bar() as show:
        return trio.run(functools.partial(_transfer, socket, order, show))


async def _transfer(socket: Path, order: PushModel | PullModel, show: Callable[[TransferShown], None]) -> TransferShown:
    import trio

    from prime.node.client import open_models_of
    from prime.trainer.publish.messages import ShowTransfer, StopTransfer

    async with open_models_of(socket) as models:
        shown: TransferShown = await models.ask(order, timeout=ASK_S)
        try:
            while shown.phase != "done":
                show(shown)
                await trio.sleep(POLL_S)
                shown = await models.ask(ShowTransfer(shown.number), timeout=STILL_S)
        except (KeyboardInterrupt, trio.Cancelled):
            with trio.CancelScope(shield=True), contextlib.suppress(Exception):
                await models.ask(StopTransfer(shown.number), timeout=STOP_S)
            raise
    return shown


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[TransferShown], None]]:
    """Show progress on a terminal, and nothing elsewhere."""
    screen = console(error=True)
    if not screen.is_terminal or screen.is_dumb_terminal or os.environ.get("NO_COLOR"):
        yield lambda _: None
        return
    from rich.progress import (  # fmt: skip
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=screen, redirect_stdout=sys.stdout.isatty(), transient=True) as bars:
        task = bars.add_task("", total=None)

        def show(shown: TransferShown) -> None:
            words = shown.phase if not shown.sent else f"{shown.phase} from {many(len(shown.sent), 'provider')}"
            bars.update(task, description=words, total=shown.size_bytes or None, completed=shown.here_bytes)

        yield show


@contextlib.contextmanager
def _lines() -> Iterator[Callable[[TransferShown], None]]:
    """Print a line of JSON a second, and one whenever the phase changes."""
    import time

    last: tuple[str, float] = ("", 0.0)

    def show(shown: TransferShown) -> None:
        nonlocal last
        if shown.phase == last[0] and time.monotonic() - last[1] < JSON_EVERY_S:
            return
        last = (shown.phase, time.monotonic())
        event: dict[str, Any] = {
            "event": "model.progress",
            "phase": shown.phase,
            "content": shown.content,
            "size_bytes": shown.size_bytes,
            "here_bytes": shown.here_bytes,
            "providers": dict(shown.sent),
        }
        print(json_line(event), flush=True)  # noqa: T201 - the result, line by line

    yield show


# ------------------------------------------------------------------------------------------------------ what it was


def _card(shown: TransferShown) -> ModelCard:
    from prime.errors import PrimeInternalError

    if shown.card is None:
        raise PrimeInternalError("a model was pushed without a card")
    return shown.card


def _about(card: ModelCard) -> dict[str, Any]:
    return {
        "format": card.format,
        "dtype": card.dtype,
        "parameters": card.parameters,
        "tensors": card.tensors,
        "layout_hash": card.layout_hash,
        "size_bytes": card.size_bytes,
        "run": card.run,
        "step": card.step if card.step >= 0 else None,
        "round": card.round if card.round >= 0 else None,
        "loss": card.loss,
        "licence": card.licence,
    }


def _described(card: ModelCard) -> str:
    from prime.cli.model import size

    parts = [f"{card.parameters:,} numbers in {many(card.tensors, 'tensor')}", plain(card.dtype), size(card.size_bytes)]
    parts += [f"run {plain(card.run)}"] if card.run else []
    parts += [f"step {card.step}"] if card.step >= 0 else []
    parts += [f"round {card.round}"] if card.round >= 0 else []
    parts += [f"loss {card.loss:.4f}"] if card.loss is not None else []
    parts += [plain(card.licence.splitlines()[0][:60])] if card.licence else []
    return ", ".join(parts)


def _pushed(shown: TransferShown, card: ModelCard) -> Iterator[str]:
    yield f"{plain(card.name)}: {_described(card)}"
    yield f"  content  {shown.content}"
    yield f"  name     held by {shown.holders} of {many(shown.asked, 'peer')}"
    yield f"  fetch it with: prime model pull {shown.publisher}/{card.name} --to {card.name}.safetensors"


def _pulled(shown: TransferShown) -> Iterator[str]:
    from prime.cli.model import size

    if shown.card is not None:
        yield f"{plain(shown.card.name)}: {_described(shown.card)}"
    fetched = _fetched(shown)
    kept = shown.size_bytes - fetched
    parts = [f"{size(fetched)} from {many(len(shown.sent), 'provider')}"] if fetched or not kept else []
    parts += [f"{size(kept)} were here"] if kept else []
    yield f"{shown.file}: {' and '.join(parts)}, every byte checked"


def _fetched(shown: TransferShown) -> int:
    return max(0, shown.size_bytes - shown.kept_bytes) if shown.sent else 0


def beside(app: typer.Typer) -> typer.Typer:
    """Return `prime model` with the commands of this file before its own; `app` itself is left as it is."""
    whole = copy.copy(app)
    whole.registered_commands = []
    for command in (push, pull, shared, withdraw):
        whole.command()(command)
    whole.registered_commands += app.registered_commands
    return whole
