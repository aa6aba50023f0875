"""`prime demo`: a swarm on this machine trains a language model, loses a node in the middle, and gets it back."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson

if TYPE_CHECKING:
    from prime.node.demo import Demo, DemoOptions

NODE_BYTES: Final = 700 * 2**20
"""What a node takes with its worker: torch, libp2p and numba loaded twice over."""


INNER_STEPS: Final = 15
KILL_ROUNDS_MIN: Final = 4
"""With fewer rounds a killed node could not come back before the end."""
BATCH_SIZE: Final = 8
CONTEXT: Final = 64


class Over(enum.StrEnum):
    """The transports that the demo runs over."""

    libp2p = "libp2p"
    tcp = "tcp"


def demo(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=32, help="Nodes, each two processes.")] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, help="Rounds between the nodes.")] = 14,
    transport: Annotated[
        Over | None, typer.Option("--transport", help="How the nodes talk; without it the best one installed.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Train on this text file or folder, not the standard library's text.")
    ] = None,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill one node with SIGKILL in the middle.")] = True,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the curves into FILE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a small language model on three nodes on this machine, kill one a third of the way, and watch it come back. About a minute."""
    import contextlib
    import functools

    import trio

    from prime.cli.demo_view import Screen, json_events, summary
    from prime.cli.output import emit, say
    from prime.node.demo import run_demo

    options = _options(nodes, rounds, transport, data, kill=kill)
    _check(options, plot)
    settings = _settings(options)
    if not as_json:
        say(_first_line(options, transport, asked_to_kill=kill))
    watcher: Any = json_events if as_json else Screen()
    with contextlib.nullcontext() if as_json else watcher:
        ended: Demo = trio.run(functools.partial(run_demo, options, settings, watcher))
    if plot is not None:
        from prime.cli.demo_plot import draw

        draw(ended, plot)
        say(f"curves: {plot}")
    result = ended.result()
    emit(result, summary(ended), as_json=as_json)
    good = result["identical"] and (result["rejoined"] or not options.kill)
    raise typer.Exit(0 if good else 8)


def _options(nodes: int, rounds: int, transport: Over | None, data: Path | None, *, kill: bool) -> DemoOptions:
    from prime.node.demo import DemoOptions
    from prime.node.run import best_transport

    return DemoOptions(
        nodes=nodes,
        rounds=rounds,
        transport=transport.value if transport is not None else best_transport(),
        data=str(data.absolute()) if data is not None else "",
        kill=kill and nodes > 2 and rounds >= KILL_ROUNDS_MIN,
        inner_steps=INNER_STEPS,
    )


def _settings(options: DemoOptions) -> dict[str, Any]:
    """Return the configuration that the demo's nodes share: a short run, so plain averaging and a fast clock."""
    return {
        "transport.kind": options.transport,
        "transport.listen": "/ip4/127.0.0.1/tcp/0",
        "train.run": "demo",
        "train.nodes_min": options.nodes,
        "train.rounds": options.rounds,
        "train.contributors_final_min": options.nodes if options.kill else 0,
        "train.inner_steps": options.inner_steps,
        "train.batch_size": BATCH_SIZE,
        "train.context": CONTEXT,
        "train.warmup_steps": 10,
        "train.learning_rate": 1.5e-3,
        "train.outer_optimiser": "average",
        "train.round_deadline_s": 60,
        "train.data": options.data,
        "train.seed": options.seed,
        "log.level": "info",
    }


def _check(options: DemoOptions, plot: Path | None) -> None:
    """Refuse before anything is started: a missing extra, data that cannot be used, too little memory."""
    import importlib.util

    from prime.cli.machine import free_memory_bytes
    from prime.errors import MissingExtraError, UsageError

    for module, extra in (("torch", "train"), ("numpy", "train"), (options.transport, options.transport)):
        if module != "tcp" and importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"the demo needs {module}", hint=f"pip install 'prime-actors[{extra}]'")
    if options.data:
        from prime.trainer.data.names import open_dataset
        from prime.trainer.metadata import TrainingConfig

        open_dataset(TrainingConfig(data=options.data, context=CONTEXT, batch_size=BATCH_SIZE))
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot: there is no folder {plot.absolute().parent}", hint="make it, or name another file")
    free, needed = free_memory_bytes(), options.nodes * NODE_BYTES
    if free is not None and free < needed:
        raise UsageError(
            f"{options.nodes} nodes need about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            hint=f"end other programs, or run fewer: prime demo --nodes {max(free // NODE_BYTES, 1)}",
        )


def _first_line(options: DemoOptions, asked: Over | None, *, asked_to_kill: bool) -> str:
    why = "as asked" if asked is not None else "the best one installed"
    line = f"{options.nodes} nodes on this machine, over {options.transport} ({why})"
    if asked_to_kill and options.nodes < 3:
        line += "; none is killed: below three nodes nothing is committed while one is gone"
    elif asked_to_kill and not options.kill:
        line += f"; none is killed: that takes at least {KILL_ROUNDS_MIN} rounds"
    return line
