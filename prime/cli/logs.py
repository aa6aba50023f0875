"""Where a node's log lines go, and how they look: structlog set up from the [log] section."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import structlog

from prime.errors import ConfigError

if TYPE_CHECKING:
    from prime.config import LogConfig


def configure(config: LogConfig) -> None:
    """Send log lines of at least the configured level to standard error or to the configured file."""
    stream = _stream(config.file)
    renderer: structlog.typing.Processor
    if config.format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
    )


def _stream(file: str) -> TextIO:
    if not file:
        return sys.stderr
    try:
        return Path(file).open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"log.file: {file} cannot be written ({error.strerror})", hint="name another file") from None
