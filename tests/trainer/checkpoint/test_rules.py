"""What is pure about checkpoints: names, which stay and which go, the about file, and a state's paths."""

from __future__ import annotations

import json
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ActorUsageError, ConfigError, CorruptedError
from prime.trainer.checkpoint.manifest import About, Chunk, Manifest, Shard, StoredTensor, decoded, encoded
from prime.trainer.checkpoint.names import STEP_MAX, FolderName, aside_number, parsed
from prime.trainer.checkpoint.retention import HOUR_S, Delete, Keep, Retention, Saved, decide
from prime.trainer.checkpoint.state import is_own, own_state, put_back, taken_apart

NAMES = st.builds(
    FolderName,
    st.integers(0, STEP_MAX),
    st.just(""),
) | st.builds(
    FolderName,
    st.integers(0, STEP_MAX),
    st.sampled_from(["draft", "aside", "gone"]),
    st.text("0123456789abcdef", min_size=1, max_size=8),
)
COMMANDS = st.lists(st.builds(Saved, st.integers(0, 10_000), st.floats(0, 10 * HOUR_S)), unique_by=lambda one: one.step)


@given(NAMES)
def test_a_name_says_what_it_was_made_of(name: FolderName) -> None:
    assert parsed(str(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "step-1",
        "step-000000001",
        "step-00000001.",
        "step-00000001.new-1",
        "step-00000001.draft",
        "writer.lock",
        "../a",
    ],
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert parsed(name) is None


def test_the_number_of_a_roll_back_is_in_its_names() -> None:
    assert aside_number(FolderName(1, "aside", "0012")) == 12
    assert aside_number(FolderName(1, "draft", "0012")) == 0


@given(
    COMMANDS,
    st.builds(Retention, st.integers(1, 5), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([0, 1, 7, 100])),
)
def test_each_checkpoint_stays_exactly_if_a_rule_holds_it(saved: list[Saved], rules: Retention) -> None:
    now_s = 10.0 * HOUR_S
    commands = decide(saved, rules, now_s)
    kept = {command.step for command in commands if isinstance(command, Keep)}
    newest = sorted((one.step for one in saved), reverse=True)
    assert {command.step for command in commands} == set(newest)
    for one in saved:
        is_young = bool(rules.keep_hours) and now_s - one.saved_at_s <= rules.keep_hours * HOUR_S
        is_milestone = bool(rules.milestone_steps) and one.step % rules.milestone_steps == 0
        assert (one.step in kept) == (one.step in newest[: rules.keep_last] or is_young or is_milestone)
    assert not newest or newest[0] in kept, "the newest always stays"


def test_what_stays_says_why() -> None:
    saved = [Saved(100, 0.0), Saved(150, 3.9 * HOUR_S), Saved(160, 0.0), Saved(200, 4.0 * HOUR_S)]
    assert decide(saved, Retention(1, 1.0, 100), 4.0 * HOUR_S) == [
        Keep(200, "one of the last 1"),
        Delete(160),
        Keep(150, "saved within 1 h"),
        Keep(100, "a multiple of 100"),
    ]


@pytest.mark.parametrize(
    "wrong", [{"keep_last": 0}, {"keep_hours": -1.0}, {"keep_hours": math.nan}, {"milestone_steps": -1}]
)
def test_rules_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Retention(**wrong)


MANIFEST = Manifest(
    step=5,
    world=2,
    saved_at_s=1.5,
    about=About(job={"name": "a", "options": {"width": 3}}, loss=0.25, dataset="d", generation=2),
    versions={"prime": "1"},
    files=(Shard("rank-00000.safetensors", 10, "0" * 64),),
    tensors={
        "model.w": StoredTensor("float32", (4, 2), (Chunk((0, 0), (4, 2), "rank-00000.safetensors", "model.w"),)),
        "optimiser.w": StoredTensor("float32", (), (Chunk((), (), "rank-00000.safetensors", "optimiser.w"),)),
    },
    values={"step": 5},
)


def test_the_about_file_says_what_it_was_given() -> None:
    assert decoded(encoded(MANIFEST), "about.json") == MANIFEST
    layout = MANIFEST.layout()
    assert [(one.name, one.shape, one.dtype) for one in layout] == [("w", (4, 2), "float32")]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_none(loss: float) -> None:
    manifest = attrs.evolve(MANIFEST, about=attrs.evolve(MANIFEST.about, loss=loss))
    assert decoded(encoded(manifest), "about.json").about.loss is None


def with_tensor(**changes: Any) -> Manifest:
    return attrs.evolve(MANIFEST, tensors={"model.w": attrs.evolve(MANIFEST.tensors["model.w"], **changes)})


@pytest.mark.parametrize(
    ("hostile", "complaint"),
    [
        (attrs.evolve(MANIFEST, step=-1), "no count"),
        (attrs.evolve(MANIFEST, world=0), "no count"),
        (attrs.evolve(MANIFEST, saved_at_s=1), "wrong type"),
        (attrs.evolve(MANIFEST, saved_at_s=1e300), "cannot be"),
        (attrs.evolve(MANIFEST, values={"a": {"float": "1"}}), "a value of its state cannot be"),
        (attrs.evolve(MANIFEST, values={"a": {"tuple": 5}}), "a value of its state cannot be"),
        (attrs.evolve(MANIFEST, values={"a": {"tuple": [1, {"tuple": [{}]}]}}), "a value of its state cannot be"),
        (attrs.evolve(MANIFEST, about=attrs.evolve(MANIFEST.about, job=[1])), "of the run has the wrong type"),
        (attrs.evolve(MANIFEST, about=attrs.evolve(MANIFEST.about, dataset=3)), "of the run has the wrong type"),
        (with_tensor(chunks=(Chunk((0, 0), (4, 2), "rank-00000.safetensors", 7),)), "does not lie within"),  # type: ignore[arg-type]
        (attrs.evolve(MANIFEST, files=(Shard("../../etc/passwd", 1, "0" * 64),)), "cannot be one of its own"),
        (attrs.evolve(MANIFEST, files=(Shard("rank-00000.safetensors", -1, "0" * 64),)), "cannot be one of its own"),
        (with_tensor(chunks=(Chunk((1, 0), (4, 2), "rank-00000.safetensors", "w"),)), "does not lie within"),
        (with_tensor(chunks=(Chunk((0, 0), (4, 2), "rank-00001.safetensors", "w"),)), "does not lie within"),
        (with_tensor(chunks=()), "does not lie within"),
        (with_tensor(shape=(2**40, 2**40)), "does not lie within"),
        (with_tensor(shape=(1,) * 65), "does not lie within"),
    ],
)
def test_what_a_stranger_wrote_with_a_good_hash_is_refused_where_it_cannot_be(
    hostile: Manifest, complaint: str
) -> None:
    with pytest.raises(CorruptedError, match=complaint):
        decoded(encoded(hostile), "about.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b"null",
        b'{"sha256": 1}',
        encoded(MANIFEST) + b"\n",
        encoded(MANIFEST)[1:],
    ],
)
def test_bytes_that_are_no_about_file_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptedError, match=r"^here: "):
        decoded(data, "here")


