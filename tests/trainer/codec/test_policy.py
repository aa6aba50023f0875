"""The codec of each parameter: rules by name first, then size and shape, then the job's codec."""

from __future__ import annotations

import pytest

from prime.errors import ConfigError
from prime.trainer.codec.policy import Policy, Rule
from prime.trainer.job import Compression, PolicyRule

WEIGHT = (512, 512)


def test_norms_biases_and_small_tensors_go_as_fp16() -> None:
    chosen = Policy("int8", exact_below=4096)
    assert chosen("layers.0.attention.weight", WEIGHT) == "int8"
    assert chosen("layers.0.attention.bias", (100_000,)) == "fp16"
    assert chosen("scale", ()) == "fp16"
    assert chosen("head.weight", (63, 65)) == "fp16"
    assert chosen("head.weight", (64, 64)) == "int8"


@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_no_parameter_travels_less_exactly_than_the_codec_asked_for(codec: str) -> None:
    assert {Policy(codec)("bias", (3,)), Policy(codec)("weight", WEIGHT)} == {codec}


def test_the_first_rule_that_matches_decides() -> None:
    chosen = Policy("int4", rules=(Rule("embedding.*", "none"), Rule("*.weight", "int8"), Rule("*", "fp8")))
    assert chosen("embedding.weight", WEIGHT) == "none"
    assert chosen("head.weight", (2, 2)) == "int8"
    assert chosen("Embedding.bias", (2,)) == "fp8"


def test_rules_see_names_without_the_wrappers() -> None:
    chosen = Policy("int4", rules=(Rule("layers.?.norm.weight", "none"),))
    assert chosen("_orig_mod.layers.3._checkpoint_wrapped_module.norm.weight", WEIGHT) == "none"


def test_a_jobs_table_is_a_policy() -> None:
    table = Compression(codec="int4", exact_below=10, policy=(PolicyRule(match="*.norm.*", codec="int8"),))
    assert Policy.of(table) == Policy("int4", 10, (Rule("*.norm.*", "int8"),))


def test_a_codec_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'powersgd'"):
        Policy("powersgd")
    with pytest.raises(ConfigError, match="'int2'"):
        Policy(rules=(Rule("*", "int2"),))
