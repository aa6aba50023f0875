"""The state of training, taken apart into tensors and plain values by their paths, and put together again (pure).

A path is the keys down to a leaf, joined by dots, as torch.distributed.checkpoint writes it. What is a tensor, the
caller tells. What stands under `RANK` is each rank's own, such as the residuals of its codec: ranks do not share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prime.errors import ActorUsageError

RANK: Final = "rank"
"""The key of the state under which a rank keeps what is its own."""
_DEPTH_MAX = 64
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def leaves(state: Any, above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf; dictionaries and lists are none, even if they are empty.

    Raises `ActorUsageError` for a state that holds itself, or two keys that make the same path.
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


def taken_apart(state: Any, is_tensor: Callable[[Any], bool], rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the plain values of a state, by path; a rank's own get its number into theirs."""
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for path, leaf in leaves(state):
        name = own_path(path, rank)
        if name in tensors or name in values:
            raise ActorUsageError(
                f"two leaves of the state have the path {name}", hint="keys with dots in them may run into each other"
            )
        if is_tensor(leaf):
            tensors[name] = leaf
        else:
            values[name] = plain(leaf, name)
    return tensors, values


def put_back(state: Any, values: Mapping[str, Any], rank: int, above: str = "") -> None:
    """Put stored plain values into a state of the same form; leaves without a stored value stay as they are."""
    for key, inside in list(_branches(state) or ()):
        path = f"{above}.{key}" if above else str(key)
        if _branches(inside) is not None:
            put_back(inside, values, rank, path)
        elif (name := own_path(path, rank)) in values:
            state[key] = restored(values[name])


def own_path(path: str, rank: int) -> str:
    """Return the path under which a leaf is stored: what a rank keeps as its own goes under its number."""
    first, dot, rest = path.partition(".")
    return f"{RANK}.{rank}{dot}{rest}" if first == RANK else path


def is_own(name: str) -> bool:
    """Tell whether a stored leaf is one rank's own."""
    return name.startswith(f"{RANK}.")


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
