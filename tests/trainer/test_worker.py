"""The worker process by itself: when it ends, and that it answers nothing it should not. None of it loads torch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from prime.trainer import pipe
from prime.trainer.worker import TEXT_MAX, TRACE_MAX, failure
from prime.wire import dumps, from_plain, loads, to_plain
from prime.wire.frame import FrameParser, pack

WAIT_S = 30  # a busy machine; what is meant is at once


class Started:
    """A worker process and the test's end of its socket."""

    def __init__(self, parent: int) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WAIT_S)
        command = [sys.executable, "-m", "prime.trainer.worker", "--fd", str(theirs.fileno()), "--parent", str(parent)]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        self.parser = FrameParser()

    def send(self, message: object) -> None:
        payloads: list[memoryview] = []
        for piece in pack(dumps(to_plain(message, payloads)), payloads):
            self.socket.sendall(piece)

    def receive(self) -> object:
        while (frame := self.parser.next()) is None:
            data = self.socket.recv(65536)
            assert data, "the worker closed the socket"
            self.parser.feed(data)
        return from_plain(loads(frame.header), frame.payloads)

    def answer(self) -> object:
        while isinstance(found := self.receive(), pipe.Alive):
            pass
        return found

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def started() -> Iterator[Started]:
    worker = Started(os.getpid())
    try:
        yield worker
    finally:
        worker.close()


def test_it_gives_signs_of_life_and_ends_with_its_socket(started: Started) -> None:
    assert started.receive() == pipe.Alive(0)
    assert started.receive() == pipe.Alive(0)
    started.socket.close()
    assert started.process.wait(WAIT_S) == 0


def test_an_interrupt_from_the_terminal_is_the_nodes_affair(started: Started) -> None:
    started.receive()
    started.process.send_signal(signal.SIGINT)
    assert started.receive() == pipe.Alive(0)
    assert started.receive() == pipe.Alive(0)


def test_questions_before_it_is_set_up_are_refused(started: Started) -> None:
    for question in (pipe.GetInitial(), pipe.Train(1)):
        started.send(question)
        answer = started.answer()
        assert isinstance(answer, pipe.Failed)
        assert answer.code == "RunFailedError"
        assert "before it was set up" in answer.text


def test_bytes_that_are_no_message_end_it_with_the_reason(started: Started) -> None:
    started.receive()
    started.socket.sendall(b"\0\0\0\1\0\0\xff")
    assert started.process.wait(WAIT_S) == 1
    assert started.process.stdout is not None
    assert b"DecodeError" in started.process.stdout.read()


def test_one_whose_parent_is_gone_already_ends_at_once() -> None:
    worker = Started(parent=1 if os.getpid() != 1 else 2)
    try:
        assert worker.process.wait(WAIT_S) == 0
    finally:
        worker.close()


def test_a_failure_is_bounded_and_can_always_be_sent() -> None:
    class UglyError(Exception):
        pass

    try:
        raise UglyError("\ud800" + "x" * 100_000)
    except UglyError as error:
        failed = failure(error)
    assert failed.code == "UglyError"
    assert len(failed.text) <= TEXT_MAX
    assert len(failed.trace) <= TRACE_MAX
    assert from_plain(loads(dumps(to_plain(failed, [])))) == failed
