"""Loading: precedence, origins, and what is said about a value that cannot be."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.config import NODE, Config, Loaded, TransportConfig, all_keys, assemble, load
from prime.config.sources import environment_layer, flag_layer, text_layer
from prime.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(
    home: Path, path: Path | None = None, flags: dict[str, object] | None = None, **environ: str
) -> Loaded[Config]:
    return load(path, flags=flags, environ={"HOME": str(home), **environ}, system_file=home / "etc.toml")


def failure(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        assemble([text_layer(text, "prime.toml")], NODE)
    return caught.value


def test_nothing_set_gives_the_defaults(home: Path) -> None:
    found = loaded(home)
    assert found.config == Config()
    assert found.files == ()
    assert {str(origin) for origin in found.origins.values()} == {"default"}


def test_each_source_overrules_the_one_below(home: Path) -> None:
    user = home / ".config" / "prime" / "config.toml"
    user.parent.mkdir(parents=True)
    (home / "etc.toml").write_text("[train]\nseed = 1\nrounds = 1\nthreads = 1\ninner_steps = 1\nbatch_size = 1\n")
    user.write_text("[train]\nseed = 2\nrounds = 2\nthreads = 2\ninner_steps = 2\n")
    (home / "prime.toml").write_text("[train]\nseed = 3\nrounds = 3\nthreads = 3\n")
    found = loaded(home, None, {"train.seed": 5}, PRIME_TRAIN__ROUNDS="4", PRIME_TRAIN__SEED="4")
    train = found.config.train
    assert (train.seed, train.rounds, train.threads, train.inner_steps, train.batch_size) == (5, 4, 3, 2, 1)
    assert str(found.origins["train.seed"]) == "--seed (flag)"
    assert str(found.origins["train.rounds"]) == "PRIME_TRAIN__ROUNDS (environment)"
    assert str(found.origins["train.threads"]) == "prime.toml:4"
    assert str(found.origins["train.batch_size"]) == f"{home}/etc.toml:6"
    assert [origin.where for origin in found.shadowed["train.rounds"]][1:] == [
        f"{home}/etc.toml:3",
        f"{user}:3",
        "prime.toml:3",
    ]


def test_a_named_file_takes_the_place_of_the_local_one(home: Path) -> None:
    (home / "prime.toml").write_text("[train]\nseed = 3\n")
    (home / "other.toml").write_text("[train]\nrounds = 7\n")
    config = loaded(home, Path("other.toml")).config
    assert (config.train.seed, config.train.rounds) == (0, 7)


def test_a_named_file_that_is_missing_is_said(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such") as caught:
        loaded(home, Path("absent.toml"))
    assert "config init" in caught.value.hint


def test_a_file_that_is_no_text_is_said(home: Path) -> None:
    (home / "prime.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"prime\.toml: not UTF-8"):
        loaded(home)


def test_an_xdg_folder_is_honoured_and_a_relative_one_is_not(home: Path) -> None:
    (home / "xdg" / "prime").mkdir(parents=True)
    (home / "xdg" / "prime" / "config.toml").write_text("[train]\nseed = 9\n")
    assert loaded(home, XDG_CONFIG_HOME=str(home / "xdg")).config.train.seed == 9
    assert loaded(home, XDG_CONFIG_HOME="xdg").config.train.seed == 0


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (
            "[transport]\nping_intervall_s = 1\n",
            "prime.toml:2: there is no key transport.ping_intervall_s",
            "ping_interval_s",
        ),
        ("[tran]\nseed = 1\n", "prime.toml:2: there is no section [tran]", "train.seed"),
        ("\n[tran]\n", "prime.toml:2: there is no section [tran]", "train"),
        ("[train]\nlisten = '/ip4/1.2.3.4/tcp/1'\n", "prime.toml:2: there is no key train.listen", "transport.listen"),
        ("[zzz]\nqqqqq = 1\n", "prime.toml:2: there is no section [zzz]", "config show"),
        ("train = 3\n", "prime.toml:1: train is no section", "[node]"),
        ("[train]\nseed = 1.5\n", "prime.toml:2: train.seed: 1.5 is not a whole number", "train.seed"),
        ("[train]\nseed = true\n", "prime.toml:2: train.seed: True is not a whole number", ""),
        ("[train]\nrounds = 0\n", "prime.toml:2: train.rounds: 0 is out of range: 1 to", ""),
        ("[train]\nlearning_rate = nan\n", "prime.toml:2: train.learning_rate: nan is not a number", ""),
        ("[transport]\nkind = 'U D P'\n", 'prime.toml:2: transport.kind: "U D P" is no name of a transport', ""),
        ("[transport]\njoin = '/ip4/1.2.3.4'\n", "prime.toml:2: transport.join: '/ip4/1.2.3.4' is not a list", ""),
        ("[transport]\njoin = ['1.2.3.4']\n", 'prime.toml:2: transport.join: "1.2.3.4" is no multiaddr', ""),
        ("[node]\nname = '../x'\n", 'prime.toml:2: node.name: "../x" is no name', ""),
        ("[train]\nseed 1\n", "prime.toml:2: Expected '='", "TOML"),
        ("[train]\nseed = [1\n", "prime.toml:3: ", "TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, says: str, hint: str) -> None:
    error = failure(text)
    assert str(error).startswith(says)
    assert hint in error.hint
    assert error.exit_code == 3


def test_every_fault_is_named_at_once() -> None:
    error = failure("[train]\nseeed = 1\nrounds = 'x'\n")
    assert str(error).split("\n") == [
        "prime.toml:2: there is no key train.seeed",
        "prime.toml:3: train.rounds: 'x' is not a whole number",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[transport]\nping_interval_s = 5\n", "prime.toml:2: transport.dead_after_s (6 s) is under twice"),
        ("[transport]\n\ndeadline_s = 5\n", "prime.toml:3: transport.dead_after_s (6 s) is over transport.deadline_s"),
        ("[train]\nround_deadline_s = 6\n", "prime.toml:2: train.round_deadline_s (6 s) is not over"),
    ],
)
def test_impossible_orders_are_refused(text: str, says: str) -> None:
    assert str(failure(text)).startswith(says)


def test_the_environment_is_read_by_the_type_of_the_key() -> None:
    layer = environment_layer(
        {
            "PRIME_TRAIN__LEARNING_RATE": "1e-2",
            "PRIME_TRANSPORT__JOIN": "/ip4/1.2.3.4/tcp/1/p2p/a, /ip4/1.2.3.4/tcp/2/p2p/b",
            "PRIME_NODE__NAME": "7",
            "PRIME_DEBUG": "1",
            "OTHER__X": "1",
        }
    )
    config = assemble([layer], NODE).config
    assert config.train.learning_rate == pytest.approx(0.01)
    assert config.transport.join == ("/ip4/1.2.3.4/tcp/1/p2p/a", "/ip4/1.2.3.4/tcp/2/p2p/b")
    assert config.node.name == "7"


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="PRIME_TRAIN__SEED: train.seed: 'x' is not a whole number"):
        assemble([environment_layer({"PRIME_TRAIN__SEED": "x"})], NODE)
    with pytest.raises(ConfigError, match="PRIME_TRAIN__SEEDS: there is no key train.seeds"):
        assemble([environment_layer({"PRIME_TRAIN__SEEDS": "1"})], NODE)


def test_a_bad_flag_is_named_and_an_absent_one_is_none() -> None:
    with pytest.raises(ConfigError, match="--listen: transport.listen"):
        assemble([flag_layer({"transport.listen": "nonsense"})], NODE)
    assert assemble([flag_layer({"transport.listen": None})], NODE).config == Config()
    assert (
        str(assemble([flag_layer({"transport.kind": "tcp"})], NODE).origins["transport.kind"]) == "--transport (flag)"
    )
    with pytest.raises(ConfigError, match="there is no key transport.lissen"):
        flag_layer({"transport.lissen": "x"})


def test_a_section_built_in_a_program_keeps_the_same_rules() -> None:
    with pytest.raises(ConfigError, match=r"TransportConfig\.ping_interval_s: -1.0 is out of range"):
        TransportConfig(ping_interval_s=-1)
    with pytest.raises(ConfigError, match=r"TransportConfig\.listen: 5 is not text"):
        TransportConfig(listen=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        attrs.evolve(TransportConfig(), kind="carrier pigeon")


RAW = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=9), st.lists(st.text(max_size=5), max_size=2)
)


@given(st.dictionaries(st.sampled_from(sorted(all_keys())), RAW, max_size=6))
def test_whatever_is_set_loads_within_the_schema_or_is_refused(values: dict[str, object]) -> None:
    try:
        found = assemble([flag_layer(values)], NODE)
    except ConfigError:
        return
    for name, key in all_keys().items():
        assert key.fit(found.value(name)) == found.value(name)
        assert (found.origins[name].kind == "flag") == (name in values)
