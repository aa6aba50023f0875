"""How a launcher started this process: as one of several, by torchrun's or Slurm's variables. Pure.

torchrun (torch, *Environment variables* of `torch.distributed.run`) sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR and MASTER_PORT. srun (Slurm, *srun(1)*, output environment variables) sets SLURM_PROCID, SLURM_LOCALID and
SLURM_NODEID, and of its step SLURM_STEP_NUM_TASKS, SLURM_STEP_NUM_NODES and SLURM_STEP_NODELIST; the allocation's own are
SLURM_NTASKS, SLURM_NNODES and SLURM_JOB_NODELIST. Where both are there, torchrun was started by srun, and its count.

A launcher starts one process on each machine, which then starts the ranks there; or one for each rank.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import attrs

from prime.errors import ConfigError

HOSTS_MAX: Final = 65_536
_TORCHRUN: Final = ("RANK", "WORLD_SIZE")
_STEP: Final = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS")
"""What srun sets and a batch script, which is no task of a step, does not have."""
_PORT_MAX: Final = 65_535


@attrs.frozen(kw_only=True)
class Launch:
    """One process of several that train one run. Host 0 leads: its gang decides."""

    launcher: Literal["torchrun", "slurm"]
    host: int
    hosts: int
    leader: str
    """Where host 0 is: a name or an address."""
    one_each: bool
    """The launcher started a process for each rank, so each has one rank; else it has as many as the job says."""
    local: int = 0
    """This process among those of its machine."""
    name: str = ""
    """The machine's name, where the launcher tells."""
    run: str = ""
    """The launcher's own name for the whole, where it has one: processes of two runs are never mixed up."""


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """Return how this process was launched; None where it is alone.

    Raises `ConfigError`, which names the variable, where one is missing, is no number, or contradicts another.
    """
    variables = _Variables(environment)
    if any(name in environment for name in _TORCHRUN):
        return _by_torchrun(variables)
    if "SLURM_PROCID" in environment and any(name in environment for name in _STEP):
        return _by_slurm(variables)
    return None


def ranks_of_host(ranks: int | str, hosts: int, *, one_each: bool, here: int) -> int:
    """Return how many ranks each host has of a job's `parallel.ranks`; `here`: how many this host has where that is auto.

    Raises `ConfigError` where they cannot be shared alike.
    """
    each = 1 if one_each else here
    if not isinstance(ranks, int):
        return each
    if ranks % hosts or (one_each and ranks != hosts):
        wanted = f"{hosts}" if one_each else f"a multiple of {hosts}"
        raise ConfigError(
            f"parallel.ranks: {ranks} ranks on {hosts} hosts",
            hint=f"it counts the ranks of all hosts: set it to {wanted}, or to auto",
        )
    return ranks // hosts


# ---------------------------------------------------------------------------------------------------------- torchrun


def _by_torchrun(variables: _Variables) -> Launch | None:
    world = variables.number("WORLD_SIZE", low=1, high=HOSTS_MAX)
    rank = variables.below("RANK", "WORLD_SIZE", world)
    if world == 1:
        return None
    local_world = variables.number("LOCAL_WORLD_SIZE", low=1, high=world, default=1)
    local = variables.below("LOCAL_RANK", "LOCAL_WORLD_SIZE", local_world, default=0)
    variables.number("MASTER_PORT", low=1, high=_PORT_MAX, default=1)
    return Launch(
        launcher="torchrun",
        host=rank,
        hosts=world,
        leader=variables.text("MASTER_ADDR"),
        one_each=local_world > 1,
        local=local,
        run=_named("torchrun", variables.get("TORCHELASTIC_RUN_ID")),
    )


# ------------------------------------------------------------------------------------------------------------- Slurm


