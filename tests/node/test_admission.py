"""The configuration's `[admission]` and the options of the command line, as the node's admission."""

from __future__ import annotations

import math

import pytest

from prime import KeyPair
from prime.cli.main import run
from prime.config import NODE, AdmissionConfig, Config
from prime.config.explain import explain
from prime.config.layers import assemble
from prime.config.sources import flag_layer
from prime.errors import ConfigError
from prime.node.run import _limits, admission_of

PEER = KeyPair.from_seed(bytes(32)).peer
OTHER = KeyPair.from_seed(bytes([1]) * 32).peer


def test_by_default_all_may_link_at_any_rate() -> None:
    made = admission_of(Config())
    assert made.allowed is None
    assert made.denied == frozenset()
    assert made.limits.messages_per_s == made.limits.bytes_per_s == math.inf


def test_the_section_says_who_may_link_and_how_much_each_may_use() -> None:
    config = Config(
        admission=AdmissionConfig(
            allow=(PEER,), deny=(OTHER, "192.0.2.0/24"), messages_per_s=50.0, memory_bytes_max=8 * 2**20, links_max=7
        )
    )
    made, limits = admission_of(config), _limits(config)
    assert made.refusal(PEER) == ""
    assert made.refusal(OTHER)
    assert made.denies_source("192.0.2.9")
    assert made.limits.messages_per_s == 50.0
    assert limits.links_max == 7
    assert limits.allowance.link_bytes == 8 * 2**20
    assert limits.allowance.frame_bytes_max == 4 * 2**20


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("allow", ("192.0.2.7",), "is no peer id"),
        ("allow", (PEER[:-1],), "is no peer id"),
        ("deny", ("nobody",), "neither a peer id nor a network"),
        ("messages_per_s", -1.0, "out of range"),
        ("memory_bytes_max", 1000, "out of range"),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AdmissionConfig(**{field: value})  # type: ignore[arg-type]  # wrong on purpose


def test_a_flag_is_explained() -> None:
    told = explain(assemble([flag_layer({"admission.deny": (OTHER,)})], NODE), "admission.deny")
    assert OTHER in told.text()
    assert "--deny" in told.text()


def test_a_wrong_option_ends_the_command_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "start", "--deny", "nobody"]) == 3
    said = capsys.readouterr().err
    assert "--deny" in said
    assert "neither a peer id nor a network" in said
