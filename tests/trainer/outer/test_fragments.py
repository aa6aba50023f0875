"""The fragments of a vector: they make the whole, take turns, and share the steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError
from prime.trainer.outer.fragments import Fragments


@given(st.data())
def test_fragments_in_order_are_the_vector(data: st.DataObject) -> None:
    elements = data.draw(st.integers(1, 10_000))
    fragments = Fragments(elements, data.draw(st.integers(1, min(elements, 40))))
    cuts = [fragments.cut_of(round_) for round_ in range(1, fragments.count + 1)]
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(elements))
    sizes = {fragments.elements_of(round_) for round_ in range(1, fragments.count + 1)}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 12), st.integers(12, 500), st.integers(1, 1000))
def test_any_p_rounds_in_a_row_carry_each_fragment_once_in_h_steps(count: int, inner_steps: int, first: int) -> None:
    fragments = Fragments(1000, count)
    rounds = range(first, first + count)
    assert sorted(fragments.of_round(round_) for round_ in rounds) == list(range(count))
    assert sum(fragments.steps_of(round_, inner_steps) for round_ in rounds) == inner_steps
    assert all(fragments.steps_of(round_, inner_steps) >= 1 for round_ in rounds)


def test_one_fragment_is_the_whole_vector_in_every_round() -> None:
    whole = Fragments(7)
    assert [whole.cut_of(round_) for round_ in (0, 1, 2, 9)] == [slice(0, 7)] * 4
    assert whole.steps_of(5, 100) == 100


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_fragments_than_elements_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="make no"):
        Fragments(3, count)
