"""Webhooks of hosts that share a queue: each event is sent once, in order, and signed."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook as Library

from daemon.config.settings import Settings, SettingsError, WebhookSettings
from daemon.jobs.database import Database
from daemon.jobs.operator import Operator
from daemon.jobs.schema import events, meta
from daemon.jobs.store import JobStore
from daemon.telemetry.metrics import Metrics
from daemon.webhooks import Webhook
from tests.postgres import Server
from tests.system.receiver import Receiver

Enqueue = Callable[..., list[int]]


@pytest.fixture
def url(postgres: Server) -> Iterator[str]:
    name = postgres.fresh()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.open()
    yield receiver
    receiver.close()


@contextlib.asynccontextmanager
async def delivering(
    url: str, receiver: Receiver, hosts: int = 1, secret_file: Path | None = None
) -> AsyncIterator[None]:
    """Run `hosts` hosts with the same webhook, each with its own database connections."""
    hook = WebhookSettings(url=f"http://127.0.0.1:{receiver.port}/", secret_file=secret_file)
    databases = [Database(url) for _ in range(hosts)]
    webhooks = [Webhook(hook, Settings(), database, Metrics()) for database in databases]
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(each.run(stopping)) for each in webhooks]
    try:
        yield
        ended = [task for task in tasks if task.done()]
        assert not ended, [task.exception() for task in ended]
    finally:
        stopping.set()  # no thread is left with a connection
        await asyncio.gather(*tasks, return_exceptions=True)
        for database in databases:
            database.close()


def fail(store: JobStore, enqueue: Enqueue, name: str) -> None:
    """Enqueue a job and fail it."""
    enqueue(name)
    job = store.claim("me", 30)
    assert job
    store.fail(job, "broke")


async def until(ask: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(ask):
            await asyncio.sleep(0.02)


async def registered(database: Database) -> None:
    """Wait until the queue knows the webhook."""

    def known() -> object:
        with database.read() as db:
            return db.scalar(sa.select(meta.c.value).where(meta.c.key.like("hook %")))

    await until(known)


async def test_hosts_with_the_same_webhook_send_each_event_once(
    url: str, receiver: Receiver, database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    async with delivering(url, receiver, hosts=3):
        await registered(database)
        for number in range(30):
            await asyncio.to_thread(fail, store, enqueue, f"{number}.jpg")
        await until(lambda: len(receiver.messages) >= 30)
        await asyncio.sleep(1.5)
    assert receiver.received == [("failed", f"{number}.jpg") for number in range(30)]


async def test_an_event_that_is_committed_late_is_sent_in_order(
    url: str, receiver: Receiver, database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    async with delivering(url, receiver):
        await registered(database)
        (early,) = enqueue("early.jpg")
        with database.write() as slow:
            slow.execute(events.insert().values(job=early, at=1.0, event="failed"))
            Operator(database).cancel(early)
            await asyncio.to_thread(fail, store, enqueue, "late.jpg")
            await asyncio.sleep(1.5)
            assert receiver.received == []
        await until(lambda: len(receiver.messages) >= 2)
    assert receiver.received == [("failed", "early.jpg"), ("failed", "late.jpg")]


async def test_what_one_host_could_not_deliver_another_delivers(
    url: str, receiver: Receiver, database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    receiver.answers = [500]
    async with delivering(url, receiver):
        await registered(database)
        for name in ("one.jpg", "two.jpg"):
            fail(store, enqueue, name)
        await until(lambda: not receiver.answers)
    async with delivering(url, receiver, hosts=2):
        await until(lambda: len(receiver.messages) >= 2)
        await asyncio.sleep(1.2)
    assert receiver.received == [("failed", "one.jpg"), ("failed", "two.jpg")]


KEY = bytes(range(23))
BASE64 = base64.b64encode(KEY).decode()


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (f"whsec_{BASE64}", KEY),
        (f"whsec_{BASE64.rstrip('=')}", KEY),
        ("any-word-of-sixteen", b"any-word-of-sixteen"),
    ],
)
async def test_a_message_has_the_signature_that_the_standard_asks_for(
    url: str,
    receiver: Receiver,
    database: Database,
    store: JobStore,
    enqueue: Enqueue,
    tmp_path: Path,
    secret: str,
    key: bytes,
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{secret}\n")
    async with delivering(url, receiver, secret_file=file):
        await registered(database)
        await asyncio.to_thread(fail, store, enqueue, "猫.jpg")
        await until(lambda: receiver.messages)
    headers, body = receiver.messages[0]
    assert "猫.jpg" in body.decode()
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    Library(secret if secret.startswith("whsec_") else key).verify(body, headers)


async def test_a_message_without_a_secret_is_not_signed(
    url: str, receiver: Receiver, database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    async with delivering(url, receiver):
        await registered(database)
        await asyncio.to_thread(fail, store, enqueue, "one.jpg")
        await until(lambda: receiver.messages)
    headers, _ = receiver.messages[0]
    assert "webhook-signature" not in {name.lower() for name in headers}


@pytest.mark.parametrize("rest", ["", "a" * 17, "a" * 16 + "$", "a=" * 10, "=" * 20])
def test_a_secret_that_is_no_base64_is_refused(
    database: Database, tmp_path: Path, rest: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"whsec_{rest}")
    hook = WebhookSettings(url="http://127.0.0.1/", secret_file=file)
    says = "no base64" if rest else "not one word of 16 characters or more"
    with pytest.raises(SettingsError, match=says):
        Webhook(hook, Settings(), database, Metrics())


async def test_a_job_whose_row_cannot_be_read_costs_its_own_message_only(
    url: str, receiver: Receiver, database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    async with delivering(url, receiver):
        await registered(database)
        with database.write() as db:
            (bad,) = enqueue("bad.jpg")
            db.execute(
                sa.text(f"UPDATE jobs SET state = 'failed', progress = '5' WHERE id = {bad}")
            )
            db.execute(events.insert().values(job=bad, at=1.0, event="failed"))
        await asyncio.to_thread(fail, store, enqueue, "good.jpg")
        await until(lambda: receiver.messages)
    assert receiver.received == [("failed", "good.jpg")]
