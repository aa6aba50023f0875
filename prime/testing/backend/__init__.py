"""The conformance suite of the DHT's stores: what `prime.dht.backend.Backend` promises, as cases that anyone can run.

::

    @pytest.mark.parametrize("case", (*CASES, *DISK_CASES), ids=lambda case: case.__name__)
    async def test_conformance(case, tmp_path):
        await case(BackendKit(lambda: MyBackend(tmp_path / "records"), "my_package:MyBackend", tmp_path))

A case is an async function of a `BackendKit`, raises `AssertionError` with the broken promise, and wants a place of its
own that is empty. `DISK_CASES` are for stores that outlive their process: they start programs that use the store, kill
them, take their disk away and damage their files. The `LONG_DISK_CASES` do it more often.
"""

from prime.testing.backend import cases, disks
from prime.testing.backend.kit import BackendKit, Case

CASES: tuple[Case, ...] = (
    cases.begins_empty,
    cases.has_what_was_written,
    cases.keeps_kinds_and_names_apart,
    cases.makes_changes_in_their_order,
    cases.keeps_a_copy,
    cases.takes_thousands_at_once,
    cases.makes_all_changes_or_none_wherever_it_is_cancelled,
    cases.says_that_it_is_not_open,
    cases.closes_twice,
)
"""Every promise, one case each."""

DISK_CASES: tuple[Case, ...] = (
    disks.has_what_a_killed_program_was_told,
    disks.refuses_a_second_program,
    disks.changes_nothing_on_a_full_disk,
    disks.names_what_a_flipped_bit_took,
)
"""The promises of a store that outlives its process; the kit says how a program makes it, and where its files are."""

LONG_DISK_CASES: tuple[Case, ...] = (
    disks.has_what_many_killed_programs_were_told,
    disks.names_what_many_flipped_bits_took,
)
"""The same, for minutes."""

__all__ = ["CASES", "DISK_CASES", "LONG_DISK_CASES", "BackendKit", "Case"]
