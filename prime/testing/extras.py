"""What the test kit needs beyond the base install, said in words where it is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prime.errors import MissingExtraError

PACKAGES = ("hypothesis", "pytest", "pytest_trio")


@contextlib.contextmanager
def needed_by(module: str) -> Iterator[None]:
    """Import the block's packages for `module`; a missing one is a `MissingExtraError` that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        package = error.name.replace("_", "-")
        raise MissingExtraError(f"{module} needs {package}", hint="pip install 'prime-actors[testing]'") from error
