"""The character transformer: its sizes, what it knows at first, that it sees no future, and what it writes in."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prime.errors import ConfigError

torch = pytest.importorskip("torch")

from prime.trainer.job import Job  # noqa: E402 - after the check that torch is there
from prime.trainer.presets.charlm import build_model  # noqa: E402


def test_the_model_knows_nothing_at_first_and_sees_no_future() -> None:
    torch.manual_seed(0)
    model = build_model(Job(data_options={"context": 32}))
    count = sum(parameter.numel() for parameter in model.module.parameters())
    assert 0.75e6 < count < 0.9e6
    rows = torch.randint(0, 97, (4, 33))
    assert model.loss(rows).item() == pytest.approx(math.log(97), abs=0.15)
    changed = rows.clone()
    changed[:, 20:] = 0
    with torch.no_grad():
        one, other = model.module(rows[:, :-1]), model.module(changed[:, :-1])
    assert torch.allclose(one[:, :20], other[:, :20], atol=1e-5)
    assert not torch.allclose(one[:, 20:], other[:, 20:], atol=1e-5)


def test_its_options_are_its_sizes_and_the_alphabet_is_the_datas() -> None:
    options = {"width": 24, "layers": 2, "heads": 3, "context": 50}
    model = build_model(Job(model_options=options, data_options={"context": 16, "symbols": "bytes"}))
    assert model.module.symbols.weight.shape == (256, 24)
    assert model.module.places.weight.shape == (50, 24)
    assert len(model.module.blocks) == 2
    assert model.loss(torch.randint(0, 256, (3, 17))).item() == pytest.approx(math.log(256), abs=0.15)
    assert model.write("\u00e9", 3, seed=0).startswith("\u00e9")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 10, "heads": 3}, "width is 10, which 3 heads cannot share"),
        ({"layers": 0}, "layers is 0, not an integer of at least 1"),
        ({"layers": True}, "layers is True, not an integer"),
        ({"context": 16}, "context is 16, not an integer of at least 128"),
        ({"widht": 10}, "widht: charlm has no such option"),
    ],
)
def test_sizes_that_cannot_be_are_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build_model(Job(model_options=options))
    assert caught.value.hint