def _by_slurm(variables: _Variables) -> Launch | None:
    tasks = variables.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", low=1, high=HOSTS_MAX)
    process = variables.below("SLURM_PROCID", variables.name("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), tasks)
    if tasks == 1:
        return None
    nodes = variables.number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", low=1, high=tasks)
    nodes_name = variables.name("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    node = variables.below("SLURM_NODEID", nodes_name, nodes)
    local = variables.below("SLURM_LOCALID", "the tasks of a node", tasks)
    names = _node_names(variables, nodes_name, nodes)
    _check_places(process, node, local, one_each=tasks > nodes)
    return Launch(
        launcher="slurm",
        host=process,
        hosts=tasks,
        leader=variables.get("MASTER_ADDR") or names[0],
        one_each=tasks > nodes,
        local=local,
        name=names[node],
        run=_named("slurm", variables.get("SLURM_JOB_ID") or variables.get("SLURM_JOBID")),
    )


def _node_names(variables: _Variables, nodes_name: str, nodes: int) -> tuple[str, ...]:
    list_name = variables.name("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    names = expand_nodes(variables.text(list_name), list_name)
    if len(names) != nodes:
        raise _contradiction(f"{list_name} has {len(names)} nodes, and {nodes_name} is {nodes}")
    return names


def _check_places(process: int, node: int, local: int, *, one_each: bool) -> None:
    """Refuse a distribution of tasks under which the first process is not on the first node."""
    if process == 0 and (node or local):
        raise _contradiction(f"SLURM_PROCID is 0, with SLURM_NODEID {node} and SLURM_LOCALID {local}")
    if not one_each and (local or process != node):
        raise _contradiction(f"SLURM_PROCID is {process}, with SLURM_NODEID {node} and SLURM_LOCALID {local}")


def expand_nodes(text: str, name: str = "the node list") -> tuple[str, ...]:
    """Return the nodes of a list as Slurm writes it: `n[01-03,07],login` is n01, n02, n03, n07, login.

    Raises `ConfigError`, which names the variable `name`, for what is no such list, or one of too many nodes.
    """
    if not _LIST.fullmatch(text):
        raise _unreadable(name, text)
    found: list[str] = []
    for part in _PART.findall(text):
        pieces = [_numbers(piece, name, text) if piece[0] == "[" else (piece,) for piece in _PIECE.findall(part)]
        found += ("".join(combined) for combined in itertools.islice(itertools.product(*pieces), HOSTS_MAX))
        if len(found) >= HOSTS_MAX:
            raise _unreadable(name, text)
    return tuple(found)


_RANGES: Final = r"\[\d{1,9}(?:-\d{1,9})?(?:,\d{1,9}(?:-\d{1,9})?)*\]"
_NAME: Final = rf"(?:[A-Za-z0-9._-]|{_RANGES})+"
_LIST: Final = re.compile(rf"{_NAME}(?:,{_NAME})*")
_PART: Final = re.compile(_NAME)
_PIECE: Final = re.compile(rf"{_RANGES}|[^\[\],]+")


def _numbers(brackets: str, name: str, text: str) -> tuple[str, ...]:
    return tuple(number for one in brackets[1:-1].split(",") for number in _range(one, name, text))


def _range(one: str, name: str, text: str) -> Iterator[str]:
    """Yield the numbers of `01-03`, each as wide as the first is written."""
    first, _, last = one.partition("-")
    low, high = int(first), int(last or first)
    if not low <= high < low + HOSTS_MAX:
        raise _unreadable(name, text)
    yield from (f"{number:0{len(first)}}" for number in range(low, high + 1))


# --------------------------------------------------------------------------------------------------------- variables


class _Variables:
    """The variables of a launcher, read strictly. Where several names are given the first that is set counts."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def get(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def name(self, *names: str) -> str:
        return next((name for name in names if self.get(name)), names[-1])

    def text(self, name: str) -> str:
        found = self.get(name)
        if not found:
            raise ConfigError(
                f"{name} is not set, and other variables say that this is one process of several",
                hint="start it with torchrun or srun; or unset RANK and WORLD_SIZE (in a step of Slurm, SLURM_PROCID)",
            )
        return found

    def number(self, *names: str, low: int, high: int, default: int | None = None) -> int:
        name = self.name(*names)
        text = self.get(name)
        if not text and default is not None:
            return default
        text = self.text(name)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
            raise ConfigError(f"{name}: {text!r} is not a number from {low} to {high}", hint=_HINT)
        return int(text)

    def below(self, name: str, count_name: str, count: int, *, default: int | None = None) -> int:
        found = self.number(name, low=0, high=HOSTS_MAX, default=default)
        if found >= count:
            raise _contradiction(f"{name} is {found}, and {count_name} is {count}")
        return found


_HINT: Final = "the launcher sets it (torchrun, srun); if there is none, unset RANK, WORLD_SIZE or SLURM_PROCID"


def _contradiction(text: str) -> ConfigError:
    return ConfigError(f"the launcher's variables contradict each other: {text}", hint=_HINT)


def _unreadable(name: str, text: str) -> ConfigError:
    return ConfigError(f"{name}: {text[:80]!r} is not a list of nodes", hint="such as n[01-03,07],login2")


def _named(launcher: str, run: str) -> str:
    return f"{launcher} {run}" if run and run != "none" else ""
