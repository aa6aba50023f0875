"""Other actor systems, each as its own documents would have it used. All are optional."""

from __future__ import annotations

import asyncio  # noqa: TID251 - xoscar runs on it
import contextlib
import importlib
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _blocks import BLOCK_S, Block, MissingError, Opening, rate, rate_sync
from _ours import ASKS, BATCH

HERE = Path(__file__).resolve().parent
ANSWER_S = 60


def needed(module: str, install: str = "") -> Any:
    """Import a peer, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(f"{module} is not here (pip install {install or module})") from error


# --------------------------------------------------------------------------------------------------------------- pykka


@contextlib.contextmanager
def _pykka_actor() -> Iterator[Any]:
    pykka = needed("pykka")

    class Echo(pykka.ThreadingActor):  # type: ignore[misc, name-defined]
        def on_receive(self, message: Any) -> Any:
            return message

    ref = Echo.start()
    try:
        yield ref
    finally:
        ref.stop()


@contextlib.contextmanager
def pykka_tell() -> Iterator[Block]:
    """Tell a ThreadingActor; an ask at the end of a batch says that it is through."""
    with _pykka_actor() as ref:

        def batch() -> None:
            for _ in range(BATCH):
                ref.tell(1)
            ref.ask(1)

        yield lambda: rate_sync(batch, BATCH)


@contextlib.contextmanager
def pykka_ask() -> Iterator[Block]:
    """Ask a ThreadingActor."""
    with _pykka_actor() as ref:

        def batch() -> None:
            for _ in range(ASKS):
                ref.ask(1, timeout=1)

        yield lambda: rate_sync(batch, ASKS)


# -------------------------------------------------------------------------------------------------------------- xoscar


def xoscar_ask(*, processes: int, in_flight: int) -> Opening:
    """Ask an actor in a pool of this process alone (0), or in a pool's other process (1). Uses uvloop if it is here."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        xoscar = needed("xoscar")
        with asyncio.Runner(loop_factory=_quickest_loop()) as runner:
            echo = importlib.import_module("_xoscar_echo").Echo
            pool = runner.run(xoscar.create_actor_pool("127.0.0.1", n_process=processes, auto_recover=False))
            try:
                where = {"allocate_strategy": xoscar.allocate_strategy.ProcessIndex(processes)}
                ref = runner.run(xoscar.create_actor(echo, address=pool.external_address, uid="echo", **where))
                yield lambda: runner.run(_asked(ref, in_flight))
            finally:
                runner.run(pool.stop())

    return opened


async def _asked(ref: Any, in_flight: int) -> float:
    async def asker() -> None:
        for _ in range(ASKS):
            await ref.ask(1)

    async def batch() -> None:
        await asyncio.gather(*(asker() for _ in range(in_flight)))

    return await rate(batch, ASKS * in_flight)


def _quickest_loop() -> Any:
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None


# ------------------------------------------------------------------------------------------------------------ thespian


def thespian_ask(system_base: str) -> Opening:
    """Ask an actor; `simpleSystemBase` runs it inside the call, the multiproc ones in a process of its own."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        actors = needed("thespian.actors", "thespian")
        system = actors.ActorSystem(system_base)
        try:
            ref = system.createActor("_thespian_echo.Echo")

            def batch() -> None:
                for _ in range(ASKS):
                    assert system.ask(ref, 1, ANSWER_S) == 1

            yield lambda: rate_sync(batch, ASKS)
        finally:
            system.shutdown()

    return opened


# ----------------------------------------------------------------------------------------------------------------- Ray


def ray_ask(in_flight: int = 1) -> Opening:
    """Ask an actor, which Ray always puts into another process."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        ray = needed("ray")
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:

            class Echo:
                def ask(self, number: int) -> int:
                    return number

            ref = ray.remote(Echo).remote()

            def batch() -> None:
                flying = [ref.ask.remote(1) for _ in range(in_flight)]
                for _ in range(ASKS * in_flight):  # one more leaves for each that has come, as with so many askers
                    ready, flying = ray.wait(flying, timeout=ANSWER_S)
                    ray.get(ready)
                    flying.append(ref.ask.remote(1))
                ray.get(flying, timeout=ANSWER_S)

            yield lambda: rate_sync(batch, (ASKS + 1) * in_flight)
        finally:
            ray.shutdown()

    return opened


# -------------------------------------------------------------------------------------------------------------- Erlang


def erlang(what: str) -> Opening:
    """Tell or ask a process of one Erlang node."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        escript = shutil.which("escript")
        if escript is None:
            raise MissingError("escript is not here (apt install erlang-base)")
        arguments = [escript, str(HERE / "_echo.escript"), what, str(round(BLOCK_S * 1000))]

        def block() -> float:
            ended = subprocess.run(arguments, capture_output=True, text=True, timeout=ANSWER_S, check=True)
            return float(ended.stdout)

        yield block

    return opened


# ------------------------------------------------------------------------------------------------------------- Monarch


def monarch_ask(in_flight: int = 1) -> Opening:
    """Ask an actor in a process that Monarch starts."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        monarch = needed("monarch.actor", "torchmonarch")
        mesh = monarch.this_host().spawn_procs(per_host={"processes": 1})
        try:
            ref = mesh.spawn("echo", importlib.import_module("_monarch_echo").Echo)

            def batch() -> None:
                flying = deque(ref.ask.call_one(1) for _ in range(in_flight))
                for _ in range(ASKS * in_flight):
                    flying.popleft().get(timeout=ANSWER_S)
                    flying.append(ref.ask.call_one(1))
                for each in flying:
                    each.get(timeout=ANSWER_S)

            yield lambda: rate_sync(batch, (ASKS + 1) * in_flight)
        finally:
            mesh.stop().get(timeout=ANSWER_S)

    return opened
