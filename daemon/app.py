"""The daemon's life: open in order, work, close in reverse.

Start: lock, folders, ledger, rules, http, READY. Work: one task each for watching, dispatch, http
and the signs of life, in one TaskGroup: a task that dies ends the process, and systemd restarts it.
Stop: the first SIGTERM claims nothing more and lets the running attempt finish within `stop_grace`;
the second ends it now, and it goes back to the queue uncounted.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from importlib.metadata import version

import structlog

from daemon.collectors import watch_gauges
from daemon.config.address import is_loopback
from daemon.config.secret_file import OPEN_TO_OTHERS
from daemon.config.settings import Inbox, Settings
from daemon.devices import devices, most_bytes
from daemon.dispatch import watchdog
from daemon.dispatch.dispatcher import Dispatcher
from daemon.dispatch.slot import Slot
from daemon.estimate.duration import Pace
from daemon.estimate.memory import Forecast
from daemon.fleet.hosts import Hosts
from daemon.fleet.identity import owner
from daemon.fleet.membership import Presence, lease_of
from daemon.intake.intake import Intake, checker
from daemon.intake.notifier import FileNotifier
from daemon.intake.watcher import Watcher
from daemon.jobs.database import Database, DatabaseUnusable, LedgerUnavailable
from daemon.jobs.queries import History
from daemon.jobs.store import Ledger
from daemon.publish.archive import Archive
from daemon.publish.posters import Posters, tidy
from daemon.services import Services
from daemon.status import Status
from daemon.storage.health import StorageHealth
from daemon.storage.marker import VolumeMarkers
from daemon.telemetry import systemd
from daemon.telemetry.metrics import Metrics
from daemon.web import server
from daemon.web.actions import Actions
from daemon.webhooks import Webhook
from pipeline.children.exit_reasons import Loss
from pipeline.children.generator import Maker
from pipeline.children.image_pool import Decoder
from pipeline.request.presets import family_of
from rules.live import LiveRules, Reloaded

_RULES_INTERVAL = 2.0
_ROOM_INTERVAL = 2.0
_QUEUE_RETRY_SECONDS = 5.0

log = structlog.get_logger()


class App:
    """One daemon. `run` returns when it has stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.failed: str | None = None
        """Why the process ends as failed though nobody stopped it."""
        self.database = Database(settings.queue_url, settings.queue.lease)
        self.ledger = Ledger(self.database)
        self.history = History(self.database)
        self.metrics = Metrics()
        self.metrics.build.labels(version("i2vd")).set(1)
        family = family_of(settings.model.name)
        self.metrics.expect(family.presets)
        self.rules = {i.name: LiveRules(i.rules, checker(family)) for i in settings.inbox}
        storage = VolumeMarkers(settings, self.database)
        self.room = StorageHealth(settings, storage, self.database.try_write)
        self.archive = Archive(self.database, self.ledger, self.history, settings, storage)
        self.decoder = Decoder(_line("picture"), self._child_lost("picture"))
        self.services = Services(
            settings=settings,
            owner=owner(settings.host, settings.state, shared=self.database.shared),
            database=self.database,
            family=family,
            ledger=self.ledger,
            history=self.history,
            archive=self.archive,
            room=self.room,
            storage=storage,
            pace=Pace.of(self.history),
            forecast=Forecast(self.database, settings.model.name),
            decoder=self.decoder,
            metrics=self.metrics,
            posters=Posters(),
            rules=self.rules,
        )
        self.slots = [self._slot(device) for device in devices(settings.model.devices)]
        self.hosts = Hosts(self.database, self.services.owner, lease_of(self.services))
        self.presence = Presence(self.services, self.hosts, self.slots)
        self.dispatcher = Dispatcher(self.services, self.presence.fit)
        self.watchers = [self._watcher(inbox) for inbox in settings.watched]
        self.webhooks = [Webhook(h, settings, self.database, self.metrics) for h in settings.hook]
        self.hint = FileNotifier()
        self._stopping = self.dispatcher.stopping
        self.status = Status(
            self.services,
            self.slots,
            self.watchers,
            self.hint,
            self.hosts,
            self.presence,
            self._stopping,
        )

    # --- life

    async def run(self) -> None:
        """Start, work until a signal, stop."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.database.close)
            self._loop = loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.reload_rules)
            for name in self.rules:
                self._reload(name)
            watch_gauges(self.status)
            await asyncio.to_thread(self.room.check)
            await self.presence.begin()
            stack.push_async_callback(self.presence.end)
            await self.dispatcher.begin()
            await asyncio.to_thread(self._tidy_posters)
            stack.push_async_callback(self.decoder.close)
            self.hint.start(self.watchers)
            stack.callback(self.hint.stop)
            actions = Actions(self.reload_rules, self.wake_watchers)
            await stack.enter_async_context(server.serving(self.status, actions))
            self._say_ready()
            await self._work()
            systemd.notify("STOPPING=1", "STATUS=stopping")
        log.info("stopped")

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for watcher in self.watchers:
                tasks.create_task(watcher.run(self._stopping))
            working = [tasks.create_task(self.dispatcher.run(slot)) for slot in self.slots] or [
                tasks.create_task(self.dispatcher.tidy())
            ]
            around = [
                *(tasks.create_task(hook.run(self._stopping)) for hook in self.webhooks),
                tasks.create_task(self._watch_rules()),
                tasks.create_task(self._watch_room()),
                tasks.create_task(self._be_present()),
                tasks.create_task(watchdog.beat(self.slots, self.status.line)),
            ]
            await asyncio.wait(working)
            for task in around:
                task.cancel()

    def stop(self) -> None:
        """First call: soft, within `stop_grace`. Second call: now."""
        if self._stopping.is_set():
            log.warning("stopping now")
            self.dispatcher.hurry.set()
            return
        grace = self.settings.stop_grace
        log.info("stopping", grace=grace, running=[h.job.id for s in self.slots for h in s.hands])
        systemd.notify("STOPPING=1", "STATUS=stopping, the running attempt may finish")
        self._stopping.set()
        asyncio.get_running_loop().call_later(grace, self.dispatcher.hurry.set)
        self.dispatcher.wake()
        for watcher in self.watchers:
            watcher.wake.set()

    def _say_ready(self) -> None:
        log.info(
            "ready",
            version=version("i2vd"),
            http=self.settings.http.listen,
            model=self.settings.model.name,
            devices=[slot.device for slot in self.slots],
            inboxes=[str(inbox.path) for inbox in self.settings.inbox],
        )
        if not is_loopback(self.settings.http.host):
            log.warning("http is open", what=OPEN_TO_OTHERS)
        systemd.notify("READY=1", f"STATUS={self.status.line()}")

    def wake_watchers(self) -> None:
        """Look into the inboxes now, from whichever thread."""
        for watcher in self.watchers:
            self._loop.call_soon_threadsafe(watcher.wake.set)

    # --- rules

    def reload_rules(self) -> dict[str, Reloaded]:
        """Read all rule files again; each folder's last good set stays where something is wrong."""
        systemd.reloading()
        results = {name: self._reload(name) for name in self.rules}
        systemd.notify("READY=1")
        return results

    def _reload(self, name: str) -> Reloaded:
        rules = self.rules[name]
        result = rules.reload(time.time())
        for mistake in result.mistakes:
            log.error("rule mistake", inbox=name, what=str(mistake))
        for warning in result.warnings:
            log.warning("rule warning", inbox=name, what=str(warning))
        self.metrics.rules_ok.labels(name).set(result.ok)
        if result.ok:
            self.metrics.rules_time.labels(name).set(result.at)
            log.info("rules loaded", inbox=name, rules=len(rules.rules.rules))
            for watcher in self.watchers:
                if watcher.inbox.name == name:
                    watcher.rules_changed()
        else:
            log.error("rules not loaded, the last good set stays", inbox=name)
        return result

    async def _watch_rules(self) -> None:
        while True:
            await asyncio.sleep(_RULES_INTERVAL)
            for name, rules in self.rules.items():
                if await asyncio.to_thread(rules.changed):
                    self._reload(name)

    # --- what must not go

    async def _watch_room(self) -> None:
        while True:
            await asyncio.sleep(_ROOM_INTERVAL)
            if await asyncio.to_thread(self.room.check):
                self.dispatcher.look_behind()
                for watcher in self.watchers:
                    watcher.wake.set()
            if why := self.database.lost():
                self._give_up(why)

    async def _be_present(self) -> None:
        while True:
            if why := await self.presence.beat():
                self._give_up(why)
            if self.presence.gone:
                self.dispatcher.look_behind()

    def _give_up(self, why: str) -> None:
        """End after the work in hand, since nothing can be done with the queue any more."""
        if not self._stopping.is_set():
            log.error("the queue cannot be used any more", why=why)
            self.failed = why
            self.stop()

    def _tidy_posters(self) -> None:
        with contextlib.suppress(LedgerUnavailable):
            newest = self.history.newest(limit=1)
            for inbox in self.services.settings.inbox:
                tidy(inbox.outbox, newest[0].id if newest else 0)

    # --- parts

    def _slot(self, device: str) -> Slot:
        model = self.settings.model
        name = f"worker {device}"
        maker = Maker(
            model.load_on(device),
            _line(name),
            self._child_lost("worker"),
            limits=self.settings.gate,
            silence=model.silence,
            env=self.settings.caches,
        )
        return Slot(device, maker, most_bytes(device, model.max_vram))

    def _watcher(self, inbox: Inbox) -> Watcher:
        intake = Intake(self.services, self.dispatcher.wake)
        return Watcher(inbox, self.settings.scan_interval, intake, self.room, self.services.storage)

    def _child_lost(self, child: str) -> Callable[[Loss], None]:
        def note(loss: Loss) -> None:
            log.error("child lost", child=child, cause=loss.cause, why=loss.reason, do=loss.advice)
            self.metrics.child_deaths.labels(child, loss.cause).inc()

        return note


def _line(child: str) -> Callable[[str], None]:
    """Forward a line of a child's stderr, with the child's name."""

    def forward(text: str) -> None:
        log.info(text, child=child)

    return forward


def open_app(settings: Settings) -> App:
    """Open the daemon, and wait for a queue that is only temporarily out of reach.

    A full disk is an example. Raises DatabaseUnusable for a queue that waiting cannot repair.
    """
    waiting = False
    while True:
        try:
            return App(settings)
        except DatabaseUnusable as error:
            if not error.passing:
                raise
            if not waiting:
                log.error("waiting for the queue", why=str(error))
                systemd.notify(f"STATUS=waiting: {error}")
            waiting = True
            time.sleep(_QUEUE_RETRY_SECONDS)
