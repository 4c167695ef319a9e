"""Webhooks: report the end of each job to other programs, in order and at least once.

The job events in the queue's database are the outbox. The last delivered event of each webhook is
stored, so that a restart loses nothing and no clip waits for a receiver. With a shared queue any
host may deliver, one at a time, so that each event is sent once. Messages are signed by the library
of standardwebhooks.com; receivers verify them with that of their language. The id of a message is
the same at each try.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import httpx2
import sqlalchemy as sa
import structlog
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from standardwebhooks.webhooks import Webhook as Signer

from daemon.config.secret_file import read_token
from daemon.config.settings import Settings, SettingsError, WebhookSettings
from daemon.jobs.database import Database, QueueUnavailable
from daemon.jobs.job import EventTime, Job, UnreadableRow, as_job
from daemon.jobs.schema import events, jobs, meta
from daemon.publish.picture_location import with_local_paths
from daemon.telemetry.metrics import Metrics

_BASE64 = "whsec_"
_BASE64_SECRET = re.compile(_BASE64 + "[A-Za-z0-9+/]+={0,2}")
_REJECTED = "rejected"
"""Event of a picture that failed at intake; receivers of "failed" get it as that."""
_POLL_SECONDS = 1.0
"""Interval at which new events are looked for."""
_TIMEOUT_SECONDS = 10.0
_MIN_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 300.0
_MAX_AGE_SECONDS = 86_400.0
"""Time of trying after which a message is dropped, so that the later ones are delivered."""

log = structlog.get_logger()


class Message(BaseModel):
    """Body of a webhook request, as JSON."""

    event: str
    """"done", "failed" or "cancelled"."""
    at: EventTime
    detail: str
    """The reason of a failure or cancellation."""
    job: Job


class _Pending(NamedTuple):
    """The next message: that of event `number`, the first one after event `last`."""

    last: int
    number: int
    job: int
    message: Message | None
    """None if the job's row cannot be read."""


@dataclass
class _Delivery:
    """State of this host's delivery of a message.

    `finished` is True once it is delivered or dropped, even if the queue does not know it yet.
    """

    number: int
    started: float = field(default_factory=time.monotonic)
    delay: float = _MIN_DELAY_SECONDS
    finished: bool = False


