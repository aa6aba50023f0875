"""`Trainer`: a job, trained by a gang of rank processes. For a script, a notebook, and a program that runs on Trio."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio

from prime.actor import Restart, System
from prime.actor.groups import one_error
from prime.errors import (
    ActorUsageError,
    PrimeError,
    RestartLimitError,
    RunFailedError,
)
from prime.trainer import facts
from prime.trainer.facts import Fact
from prime.trainer.gang import gang as core
from prime.trainer.gang.gathering import First, open_alone, open_first
from prime.trainer.gang.launch import Launch, ranks_of_host
from prime.trainer.gang.lock import sole_trainer
from prime.trainer.gang.messages import AskStop, JoinHost
from prime.trainer.gang.ranks import Ranks, Stop, looked_up, newest_step
from prime.trainer.gang.result import Result, Tally
from prime.trainer.gang.trouble import HOPELESS, Trouble
from prime.trainer.job import Job
from prime.trainer.track import open_tracking
from prime.transport.identity import KeyPair

FACTS_MAX: Final = 10_000
"""Facts that wait for a slow reader; the oldest are left out beyond."""
_GPUS: Final = Path("/proc/driver/nvidia/gpus")

Observer = Callable[[Fact], None]


class Trainer:
    """Trains one job. `run` from a script or a notebook, `await train` from a program on Trio; one at a time.

    With a `launch` (`launch_of(os.environ)`) it is the first host of several, and the others follow it.
    """

    def __init__(self, job: Job, launch: Launch | None = None) -> None:
        if launch is not None and launch.host > 0:
            raise ActorUsageError(
                f"this is host {launch.host} of {launch.hosts}: it follows the first one",
                hint="`await follow(job, launch)` of prime.trainer.gang.follower; `prime train run` chooses by itself",
            )
        self.job = job
        self.launch = launch
        self.folder = job.run_folder.absolute()
        self._observers: dict[object, Observer] = {}
        self._readers: set[Facts] = set()
        self._is_training = False
        self._stop: Callable[[str], None] | None = None
        self._stop_reason = ""

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every fact, in the event loop's thread; returns what ends that. Errors of it end it, too."""
        key = object()
        self._observers[key] = observer

        def unsubscribe() -> None:
            self._observers.pop(key, None)

        return unsubscribe

    def facts(self) -> Facts:
        """Return the facts from now on, for `async for`; they end with the run, also where that is refused."""
        reader = Facts(self.subscribe, self._readers.discard)
        self._readers.add(reader)
        return reader

    def stop(self, reason: str = "the program") -> None:
        """End the run in order, soon: after a step that all ranks agree on, and a checkpoint. From the event loop's thread."""
        self._stop_reason = self._stop_reason or reason
        if self._stop is not None:
            self._stop(reason)

    def run(self) -> Result:
        """Train, and return what came of it. Ctrl-C ends it in order, with a checkpoint; once more, it ends at once.

        Raises what `train` raises, and `KeyboardInterrupt` on the second Ctrl-C.
        """
        if trio.lowlevel.in_trio_run():
            raise ActorUsageError("`run` within a program on Trio", hint="there it is `await trainer.train()`")
        return trio.run(self._run)

    async def train(self, system: System | None = None) -> Result:
        """Train within a program on Trio: as actors of its `system`, or of one of its own.

        Cancelled, all processes are gone when it returns. Starts where the newest whole checkpoint is.

        Raises `ConfigError`, `DataError` and `MissingExtraError` for a job that cannot be trained, `ConflictError` where
        another trainer has the run's folder, `RunFailedError` for an error that comes again at the same step, and
        `RestartLimitError` where ranks are lost again and again.
        """
        if self._is_training:
            raise ActorUsageError("this trainer trains already", hint="make another Trainer, for another run")
        self._is_training = True
        try:
            return await self._train(system)
        finally:
            self._is_training, self._stop, self._stop_reason = False, None, ""
            for reader in tuple(self._readers):
                reader.end()

    async def _train(self, system: System | None) -> Result:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(sole_trainer(self.folder))
            own, first = await stack.enter_async_context(self._open(system))
            tracking = await stack.enter_async_context(open_tracking(self.job, self.folder, [self._observe]))
            run = _Run(self.job, self.folder, world_of(self.job, self.launch), tracking.tell, first)
            self._stop = run.stop
            if self._stop_reason:
                run.stop(self._stop_reason)
            ended = await run.through(own)
        if ended.outcome == "failed":
            raise _error_of(ended)
        return run.tally.result(self.folder)

    @contextlib.asynccontextmanager
    async def _open(self, system: System | None) -> AsyncIterator[tuple[System, First | None]]:
        """Run the system in which the gang lives: with a connection to each other host, where there are several."""
        if self.launch is not None:
            if system is not None:
                raise ActorUsageError(
                    "a run over several hosts has a system of its own", hint="call `train()` without a system"
                )
            async with open_first(self.folder, self.launch, f"/{_name_of(self.job)}/ranks") as opened:
                yield opened
        elif system is not None:
            yield system, None
        else:
            async with open_alone(KeyPair.generate()) as own:
                yield own, None

    def _observe(self, fact: Fact) -> None:
        for key, observer in tuple(self._observers.items()):
            try:
                observer(fact)
            except Exception:
                self._observers.pop(key, None)
                raise

    async def _run(self) -> Result:
        result: Result | None = None
        killed = False
        async with one_error(), trio.open_nursery() as nursery:

            def kill() -> None:
                nonlocal killed
                killed = True
                nursery.cancel_scope.cancel()

            if threading.current_thread() is threading.main_thread():
                await nursery.start(self._heed_signals, kill)
            result = await self.train()
            nursery.cancel_scope.cancel()
        if killed or result is None:
            raise KeyboardInterrupt
        return result

    async def _heed_signals(
        self, kill: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            count = 0
            async for number in signals:
                count += 1
                if count > 1:
                    kill()
                self.stop(signal.Signals(number).name)


class Facts:
    """The facts of a trainer's run, for `async for`. A reader that is far behind misses the oldest."""

    def __init__(self, subscribe: Callable[[Observer], Callable[[], None]], left: Callable[[Facts], None]) -> None:
        self._facts: deque[Fact] = deque(maxlen=FACTS_MAX)
        self._news = trio.Event()
        self._over = False
        self._unsubscribe = subscribe(self._take)
        self._left = left

    def _take(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._news.set()

    def end(self) -> None:
        """Let the loop end, after the facts that wait."""
        self._over = True
        self._news.set()
        self._unsubscribe()
        self._left(self)

    def __aiter__(self) -> Facts:
        return self

    async def __anext__(self) -> Fact:
        await trio.lowlevel.checkpoint()
        while not self._facts:
            if self._over:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        return self._facts.popleft()


class _Run:
    """One call of `train`."""

    def __init__(self, job: Job, folder: Path, world: int, tell: Observer, first: First | None = None) -> None:
        self._job = job
        self._folder = folder
        self._world = world
        self._observer = tell
        self._first = first
        self._ended = trio.Event()
        self._end: core.End | None = None
        self._ranks: object | None = None
        self._stop_reason = ""
        self.tally = Tally()

    def tell(self, fact: Fact) -> None:
        self.tally.take(fact, trio.current_time())
        self._observer(fact)

    def stop(self, reason: str) -> None:
        self._stop_reason = reason
        if self._ranks is not None:
            self._ranks.tell_nowait(Stop(reason))  # type: ignore[attr-defined]

    async def through(self, system: System) -> core.End:
        resumed = max(0, await looked_up(newest_step, self._folder))
        self.tally.began_s = trio.current_time()
        job = self._job
        self.tell(
            facts.RunBegan(
                name=job.name,
                folder=str(self._folder),
                steps=job.steps,
                batch_size=job.batch_size,
                world=self._world,
                spares=job.supervision.spares,
                codec=job.compression.codec,
                resumed_step=resumed,
            )
        )
        try:
            return await self._supervise(system)
        except Exception as error:
            if self._end is None:  # not the gang ended the run, but what kept the gang from working
                self._tell_end(core.End("failed", 0), self.tally.losses, error)
            raise
        except BaseException:
            if self._end is None:  # it was cancelled
                self._tell_end(core.End("stopped", 0), self.tally.losses)
            raise

    async def _supervise(self, system: System) -> core.End:
        name = _name_of(self._job)
        async with (
            system.supervisor(name, restart=Restart(max=0, hopeless=(Exception,))) as sup,
            system.supervisor(f"{name}-members", restart=Restart(max=0)) as members,
        ):
            self._ranks = await sup.spawn(
                lambda: Ranks(self._job, self._folder, self._world, members, self.tell, self._over, self._first),
                "ranks",
                kind="transient",
                remote=() if self._first is None else (JoinHost, AskStop),
            )
            if self._stop_reason:
                self.stop(self._stop_reason)
            await self._ended.wait()
        assert self._end is not None  # noqa: S101 - a pair with `_over`
        return self._end

    def _over(self, end: core.End, restarts: int) -> None:
        self._end = end
        self._tell_end(end, restarts, _error_of(end) if end.outcome == "failed" else None)
        self._ended.set()

    def _tell_end(self, end: core.End, restarts: int, error: Exception | None = None) -> None:
        tally = self.tally
        self.tell(
            facts.RunEnded(
                outcome=end.outcome,
                step=tally.checkpoint_step or 0,
                loss=tally.loss,
                held_out=tally.held_out,
                restarts=restarts,
                elapsed_s=trio.current_time() - tally.began_s,
                checkpoint_step=tally.checkpoint_step,
                error="" if error is None else str(error),
                hint=error.hint if isinstance(error, PrimeError) else "",
            )
        )


def _name_of(job: Job) -> str:
    return f"run-{job.name}"


def world_of(job: Job, launch: Launch | None = None) -> int:
    """Return how many ranks a job has: where it says `auto`, one for each GPU, or one without, of each host."""
    ranks = job.parallel.ranks
    if launch is not None:
        each = ranks_of_host(ranks, launch.hosts, one_each=launch.one_each, here=_devices_of(job))
        return each * launch.hosts
    return ranks if isinstance(ranks, int) else _devices_of(job)


def _devices_of(job: Job) -> int:
    if job.parallel.device == "cpu" or "+cpu" in _torch_version():
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([each for each in visible.split(",") if each.strip() not in ("", "-1")]))
    return max(1, len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 1)


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _error_of(end: core.End) -> PrimeError:
    """Return the error of a run that failed."""
    trouble = end.trouble
    if end.exhausted:
        return RestartLimitError(
            f"too many ranks were lost without a new checkpoint between: {end.text}", hint=_hint(trouble, _HINT_AGAIN)
        )
    if trouble is None:
        return RunFailedError(end.text, hint=_HINT_AGAIN)
    if trouble.hopeless and trouble.kind in HOPELESS:
        return HOPELESS[trouble.kind](trouble.text, hint=trouble.hint)
    return RunFailedError(f"{end.text}\n{trouble.trace}".rstrip(), hint=_hint(trouble, _HINT_BUG))


_HINT_AGAIN: Final = "look at the last losses in events.jsonl; `prime train run` goes on from the newest checkpoint"
_HINT_BUG: Final = "mend that line; the run goes on from its newest checkpoint"


def _hint(trouble: Trouble | None, otherwise: str) -> str:
    return trouble.hint if trouble is not None and trouble.hint else otherwise
