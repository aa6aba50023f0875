"""The public records of a run: what they refuse, and that they cross the wire."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from prime.config.schema import TrainConfig
from prime.errors import ConfigError
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig
from prime.wire import decode_value, dumps, encode_value, loads


def crossed(value: Any) -> Any:
    return decode_value(type(value), loads(dumps(encode_value(type(value), value, []))))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0),
        ("nodes_min", 0),
        ("inner_steps", -1),
        ("batch_size", 0),
        ("threads", 0),
        ("context", 1),
        ("outer_momentum", 1.0),
        ("outer_momentum", float("nan")),
        ("outer_square_decay", 1.0),
        ("outer_epsilon", 0.0),
        ("outer_optimiser", "lion"),
        ("fragments", 0),
        ("fragments", 101),
        ("overlap_steps", -2),
        ("local_epochs", -1),
        ("participation", 0.0),
        ("participation", 1.5),
        ("aggregation", "bulyan"),
        ("byzantine_max", -1),
        ("norm_gate", 0.5),
        ("norm_gate", float("nan")),
        ("codec", "int2"),
        ("gather_codec", "int4"),
        ("error_feedback", "yes"),
        ("round_deadline_s", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("weight_decay", float("inf")),
        ("clip_norm", -1.0),
        ("outer_learning_rate", float("inf")),
        ("warmup_steps", -1),
        ("contributors_final_min", -1),
        ("seed", -1),
    ],
)
def test_a_value_that_cannot_be_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"TrainingConfig\.{field} is .*must be") as caught:
        TrainingConfig(**{field: value})
    assert caught.value.hint


def test_the_configuration_crosses_the_wire() -> None:
    config = TrainingConfig(model="m:f", data="/some/where", rounds=3, learning_rate=0.25, seed=2**63 - 1)
    assert crossed(config) == config


def test_defaults_are_those_of_the_configuration_file() -> None:
    section = attrs.asdict(TrainConfig())
    mine = {field.name: field.default for field in attrs.fields(TrainingConfig)}
    assert {name: section[name] for name in mine if name in section} == {n: mine[n] for n in mine if n in section}
    assert set(mine) - {"options"} <= set(section)  # which a job alone has


def layout(*shapes: tuple[int, ...]) -> tuple[TensorLayout, ...]:
    return tuple(TensorLayout(f"layer.{i}", shape, "float32") for i, shape in enumerate(shapes))


def test_a_layout_adds_up() -> None:
    metadata = ModelMetadata("tiny", 2 * 3 + 1, layout((2, 3), ()))
    assert crossed(metadata) == metadata
    for count, tensors in ((6, layout((2, 3), ())), (0, ())):
        with pytest.raises(ConfigError, match="'tiny'"):
            ModelMetadata("tiny", count, tensors)


def test_the_hash_tells_layouts_apart_and_nothing_else() -> None:
    one = ModelMetadata("one", 6, layout((2, 3)))
    assert one.layout_hash == ModelMetadata("other", 6, layout((2, 3))).layout_hash
    others = [layout((3, 2)), layout((6,)), layout((2,), (4,)), (TensorLayout("layer.0", (2, 3), "float16"),)]
    hashes = {ModelMetadata("one", 6, each).layout_hash for each in others}
    assert len(hashes | {one.layout_hash}) == 5


def test_a_shape_of_many_huge_sizes_is_refused_at_once() -> None:
    shape = (2**63 - 1,) * 60_000
    before = time.process_time()
    with pytest.raises(ConfigError, match="1 tensors hold"):
        ModelMetadata("m", 1, (TensorLayout("w", shape, "float32"),))
    assert time.process_time() - before < 1  # multiplied out, it takes 14 s, and the number cannot be printed


@pytest.mark.parametrize(
    ("codec", "choice", "feeds_back"),
    [
        ("int8", "auto", False),
        ("int4", "auto", True),
        ("topk", "auto", True),
        ("fp16", "on", True),
        ("topk", "off", False),
    ],
)
def test_error_feedback_is_on_where_a_codec_leaves_out_much(codec: str, choice: str, feeds_back: bool) -> None:
    config = TrainingConfig(codec=codec, error_feedback=choice, outer_optimiser="sgd")
    assert config.feeds_back == feeds_back


@pytest.mark.parametrize("optimiser", ["nesterov", "adam"])
def test_a_sparse_codecs_residual_takes_no_momentum_beside_it(optimiser: str) -> None:
    with pytest.raises(ConfigError, match="count what was learnt twice") as refused:
        TrainingConfig(codec="topk", outer_optimiser=optimiser)
    assert 'train.outer_optimiser = "sgd"' in refused.value.hint
    TrainingConfig(codec="topk", outer_optimiser=optimiser, outer_momentum=0)
    TrainingConfig(codec="topk", outer_optimiser=optimiser, error_feedback="off")
    TrainingConfig(codec="int4", outer_optimiser=optimiser)


@pytest.mark.parametrize("optimiser", ["sgd", "average"])
def test_an_outer_optimiser_without_momentum_goes_with_a_sparse_codec(optimiser: str) -> None:
    assert TrainingConfig(codec="topk", outer_optimiser=optimiser).feeds_back


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean"])
def test_the_middle_of_what_most_leave_out_is_refused(aggregation: str) -> None:
    with pytest.raises(ConfigError, match="aggregation is .* another rule with codec topk"):
        TrainingConfig(codec="topk", outer_optimiser="sgd", aggregation=aggregation)
