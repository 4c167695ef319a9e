"""Logging: one line per change of state, with the job's id.

Fields of the journal under systemd, colours on a terminal, JSON elsewhere. All three escape or
carry values apart, so that a file name cannot forge a line.
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
    """Set structlog up for the process; the libraries' own loggers join from WARNING on."""
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    if settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty()):
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _for_terminals,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_indented
            ),
        ]
    elif settings.format == "auto" and journal.is_stderr():
        processors += [structlog.processors.format_exc_info, _as_fields]
        factory = _ToJournal
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
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


def _for_terminals(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Texts without what moves a cursor, begins a line or changes a colour."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


def _indented(out: TextIO, trouble: ExcInfo) -> None:
    """A traceback of which no line can be taken for one of the log's."""
    for line in "".join(traceback.format_exception(*trouble)).splitlines():
        out.write(f"\n    {printable(line)}")


def _as_fields(_logger: object, method: str, event: EventDict) -> EventDict:
    """An entry of the journal: a message for people, and each value in a field of its own."""
    event.pop("level", None)
    words = event.pop("event")
    trouble = event.pop("exception", None)
    values = {
        key: value if isinstance(value, str) else _json(value) for key, value in event.items()
    }
    message = " ".join([str(words), *(f"{key}={_json(event[key])}" for key in event)])
    fields = {_FIELD_PREFIX + key.upper(): value for key, value in values.items()}
    return {
        "fields": {
            "MESSAGE": f"{message}\n{trouble}" if trouble else message,
            "PRIORITY": str(_PRIORITIES.get(method, 6)),
            "SYSLOG_IDENTIFIER": "i2vd",
            **fields,
        }
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


class _ToJournal:
    """The end of the way under systemd; where the journal does not take an entry, stderr does."""

    def _send(self, fields: dict[str, str]) -> None:
        try:
            journal.send(fields)
        except OSError:
            message = fields["MESSAGE"].replace("\n", "\\n")
            sys.stderr.write(f"<{fields['PRIORITY']}>{message}\n")

    debug = info = warning = error = critical = _send


class _ToStructlog(logging.Handler):
    """What libraries log goes the same way as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:  # who logs must not die of it
            self.handleError(record)
