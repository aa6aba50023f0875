"""`prime bench`: what this machine and its links can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from prime.cli.bench_link import link
from prime.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prime.trainer.collective.race import Race

app = typer.Typer(no_args_is_help=True, help="Measure what this machine and its links can do.")

RANKS_MAX: Final = 64
DEADLINE_S: Final = 600.0
"""How long local ranks may take, all together."""
POLL_S: Final = 0.1


app.command()(link)


@app.command()
def allreduce(
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=RANKS_MAX, help="Processes to start here.")] = 2,
    elements: Annotated[
        int, typer.Option("--elements", min=0, max=10**10, help="float32 values to reduce.")
    ] = 25_000_000,
    codec: Annotated[str, typer.Option("--codec", help="int8, int4, fp8, fp16 or none.")] = "int8",
    pairs: Annotated[int, typer.Option("--pairs", min=1, max=1000, help="Times each way, in turns.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Reduce a vector among ranks, compressed and exactly, in turns: seconds, bytes, error, and whether all hold the same bits.

    The ranks are processes on this machine; or, where torchrun started this command, its own: `torchrun --nproc-per-node 2
    --no-python prime bench allreduce`.
    """
    from importlib.util import find_spec

    from prime.errors import MissingExtraError
    from prime.trainer.codec.form import form

    form(codec)
    if find_spec("torch") is None:
        raise MissingExtraError("an all-reduce needs torch", hint="pip install 'prime-actors[train]'")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _be_a_rank(elements, codec, pairs, as_json=as_json)
    else:
        options = ["--elements", str(elements), "--codec", codec, "--pairs", str(pairs)]
        raise typer.Exit(_start_ranks(ranks, [*options, *(["--json"] if as_json else [])]))


def _be_a_rank(elements: int, codec: str, pairs: int, *, as_json: bool) -> None:
    import attrs

    from prime.cli.output import emit
    from prime.trainer.collective.race import race_by_environment

    found = race_by_environment(elements, codec, pairs)
    if os.environ["RANK"] == "0":
        emit(attrs.asdict(found), _in_words(found), as_json=as_json)


def _in_words(found: Race) -> str:
    return "\n".join(
        [
            f"{found.elements:,} float32 values over {found.world} ranks, {found.codec}, {found.pairs} times each way",
            f"seconds    {found.seconds:.4g} against {found.exact_seconds:.4g} exactly: {found.ratio:.2f} times as fast",
            f"bytes      {found.bytes_sent:,} sent by a rank against {found.bytes_exact:,}",
            f"error      {found.relative_error:.2g} relative",
            f"identical  {'yes' if found.identical else 'NO: the ranks hold different bits'}",
        ]
    )


def _start_ranks(ranks: int, options: Sequence[str]) -> int:
    """Run this command once for each rank; return the first status that is not 0. None of them outlives this one."""
    import subprocess
    import sys
    import time

    from prime.errors import DeadlineError

    program = [sys.executable, "-m", "prime", "bench", "allreduce", *options]
    loopback = "lo" if sys.platform == "linux" else "lo0"
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    place["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", loopback)
    started = [
        subprocess.Popen(program, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)})  # noqa: S603 - ourselves
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + DEADLINE_S
    try:
        while any(each.poll() is None for each in started):
            if status := next((each.returncode for each in started if each.returncode), 0):
                return status if status > 0 else 8
            if time.monotonic() > deadline:
                raise DeadlineError(f"the ranks took more than {DEADLINE_S:g} s", hint="reduce --elements or --pairs")
            time.sleep(POLL_S)
    finally:
        for each in started:
            each.kill()
            each.wait()
    return next((each.returncode for each in started if each.returncode), 0)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
