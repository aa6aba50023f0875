"""The state of training, taken apart into tensors and plain values by their paths, and put together again (pure).

A path is the keys down to a leaf, joined by dots, as torch.distributed.checkpoint writes it. What is a tensor, the
caller tells. What stands under `RANK` is each rank's own, such as the residuals of its codec: ranks do not share it,
and whoever loads need not know what is in it, so it is nested dictionaries of text keys, and its paths can be read back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prime.errors import ActorUsageError

RANK: Final = "rank"
"""The key of the state under which a rank keeps what is its own."""
OPTIMISER: Final = "optimiser"
PER_PARAMETER: Final = "state"
"""Under these two keys stands what an optimiser keeps of each parameter, by the parameter's name."""
_DEPTH_MAX = 64
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def leaves(state: Any, above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf; dictionaries and lists are none, even if they are empty.

    Raises `ActorUsageError` for a state that holds itself.
    """
    if depth > _DEPTH_MAX:
        raise ActorUsageError(
            f"the state is nested more than {_DEPTH_MAX} deep at {above}", hint="a state is a dictionary of tensors"
        )
    branches = _branches(state)
    if branches is None:
        yield above, state
    else:
        for key, inside in branches:
            yield from leaves(inside, f"{above}.{key}" if above else str(key), depth + 1)


def taken_apart(
    state: Mapping[str, Any], is_tensor: Callable[[Any], bool], rank: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the plain values of a state, by path; this rank's own get its number into theirs.

    Raises `ActorUsageError` for what cannot be saved, and for two leaves of one path.
    """
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, leaf in (*leaves(shared(state)), *leaves(_escaped(state.get(RANK, {})), f"{RANK}.{rank}")):
        if name in tensors or name in values:
            raise ActorUsageError(
                f"two leaves of the state have the path {name}", hint="keys with dots in them may run into each other"
            )
        if is_tensor(leaf):
            tensors[name] = leaf
        else:
            values[name] = plain(leaf, name)
    return tensors, values


def shared(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state without what is this rank's own."""
    return {key: inside for key, inside in state.items() if key != RANK}


def without_state(state: Mapping[str, Any], stored: Iterable[str]) -> list[str]:
    """Return the parameters that an optimiser has a state of here, and had none of when the leaves `stored` were saved.

    They never got a gradient, as what a loss does not use. An optimiser of which nothing at all was saved is another one.
    """
    known: set[str] = set()
    above = f"{OPTIMISER}.{PER_PARAMETER}."
    for name in stored:
        if name.startswith(above):
            known.update(itertools.accumulate(name.removeprefix(above).split("."), "{}.{}".format))
    optimiser = state.get(OPTIMISER)
    here = optimiser.get(PER_PARAMETER) if isinstance(optimiser, Mapping) else None
    return [name for name in here if name not in known] if known and isinstance(here, Mapping) else []


def less(state: Mapping[str, Any], bare: Sequence[str]) -> dict[str, Any]:
    """Return a state without what its optimiser has of some parameters."""
    if not bare:
        return dict(state)
    here = {name: inside for name, inside in state[OPTIMISER][PER_PARAMETER].items() if name not in set(bare)}
    return {**state, OPTIMISER: {**state[OPTIMISER], PER_PARAMETER: here}}


def put_back(state: Any, values: Mapping[str, Any], above: str = "") -> None:
    """Put stored plain values (those that ranks share) into a state of the same form; leaves without a stored value stay as they are."""
    for key, inside in list(_branches(state) or ()):
        path = f"{above}.{key}" if above else str(key)
        if _branches(inside) is not None:
            put_back(inside, values, path)
        elif path in values:
            state[key] = restored(values[path])


def own_state(leaves: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return what a rank had under `RANK`, out of all leaves by name."""
    own: dict[str, Any] = {}
    prefix = f"{RANK}.{rank}."
    for name in sorted(leaves):
        if name.startswith(prefix):
            *above, last = (unescaped(key) for key in name.removeprefix(prefix).split("."))
            place = own
            for key in above:
                place = place.setdefault(key, {})
            place[last] = leaves[name]
    return own


def is_own(name: str) -> bool:
    """Tell whether a stored leaf is one rank's own."""
    return name.startswith(f"{RANK}.")


def _escaped(own: Any) -> Any:
    """Return a rank's own with keys in which a dot parts nothing."""
    if not isinstance(own, Mapping):
        return own
    if not all(isinstance(key, str) for key in own):
        raise ActorUsageError(
            f"state {RANK}: its keys must be text", hint="what is a rank's own is dictionaries of text keys"
        )
    return {key.replace("~", "~0").replace(".", "~1"): _escaped(inside) for key, inside in own.items()}


def unescaped(key: str) -> str:
    """Return a key of a rank's own, or a whole path, as the rank wrote it."""
    return key.replace("~1", ".").replace("~0", "~")


def plain(value: Any, name: str) -> Any:
    """Return a value as JSON has it; raises `ActorUsageError` for what is neither a tensor nor plain."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [plain(item, name) for item in value]}
    raise ActorUsageError(
        f"state {name}: a {type(value).__name__} cannot be saved",
        hint="a checkpoint holds tensors, numbers, text, True, False, None, and tuples, lists and dictionaries of them",
    )


def restored(stored: Any) -> Any:
    """Return the value that `plain` was given."""
    if isinstance(stored, dict):
        if "tuple" in stored:
            return tuple(restored(item) for item in stored["tuple"])
        return _FLOATS[stored["float"]]
    return stored


def _branches(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    return None
