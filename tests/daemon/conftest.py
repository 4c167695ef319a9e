"""What the daemon's tests share: a ledger on both engines, a Spec, a drop."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.jobs.database import Database
from daemon.jobs.job import Drop, DropOverride, Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Request, Spec, resolve
from tests.postgres import Server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty queue on each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/queue.sqlite"
        return
    server: Server = request.getfixturevalue("postgres")
    name = server.fresh()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def operator(database: Database) -> Operator:
    return Operator(database)


def claim(store: JobStore, owner: str = "me", lease: float = 30.0) -> Job:
    """The next job, which there must be."""
    job = store.claim(owner, lease)
    assert job is not None
    return job


@pytest.fixture
def queries(database: Database) -> JobQueries:
    return JobQueries(database)


@pytest.fixture
def spec() -> Spec:
    return resolve(
        Request(prompt="camera panning right", preset="draft"),
        MICRO_FAMILY,
        source=(64, 64),
        sha256="ab" * 32,
        rng=random.Random(0),
    )


@pytest.fixture
def make_drop() -> Callable[..., Drop]:
    def make(path: str = "cat.jpg", fingerprint: str = "1", sha256: str = "aa") -> Drop:
        source = {"size": 1, "width": 64, "height": 64, "caption": ""}
        return Drop(inbox="inbox", path=path, fingerprint=fingerprint, sha256=sha256, source=source)

    return make


@pytest.fixture
def enqueue(
    store: JobStore, spec: Spec, make_drop: Callable[..., Drop]
) -> Callable[..., list[int]]:
    def enqueue(
        path: str = "cat.jpg",
        fingerprint: str = "1",
        sha256: str = "aa",
        variants: int = 1,
        priority: int = 0,
        required_memory: int | None = None,
        inbox: str = "inbox",
        overrides: tuple[DropOverride, ...] = (),
    ) -> list[int]:
        drop = make_drop(path, fingerprint, sha256)
        return store.enqueue(
            drop.model_copy(update={"inbox": inbox, "overrides": overrides}),
            [spec] * variants,
            required_memory=[] if required_memory is None else [required_memory] * variants,
            clip_name=path.rpartition(".")[0],
            rule="90-default",
            rules_digest="d",
            priority=priority,
        )

    return enqueue
