"""The board of runs: whose word counts, what is passed on, what is bounded, and which run a node takes part in."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import pytest

from prime.errors import ConfigError, NotFoundError, RefusedError, UsageError
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.names import base_name
from prime.trainer.runs.acceptance import ALL, Acceptance, at_home
from prime.trainer.runs.board import (
    AGAIN_S,
    FORGET_S,
    MEMBERS_MAX,
    RUNS_MAX,
    RUNS_OF_PEER_MAX,
    STALE_S,
    Beat,
    Board,
    Complain,
    Freed,
    Heard,
    Linked,
    PassOn,
    Stood,
    Succeeded,
    Take,
    notice_fault,
)
from prime.trainer.runs.messages import RunMember, RunNotice, Standing, run_name

SETTINGS = TrainingConfig(model="charlm", data="stdlib", nodes_min=2)


def word(peer: str, standing: Standing = "member", stamp_ms: int = 1, **rest: object) -> RunMember:
    plain = RunMember(peer, f"name of {peer}", (f"/ip4/192.0.2.1/tcp/1/p2p/{peer}",), standing, "", 0, stamp_ms)
    return attrs.evolve(plain, **rest)  # type: ignore[misc]  # a @record is an attrs class


def notice(
    name: str = "run", founder: str = "F", members: Iterable[RunMember] = (), settings: TrainingConfig = SETTINGS
) -> RunNotice:
    return RunNotice(run_name(name, founder, "00", settings), founder, "00", settings, tuple(members))


def board(accept: Acceptance | None = None) -> Board:
    return Board("me", "mine", accept if accept is not None else Acceptance())


def kinds(commands: Iterable[object]) -> list[type]:
    return [type(command) for command in commands]


def standings(subject: Board, now: float = 0.0) -> dict[str, str]:
    return {member.peer: member.standing for known in subject.known(now).runs for member in known.members}


# --------------------------------------------------------------------------------------------------------- submitting


def test_a_run_is_founded_with_this_node_in_it() -> None:
    subject = board()
    made = subject.submit("run", SETTINGS, "00", 0.0)
    assert made.run == run_name("run", "me", "00", SETTINGS)
    assert subject.taking == made.run
    assert standings(subject) == {"me": "joining"}
    assert notice_fault(made) == ""


@pytest.mark.parametrize("name", ["a b", ".up", "n" * 65, ""])
def test_a_run_that_no_node_would_take_is_refused_and_leaves_the_node_free(name: str) -> None:
    subject = board()
    with pytest.raises(RefusedError, match="cannot be: its name has letters"):
        subject.submit(name, SETTINGS, "00", 0.0)
    assert (subject.taking, subject.known(0.0).runs) == ("", ())
    assert subject.submit("a.b", SETTINGS, "00", 0.0).run.startswith("a.b@")


def test_one_run_at_a_time() -> None:
    subject = board()
    subject.submit("run", SETTINGS, "00", 0.0)
    with pytest.raises(RefusedError, match="one at a time"):
        subject.submit("other", SETTINGS, "01", 0.0)
    subject.step(Freed(), 1.0)
    assert subject.submit("other", SETTINGS, "01", 1.0).run.startswith("other@")


def test_a_second_run_of_a_living_runs_name_is_refused_and_names_the_first() -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    with pytest.raises(RefusedError, match="there is a run called run, run@.* of node F"):
        subject.submit("run", SETTINGS, "01", 1.0)
    assert subject.submit("run", SETTINGS, "01", STALE_S + 1).founder == "me"


def test_two_runs_of_one_name_are_told_apart_by_their_full_names() -> None:
    subject = board(Acceptance(runs=False))
    first, second = notice(founder="F", members=[word("F")]), notice(founder="G", members=[word("G")])
    subject.step(Heard("F", first), 0.0)
    subject.step(Heard("G", second), 0.0)
    with pytest.raises(UsageError, match="2 runs fit"):
        subject.find("run")
    assert subject.find(first.run) == first.run
    with pytest.raises(NotFoundError, match="there is no run nothing"):
        subject.find("nothing")


# ---------------------------------------------------------------------------------------------------- hearing of runs


def test_a_free_node_takes_part_in_what_it_hears_and_says_so() -> None:
    subject = board()
    commands = subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    assert kinds(commands) == [PassOn, PassOn, Take]
    assert subject.taking == notice().run
    assert standings(subject) == {"F": "member", "me": "joining"}


def test_who_goes_on_in_a_successor_says_so_and_a_free_node_takes_part_in_it() -> None:
    subject, fresh = board(), Board("other", "theirs", Acceptance())
    run = subject.submit("run", SETTINGS, "00", 0.0).run
    successor = f"{run}~1-00c0ffee"
    told = [c.notice for c in subject.step(Succeeded(run, successor), 1.0) if isinstance(c, PassOn)]
    assert subject.taking == successor
    assert [(each.run, [(m.standing, m.why) for m in each.members]) for each in told] == [
        (run, [("left", f"goes on in {successor}")]),
        (successor, [("joining", "")]),
    ]
    assert [notice_fault(each) for each in told] == ["", ""]
    for each in told:
        fresh.step(Heard("me", each), 2.0)
    assert fresh.taking == successor


def test_of_a_run_and_its_successors_a_name_means_the_last_one() -> None:
    subject = board(Acceptance(runs=False))
    first = notice(members=[word("F")])
    for run in (f"{first.run}~2-00c0ffee", first.run, f"{first.run}~1-00c0ffee"):
        subject.step(Heard("F", attrs.evolve(first, run=run)), 0.0)  # type: ignore[misc]  # a @record is an attrs class
    assert subject.find("run") == f"{first.run}~2-00c0ffee"
    assert subject.find(first.run) == first.run


def test_a_name_means_the_run_that_is_taken_part_in_also_where_another_survivor_founded_a_successor() -> None:
    subject = board()
    own = subject.submit("run", SETTINGS, "00", 0.0)
    theirs = attrs.evolve(own, run=f"{own.run}~1-00c0ffee", members=(word("F"),))  # type: ignore[misc]  # as above
    subject.step(Heard("F", theirs), 0.0)
    assert [each.run for each in subject.known(0.0).runs] == [own.run, theirs.run]
    assert subject.find("run") == subject.find("") == own.run


def test_a_successor_of_another_digest_is_not_noted() -> None:
    forged = attrs.evolve(notice(members=[word("F")]), run="run@0123456789ab~1-00c0ffee")  # type: ignore[misc]  # as above
    assert kinds(board().step(Heard("F", forged), 0.0)) == [Complain]


def test_a_node_that_is_started_again_takes_no_other_run_before_it_knows_its_own() -> None:
    subject = Board("me", "mine", Acceptance(), waits=True)
    own = notice("own", members=[word("G")])
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    assert subject.taking == ""
    subject.enter(own, 1.0)
    assert subject.taking == own.run
    assert [known.run for known in subject.known(1.0).runs if "me" in {m.peer for m in known.members}] == [own.run]
    free = Board("me", "mine", Acceptance(), waits=True)
    free.step(Heard("F", notice(members=[word("F")])), 0.0)
    assert Take in kinds(free.step(Freed(), 1.0))


def test_a_run_that_nobody_takes_part_in_any_more_is_not_taken() -> None:
    for standing in ("done", "left", "cannot"):
        subject = board()
        subject.step(Heard("F", notice(members=[word("F", standing)])), 0.0)  # type: ignore[arg-type]
        assert subject.taking == ""


def test_a_run_that_has_come_to_its_end_somewhere_is_not_taken() -> None:
    subject = board()
    subject.step(Heard("F", notice(members=[word("F"), word("G", "done")])), 0.0)
    assert subject.taking == ""


def test_a_node_takes_the_next_run_once_it_is_free_but_never_again_one_that_it_left() -> None:
    subject = board()
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    subject.step(Heard("G", notice("other", "G", members=[word("G")])), 0.0)
    subject.step(Stood(notice().run, "left"), 1.0)
    assert [c.notice.run for c in subject.step(Freed(), 1.0) if isinstance(c, Take)] == [notice("other", "G").run]
    subject.step(Stood(notice("other", "G").run, "left"), 2.0)
    assert subject.step(Freed(), 2.0) == []


def test_a_run_that_could_not_be_reached_is_tried_again_after_a_while() -> None:
    subject = board()
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    subject.step(Stood(notice().run, "cannot", "nobody answers", again=True), 1.0)
    subject.step(Freed(), 1.0)
    assert subject.taking == ""
    subject.step(Heard("F", notice(members=[word("F", stamp_ms=2)])), AGAIN_S)
    assert subject.taking == ""
    assert Take in kinds(subject.step(Heard("F", notice(members=[word("F", stamp_ms=3)])), AGAIN_S + 1.5))


def test_what_a_node_cannot_load_it_says_and_others_hear_why() -> None:
    subject = board()
    settings = TrainingConfig(model="mine:build")
    commands = subject.step(Heard("F", notice(settings=settings, members=[word("F")])), 0.0)
    assert subject.taking == ""
    assert Take not in kinds(commands)
    (own,) = [m for m in subject.known(0.0).runs[0].members if m.peer == "me"]
    assert own.standing == "cannot"
    assert "mine:build, is no preset and not in runs.accept_functions" in own.why


@pytest.mark.parametrize(
    ("accept", "model", "data", "taken"),
    [
        (Acceptance(), "", "", True),
        (Acceptance(), "mlp", "digits", True),
        (Acceptance(), "os:abort", "", False),
        (Acceptance(), "", "/home/me/letters.txt", False),
        (Acceptance(functions=("mine:build",)), "mine:build", "", True),
        (Acceptance(functions=("mine:build",)), "mine:other", "", False),
        (Acceptance(functions=(ALL,)), "mine:other", "theirs:data", True),
        (Acceptance(runs=False, functions=(ALL,)), "", "", False),
        (Acceptance(), "", "own", False),
        (Acceptance(functions=(ALL,)), "", "own", False),
        (Acceptance(own_data="/home/me/letters.txt"), "", "own", True),
        (Acceptance(own_data="/home/me/letters.txt"), "", "/home/me/letters.txt", False),
        (Acceptance(own_data="/home/me/letters.txt"), "mine:build", "own", False),
    ],
)
def test_which_runs_a_node_lets_in(accept: Acceptance, model: str, data: str, taken: bool) -> None:
    assert (accept.refusal(TrainingConfig(model=model, data=data)) == "") is taken


def test_a_run_on_each_node_s_own_data_is_trained_on_what_the_node_names() -> None:
    settings = TrainingConfig(model="charlm", data="own", nodes_min=2)
    with pytest.raises(RefusedError, match="its data is each node's own, and runs.data names none here"):
        board().submit("run", settings, "00", 0.0)
    here = Acceptance(own_data="/srv/records.jsonl")
    assert board(here).submit("run", settings, "00", 0.0).settings == settings
    assert at_home(settings, here.own_data).data == "/srv/records.jsonl"
    assert at_home(SETTINGS, here.own_data) == SETTINGS
    with pytest.raises(ConfigError, match="runs.data names none here"):
        at_home(settings, "")


# --------------------------------------------------------------------------------------------------- whose word counts


def test_a_node_s_latest_word_counts_and_news_are_passed_on_once() -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("F", notice(members=[word("F"), word("G", "joining", 5)])), 0.0)
    old = subject.step(Heard("F", notice(members=[word("G", "left", 4)])), 1.0)
    assert standings(subject)["G"] == "joining"
    assert old == []
    news = subject.step(Heard("F", notice(members=[word("G", "member", 6)])), 2.0)
    assert standings(subject)["G"] == "member"
    assert [(c.besides, c.to) for c in news if isinstance(c, PassOn)] == [(("F",), "")]
    assert subject.step(Heard("H", notice(members=[word("G", "member", 6)])), 3.0) == []


def test_what_a_node_says_of_itself_beats_what_others_say_of_it() -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("G", notice(members=[word("G")])), 0.0)
    subject.step(Heard("stranger", notice(members=[word("G", "done", 10**15)])), 1.0)
    assert standings(subject)["G"] == "member"
    subject.step(Heard("G", notice(members=[word("G", "left", 2)])), 2.0)
    assert standings(subject)["G"] == "left"


def test_nobody_speaks_for_this_node() -> None:
    subject = board()
    run = subject.submit("run", SETTINGS, "00", 0.0)
    subject.step(Heard("F", attrs.evolve(run, members=(word("me", "left", 10**15),))), 1.0)  # type: ignore[misc]
    assert standings(subject)["me"] == "joining"


def test_a_run_s_settings_cannot_be_changed_by_hearsay() -> None:
    subject = board(Acceptance(runs=False))
    true = notice(members=[word("F")])
    forged = attrs.evolve(true, settings=TrainingConfig(model="mlp"))  # type: ignore[misc]  # a @record is an attrs class
    assert kinds(subject.step(Heard("X", forged), 0.0)) == [Complain]
    subject.step(Heard("F", true), 0.0)
    assert kinds(subject.step(Heard("X", forged), 0.0)) == [Complain]
    assert kinds(subject.step(Heard("X", forged), 1.0)) == [], "it is said once"
    assert subject.known(0.0).runs[0].settings == SETTINGS


# --------------------------------------------------------------------------------------------------------------- time


def test_a_node_says_again_where_it_stands_and_silence_is_seen() -> None:
    subject = board()
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    subject.step(Stood(notice().run, "member", round=7), 1.0)
    (share,) = [c for c in subject.step(Beat(5000, ("/ip4/192.0.2.7/tcp/7",)), 20.0) if isinstance(c, PassOn)]
    own = next(member for member in share.notice.members if member.peer == "me")
    assert (own.standing, own.round, own.addresses, own.age_s) == ("member", 7, ("/ip4/192.0.2.7/tcp/7",), 0.0)
    assert own.stamp_ms >= 5000
    assert next(member for member in share.notice.members if member.peer == "F").age_s == 20.0


def test_what_is_known_begins_with_the_run_taken_part_in_and_goes_back_in_time() -> None:
    subject = board()
    for name in ("one", "two", "three", "four"):
        subject.step(Heard("F", notice(name, members=[word("F")])), 0.0)
    assert [base_name(known.run) for known in subject.known(0.0).runs] == ["one", "four", "three", "two"]


def test_a_run_of_which_nobody_speaks_is_forgotten() -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    subject.step(Beat(1, ()), FORGET_S + 1)
    assert subject.known(0.0).runs == ()


def test_a_new_link_is_told_of_every_run() -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("F", notice(members=[word("F")])), 0.0)
    assert [(c.to, c.notice.run) for c in subject.step(Linked("N"), 1.0) if isinstance(c, PassOn)] == [
        ("N", notice().run)
    ]


# ------------------------------------------------------------------------------------------------------------- bounds


def test_one_peer_can_bring_so_many_runs_and_all_of_them_so_many() -> None:
    subject = board(Acceptance(runs=False))
    for brought in range(RUNS_MAX * 2):
        sender = f"P{brought // (RUNS_OF_PEER_MAX + 4)}"
        subject.step(Heard(sender, notice(f"r{brought}", sender, members=[word(sender)])), 0.0)
        count = sum(1 for known in subject.known(0.0).runs if known.founder == sender)
        assert count <= RUNS_OF_PEER_MAX
    assert len(subject.known(0.0).runs) == RUNS_MAX


def test_a_run_has_so_many_members_and_no_more() -> None:
    subject = board(Acceptance(runs=False))
    for peer in range(MEMBERS_MAX + 50):
        subject.step(Heard("F", notice(members=[word(f"p{peer}")])), 0.0)
    assert len(subject.known(0.0).runs[0].members) == MEMBERS_MAX


@pytest.mark.parametrize(
    "member",
    [
        word("G", why="x" * 401),
        word("G", addresses=("/" * 257,)),
        word("G", addresses=("/ip4",) * 9),
        word("G", round=-1),
        word("G", age_s=float("nan")),
        word("G", age_s=-1.0),
        word("G", name="n" * 1000),
    ],
)
def test_a_word_that_cannot_be_is_not_noted(member: RunMember) -> None:
    subject = board(Acceptance(runs=False))
    subject.step(Heard("F", notice(members=[member])), 0.0)
    assert standings(subject) == {}


@pytest.mark.parametrize(
    "made",
    [
        notice("../up"),
        notice(""),
        notice("n" * 65),
        notice("run", "f" * 401),
        attrs.evolve(notice(), run="run@000000000000"),  # type: ignore[misc]  # a @record is an attrs class
        attrs.evolve(notice(), run="run"),  # type: ignore[misc]  # as above
        notice(settings=TrainingConfig(model="m" * 401)),
    ],
)
def test_a_run_that_cannot_be_is_not_noted(made: RunNotice) -> None:
    subject = board()
    assert kinds(subject.step(Heard("F", attrs.evolve(made, members=(word("F"),))), 0.0)) == [Complain]  # type: ignore[misc]
    assert subject.known(0.0).runs == ()


def test_a_run_of_a_node_s_own_configuration_has_its_name_alone() -> None:
    plain = RunNotice("main", "F", "", SETTINGS, (word("F"),))
    assert notice_fault(plain) == ""
    subject = board()
    subject.step(Heard("F", plain), 0.0)
    assert subject.taking == "main"
