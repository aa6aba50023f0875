"""Which line sets which key."""

from __future__ import annotations

import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from prime.config.positions import lines_of_keys


def test_plain_keys_of_tables() -> None:
    assert lines_of_keys("# hello\n[node]\nname = 'a'\n\n[train]\nseed = 1 # x\n") == {
        ("node",): 2,
        ("node", "name"): 3,
        ("train",): 5,
        ("train", "seed"): 6,
    }


def test_values_over_many_lines_do_not_shift_what_follows() -> None:
    text = '[transport]\njoin = [\n  "/a", # [train]\n  "/b",\n]\nlisten = """\n[train]\nseed = 1\n"""\nkind = "tcp"\n'
    lines = lines_of_keys(text)
    assert lines["transport", "join"] == 2
    assert lines["transport", "listen"] == 6
    assert lines["transport", "kind"] == 10
    assert ("train",) not in lines


def test_dotted_quoted_and_inline_forms() -> None:
    lines = lines_of_keys('node.name = "a"\n"train" = { seed = 1 }\n[[extra]]\nx = 1\n')
    assert lines["node", "name"] == 1
    assert lines["train", "seed"] == 2
    assert lines["extra", "x"] == 4


NAMES = st.text("abcdefgh_", min_size=1, max_size=5)
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.text(max_size=8), st.lists(st.text(max_size=3), max_size=3))


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, SCALARS, max_size=4), max_size=4), st.integers(0, 3))
def test_every_key_is_found_where_it_stands(tables: dict[str, dict[str, object]], gap: int) -> None:
    text = tomlkit.dumps(tables).replace("\n[", "\n" * (gap + 1) + "[")
    lines = lines_of_keys(text)
    rows = text.split("\n")
    for section, table in tables.items():
        assert rows[lines[section,] - 1].startswith(f"[{section}]")
        for key in table:
            assert rows[lines[section, key] - 1].startswith(f"{key} =")
