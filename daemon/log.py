"""Logging: one line per change of state, with the job's id.

JSON under journald or a pipe, colours on a terminal. Values are escaped by the renderers, so that a
file name cannot forge a line.
"""

import logging
import sys

import structlog

from daemon.settings import Log


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
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.level.upper()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


class _ToStructlog(logging.Handler):
    """What libraries log goes the same way as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:  # who logs must not die of it
            self.handleError(record)
