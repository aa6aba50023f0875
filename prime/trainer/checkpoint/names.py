"""What the folders of checkpoints are called, and what a name says (pure).

Beside `step-00000100`, the checkpoint of step 100, there may stand what is no checkpoint, or none any more:

- `step-00000100.draft-TOKEN`: being written, or left by a crash;
- `step-00000100.aside-0003`: moved aside by the third roll back;
- `step-00000100.gone-TOKEN`: being deleted.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

import attrs

State = Literal["", "draft", "aside", "gone"]
"""What a folder is by its name; the empty one is a checkpoint."""

CHECKPOINTS = "checkpoints"
"""The folder of all of them, in a run's own."""
STEP_MAX = 10**15
ABOUT_NAME = "about.json"
"""The file that makes a folder count. It is written last."""

_STATES: tuple[State, ...] = get_args(State)
_NAME = re.compile(r"step-(\d{8,16})(?:\.(\w+)-([0-9a-z]{1,32}))?")


@attrs.frozen(order=True)
class FolderName:
    """The name of one folder. `mark` tells folders of one step and state apart."""

    step: int
    state: State = ""
    mark: str = ""

    def __str__(self) -> str:
        return f"step-{self.step:08d}" + (f".{self.state}-{self.mark}" if self.state else "")


def parsed(name: str) -> FolderName | None:
    """Return what a name says; `None` for one that is no folder of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    state = next((one for one in _STATES if one == (match[2] or "")), None)
    if state is None:
        return None
    found = FolderName(int(match[1]), state, match[3] or "")
    return found if str(found) == name and found.step <= STEP_MAX else None


def aside_number(name: FolderName) -> int:
    """Return which roll back moved a folder aside; 0 if none did."""
    return int(name.mark) if name.state == "aside" and name.mark.isdecimal() else 0
