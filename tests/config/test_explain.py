"""Keys in words, the fresh file, one value changed, and the node's places."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from prime.config import NODE, Config, NodeConfig, all_keys, assemble, derive, explain, places, set_value, template
from prime.config.sources import environment_layer, text_layer
from prime.errors import ConfigError


def test_explain_says_value_origin_unit_range_and_what_was_overruled() -> None:
    layers = [
        text_layer("[transport]\ndeadline_s = 12\n", "a.toml"),
        environment_layer({"PRIME_TRANSPORT__DEADLINE_S": "60"}),
    ]
    told = explain(assemble(layers, NODE), "transport.deadline_s")
    assert (told.value, told.unit, told.range, told.default) == (60.0, "s", "0.5 to 3600 s", 30.0)
    assert told.origin == "PRIME_TRANSPORT__DEADLINE_S (environment)"
    assert told.overruled == ("a.toml:2",)
    assert told.derived == {"dial_deadline_s": 20.0, "hello_deadline_s": 10.0}
    assert "a third of transport.deadline_s" in told.text()


def test_every_key_can_be_explained() -> None:
    found = assemble([], NODE)
    for name in all_keys():
        assert name in explain(found, name).text()


def test_an_unknown_key_comes_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no key train.sed") as caught:
        explain(assemble([], NODE), "train.sed")
    assert "train.seed" in caught.value.hint


def test_derived_waits_lie_inside_the_deadline() -> None:
    waits = derive(Config())
    assert 0 < waits.reduce_deadline_s < waits.seal_deadline_s < Config().train.round_deadline_s
    assert 0 < waits.hello_deadline_s < waits.dial_deadline_s < Config().transport.deadline_s


def test_the_fresh_file_sets_nothing_and_its_comments_are_the_defaults() -> None:
    assert assemble([text_layer(template(), "x")], NODE).config == Config()
    live = "\n".join(line.removeprefix("# ") if " = " in line else line for line in template().split("\n"))
    assert {f"{s}.{k}" for s, table in tomllib.loads(live).items() for k in table} == set(all_keys())
    assert assemble([text_layer(live, "x")], NODE).config == Config()


def test_setting_a_value_keeps_the_rest() -> None:
    before = "# mine\n[train]\nseed = 1  # lucky\nrounds = 3\n"
    after = set_value(before, "train.seed", "7")
    assert after == "# mine\n[train]\nseed = 7  # lucky\nrounds = 3\n"
    added = set_value(after, "transport.join", "/ip4/1.2.3.4/tcp/1,/ip4/1.2.3.4/tcp/2")
    assert tomllib.loads(added)["transport"]["join"] == ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"]
    assert tomllib.loads(set_value("", "node.name", "a"))["node"]["name"] == "a"


@pytest.mark.parametrize(
    ("text", "name", "value", "says"),
    [
        ("", "train.sed", "1", "no key train.sed"),
        ("", "train.seed", "x", "train.seed: 'x' is not a whole number"),
        ("", "transport.ping_interval_s", "5", "one lost ping"),
        ("seed 1", "train.seed", "1", "prime.toml:1: "),
        ("[train]\nnope = 1\n", "train.seed", "1", "prime.toml:2: there is no key"),
    ],
)
def test_a_change_that_would_not_load_is_refused(text: str, name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        set_value(text, name, value)


def test_places_of_a_node() -> None:
    found = places(NodeConfig(name="a"), {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"})
    assert found.state == Path("/home/u/.local/state/prime/a")
    assert found.key_file == Path("/home/u/.local/state/prime/a/node.key")
    assert found.control_socket == Path("/run/user/7/prime/a.sock")


def test_places_without_a_run_time_folder_and_with_paths_of_ones_own() -> None:
    found = places(NodeConfig(name="a", state_dir="/s", key_file="~/k"), {"HOME": "/home/u"})
    assert found.control_socket == Path("/s/a/control.sock")
    assert found.key_file == Path("/home/u/k")
    assert places(NodeConfig(control_socket="/x.sock"), {"HOME": "/h"}).control_socket == Path("/x.sock")
