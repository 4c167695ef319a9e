"""Life cycle of the daemon: open in order, work, close in reverse order.

Start: lock, queue, folders, rules, http, READY. Work: one task each for watching, dispatch, http
and heartbeats, in one TaskGroup. A task that raises ends the process, and systemd restarts it;
those of background.py are started again instead.
Stop: after the first SIGTERM nothing more is claimed, and running attempts may finish within
`stop_grace`. The second one ends them at once and requeues their jobs without using a try.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain

import structlog

from daemon.background import keep_running
from daemon.collectors import register_collectors
from daemon.config.address import is_loopback
from daemon.config.secret_file import OPEN_TO_OTHERS
from daemon.config.settings import Inbox, Settings, SettingsError
from daemon.devices import memory_limit, resolve_devices
from daemon.dispatch import watchdog
from daemon.dispatch.dispatcher import Dispatcher
from daemon.dispatch.slot import Slot
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from daemon.fleet.hosts import Hosts
from daemon.fleet.identity import owner_name
from daemon.fleet.membership import Membership, heartbeat_lease
from daemon.fs.atomic import describe_os_error
from daemon.intake.inotify import FileNotifier
from daemon.intake.intake import Intake, checker
from daemon.intake.watcher import Watcher
from daemon.jobs.database import Database, DatabaseUnusable, QueueUnavailable
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish.archive import Archive
from daemon.publish.posters import Posters, remove_old_posters
from daemon.retention import Retention
from daemon.services import Services
from daemon.signals import SIGNALS
from daemon.status import Status
from daemon.storage.folder_threads import HANG_SECONDS, FolderHangs, FolderThreads
from daemon.storage.folders import create_folders, find_loop, locate
from daemon.storage.health import StorageHealth
from daemon.storage.volumes import VolumeMarkers
from daemon.telemetry import systemd
from daemon.telemetry.metrics import Metrics
from daemon.web import server
from daemon.web.actions import Actions
from daemon.webhooks import Webhook
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generator import ClipGenerator
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Hello
from pipeline.request.presets import family_of
from rules.live import LiveRules

_RULES_INTERVAL_SECONDS = 2.0
_STORAGE_INTERVAL_SECONDS = 2.0
_QUEUE_RETRY_SECONDS = 5.0

log = structlog.get_logger()


class StopRequested(Exception):
    """A signal to stop came while the daemon waited for its queue."""


class App:
    """One daemon; `run` returns when it has stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.failed: str | None = None
        """The reason why the daemon stops by itself and exits as failed; None otherwise."""
        self.database = Database(settings.queue_url, settings.queue.lease)
        self.store = JobStore(self.database)
        self.queries = JobQueries(self.database)
        self.metrics = Metrics()
        self.metrics.build.labels(version("i2vd")).set(1)
        family = family_of(settings.model.name)
        self.metrics.initialise_presets(family.presets)
        self.rules = {i.name: LiveRules(i.rules, checker(family)) for i in settings.inbox}
        self.folder_threads = FolderThreads(settings.inbox)
        markers = VolumeMarkers(settings, self.database)
        self.storage_health = StorageHealth(
            settings, markers, self.database.try_write, self.folder_threads
        )
        self.archive = Archive(self.database, self.store, self.queries, settings, markers)
        self.image_pool = ImagePool(_forward_line("picture"), self._on_child_failure("picture"))
        self.services = Services(
            settings=settings,
            owner=owner_name(settings.host, settings.state, shared=self.database.shared),
            database=self.database,
            family=family,
            store=self.store,
            queries=self.queries,
            archive=self.archive,
            storage_health=self.storage_health,
            markers=markers,
            durations=DurationEstimator.from_history(self.queries),
            memory=MemoryEstimator(self.database, settings.model.name),
            image_pool=self.image_pool,
            metrics=self.metrics,
            posters=Posters(),
            rules=self.rules,
            folder_threads=self.folder_threads,
            enqueue_locks={inbox.name: threading.Lock() for inbox in settings.inbox},
        )
        self.slots = [self._slot(device) for device in resolve_devices(settings.model.devices)]
        self.hosts = Hosts(self.database, self.services.owner, heartbeat_lease(self.services))
        self.membership = Membership(self.services, self.hosts, self.slots)
        self.dispatcher = Dispatcher(self.services, self.membership.claim_filter)
        self.watchers = [self._watcher(inbox) for inbox in settings.watched]
        self.webhooks = [
            Webhook(h, settings, self.database, self.metrics) for h in settings.webhook
        ]
        self.retention = Retention(
            settings, self.database, markers, self.folder_threads, self._delivered_events
        )
        self.notifier = FileNotifier()
        self._stopping = self.dispatcher.stopping
        self._reloads: set[asyncio.Task[object]] = set()
        self._unread_rules: set[str] = set()
        """Inboxes whose rules could not be read, because their folders hang."""
        self.status = Status(
            self.services,
            self.slots,
            self.watchers,
            self.notifier,
            self.hosts,
            self.membership,
            self._stopping,
        )

    # --- life cycle

    async def run(self) -> None:
        """Start, work until a signal arrives, and stop.

        1. Install the signal handlers, create the folders, check them and load the rules. An
           inbox whose folders hang is left out until they answer.
        2. Join the fleet and recover the jobs that a crash left.
        3. Start the file notifier and the http server, then notify systemd.
        4. Work until no slot's loop runs any more.
        5. Close everything in reverse order.

        Raises SettingsError, OSError if a folder cannot be created, and CannotListen.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.database.close)
            stack.callback(self.folder_threads.close)
            self._loop = asyncio.get_running_loop()
            SIGNALS.listen(self.stop, self._start_reload)
            stack.callback(SIGNALS.ignore)
            await self._create_folders()
            await self.storage_health.check(patience=HANG_SECONDS)
            await asyncio.gather(*map(self._reload, self.rules))
            register_collectors(self.status)
            await self.membership.join()
            stack.push_async_callback(self.membership.leave)
            await self.dispatcher.begin()
            await self._remove_old_posters()
            stack.push_async_callback(self.image_pool.close)
            await self.notifier.start(self.watchers, self.folder_threads)
            stack.callback(self.notifier.stop)
            actions = Actions(self.reload_rules, self.wake_watchers)
            await stack.enter_async_context(server.serving(self.status, actions))
            self._announce_ready()
            await self._work()
            systemd.notify("STOPPING=1", "STATUS=stopping")
        log.info("daemon stopped")

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(watcher.run(self._stopping)) for watcher in self.watchers]
            dispatch = [tasks.create_task(self.dispatcher.run(slot)) for slot in self.slots] or [
                tasks.create_task(self.dispatcher.clean_up_only())
            ]
            others = [
                tasks.create_task(self._watch_storage()),
                tasks.create_task(self._send_heartbeats()),
                tasks.create_task(self._start_image_child()),
                tasks.create_task(watchdog.feed(self.slots)),
                *(tasks.create_task(task) for task in self._background_tasks()),
            ]
            await asyncio.wait([*dispatch, *watching])  # others notice when folders hang
            for task in others:
                task.cancel()

    def _background_tasks(self) -> Iterator[Coroutine[None, None, None]]:
        metrics = self.metrics
        for hook in self.webhooks:
            yield keep_running("webhooks", partial(hook.run, self._stopping), metrics)
        for name in self.rules:
            yield keep_running("rules", partial(self._watch_rules, name), metrics)
        yield keep_running("retention", self.retention.run, metrics)
        yield keep_running("status", lambda: watchdog.send_status(self.status.line), metrics)

    def stop(self) -> None:
        """Stop softly, within `stop_grace`, on the first call; at once on the second."""
        if self._stopping.is_set():
            log.warning("daemon stopping now")
            self.dispatcher.stop_now.set()
            return
        grace = self.settings.stop_grace
        running = [each.job.id for slot in self.slots for each in slot.running]
        log.info("daemon stopping", grace=grace, running=running)
        systemd.notify("STOPPING=1", "STATUS=stopping, the running attempt may finish")
        self._stopping.set()
        asyncio.get_running_loop().call_later(grace, self.dispatcher.stop_now.set)
        self.dispatcher.wake()
        for watcher in self.watchers:
            watcher.wake.set()

    def _announce_ready(self) -> None:
        log.info(
            "daemon ready",
            version=version("i2vd"),
            http=self.settings.http.listen,
            model=self.settings.model.name,
            devices=[slot.device for slot in self.slots],
            inboxes=[str(inbox.path) for inbox in self.settings.inbox],
        )
        if not is_loopback(self.settings.http.host):
            log.warning("http port exposed", message=OPEN_TO_OTHERS)
        systemd.notify("READY=1")

    def wake_watchers(self) -> None:
        """Wake all watchers for a scan; may be called from any thread."""
        for watcher in self.watchers:
            self._loop.call_soon_threadsafe(watcher.wake.set)

    # --- rules

    async def reload_rules(self) -> None:
        """Reload the rules of all inboxes; with errors, an inbox keeps its last valid rules."""
        systemd.reloading()
        await asyncio.gather(*map(self._reload, self.rules))
        systemd.notify("READY=1")

    def _start_reload(self) -> None:
        task = asyncio.ensure_future(self.reload_rules())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, name: str) -> None:
        rules, inbox = self.rules[name], self.settings.inbox_named(name)
        assert inbox is not None
        try:
            result = await self.folder_threads.run(inbox, rules.reload, time.time())
        except FolderHangs as error:
            log.error("rules not read", inbox=name, reason=str(error))
            self._unread_rules.add(name)
            return
        self._unread_rules.discard(name)
        for mistake in result.mistakes:
            log.error("rule rejected", inbox=name, message=str(mistake))
        for warning in result.warnings:
            log.warning("rule warning", inbox=name, message=str(warning))
        self.metrics.rules_ok.labels(name).set(result.ok)
        if result.ok:
            self.metrics.rules_time.labels(name).set(result.at)
            log.info("rules loaded", inbox=name, rules=len(rules.rules.rules))
            for watcher in self.watchers:
                if watcher.inbox.name == name:
                    watcher.rules_changed()
        else:
            log.error("rules rejected, last valid rules kept", inbox=name)

    async def _watch_rules(self, name: str) -> None:
        inbox = self.settings.inbox_named(name)
        assert inbox is not None
        while True:
            await asyncio.sleep(_RULES_INTERVAL_SECONDS)
            with contextlib.suppress(FolderHangs):
                has_changed = await self.folder_threads.run(inbox, self.rules[name].has_changed)
                if has_changed or name in self._unread_rules:
                    await self._reload(name)

    # --- storage, queue and fleet

    async def _watch_storage(self) -> None:
        while True:
            await asyncio.sleep(_STORAGE_INTERVAL_SECONDS)
            if await self.storage_health.check():
                self.dispatcher.request_cleanup()
                for watcher in self.watchers:
                    watcher.wake.set()
            if reason := self.database.unusable_reason():
                self._abandon_queue(reason)

    async def _send_heartbeats(self) -> None:
        while True:
            if reason := await self.membership.heartbeat():
                self._abandon_queue(reason)
            if self.membership.departed:
                self.dispatcher.request_cleanup()

    async def _start_image_child(self) -> None:
        """Start the first image child before a picture comes, and log what its sandbox lacks."""
        try:
            first = await self.image_pool.start()
        except OSError as error:  # the first picture tries again
            log.warning("image child not started", reason=describe_os_error(error))
            return
        if isinstance(first, Hello):
            if first.unprotected:
                log.warning("picture sandbox incomplete", missing=list(first.unprotected))
            else:
                log.info("picture sandbox ready", layers=["Landlock", "seccomp"])

    def _abandon_queue(self, reason: str) -> None:
        """Stop after the running attempts, because the queue is permanently unusable."""
        if not self._stopping.is_set():
            log.error("queue unusable", reason=reason)
            self.failed = reason
            self.stop()

    def _delivered_events(self) -> int | None:
        """Return the last event that every webhook has reported; None without webhooks."""
        return min((hook.last_delivered() for hook in self.webhooks), default=None)

    async def _create_folders(self) -> None:
        """Create the missing folders. Raises SettingsError if pictures would go in a circle."""
        created = await self.folder_threads.run_for_each(self.settings.inbox, create_folders)
        for path in chain.from_iterable(created.values()):
            log.info("path created", path=str(path))
        inboxes = [inbox for inbox in self.settings.inbox if inbox.name in created]
        located = await self.folder_threads.run_for_each(inboxes, locate)
        if loop := find_loop(inboxes, located):
            raise SettingsError(loop)

    async def _remove_old_posters(self) -> None:
        with contextlib.suppress(QueueUnavailable):
            newest = await asyncio.to_thread(self.queries.newest, limit=1)
            await self.folder_threads.run_for_each(
                [i for i in self.settings.inbox if i.name not in self.storage_health.blocked],
                lambda inbox: remove_old_posters(inbox.outbox, newest[0].id if newest else 0),
            )

    # --- construction

    def _slot(self, device: str) -> Slot:
        model = self.settings.model
        name = f"worker {device}"
        generator = ClipGenerator(
            model.load_on(device),
            _forward_line(name),
            self._on_child_failure("worker"),
            limits=self.settings.quality,
            timeouts=model.heartbeat_timeouts,
            env=self.settings.caches,
        )
        return Slot(device, generator, memory_limit(device, model.max_vram))

    def _watcher(self, inbox: Inbox) -> Watcher:
        intake = Intake(self.services, self.dispatcher.wake)
        return Watcher(
            inbox,
            self.settings.scan_interval,
            intake,
            self.storage_health,
            self.services.markers,
            self.folder_threads,
        )

    def _on_child_failure(self, child: str) -> Callable[[ChildFailure], None]:
        def report(failure: ChildFailure) -> None:
            log.error(
                "child lost",
                child=child,
                cause=failure.cause,
                reason=failure.reason,
                hint=failure.advice,
            )
            self.metrics.child_exits.labels(child, failure.cause).inc()

        return report


def _forward_line(child: str) -> Callable[[str], None]:
    """Return a function that logs a line of a child's stderr with the child's name."""

    def forward(text: str) -> None:
        log.info(text, child=child)

    return forward


def open_app(settings: Settings) -> App:
    """Open the daemon; wait while the queue is temporarily unavailable, as on a full disk.

    Raises DatabaseUnusable if waiting cannot help, and StopRequested.
    """
    waiting = False
    while True:
        try:
            return App(settings)
        except DatabaseUnusable as error:
            if not error.temporary:
                raise
            if not waiting:
                log.error("queue unavailable, daemon waiting", reason=str(error))
                systemd.notify(f"STATUS=waiting: {error}")
            waiting = True
            if SIGNALS.wait_for_stop(_QUEUE_RETRY_SECONDS):
                log.info("daemon stopped")
                raise StopRequested from error
