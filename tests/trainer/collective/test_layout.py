"""How a vector is cut, and which parameters travel together: pure laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.codec.form import FORMS
from prime.trainer.collective.layout import GRAIN, layout
from prime.trainer.collective.plan import PACKED_BELOW, parcels
from prime.trainer.collective.refusal import ACCEPTED, HEADER_BYTES, Names, Verdict, read_header, refuse, write_header


@given(elements=st.integers(0, 10**8), world=st.integers(1, 64))
def test_parts_cover_a_vector_once_and_in_order(elements: int, world: int) -> None:
    cut, end = layout(elements, world), 0
    for owner in range(world):
        part = cut.owned(owner)
        assert part.start == end
        end = part.stop
    assert end == elements


@given(elements=st.integers(0, 3 * 10**6), world=st.integers(1, 9), in_flight=st.integers(1, 10**6))
def test_chunks_cover_a_part_once_and_keep_blocks_whole(elements: int, world: int, in_flight: int) -> None:
    cut = layout(elements, world, in_flight)
    for owner in range(world):
        part = cut.owned(owner)
        end = part.start
        for k in range(cut.rounds):
            chunk = cut.chunk_of(owner, k)
            assert chunk.start == end
            assert chunk.start % GRAIN == 0 or chunk.start == chunk.stop
            end = chunk.stop
        assert end == part.stop


def test_a_grain_holds_whole_blocks_of_every_form() -> None:
    assert all(GRAIN % form.block == 0 for form in FORMS.values())


SEGMENTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 300, PACKED_BELOW - 1, PACKED_BELOW, 50_000]), st.sampled_from(sorted(FORMS))),
    max_size=12,
)


@given(SEGMENTS)
def test_every_element_travels_once_by_its_parameters_codec(segments: list[tuple[int, str]]) -> None:
    wanted = [(codec, elements) for elements, codec in segments if elements]
    travelled = sorted((each.start, each.stop, parcel.codec) for parcel in parcels(segments) for each in parcel.slices)
    end = 0
    for start, stop, _ in travelled:
        assert start == end
        end = stop
    assert end == sum(elements for _, elements in wanted)
    place = 0
    for codec, elements in wanted:
        assert next(each[2] for each in travelled if each[0] <= place < each[1]) == codec
        place += elements


@given(SEGMENTS)
def test_only_short_runs_are_copied_and_places_are_found_again(segments: list[tuple[int, str]]) -> None:
    for parcel in parcels(segments):
        if len(parcel.slices) > 1:
            assert all(each.stop - each.start < PACKED_BELOW for each in parcel.slices)
        first, last = parcel.slices[0], parcel.slices[-1]
        assert parcel.place_in_flat(0) == first.start
        assert parcel.place_in_flat(parcel.elements - 1) == last.stop - 1


@given(place=st.integers(0, 2**62), rank=st.integers(0, 2**20), flags=st.integers(1, 3))
def test_a_header_says_what_was_written(place: int, rank: int, flags: int) -> None:
    import numpy as np

    message = np.empty(HEADER_BYTES + 8, np.uint8)
    verdict = refuse(place, rank, flags)
    write_header(message, verdict)
    assert read_header(message) == verdict
    assert verdict.refused
    assert min(verdict, ACCEPTED) == verdict
    assert Verdict(place + 1, 0) > verdict


def test_a_place_has_the_name_of_its_parameter() -> None:
    names = Names.of([("up", 10), ("empty", 0), ("down", 5)])
    assert [names.at(place) for place in (0, 9, 10, 14)] == ["up", "up", "down", "down"]
    assert Names().at(3) == "element 3"
