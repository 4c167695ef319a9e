"""Webhooks: what became of each job is told to other programs, at least once and in order.

The ledger's events are their queue: it is remembered which one a hook was told last, so nothing is
lost over a restart, and no clip ever waits for a receiver. Of the hosts that share a queue any may
tell, one at a time, so that each event is told once. Signed by the library of standardwebhooks.com;
receivers verify with that of their language. The id of a message is the same at each try.
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
from daemon.config.settings import Hook, Settings, SettingsError
from daemon.jobs.database import Database, QueueUnavailable
from daemon.jobs.job import Job, as_job
from daemon.jobs.schema import events, jobs, meta
from daemon.publish.originals import with_local_paths
from daemon.telemetry.metrics import Metrics

_BASE64 = "whsec_"
_BASE64_SECRET = re.compile(_BASE64 + "[A-Za-z0-9+/]+={0,2}")
_INTERVAL = 1.0
"""Seconds between two looks for something to tell."""
_TIMEOUT = 10.0
_LONGEST_PAUSE = 300.0
_GIVEN_UP = 86_400.0
"""Seconds after which a message is given up, so that the later ones get their turn."""

log = structlog.get_logger()


class Message(BaseModel):
    """What is posted, as JSON."""

    event: str
    """"done", "failed" or "cancelled"."""
    at: float
    detail: str
    """The reason, where it is no clip."""
    job: Job


class _Found(NamedTuple):
    """A message that follows on the event `last`; `number` is that of its own event."""

    last: int
    number: int
    message: Message


@dataclass
class _Delivery:
    """How far this host is with a message; `over` when only the queue does not know it yet."""

    number: int
    began: float = field(default_factory=time.monotonic)
    pause: float = 1.0
    over: bool = False


class Webhook:
    """One `[[hook]]`; `run` tells its messages until the daemon stops."""

    def __init__(
        self, hook: Hook, settings: Settings, database: Database, metrics: Metrics
    ) -> None:
        """Raises SettingsError when the secret cannot be read."""
        self.hook = hook
        self._signer = _signer(hook)
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._key = f"hook {hook.url}"
        self._trying = _Delivery(0)

    async def run(self, stopping: asyncio.Event) -> None:
        """Tell what happens from now on, and what happened since the last time."""
        async with httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            while not stopping.is_set():
                try:
                    pause = await self._turn(client)
                except QueueUnavailable as error:
                    log.warning("webhook waits for the queue", why=str(error))
                    pause = _INTERVAL
                await _pause(stopping, pause)

    async def _turn(self, client: httpx2.AsyncClient) -> float:
        """Tell the oldest message, unless another host is at it; seconds until the next look."""
        if await asyncio.to_thread(self._next) is None:
            return _INTERVAL
        async with self._only_sender() as alone:
            found = await asyncio.to_thread(self._next) if alone else None
            return _INTERVAL if found is None else await self._deliver(client, found)

    @contextlib.asynccontextmanager
    async def _only_sender(self) -> AsyncIterator[bool]:
        with contextlib.ExitStack() as stack:
            turn = self._database.advisory_lock(self._key)
            alone = await asyncio.to_thread(stack.enter_context, turn)
            try:
                yield alone
            finally:
                await asyncio.to_thread(stack.close)

    def _last(self) -> int:
        """The last event that was told, by whichever host.

        A new hook begins with the next one: what was before is not its business.
        """
        query = sa.select(meta.c.value).where(meta.c.key == self._key)
        with self._database.read() as db:
            told = db.scalar(query)
        if told is None:
            newest = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)).scalar_subquery()
            value = sa.cast(newest, sa.Text)
            with contextlib.suppress(IntegrityError), self._database.write() as db:
                db.execute(meta.insert().values(key=self._key, value=value))
            with self._database.read() as db:
                told = db.scalar(query)
        return int(told or 0)

    def _next(self) -> _Found | None:
        """The oldest event that was not told yet."""
        last = self._last()
        with self._database.read() as db:
            query = (
                sa.select(events.c.id.label("number"), events.c.event, events.c.at, events.c.detail)
                .add_columns(*jobs.c)
                .join(jobs, jobs.c.id == events.c.job)
                .where(events.c.id > last, events.c.event.in_(self.hook.on))
                .where(self._database.is_settled(events))
                .order_by(events.c.id)
                .limit(1)
            )
            row = db.execute(query).first()
        if row is None:
            return None
        job = with_local_paths(self._settings, as_job(row))
        message = Message(event=row.event, at=row.at, detail=row.detail, job=job)
        return _Found(last, row.number, message)

    async def _deliver(self, client: httpx2.AsyncClient, found: _Found) -> float:
        """One try; seconds until the next."""
        if self._trying.number != found.number:
            self._trying = _Delivery(found.number)
        trying, told = self._trying, {"url": self.hook.url, "job": found.message.job.id}
        if not trying.over:
            why = await self._post(client, found.number, found.message.model_dump_json())
            if why is not None and time.monotonic() - trying.began <= _GIVEN_UP:
                self._count("tried")
                log.warning("webhook not taken", **told, why=why)
                pause, trying.pause = trying.pause, min(_LONGEST_PAUSE, trying.pause * 2)
                return pause
            trying.over = True
            self._count("told" if why is None else "given up")
            if why is not None:
                log.error("webhook given up", **told, why=why)
        await asyncio.to_thread(self._note, found)
        return 0.0

    async def _post(self, client: httpx2.AsyncClient, number: int, body: str) -> str | None:
        """None when the receiver took it, else why not."""
        headers = {"content-type": "application/json", **self._signed(number, body)}
        try:
            answer = await client.post(self.hook.url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"it answered {answer.status_code}"

    def _signed(self, number: int, body: str) -> dict[str, str]:
        """Return the headers of the standard; without a secret there is no signature."""
        name, now = f"event-{number}", datetime.now(UTC)
        headers = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(name, now, body)
        return headers

    def _note(self, found: _Found) -> None:
        """Never back to an earlier one: while the queue was away another host may have gone on."""
        same = (meta.c.key == self._key) & (meta.c.value == str(found.last))
        with self._database.write() as db:
            db.execute(meta.update().where(same).values(value=str(found.number)))

    def _count(self, outcome: str) -> None:
        self._metrics.hooks.labels(outcome).inc()


def _signer(hook: Hook) -> Signer | None:
    """Return the signer of a hook; its secret is "whsec_" and base64, or any word.

    Raises SettingsError.
    """
    word = read_token(hook.secret_file, "hook.secret_file")
    if word is None:
        return None
    if not word.startswith(_BASE64):
        return Signer(word.encode())
    if _BASE64_SECRET.fullmatch(word):  # the library skips characters that are no base64
        with contextlib.suppress(ValueError):  # of a length that base64 never has
            return Signer(word)
    raise SettingsError(f"hook.secret_file {hook.secret_file}: what follows {_BASE64} is no base64")


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
