"""Logging: one line per state change, with the job's id.

Writes journal fields under systemd, colours on a terminal, and JSON elsewhere. All three escape
values or send them as separate fields, so that a file name cannot forge a line. log_writer.py
writes the lines. Whatever happens to a line, its caller neither waits nor fails.
"""

import json
import logging
import os
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from daemon.config.settings import Log
from daemon.telemetry import journal
from daemon.telemetry.log_writer import DescriptorWriter, LogStream, LogWriter, encode
from rules.characters import escape_unsafe

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIELD_PREFIX = "I2VD_"
_STDERR = 2


def _report_loss(lines: int) -> None:
    structlog.get_logger().warning("log lines lost", lines=lines)


_writer = LogWriter(_report_loss)
_write_to_stderr = DescriptorWriter(_STDERR)


def configure(settings: Log) -> None:
    """Configure structlog for the process; loggers of libraries are included from WARNING on."""
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    factory: Any = _StderrLogger
    is_terminal = os.isatty(_STDERR)
    if settings.format == "console" or (settings.format == "auto" and is_terminal):
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _escape_values,
            structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=_write_indented),
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
        wrapper_class=_safe_logger(settings.level),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_StructlogHandler()], force=True)


def lines_lost() -> int:
    """Return the number of log lines that this process lost."""
    return _writer.lost


def flush() -> bool:
    """Wait a second at most until all lines are written; return False if some are not."""
    return _writer.flush()


def take_over_stderr() -> None:
    """Send what is written to stderr, warnings and uncaught exceptions the way of the log.

    For the daemon: a library that warns must not wait for the reader of stderr either.
    """
    sys.stderr = LogStream(_writer, _write_to_stderr, _stderr_encoding())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(
        hook.exc_type, hook.exc_value or hook.exc_type(), hook.exc_traceback
    )
    sys.unraisablehook = lambda hook: _log_uncaught(
        hook.exc_type, hook.exc_value or hook.exc_type(), hook.exc_traceback
    )


def write_line(text: str) -> None:
    """Write a line to stderr, as it is; wait a second at most."""
    _writer.put(_write_to_stderr, encode(text + "\n", _stderr_encoding()))
    _writer.flush()


def _stderr_encoding() -> str:
    return getattr(sys.stderr, "encoding", None) or "utf-8"


def _log_uncaught(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    structlog.get_logger().critical("exception uncaught", exc_info=(kind, error, where))


def _safe_logger(level: str) -> type[Any]:
    """Return a logger class whose methods never raise; a line that cannot be made is lost."""
    base: Any = structlog.make_filtering_bound_logger(level.upper())

    class SafeLogger(base):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str, **fields: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, **fields)
            except Exception:  # a value that cannot be rendered: keep the rest
                try:
                    return super()._proxy_to_logger(method_name, event, fields_lost=[*fields])
                except Exception:
                    return _writer.lose()

    return SafeLogger


def _escape_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, which could move the cursor, start a line or change a colour."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escape_unsafe(value)
    return event


def _write_indented(out: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback, indented so that none of its lines can be mistaken for a log line."""
    for line in "".join(traceback.format_exception(*exc_info)).splitlines():
        out.write(f"\n    {escape_unsafe(line)}")


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


class _StderrLogger:
    """Logger that queues finished lines for stderr."""

    def __init__(self, *_: object) -> None:
        self._encoding = _stderr_encoding()

    def _put(self, line: str) -> None:
        _writer.put(_write_to_stderr, encode(line + "\n", self._encoding))

    debug = info = warning = error = critical = _put


class _JournalLogger:
    """Logger that queues entries for the journal; they go to stderr if the journal fails."""

    def __init__(self, *_: object) -> None:
        pass

    def _put(self, fields: dict[str, str]) -> None:
        message = fields["MESSAGE"].replace("\n", "\\n")
        instead = encode(f"<{fields['PRIORITY']}>{message}\n")

        def send(entry: bytes) -> None:
            try:
                journal.send(entry)
            except OSError:
                _write_to_stderr(instead)

        _writer.put(send, journal.entry(fields))

    debug = info = warning = error = critical = _put


class _StructlogHandler(logging.Handler):
    """Handler that forwards the log records of libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:  # such as a message whose arguments do not fit
            _writer.lose()
