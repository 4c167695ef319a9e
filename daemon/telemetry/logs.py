"""Logging: one line per state change, with the job's id.

Writes journal fields under systemd, colours on a terminal, and JSON elsewhere. All three escape
values or send them as separate fields, so that a file name cannot forge a line.
"""

import json
import logging
import sys
import traceback
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from daemon.config.settings import Log
from daemon.telemetry import journal
from daemon.telemetry.terminal import printable

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIELD_PREFIX = "I2VD_"


def configure(settings: Log) -> None:
    """Configure structlog for the process; loggers of libraries are included from WARNING on."""
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    if settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty()):
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_write_indented
            ),
        ]
    elif settings.format == "auto" and journal.is_stderr():
        processors += [structlog.processors.format_exc_info, _as_fields]
        factory = _JournalLogger
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.level.upper()),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_StructlogHandler()], force=True)


def _escape_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, which could move the cursor, start a line or change a colour."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


def _write_indented(out: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback, indented so that none of its lines can be mistaken for a log line."""
    for line in "".join(traceback.format_exception(*exc_info)).splitlines():
        out.write(f"\n    {printable(line)}")


def _as_fields(_logger: object, method: str, event: EventDict) -> EventDict:
    """Convert an event to a journal entry: a readable message, and a separate field per value."""
    event.pop("level", None)
    name = event.pop("event")
    traceback_text = event.pop("exception", None)
    values = {
        key: value if isinstance(value, str) else _json(value) for key, value in event.items()
    }
    message = " ".join([str(name), *(f"{key}={_json(event[key])}" for key in event)])
    fields = {_FIELD_PREFIX + key.upper(): value for key, value in values.items()}
    return {
        "fields": {
            "MESSAGE": f"{message}\n{traceback_text}" if traceback_text else message,
            "PRIORITY": str(_PRIORITIES.get(method, 6)),
            "SYSLOG_IDENTIFIER": "i2vd",
            **fields,
        }
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


class _JournalLogger:
    """Logger that sends entries to the journal, or to stderr if the journal fails."""

    def _send(self, fields: dict[str, str]) -> None:
        try:
            journal.send(fields)
        except OSError:
            message = fields["MESSAGE"].replace("\n", "\\n")
            sys.stderr.write(f"<{fields['PRIORITY']}>{message}\n")

    debug = info = warning = error = critical = _send


class _StructlogHandler(logging.Handler):
    """Handler that forwards the log records of libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:  # logging must not end the caller
            self.handleError(record)
