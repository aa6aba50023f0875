"""How pieces are spread over sources."""

from __future__ import annotations

from prime.dht.blob.sharing import WINDOW, WINDOW_MAX, Sharing


def begun(*sources: str, pieces: int = 20) -> tuple[Sharing[int], list[tuple[str, int]]]:
    sharing: Sharing[int] = Sharing(lambda piece: piece)
    for source in sources:
        sharing.add(source)
    sharing.want(range(pieces))
    return sharing, sharing.requests(lambda _: False)


def test_pieces_go_to_the_least_busy_in_order() -> None:
    _, asked = begun("a", "b")
    assert asked == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


def test_an_idle_source_takes_half_of_what_is_left_and_the_last_of_it() -> None:
    sharing, asked = begun("slow", pieces=WINDOW_MAX)
    done: set[int] = set()
    while len(asked) < WINDOW_MAX:
        sharing.answered("slow", (piece := asked[len(done)][1]), 0.1)
        done.add(piece)
        asked += sharing.requests(done.__contains__)
    left = [piece for _, piece in asked if piece not in done]
    sharing.add("quick")
    taken = [piece for source, piece in sharing.requests(done.__contains__) if source == "quick"]
    assert taken == left[-1 : -1 - min(WINDOW, (len(left) + 1) // 2) : -1]
    done.update(taken)
    for piece in taken:
        sharing.answered("quick", piece, 0.1)
    again = [piece for source, piece in sharing.requests(done.__contains__) if source == "quick"]
    assert not set(again) & done
    assert len(again) == min(WINDOW + len(taken), (len(left) - len(taken) + 1) // 2)


def test_what_a_lost_source_was_asked_for_goes_first() -> None:
    sharing, asked = begun("a", "b")
    sharing.drop("a", for_good=False)
    sharing.answered("b", asked[1][1], 0.1)
    assert sharing.requests(lambda piece: piece == 1)[:2] == [("b", 0), ("b", 2)]


def test_who_was_dropped_for_good_stays_away() -> None:
    sharing, _ = begun("a")
    sharing.drop("a", for_good=True)
    sharing.add("a")
    assert sharing.sources == ()
    assert sharing.refused == {"a"}
    assert not sharing.was_asked("a", 0)
