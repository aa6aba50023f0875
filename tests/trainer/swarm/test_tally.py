"""How far a round is at one member: chunks counted, phases timed."""

from __future__ import annotations

from prime.trainer.swarm.progress import CONTRIBUTORS_MAX, HISTORY_MAX, DecidedRound, Progress
from prime.trainer.swarm.tally import Spent, tally_of


def test_chunks_of_the_own_part_count_whole_or_on_the_way() -> None:
    found = tally_of([4, 4, 2], 0, [(0, "a")], [(0, "b", 3), (1, "c", 2)], [])
    assert found.held == {"a": 4, "b": 3}
    assert found.expected == 4
    assert (found.results_held, found.results_expected) == (0, 10)


def test_a_member_that_stands_in_for_another_counts_both_parts() -> None:
    found = tally_of([4, 4, 2], 0, [(0, "a"), (1, "a"), (1, "b")], [(0, "b", 1)], [])
    assert found.expected == 8
    assert found.held == {"a": 8, "b": 5}


def test_results_count_once_however_many_makers_sent_them() -> None:
    found = tally_of([4, 4, 2], 2, [], [(0, "", 2), (0, "", 3), (1, "", 4), (1, "", 1)], [1, 2, 2])
    assert found.results_held == 3 + 4 + 2


def test_a_chunk_counted_whole_is_not_counted_again_on_its_way() -> None:
    assert tally_of([4], 0, [(0, "a")], [(0, "a", 3)], []).held == {"a": 4}


def test_phases_are_timed_from_one_to_the_next() -> None:
    spent = Spent()
    for phase, now in (
        ("training", 10.0),
        ("training", 12.0),
        ("gathering", 13.0),
        ("voting", 13.5),
        ("training", 14.0),
    ):
        spent.enter(phase, now)
    spent.add("encode", 0.25)
    assert spent.seconds == {"training": 3.0, "gathering": 0.5, "voting": 0.5, "encode": 0.25}


def decided(round_: int, *contributors: str, loss: float | None = 1.0) -> DecidedRound:
    return DecidedRound(round_, 1, bool(contributors), contributors, loss, None, 0.0)


def test_progress_keeps_the_last_rounds_whole_and_the_sums_of_all() -> None:
    progress = Progress(10**6, 5)
    for round_ in range(1, HISTORY_MAX + 101):
        progress.decided(decided(round_, "a", "b") if round_ % 2 else decided(round_))
    assert len(progress.history) == HISTORY_MAX
    assert progress.history[-1].round == HISTORY_MAX + 100
    assert progress.committed == progress.aborted == (HISTORY_MAX + 100) // 2
    assert progress.contributed == {"a": progress.committed, "b": progress.committed}
    assert len(progress.loss) == HISTORY_MAX + 100


def test_contributors_that_come_and_go_are_bounded() -> None:
    progress = Progress(10**6, 5)
    for round_ in range(CONTRIBUTORS_MAX + 50):
        progress.decided(decided(round_, f"p{round_}"))
    assert len(progress.contributed) == CONTRIBUTORS_MAX


def test_what_float32_in_each_step_would_have_sent() -> None:
    progress = Progress(10, 5, members=("a", "b", "c"), elements=1000)
    progress.trained(5, 100, 2.0)
    progress.decided(decided(1, "a"))
    progress.trained(10, 100, 2.0)
    progress.decided(decided(2, "a"))
    assert progress.every_step_bytes == 15 * 1000 * 4 * 2 * 2 / 3
    assert (progress.steps, progress.compute_s, progress.tokens_per_s) == (15, 4.0, 50.0)
