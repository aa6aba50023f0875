"""`prime config` and `prime key`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prime.cli.main import run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run([*arguments, "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    found: dict[str, object] = json.loads(told.out)
    assert found["schema"] == 1
    return found


def test_init_writes_a_file_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "init"]) == 0
    assert capsys.readouterr().out == "wrote prime.toml\n"
    assert "[transport]" in (home / "prime.toml").read_text()
    assert run(["config", "init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["config", "init", "--force"]) == 0


def test_init_in_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "init", "absent/prime.toml"]) == 3
    assert "absent/prime.toml: cannot be written" in capsys.readouterr().err


def test_set_show_and_explain_agree(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["config", "set", "train.rounds", "7"]) == 0
    monkeypatch.setenv("PRIME_TRAIN__SEED", "9")
    capsys.readouterr()
    keys = answer(capsys, "config", "show")["keys"]
    assert isinstance(keys, dict)
    assert keys["train.rounds"] == {"value": 7, "origin": "prime.toml:2"}
    assert keys["train.seed"] == {"value": 9, "origin": "PRIME_TRAIN__SEED (environment)"}
    told = answer(capsys, "config", "explain", "train.rounds")
    assert (told["value"], told["origin"], told["default"]) == (7, "prime.toml:2", 20)


def test_set_keeps_a_files_mode_and_links(home: Path) -> None:
    real = home / "real.toml"
    real.write_text("# mine\n")
    real.chmod(0o640)
    (home / "prime.toml").symlink_to(real)
    assert run(["config", "set", "train.seed", "3"]) == 0
    assert (home / "prime.toml").is_symlink()
    assert real.read_text().startswith("# mine\n")
    assert real.stat().st_mode & 0o777 == 0o640


def test_show_prints_toml_that_loads_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show"]) == 0
    (home / "again.toml").write_text(capsys.readouterr().out)
    assert run(["config", "show", "--config", "again.toml"]) == 0


def test_a_mistyped_key_in_a_file_is_status_3_with_its_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "prime.toml").write_text("[transport]\nping_intervall_s = 2\n")
    assert run(["config", "show"]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "prime.toml:2: there is no key transport.ping_intervall_s" in told.err
    assert "did you mean transport.ping_interval_s?" in told.err


def test_explain_of_an_unknown_key_and_set_of_a_bad_value(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "train.round"]) == 3
    assert "train.rounds" in capsys.readouterr().err
    assert run(["config", "set", "train.rounds", "many"]) == 3
    assert not (home / "prime.toml").exists()


def test_key_new_then_show(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = answer(capsys, "key", "new")
    file = home / ".local" / "state" / "prime" / "node" / "node.key"
    assert made["file"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert answer(capsys, "key", "show") == made
    assert run(["key", "new"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_key_show_of_a_missing_or_open_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "show", "absent.key"]) == 6
    assert "prime key new" in capsys.readouterr().err
    assert run(["key", "new", "a.key"]) == 0
    (home / "a.key").chmod(0o644)
    assert run(["key", "show", "a.key"]) == 3
    assert "chmod 600" in capsys.readouterr().err