class Webhook:
    """One `[[webhook]]`; `run` delivers its messages until the daemon stops."""

    def __init__(
        self, hook: WebhookSettings, settings: Settings, database: Database, metrics: Metrics
    ) -> None:
        """Create a webhook. Raises SettingsError if the secret cannot be read."""
        self.hook = hook
        self._signer = signer_of(hook)
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._key = f"hook {hook.url}"
        self._origin = origin_of(hook.url)
        self._delivery = _Delivery(0)

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver new events, and those since the last delivery, until `stopping` is set.

        1. Read the oldest event that is not delivered.
        2. Take the webhook's lock, so that only one of the hosts sends.
        3. Post it; on a failure wait, with exponential backoff, and try again.
        4. Store that it is delivered, or dropped after a day.
        """
        async with httpx2.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            while not stopping.is_set():
                try:
                    delay = await self._send_next(client)
                except QueueUnavailable as error:
                    log.warning("webhook paused, queue unavailable", reason=str(error))
                    delay = _POLL_SECONDS
                await _wait(stopping, delay)

    async def _send_next(self, client: httpx2.AsyncClient) -> float:
        """Send the oldest message unless another host does; return the seconds to wait."""
        if await asyncio.to_thread(self._next_message) is None:
            return _POLL_SECONDS
        async with self._sender_lock() as acquired:
            pending = await asyncio.to_thread(self._next_message) if acquired else None
            return _POLL_SECONDS if pending is None else await self._deliver(client, pending)

    @contextlib.asynccontextmanager
    async def _sender_lock(self) -> AsyncIterator[bool]:
        with contextlib.ExitStack() as stack:
            lock = self._database.advisory_lock(self._key)
            acquired = await asyncio.to_thread(stack.enter_context, lock)
            try:
                yield acquired
            finally:
                await asyncio.to_thread(stack.close)

    def last_delivered(self) -> int:
        """Return the id of the last event that any host delivered.

        A new webhook starts with the next event and does not report earlier ones.
        """
        query = sa.select(meta.c.value).where(meta.c.key == self._key)
        with self._database.read() as db:
            last = db.scalar(query)
        if last is None or not last.isdecimal():
            newest = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)).scalar_subquery()
            value = sa.cast(newest, sa.Text)
            with contextlib.suppress(IntegrityError), self._database.write() as db:
                if last is not None:  # damaged
                    db.execute(meta.delete().where(meta.c.key == self._key))
                db.execute(meta.insert().values(key=self._key, value=value))
            with self._database.read() as db:
                last = db.scalar(query)
        return int(last or 0)

    def _next_message(self) -> _Pending | None:
        """Return the message of the oldest event that is not delivered."""
        last = self.last_delivered()
        with self._database.read() as db:
            query = (
                sa.select(events.c.id.label("number"), events.c.event, events.c.at, events.c.detail)
                .add_columns(*jobs.c)
                .join(jobs, jobs.c.id == events.c.job)
                .where(events.c.id > last, events.c.event.in_(self._event_names()))
                .where(self._database.is_settled(events))
                .order_by(events.c.id)
                .limit(1)
            )
            row = db.execute(query).first()
        if row is None:
            return None
        try:
            job = with_local_paths(self._settings, as_job(row))
        except UnreadableRow:
            return _Pending(last, row.number, row.id, None)
        event = "failed" if row.event == _REJECTED else row.event
        message = Message(event=event, at=row.at, detail=row.detail, job=job)
        return _Pending(last, row.number, job.id, message)

    def _event_names(self) -> list[str]:
        return [*self.hook.events, *([_REJECTED] if "failed" in self.hook.events else [])]

    async def _deliver(self, client: httpx2.AsyncClient, pending: _Pending) -> float:
        """Try once to deliver a message; return the seconds until the next try."""
        if self._delivery.number != pending.number:
            self._delivery = _Delivery(pending.number)
        delivery, fields = self._delivery, {"url": self._origin, "job": pending.job}
        if not delivery.finished:
            reason, may_help = await self._send(client, pending), pending.message is not None
            age = time.monotonic() - delivery.started
            if reason is not None and may_help and age <= _MAX_AGE_SECONDS:
                self._count("retried")
                log.warning("webhook delivery failed", **fields, reason=reason)
                delay, delivery.delay = delivery.delay, min(_MAX_DELAY_SECONDS, delivery.delay * 2)
                return delay
            delivery.finished = True
            self._count("delivered" if reason is None else "dropped")
            if reason is not None:
                log.error("webhook message dropped", **fields, reason=reason)
        await asyncio.to_thread(self._store_delivered, pending)
        return 0.0

    async def _send(self, client: httpx2.AsyncClient, pending: _Pending) -> str | None:
        """Send a message; return None if the receiver accepted it, else the reason."""
        if pending.message is None:
            return "the job's row cannot be read"
        return await self._post(client, pending.number, pending.message.model_dump_json())

    async def _post(self, client: httpx2.AsyncClient, number: int, body: str) -> str | None:
        """Post a message; return None if the receiver accepted it, else the reason.

        Only the status of the answer is read, whatever the receiver sends after it.
        """
        headers = {"content-type": "application/json", **self._headers(number, body)}
        request = client.stream("POST", self.hook.url, content=body, headers=headers)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), request as answer:
                return None if answer.is_success else f"it answered {answer.status_code}"
        except TimeoutError:
            return f"it did not answer within {_TIMEOUT_SECONDS:.0f} s"
        except httpx2.ProtocolError:  # its message would quote the answer, and that the request
            return "its answer is not HTTP"
        except Exception as error:  # whatever it is, another try may succeed, for a day
            return f"{type(error).__name__}: {error}"

    def _headers(self, number: int, body: str) -> dict[str, str]:
        """Return the headers of the standard; without a secret there is no signature."""
        name, now = f"event-{number}", datetime.now(UTC)
        headers = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(name, now, body)
        return headers

    def _store_delivered(self, pending: _Pending) -> None:
        """Store the delivered event, but never replace a later one.

        While the queue was unavailable to this host, another host may have delivered more.
        """
        same = (meta.c.key == self._key) & (meta.c.value == str(pending.last))
        with self._database.write() as db:
            db.execute(meta.update().where(same).values(value=str(pending.number)))

    def _count(self, outcome: str) -> None:
        self._metrics.webhook_messages.labels(outcome).inc()


def origin_of(url: str) -> str:
    """Return the part of a URL that logs may show: its path or user may be a secret."""
    parsed = httpx2.URL(url)
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{parsed.host}{port}"


def signer_of(hook: WebhookSettings) -> Signer | None:
    """Return the signer of a webhook, or None without a secret. Raises SettingsError.

    The secret is "whsec_" and base64, or any other word.
    """
    secret = read_token(hook.secret_file, "webhook.secret_file")
    if secret is None:
        return None
    if not secret.startswith(_BASE64):
        return Signer(secret.encode())
    if _BASE64_SECRET.fullmatch(secret):  # the library skips characters that are not base64
        with contextlib.suppress(ValueError):  # of a length that base64 never has
            return Signer(secret)
    raise SettingsError(
        f"webhook.secret_file {hook.secret_file}: what follows {_BASE64} is no base64"
    )


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
