"""The bytes of a round as they come: doubled, out of order, cut short, false, too many; and the aggregate made ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from prime.errors import DecodeError
from prime.sim.exact import Exact, Sum
from prime.trainer.round import leader
from prime.trainer.round import messages as msg
from prime.trainer.round.view import Member, View
from prime.trainer.swarm.float32 import Float32
from prime.trainer.swarm.intake import Intake
from prime.trainer.swarm.parts import Assembly, digest_of, whole
from prime.trainer.swarm.stock import SEALS_MAX, Ahead, Key, Stock

VIEW = View("run", 1, tuple(Member(peer, (), 1.0, 1) for peer in "ab"))
NUMBERS = Exact()
SEAL = b"s" * 16


def stock() -> Stock:
    return Stock.of(1, VIEW, 0, 60, NUMBERS)


def pieces(of: Stock, part: int, name: str = "x") -> list[memoryview]:
    return [NUMBERS.encode(Sum.of(name), cut) for cut in of.chunks[part]]


async def taken(of: Stock, key: Key, chunks: dict[int, memoryview], *, order: list[int]) -> list[Any]:
    """Let chunks come in this order; return what was whole, and what was bad."""
    found: list[Any] = []

    async def on_whole(_stock: Stock, key: Key, assembly: Assembly) -> None:
        await trio.lowlevel.checkpoint()
        found.append((key, assembly.digest()))

    def on_bad(_stock: Stock, key: Key, error: DecodeError) -> None:
        found.append((key, type(error)))

    intake = Intake(NUMBERS, on_whole, on_bad, lambda *_: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run)
        for index in order:
            part, seal, sender = key
            intake.take(of, msg.Chunk("run", 1, 1, sender, part, seal, index, chunks[index]), 0.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("key", [(0, b"", "b"), (0, SEAL, "b")])
async def test_chunks_out_of_order_and_doubled_are_whole_once(key: Key) -> None:
    of = stock()
    chunks = dict(enumerate(pieces(of, 0)))
    order = [*reversed(chunks), *chunks]
    assert await taken(of, key, chunks, order=order) == [(key, digest_of(chunks.values()))]


async def test_a_stream_that_is_cut_short_says_what_is_missing_and_goes_on() -> None:
    of, key = stock(), (0, b"", "b")
    chunks = dict(enumerate(pieces(of, 0)))
    assert await taken(of, key, chunks, order=[0, 2]) == []
    assert of.assembly(key).missing == tuple(i for i in chunks if i not in (0, 2))  # type: ignore[union-attr]
    assert len(await taken(of, key, chunks, order=list(chunks))) == 1


@pytest.mark.parametrize("seal", [b"", SEAL])
async def test_a_chunk_that_no_codec_wrote_refuses_all_of_its_sender(seal: bytes) -> None:
    of, key = stock(), (0, seal, "b")
    chunks = dict(enumerate(pieces(of, 0)))
    bad = {**chunks, 1: memoryview(b"nonsense")}
    assert await taken(of, key, bad, order=list(bad)) == [(key, DecodeError)]
    assert await taken(of, key, chunks, order=list(chunks)) == []
    assert len(await taken(of, (0, seal, "a"), chunks, order=list(chunks))) == 1


def test_a_part_stands_as_its_sender_says_or_against_it() -> None:
    of, key = stock(), (0, SEAL, "b")
    encoded = pieces(of, 0)
    hash_ = digest_of(encoded)
    for index, data in enumerate(encoded[:-1]):
        of.put(key, index, data)
    assert of.standing(key, hash_) == "partial"
    of.put(key, len(encoded) - 1, encoded[-1])
    assert of.standing(key, hash_) == "pending"  # nobody has hashed it yet
    of.held(key).hashes.update(whole(encoded).hashes)
    assert of.standing(key, hash_) == "whole"
    assert of.standing(key, b"?" * 32) == "contradicted"
    of.learn(0, SEAL, tuple(encoded), hash_)
    assert of.standing((0, SEAL, "a"), hash_) == "known"
    assert of.standing((0, b"", "a"), hash_) == "partial"  # a contribution is not known by what it is reduced to
    of.held(key).refuse()
    assert of.standing(key, b"?" * 32) == "unwanted"


def test_a_sender_is_quiet_once_it_sent_nothing_for_a_while() -> None:
    of, bad = stock(), []
    intake = Intake(NUMBERS, None, lambda *why: bad.append(why), None)  # type: ignore[arg-type]
    assert intake.is_quiet("b", 0.0, 1.0)
    intake.take(of, msg.Chunk("run", 1, 1, "b", 0, b"", 0, pieces(of, 0)[0]), 5.0)
    assert not intake.is_quiet("b", 5.9, 1.0)
    assert intake.is_quiet("b", 6.0, 1.0)
    intake.take(of, msg.Chunk("run", 1, 1, "b", 0, b"", 99, pieces(of, 0)[0]), 7.0)
    assert [type(error) for _, _, error in bad] == [DecodeError]
    assert not intake.is_quiet("b", 7.0, 1.0)
    intake.forget("b")
    assert intake.is_quiet("b", 7.0, 1.0)


def test_results_kept_of_one_sender_are_bounded_and_what_is_whole_stays() -> None:
    of = stock()
    chunks = pieces(of, 0)
    for number in range(3 * SEALS_MAX):  # a sender that never ends a stream
        assert of.put((0, bytes([number]) * 16, "b"), 0, chunks[0])
    assert len(of.results) == SEALS_MAX
    for number in range(SEALS_MAX):
        of.results[0, bytes([100 + number]) * 16, "a"] = whole(chunks)
    assert not of.put((0, SEAL, "a"), 0, chunks[0])
    assert sum(key[2] == "a" for key in of.results) == SEALS_MAX


def test_a_chunk_beyond_its_part_is_refused() -> None:
    of = stock()
    for index in (-1, len(of.chunks[0])):
        with pytest.raises(DecodeError):
            of.put((0, b"", "b"), index, memoryview(b""))


def test_the_aggregate_is_that_of_the_decided_bytes_whatever_came_ahead() -> None:
    of = stock()
    ahead = Ahead(NUMBERS.room(60))
    for part in (0, 1):  # another reduction of each part came first, the last one only in part
        for index, data in enumerate(pieces(of, part, "other")[: 2 - part]):
            ahead.decode((part, SEAL, "b"), index, data, of.chunks[part][index])
    decided = [({(part, b"t" * 16, "a")}, tuple(pieces(of, part)), of.chunks[part]) for part in (0, 1)]
    vector = ahead.finish(decided)
    ahead.decode((0, SEAL, "b"), 0, pieces(of, 0, "other")[0], of.chunks[0][0])  # too late to change it
    assert vector == Sum.of("x")
    with pytest.raises(DecodeError):
        ahead.decode((0, SEAL, "b"), 0, memoryview(b"nonsense"), of.chunks[0][0])


async def test_who_waits_for_more_of_a_round_that_is_over_is_let_go() -> None:
    of = stock()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(of.grown)
            await trio.testing.wait_all_tasks_blocked()
            of.close()
    assert of.over


def test_a_contribution_counts_only_as_the_bytes_that_its_member_offered() -> None:
    owners = ("a", "b")
    offer = msg.Offer(1.0, b"base", (b"1" * 32, b"2" * 32), b"")
    for second, counts in ((b"2" * 32, True), (b"x" * 32, False)):
        standings = {peer: leader.Standing(1, restarted=False, intends=True) for peer in owners}
        standings["b"].offer = offer
        standings["a"].held[0] = {"b": b"1" * 32}
        standings["b"].held[1] = {"b": second}
        assert (leader.complete(standings, owners) == {"b": offer}) == counts


def test_the_memory_of_an_aggregate_comes_back_when_nobody_looks_at_a_piece_of_it() -> None:
    numbers = Float32()
    vector = numbers.room(4096).vector()
    at, piece = vector.ctypes.data, vector[10:20]
    del vector
    other = numbers.room(4096).vector()
    assert other.ctypes.data != at  # `piece` still shows it
    assert isinstance(piece, np.ndarray)
    del piece
    assert numbers.room(4096).vector().ctypes.data == at
