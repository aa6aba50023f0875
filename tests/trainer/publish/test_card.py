"""The card of a model: in a record's value, and nothing else passes for one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from prime.dht.record import VALUE_BYTES_MAX
from prime.errors import DecodeError, UsageError
from prime.trainer.metadata import ModelMetadata, TensorLayout
from prime.trainer.publish.card import (
    CARD_BYTES_MAX,
    ModelCard,
    fits,
    pack_card,
    pack_metadata,
    read_card,
    read_metadata,
    without_metadata,
)
from prime.wire import dumps


def metadata(tensors: int) -> ModelMetadata:
    layout = tuple(TensorLayout(f"layers.{i}.attention.weight", (4, 4), "float32") for i in range(tensors))
    return ModelMetadata("m", 16 * tensors, layout)


def card(tensors: int = 2, **about: Any) -> ModelCard:
    known = metadata(tensors)
    return ModelCard(
        name="m",
        content=bytes(32),
        size_bytes=64 * tensors,
        format="safetensors",
        dtype="float32",
        parameters=known.parameters,
        tensors=tensors,
        layout_hash=known.layout_hash,
        metadata=known,
        layout=b"",
        **about,
    )


def test_a_card_is_read_back() -> None:
    one = card(run="r", step=3, round=-1, loss=1.5, licence="MIT", created_ms=5)
    assert read_card(pack_card(one)) == one
    assert len(pack_card(one)) < VALUE_BYTES_MAX


def test_a_long_layout_goes_elsewhere() -> None:
    long = card(5000)
    assert not fits(long)
    with pytest.raises(UsageError, match=f"{CARD_BYTES_MAX:,} are allowed"):
        pack_card(long)
    short = without_metadata(long, bytes(32))
    assert read_card(pack_card(short)) == short
    assert long.metadata is not None
    assert read_metadata(pack_metadata(long.metadata)) == long.metadata


@pytest.mark.parametrize(
    "value",
    [b"", b"hello", dumps(["prime-model-2", []]), dumps(["prime-model-1", []]), dumps({"a": 1}), bytes(20_000)],
)
def test_what_is_no_card_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError):
        read_card(value)
    with pytest.raises(DecodeError):
        read_metadata(value)


def test_a_card_that_lies_about_its_layout_is_refused() -> None:
    wrong = attrs.evolve(card(), metadata=None)  # type: ignore[misc]  # a @record is an attrs class
    packed = pack_card(wrong)
    assert read_card(packed).metadata is None
    with pytest.raises(DecodeError):
        read_card(packed[:-1])
