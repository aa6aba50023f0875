"""No orphans: however a parent dies, and whatever its child does at that moment, the child is gone soon after."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PARENT = FOLDER / "process_parent.py"
START_S = 30
GONE_S = 10
"""For a busy machine; what is meant is a few milliseconds."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_gone(pid: int) -> bool:
    """Wait for the end of a process that is no child of ours: the kernel gives no event for it here."""
    end = time.monotonic() + GONE_S
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not _runs(pid)


@contextmanager
def _parent(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER.parents[1]), str(FOLDER)])}
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=FOLDER
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def _child_of(parent: subprocess.Popen[str]) -> int:
    assert parent.stdout is not None
    return int(parent.stdout.readline())


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_child_goes_with_its_killed_parent(stopped: bool) -> None:
    with _parent(str(PARENT)) as parent:
        child = _child_of(parent)
        if stopped:
            os.kill(child, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        assert _is_gone(child)


def test_a_child_outlives_the_interrupt_of_a_terminal_and_goes_in_order_with_its_parent() -> None:
    with _parent(str(PARENT)) as parent:
        child = _child_of(parent)
        os.kill(child, signal.SIGINT)
        assert _runs(child)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(START_S) != 0
        assert not _runs(child)


@pytest.mark.parametrize("arguments", [("-m", "process_parent"), (str(PARENT), "__main__:Here")], ids=["-m", "script"])
def test_an_actor_of_the_program_itself_is_found_again_in_the_child(arguments: tuple[str, ...]) -> None:
    with _parent(*arguments) as parent:
        assert _child_of(parent) != parent.pid


def test_an_actor_typed_at_a_prompt_is_refused_in_words() -> None:
    program = PARENT.read_text()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
    )
    assert "cannot live in another process" in done.stderr


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [deeper for child in children for deeper in _descendants(child)]


def _is_bound(pid: int) -> bool:
    """Tell whether a child has set its death signal: it does so before it imports Trio, which loads `_socket`."""
    try:
        return "_socket" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_at(moment_s: float, *, stop: bool) -> None:
    with _parent(str(PARENT)) as parent:
        time.sleep(moment_s)  # what happens at that moment is the point, and it is any
        children = _descendants(parent.pid)
        if stop:
            for child in filter(_is_bound, children):
                os.kill(child, signal.SIGSTOP)
        children += _descendants(parent.pid)
        parent.kill()
        parent.wait()
        assert all(_is_gone(child) for child in children), moment_s


def test_a_parent_killed_at_any_moment_leaves_nothing() -> None:
    moments = random.Random(7)
    for _round in range(3):
        _kill_at(moments.uniform(0.1, 0.9), stop=moments.random() < 0.5)


@pytest.mark.nightly
def test_a_parent_killed_at_many_moments_leaves_nothing() -> None:
    moments = random.Random(11)
    for _round in range(60):
        _kill_at(moments.uniform(0.05, 1.2), stop=moments.random() < 0.5)


@pytest.mark.nightly
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_an_old_child_goes_with_its_killed_parent(stopped: bool) -> None:
    """Trio ends an idle worker thread after ten seconds: a child that one of those had started would die with it."""
    with _parent(str(PARENT)) as parent:
        child = _child_of(parent)
        time.sleep(32)
        assert _runs(child)
        if stopped:
            os.kill(child, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        assert _is_gone(child)
