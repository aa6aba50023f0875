"""Journal records as bytes: one frame each, so that the bytes of a value's parts lie beside their record (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from prime.errors import CorruptedError, DecodeError
from prime.trainer.round import messages as msg
from prime.wire import Limits, dumps, from_plain, loads, to_plain
from prime.wire.frame import FrameParser, pack

_LIMITS = Limits(payload_size_bytes_max=2**32 - 1, payload_count_max=2**16 - 1, frame_size_bytes_max=2**40)
"""A journal is this node's own: its parts may be as large as the model."""


def write_record(record: msg.Record, payloads: Sequence[memoryview]) -> bytes:
    """Return the bytes of one record with the parts that belong to it."""
    return b"".join(pack(dumps(to_plain(record, [])), payloads, _LIMITS))


def head_of(record: msg.Record, payloads: Sequence[memoryview]) -> bytes:
    """Return the beginning of what `write_record` returns: all but the parts, which follow one after the other."""
    pieces = pack(dumps(to_plain(record, [])), payloads, _LIMITS)
    return b"".join(pieces[: len(pieces) - sum(payload.nbytes > 0 for payload in payloads)])


def run_of(journal: Sequence[bytes]) -> str:
    """Return the run that a journal is of; empty where its node has not been in one yet."""
    for data in reversed(journal):
        match read_record(data)[0]:
            case msg.Decided(value):
                return value.next_view.run
            case msg.Entered(round_, view, _) if round_ > 0:
                return view.run
            case _:
                pass
    return ""


def is_untrained(journal: Sequence[bytes]) -> bool:
    """Tell whether the run that a journal is of has not changed its state yet, so that its founder can make it again."""
    records = [read_record(data)[0] for data in journal]
    is_successor = any(isinstance(record, msg.Entered) and record.round > 0 for record in records)
    return not is_successor and all(r.value.state_round == 0 for r in records if isinstance(r, msg.Decided))


def read_record(data: bytes) -> tuple[msg.Record, list[memoryview]]:
    """Return one record and its parts. Raises `CorruptedError`."""
    parser = FrameParser(_LIMITS)
    try:
        parser.feed(data)
        frame = parser.next()
        if frame is None:
            raise DecodeError("it ends too early")
        record = from_plain(loads(frame.header, _LIMITS), [], _LIMITS)
    except DecodeError as error:
        raise CorruptedError(
            f"a journal record cannot be read: {error}",
            hint="move the node's journal away: it then joins the run as a new member",
        ) from error
    if not isinstance(record, get_args(msg.Record)):
        raise CorruptedError(f"a journal holds a {type(record).__name__}", hint="move the node's journal away")
    return record, list(frame.payloads)
