"""Services: the objects that the tasks of one daemon share. Built by app.py; holds no tasks."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from daemon.config.settings import Settings
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from daemon.jobs.database import Database
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish.archive import Archive
from daemon.publish.posters import Posters
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.health import StorageHealth
from daemon.storage.volumes import VolumeMarkers
from daemon.telemetry.metrics import Metrics
from pipeline.children.image_pool import ImagePool
from pipeline.request.presets import Family
from rules.live import LiveRules


@dataclass(frozen=True)
class Services:
    """Shared objects of one daemon.

    `owner` is the name under which this host claims jobs; `rules` is keyed by inbox name. Calls on
    the folders of an inbox go through `folder_threads`.
    """

    settings: Settings
    owner: str
    database: Database
    family: Family
    store: JobStore
    queries: JobQueries
    archive: Archive
    storage_health: StorageHealth
    markers: VolumeMarkers
    durations: DurationEstimator
    memory: MemoryEstimator
    image_pool: ImagePool
    metrics: Metrics
    posters: Posters
    rules: Mapping[str, LiveRules]
    folder_threads: FolderThreads
    enqueue_locks: Mapping[str, threading.Lock]
    """By inbox; held while a picture and its override are read and their jobs are queued."""

    @cached_property
    def operator(self) -> Operator:
        """Changes of the queue on behalf of a person."""
        return Operator(self.database)
