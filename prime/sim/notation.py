"""A plan in writing: as JSON, which a tool reads, and as Python, which a test keeps.

Only what differs from the defaults is written, so that a plan reads as what is special about it.
"""

from __future__ import annotations

import keyword
import math
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

import attrs

from prime.errors import UsageError
from prime.sim.plan import Action, DiskFaults, NetworkFaults, Plan

if TYPE_CHECKING:
    from prime.sim.run import Outcome

ACTIONS: Final[Mapping[str, type]] = {kind.__name__: kind for kind in get_args(Action)}
_NEVER: Final = "never"
"""How an endless time or rate is written: JSON has no infinity."""
_ENDLESS: Final = frozenset({"down_s", "for_s", "bandwidth_bytes_per_s"})
_CHANCES: Final = frozenset({"loss", "duplication", "reordering", "corruption"})


def to_plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as what JSON can say."""
    return _plain_fields(plan)


def _plain_fields(value: Any) -> dict[str, Any]:
    return {name: _plain(field) for name, field in special(value).items()}


def special(value: Any) -> dict[str, Any]:
    """Return the fields of an attrs object that have no default, or another value than it."""
    found = {}
    for field in attrs.fields(type(value)):
        given, default = getattr(value, field.name), field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
            default = default.factory()
        if given != default:
            found[field.name] = given
    return found


def _plain(value: Any) -> Any:
    if type(value) in ACTIONS.values():
        return {"kind": type(value).__name__, **_plain_fields(value)}
    if attrs.has(type(value)):
        return _plain_fields(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return _NEVER if value == math.inf else value


def from_plain(data: Any) -> Plan:
    """Return the plan that `to_plain` wrote, or that a person did. Raises `UsageError`, which says where it is wrong."""
    return _object(Plan, data, "the plan")  # type: ignore[no-any-return]  # of the class that is given


def _object(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(where, "a JSON object", data)
    hints = get_type_hints(cls)
    unknown = [name for name in data if name not in hints]
    if unknown:
        raise UsageError(f"{where} has no field {unknown[0]}", hint=f"its fields are {', '.join(hints)}")
    missing = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING and field.name not in data]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}", hint=f"add it: {cls.__name__} needs it")
    return cls(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint in (NetworkFaults, DiskFaults):
        return _object(hint, value, where)
    if get_origin(hint) is Literal:
        return _checked(value, where, " or ".join(map(repr, get_args(hint))), holds=value in get_args(hint))
    if get_origin(hint) is tuple:
        read = _action if isinstance(get_args(hint)[0], types.UnionType) else _text
        return tuple(read(item, f"{where} {index}") for index, item in enumerate(_items(value, where)))
    if get_origin(hint) is Mapping:
        return {_text(name, where): _whole(number, f"{where}: {name}") for name, number in _pairs(value, where)}
    readers = {bool: _truth, int: _steps, float: _number, str: _text}
    return readers[hint](value, where)


def _action(data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(where, "a JSON object", data)
    kind = ACTIONS.get(str(data.get("kind", "")))
    if kind is None:
        raise UsageError(f"{where} is of no known kind", hint=f'give it "kind", one of {", ".join(ACTIONS)}')
    return _object(kind, {name: value for name, value in data.items() if name != "kind"}, where)


def _items(value: Any, where: str) -> Sequence[Any]:
    return _checked(value, where, "a list", holds=isinstance(value, list))  # type: ignore[no-any-return]  # just checked


def _pairs(value: Any, where: str) -> Any:
    return _checked(value, where, "a JSON object", holds=isinstance(value, Mapping)).items()


def _text(value: Any, where: str) -> Any:
    return _checked(value, where, "a text", holds=isinstance(value, str))


def _truth(value: Any, where: str) -> Any:
    return _checked(value, where, "true or false", holds=isinstance(value, bool))


def _whole(value: Any, where: str) -> Any:
    return _checked(value, where, "a whole number", holds=isinstance(value, int) and not isinstance(value, bool))


def _steps(value: Any, where: str) -> Any:
    return _checked(value, where, "a whole number from 0", holds=_whole(value, where) >= 0)


def _number(value: Any, where: str) -> float:
    """Read a number: of seconds, of bytes or a chance, none of which is below 0; an offset of a clock may be."""
    field = where.rpartition(" ")[2]
    if value == _NEVER and field in _ENDLESS:
        return math.inf
    _checked(value, where, "a number", holds=isinstance(value, int | float) and not isinstance(value, bool))
    _checked(value, where, "a number from 0", holds=math.isfinite(value) and (value >= 0 or field == "offset_s"))
    _checked(value, where, "a chance, from 0 to 1", holds=value <= 1 or field not in _CHANCES)
    return float(value)


def _checked(value: Any, where: str, wanted: str, *, holds: bool) -> Any:
    if not holds:
        raise _wrong(where, wanted, value)
    return value


def _wrong(where: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"{where} is {value!r:.40}", hint=f"write {wanted}")


def to_source(plan: Plan) -> str:
    """Return a plan as a Python expression of names in `prime.sim` (and `math`), laid out as formatters do."""
    found = special(plan)
    if not found:
        return "Plan()"
    lines = (f"    {name}={_laid_out(value)}," for name, value in found.items())
    return "\n".join(["Plan(", *lines, ")"])


def _laid_out(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 1 and attrs.has(type(value[0])):
        return "\n".join(["(", *(f"        {_source(item)}," for item in value), "    )"])
    return _source(value)


def _source(value: Any) -> str:
    if attrs.has(type(value)):
        fields = ", ".join(f"{name}={_source(field)}" for name, field in special(value).items())
        return f"{type(value).__name__}({fields})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_source, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_source(name)}: {_source(item)}' for name, item in value.items())}}}"
    if isinstance(value, str):
        return _quoted(value)
    return "math.inf" if value == math.inf else repr(value)


def _quoted(text: str) -> str:
    shown = repr(text)
    return f'"{shown[1:-1]}"' if '"' not in shown and "\\" not in shown else shown


def as_test(outcome: Outcome) -> str:
    """Return a failure as a test that can be kept: a module for pytest, which fails until what it shows is mended.

    Raises `UsageError` for a scenario that a module cannot import.
    """
    module, _, name = outcome.scenario.partition(":")
    if module == "__main__" or not all(map(_is_name, (*module.split("."), name))):
        raise UsageError(
            f"a test cannot import the scenario {outcome.scenario}", hint="write it at the top of a module"
        )
    source = to_source(outcome.plan)
    names = sorted({"Plan", *(kind for kind in _CLASSES if f"{kind}(" in source)})
    return _TEST.format(
        violated=_sentence(outcome.violated),
        seed=outcome.seed,
        scenario=outcome.scenario,
        gap="" if module.startswith("prime.") else "\n",
        math="import math\n\n" if "math." in source else "",
        names=", ".join(names),
        module=module,
        name=name,
        plan=source,
        function=_identifier(outcome.violated.partition(" at ")[0]),
    )


def _sentence(text: str) -> str:
    """Return a text that stands in a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _identifier(text: str) -> str:
    """Return what can stand in the name of a function: ASCII, as "²" is alphanumeric and in no name."""
    kept = (letter if letter.isascii() and letter.isalnum() else " " for letter in text.lower())
    return "_".join("".join(kept).split()) or "it"


_CLASSES: Final = (*ACTIONS, "DiskFaults", "NetworkFaults")
_TEST: Final = '''"""{violated}: found with seed {seed} of {scenario}, and made smaller."""

{math}from prime import sim
from prime.sim import {names}
{gap}from {module} import {name}

PLAN = {plan}


def test_{function}_with_seed_{seed}() -> None:
    outcome = sim.run({seed}, {name}, PLAN)
    assert outcome.ok, outcome.error
'''
