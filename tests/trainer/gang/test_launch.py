"""The variables of torchrun and Slurm: what they say, and what is refused, by the name of the variable."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError
from prime.trainer.gang.launch import Launch, expand_nodes, launch_of, ranks_of_host

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "n01",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NNODES": "3",
    "SLURM_JOB_NODELIST": "n[01-02,07]",
}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_torchrun_starts_a_process_on_each_machine() -> None:
    assert launch_of(TORCHRUN) == Launch(launcher="torchrun", host=1, hosts=2, leader="n01", one_each=False)


def test_torchrun_starts_a_process_for_each_rank() -> None:
    variables = TORCHRUN | {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    wanted = Launch(launcher="torchrun", host=3, hosts=4, leader="n01", one_each=True, local=1, run="torchrun r7")
    assert launch_of(variables | {"TORCHELASTIC_RUN_ID": "r7"}) == wanted


def test_slurm_starts_a_process_on_each_node() -> None:
    wanted = Launch(
        launcher="slurm", host=2, hosts=3, leader="n01", one_each=False, local=0, name="n07", run="slurm 77"
    )
    assert launch_of(SLURM) == wanted


def test_slurm_starts_a_process_for_each_rank() -> None:
    variables = SLURM | {"SLURM_NTASKS": "6", "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "1"}
    found = launch_of(variables | {"MASTER_ADDR": "10.0.0.1"})
    assert found is not None
    assert (found.host, found.hosts, found.one_each, found.local) == (3, 6, True, 1)
    assert (found.name, found.leader) == ("n02", "10.0.0.1")


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="no launcher"),
        pytest.param({"MASTER_ADDR": "n01", "LOCAL_RANK": "0"}, id="no rank"),
        pytest.param({"RANK": "0", "WORLD_SIZE": "1"}, id="a world of one"),
        pytest.param(without(SLURM, "SLURM_STEP_ID"), id="a batch script"),
        pytest.param(SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, id="a step of one task"),
    ],
)
def test_who_is_alone(variables: dict[str, str]) -> None:
    assert launch_of(variables) is None


def test_a_step_counts_before_its_allocation() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[02,07]"}
    found = launch_of(SLURM | step | {"SLURM_PROCID": "1", "SLURM_NODEID": "1"})
    assert found is not None
    assert (found.hosts, found.leader, found.name) == (2, "n02", "n07")


def test_torchrun_counts_within_a_step_of_slurm() -> None:
    found = launch_of(SLURM | TORCHRUN)
    assert found is not None
    assert (found.launcher, found.host) == ("torchrun", 1)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        (without(TORCHRUN, "RANK"), "RANK"),
        (without(TORCHRUN, "WORLD_SIZE"), "WORLD_SIZE"),
        (without(TORCHRUN, "MASTER_ADDR"), "MASTER_ADDR"),
        (without(TORCHRUN, "LOCAL_WORLD_SIZE") | {"LOCAL_RANK": "1"}, "LOCAL_RANK"),
        (TORCHRUN | {"RANK": "2"}, "RANK"),
        (TORCHRUN | {"RANK": "-1"}, "RANK"),
        (TORCHRUN | {"RANK": ""}, "RANK"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        (TORCHRUN | {"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        (TORCHRUN | {"WORLD_SIZE": "9" * 400}, "WORLD_SIZE"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE"),
        (TORCHRUN | {"LOCAL_RANK": "1"}, "LOCAL_RANK"),
        (TORCHRUN | {"MASTER_PORT": "65536"}, "MASTER_PORT"),
        (without(SLURM, "SLURM_NTASKS"), "SLURM_NTASKS"),
        (without(SLURM, "SLURM_NODEID"), "SLURM_NODEID"),
        (without(SLURM, "SLURM_LOCALID"), "SLURM_LOCALID"),
        (without(SLURM, "SLURM_NNODES"), "SLURM_NNODES"),
        (without(SLURM, "SLURM_JOB_NODELIST"), "NODELIST"),
        (SLURM | {"SLURM_PROCID": "3"}, "SLURM_PROCID"),
        (SLURM | {"SLURM_NNODES": "4"}, "SLURM_NNODES"),
        (SLURM | {"SLURM_NNODES": "2"}, "SLURM_NNODES"),
        (SLURM | {"SLURM_NODEID": "1"}, "SLURM_NODEID"),
        (SLURM | {"SLURM_PROCID": "0"}, "SLURM_PROCID"),
        (SLURM | {"SLURM_JOB_NODELIST": "n[01-02"}, "SLURM_JOB_NODELIST"),
        (SLURM | {"SLURM_JOB_NODELIST": "n[01-02]"}, "SLURM_JOB_NODELIST"),
    ],
)
def test_what_is_missing_or_contradictory_is_refused_by_name(variables: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        launch_of(variables)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n01", ["n01"]),
        ("n[01-03,07]", ["n01", "n02", "n03", "n07"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("a1,b[2,4],c-3.x", ["a1", "b2", "b4", "c-3.x"]),
        ("r[0-1]n[2-3]", ["r0n2", "r0n3", "r1n2", "r1n3"]),
        ("gpu[1]-ib", ["gpu1-ib"]),
    ],
)
def test_node_lists(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == tuple(names)


@pytest.mark.parametrize(
    "text", ["", ",", "n01,", "n[", "n[]", "n[1-]", "n[3-1]", "n[a-b]", "n]1[", "n 1", "n[0-99999999]", "n[1-2-3]"]
)
def test_what_is_no_node_list(text: str) -> None:
    with pytest.raises(ConfigError, match="NODELIST"):
        expand_nodes(text, "SLURM_JOB_NODELIST")


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True))
def test_a_list_of_numbers_is_read_as_it_is_written(numbers: list[int]) -> None:
    assert expand_nodes(f"n[{','.join(f'{each:03}' for each in numbers)}]") == tuple(f"n{each:03}" for each in numbers)


@given(st.text(alphabet="n0123456789[]-,", max_size=24))
def test_whatever_a_node_list_is_it_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert all(expand_nodes(text))


def test_ranks_are_shared_alike() -> None:
    assert ranks_of_host("auto", 2, one_each=False, here=4) == 4
    assert ranks_of_host("auto", 8, one_each=True, here=4) == 1
    assert ranks_of_host(8, 2, one_each=False, here=1) == 4
    assert ranks_of_host(8, 8, one_each=True, here=4) == 1
    for ranks, hosts, one_each in ((3, 2, False), (8, 4, True)):
        with pytest.raises(ConfigError, match=r"parallel\.ranks"):
            ranks_of_host(ranks, hosts, one_each=one_each, here=1)