def test_an_about_file_of_another_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("prime.trainer.checkpoint.manifest.SCHEMA", 2)
        newer = encoded(MANIFEST)
    with pytest.raises(CorruptedError, match="its schema is 2, and this program knows 1"):
        decoded(newer, "here")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3).map(tuple),
    max_leaves=4,
)
STATES = st.dictionaries(
    st.text("abc", min_size=1),
    st.recursive(
        PLAIN | st.just(bytearray()),  # a bytearray stands for a tensor
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.dictionaries(st.text("abc", min_size=1) | st.integers(0, 9), inside, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(STATES, st.integers(0, 3))
def test_a_state_taken_apart_is_put_together_again(state: dict[str, Any], rank: int) -> None:
    tensors, values = taken_apart(state, lambda leaf: isinstance(leaf, bytearray), rank)
    assert all(isinstance(tensor, bytearray) for tensor in tensors.values())
    stored = json.loads(json.dumps(values, allow_nan=False))
    other = emptied(state)
    put_back(other, stored)
    assert other == state


OWN = st.recursive(
    st.integers(),
    lambda inside: st.dictionaries(st.text("ab.~0/1"), inside, min_size=1, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("ab.~0/1"), OWN, max_size=3), st.integers(0, 3))
def test_what_is_a_ranks_own_is_read_back_whatever_its_keys(own: dict[str, Any], rank: int) -> None:
    values = taken_apart({"rank": own, "step": 1}, lambda _: False, rank)[1]
    assert own_state(values, rank) == own
    assert own_state(values, rank + 1) == {}
    assert {name for name in values if not is_own(name)} == {"step"}


def test_keys_of_a_ranks_own_are_text() -> None:
    with pytest.raises(ActorUsageError, match="its keys must be text"):
        taken_apart({"rank": {"a": {1: 2}}}, lambda _: False, 0)


def emptied(value: Any) -> Any:
    """Return the same form with other leaves."""
    if isinstance(value, dict):
        return {key: emptied(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [emptied(inside) for inside in value]
    return value if isinstance(value, bytearray) else "empty"


def test_not_a_number_survives() -> None:
    state = {"best": math.nan, "worst": -math.inf}
    values = json.loads(json.dumps(taken_apart(state, lambda _: False, 0)[1], allow_nan=False))
    put_back(other := {"best": 0.0, "worst": 0.0}, values)
    assert math.isnan(other["best"])
    assert other["worst"] == -math.inf


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(ActorUsageError, match=r"state a\.1: a set cannot be saved"):
        taken_apart({"a": [1, {2}]}, lambda _: False, 0)
    with pytest.raises(ActorUsageError, match=r"two leaves of the state have the path a\.b"):
        taken_apart({"a.b": 1, "a": {"b": 2}}, lambda _: False, 0)
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(ActorUsageError, match="nested more than 64 deep"):
        taken_apart(loop, lambda _: False, 0)
