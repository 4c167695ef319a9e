"""Logging: one line per change of state, with the job's id.

JSON under journald (with its priorities) or a pipe, colours on a terminal. The renderers escape all
values, so that a file name cannot forge a line.
"""

import logging
import os
import sys
from typing import Any

import structlog

from daemon.settings import Log

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(settings: Log) -> None:
    """Set structlog up for the process; the libraries' own loggers join from WARNING on."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        structlog.processors.format_exc_info,
    ]
    if console:
        processors[-1:] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    else:
        processors.append(structlog.processors.JSONRenderer())
        if "JOURNAL_STREAM" in os.environ:
            processors.append(_with_priority)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.level.upper()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


def _with_priority(_logger: object, method: str, line: Any) -> str:
    """journald reads the priority from a prefix (sd-daemon(3)) and takes it off."""
    return f"<{_PRIORITIES.get(method, 6)}>{line}"


class _ToStructlog(logging.Handler):
    """What libraries log goes the same way as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:  # who logs must not die of it
            self.handleError(record)
