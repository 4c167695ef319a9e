"""Webhooks: what became of each job is told to other programs, at least once and in order.

The ledger's events are their queue: a hook remembers the last one that it told, so nothing is lost
over a restart, and no clip ever waits for a receiver. Signed as standardwebhooks.com says, so that
receivers find the check in their language's library; the id of a message is the same at each try.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time

import httpx
import sqlalchemy as sa
import structlog
from pydantic import BaseModel

from daemon.database import Database, LedgerUnavailable, events, jobs, meta
from daemon.job import Job, as_job
from daemon.metrics import Metrics
from daemon.settings import Hook, SettingsError
from daemon.token import read_token

_BASE64 = "whsec_"
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


class Webhook:
    """One `[[hook]]`; `run` tells its messages until the daemon stops."""

    def __init__(self, hook: Hook, database: Database, metrics: Metrics) -> None:
        """Raises SettingsError when the secret cannot be read."""
        self.hook = hook
        self._secret = _secret(hook)
        self._database = database
        self._metrics = metrics
        self._key = f"hook {hook.url}"

    async def run(self, stopping: asyncio.Event) -> None:
        """Tell what happens from now on, and what happened since the last time."""
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            while not stopping.is_set():
                try:
                    found = await asyncio.to_thread(self._next)
                    if found is not None:
                        number, message = found
                        await self._tell(client, number, message, stopping)
                        continue
                except LedgerUnavailable as error:
                    log.warning("webhook waits for the queue", why=str(error))
                await _pause(stopping, _INTERVAL)

    def _begin(self) -> int:
        """A new hook begins with the next event: what was before is not its business."""
        with self._database.write() as db:
            newest = db.scalar(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)))
            db.execute(meta.insert().values(key=self._key, value=str(newest)))
        return newest or 0

    def _next(self) -> tuple[int, Message] | None:
        """The oldest event that was not told yet, and its number."""
        with self._database.read() as db:
            told = db.scalar(sa.select(meta.c.value).where(meta.c.key == self._key))
        last = self._begin() if told is None else int(told)
        with self._database.read() as db:
            query = (
                sa.select(events.c.id.label("number"), events.c.event, events.c.at, events.c.detail)
                .add_columns(*jobs.c)
                .join(jobs, jobs.c.id == events.c.job)
                .where(events.c.id > last, events.c.event.in_(self.hook.on))
                .order_by(events.c.id)
                .limit(1)
            )
            row = db.execute(query).first()
        if row is None:
            return None
        job = as_job(row)
        return row.number, Message(event=row.event, at=row.at, detail=row.detail, job=job)

    async def _tell(
        self, client: httpx.AsyncClient, number: int, message: Message, stopping: asyncio.Event
    ) -> None:
        body = message.model_dump_json().encode()
        pause, began = 1.0, time.monotonic()
        while not stopping.is_set():
            why = await self._post(client, number, body)
            if why is None or time.monotonic() - began > _GIVEN_UP:
                self._count("told" if why is None else "given up")
                if why is not None:
                    log.error("webhook given up", url=self.hook.url, job=message.job.id, why=why)
                await asyncio.to_thread(self._note, number)
                return
            self._count("tried")
            log.warning("webhook not taken", url=self.hook.url, job=message.job.id, why=why)
            await _pause(stopping, pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _post(self, client: httpx.AsyncClient, number: int, body: bytes) -> str | None:
        """None when the receiver took it, else why not."""
        headers = {"content-type": "application/json", **self._signed(number, body)}
        try:
            answer = await client.post(self.hook.url, content=body, headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"it answered {answer.status_code}"

    def _signed(self, number: int, body: bytes) -> dict[str, str]:
        name, now = f"event-{number}", str(int(time.time()))
        headers = {"webhook-id": name, "webhook-timestamp": now}
        if self._secret is not None:
            content = f"{name}.{now}.".encode() + body
            digest = hmac.digest(self._secret, content, hashlib.sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers

    def _note(self, number: int) -> None:
        with self._database.write() as db:
            db.execute(meta.update().where(meta.c.key == self._key).values(value=str(number)))

    def _count(self, outcome: str) -> None:
        self._metrics.hooks.labels(outcome).inc()


def _secret(hook: Hook) -> bytes | None:
    """In base64 after "whsec_", as others hand them out, or any word."""
    word = read_token(hook.secret_file, "hook.secret_file")
    if word is None or not word.startswith(_BASE64):
        return None if word is None else word.encode()
    try:
        return base64.b64decode(word.removeprefix(_BASE64), validate=True)
    except ValueError:
        raise SettingsError(
            f"hook.secret_file {hook.secret_file}: what follows {_BASE64} is no base64"
        ) from None


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
