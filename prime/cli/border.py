"""The border: every error of a command becomes an exit status, with its cause and the next step on standard error.

| status | meaning | status | meaning |
|---|---|---|---|
| 0 | done | 5 | refused by the other side |
| 1 | our bug: a crash report is written, and its place said (of `prime sim`: a violation) | 6 | not found |
| 2 | wrong usage | 7 | the deadline passed |
| 3 | bad configuration | 8 | the run failed |
| 4 | cannot reach | 130, 143 | interrupted, terminated |

A traceback is printed under `--debug` or PRIME_DEBUG alone.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prime.cli.output import say
from prime.errors import PrimeError, PrimeInternalError

EXIT_BUG: Final = 1
EXIT_FAILED: Final = 8
EXIT_INTERRUPTED: Final = 130


def guarded(command: Callable[[], object]) -> int:
    """Run a command and return its exit status; whatever it raises is told to the user here and goes no further."""
    try:
        status = command()
    except SystemExit as leaving:
        # The option parser turns a closed pipe into an exit of its own.
        return _reader_gone() if isinstance(leaving.__context__, BrokenPipeError) else _status_of(leaving)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        return _disk_full(error) if error.errno in {errno.ENOSPC, errno.EDQUOT} else _tell(error)
    except BaseException as error:  # noqa: BLE001 - the command line's border: nothing passes it
        return _tell(error)
    return status if isinstance(status, int) else 0


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    say(str(leaving.code))
    return EXIT_BUG


def _interrupted() -> int:
    say("interrupted")
    return EXIT_INTERRUPTED


def _reader_gone() -> int:
    """Whoever read our output has closed it, as `| head` does: stop, and keep Python from failing to flush at exit."""
    _end_output()
    return 0


def _disk_full(error: OSError) -> int:
    """Say that what takes our output, or a file that was to be written, is full."""
    _end_output()
    say(f"error: {error.filename or 'the output'}: {error.strerror}")
    say("hint: free space there, or write elsewhere")
    return EXIT_FAILED


def _end_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: BaseException) -> int:
    causes = list(_causes(error))
    if os.environ.get("PRIME_DEBUG"):
        traceback.print_exception(error)
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return _interrupted()
    if all(_is_expected(cause) for cause in causes):
        for cause in causes:
            _tell_expected(cause)
        return max(_exit_code(cause) for cause in causes)
    return _tell_bug(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions inside a group, however deep, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _is_expected(error: BaseException) -> bool:
    """Tell whether an exception is an answer to the user, not a bug: Prime's own, or the option parser's."""
    if isinstance(error, PrimeInternalError):
        return False
    return isinstance(error, PrimeError) or _shows_itself(error) or type(error).__name__ == "Abort"


def _shows_itself(error: BaseException) -> bool:
    # The option parser's exceptions are known by what they can do: their home differs between its versions.
    return hasattr(error, "show") and hasattr(error, "exit_code")


def _exit_code(error: BaseException) -> int:
    return int(getattr(error, "exit_code", EXIT_INTERRUPTED))


def _tell_expected(error: BaseException) -> None:
    if isinstance(error, PrimeError):
        say(f"error: {error}")
        if error.hint:
            say(f"hint: {error.hint}")
    elif _shows_itself(error):
        error.show()  # type: ignore[attr-defined]  # just asked for
    else:
        say("aborted")


def _tell_bug(error: BaseException) -> int:
    say(f"error: a bug in Prime: {type(error).__name__}: {error}")
    say(f"hint: please report it, with the crash report {_write_report(error)}")
    return EXIT_BUG


def _write_report(error: BaseException) -> str:
    """Write what a maintainer needs to a file of the user's own (0600) and return its path, or why there is none."""
    text = "\n".join(
        [
            f"prime {_version()}, Python {platform.python_version()}, {platform.platform()}",
            f"command: {' '.join(sys.argv)}",
            "",
            *traceback.format_exception(error),
        ]
    )
    prefix = time.strftime("crash-%Y%m%dT%H%M%S-")
    for folder in (_report_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".txt", dir=folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return name
    return "(it could not be written; run again with --debug for the traceback)"


def _report_folder() -> Path:
    root = os.environ.get("XDG_STATE_HOME", "")
    return (Path(root) if root.startswith("/") else Path.home() / ".local" / "state") / "prime" / "crashes"


def _version() -> str:
    from prime.version import __version__

    return __version__
