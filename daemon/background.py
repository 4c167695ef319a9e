"""Background tasks: reports and conveniences, none of which may end the daemon.

One that raises is logged and counted, and started again after a while. Tasks without which no clip
is made have no such protection: they end the process, so that systemd starts a new one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from daemon.telemetry.metrics import Metrics

_MIN_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 300.0

T = TypeVar("T")

log = structlog.get_logger()


async def keep_running(task: str, run: Callable[[], Awaitable[object]], metrics: Metrics) -> None:
    """Await `run` until it returns; after an exception start it again, with backoff.

    A failure after a longer time of work than the last delay starts with the shortest delay again.
    """
    delay = _MIN_DELAY_SECONDS
    while True:
        started = time.monotonic()
        try:
            await run()
        except Exception as error:
            if time.monotonic() - started > 2 * delay:
                delay = _MIN_DELAY_SECONDS
            _report(task, error, metrics, retry_in=delay)
        else:
            return
        await asyncio.sleep(delay)
        delay = min(2 * delay, _MAX_DELAY_SECONDS)


async def try_once(task: str, metrics: Metrics, work: Awaitable[T]) -> T | None:
    """Return the result of a piece of work; None if it raised."""
    try:
        return await work
    except Exception as error:
        _report(task, error, metrics)
        return None


def _report(task: str, error: Exception, metrics: Metrics, **fields: float) -> None:
    metrics.background_failures.labels(task).inc()
    reason = f"{type(error).__name__}: {error}"
    log.exception("background task failed", task=task, reason=reason, **fields)
