"""Intake: turn a complete file into jobs.

Decodes the picture, chooses the rule, resolves each Spec once and enqueues the jobs. `plan` is a
pure function that `i2vd explain` and the API share. The watcher decides which files are complete.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import structlog

from daemon.config.settings import Inbox
from daemon.fs.fingerprint import FileState
from daemon.intake.watcher import DeferToSlowLane, RetryLater
from daemon.jobs.job import Drop
from daemon.services import Services
from pipeline.children.image_pool import PoisonImage
from pipeline.children.protocol import Inspected, Rejected, Unavailable
from pipeline.request.presets import Family
from pipeline.request.spec import Problem, Request, Spec, check, resolve
from rules.override import find_overrides
from rules.parse import read_sidecar
from rules.rule import Choice, Make, Picture, RuleSet
from rules.source import RuleError

Checker = Callable[[Mapping[str, object]], list[Problem]]

log = structlog.get_logger()


def checker(family: Family) -> Checker:
    """Return the settings check of a model family; the rules know nothing of the model."""
    return partial(check, family=family)


@dataclass(frozen=True)
class Plan:
    """The clips to generate from a picture; no `specs` if no rule matches or on a mistake."""

    choice: Choice
    specs: tuple[Spec, ...] = ()
    mistakes: tuple[RuleError, ...] = ()
    warnings: tuple[RuleError, ...] = ()
    priority: int = 0
    clip_name: str = ""
    """Path of the clip in the outbox, without ".mp4"."""


Overrides = tuple[Make | None, list[RuleError]]
"""Settings from the file beside one picture, and the mistakes in them."""


def plan(
    path: str,
    picture: Inspected,
    overrides: Overrides,
    rules: RuleSet,
    family: Family,
    rng: random.Random,
) -> Plan:
    """Choose the rule for a picture at `path` inside its inbox, and resolve its Specs.

    The settings beside the picture override the rule, key by key.
    """
    subject = Picture(PurePosixPath(path), picture.width, picture.height, picture.caption)
    choice = rules.choose(subject)
    if choice.rule is None:
        return Plan(choice)
    override, mistakes = overrides
    fatal = tuple(mistake for mistake in mistakes if mistake.fatal)
    if fatal:
        return Plan(choice, mistakes=fatal)
    make = (override or Make()).over(choice.rule.make)
    request = Request.model_validate(make.settings(subject))
    specs = tuple(
        resolve(
            request,
            family,
            source=(picture.width, picture.height),
            sha256=picture.sha256,
            rng=rng,
            variant=variant,
        )
        for variant in range(make.variants)
    )
    name = PurePosixPath(path).parent / choice.rule.output_stem(subject)
    return Plan(
        choice, specs, warnings=tuple(mistakes), priority=make.priority, clip_name=str(name)
    )


class Intake:
    """Enqueues complete files, one after another."""

    def __init__(self, services: Services, on_queued: Callable[[], None]) -> None:
        self._services = services
        self._store = services.store
        self._on_queued = on_queued
        self._rng = random.SystemRandom()
        self._undecodable: dict[tuple[str, str], str] = {}
        """Fingerprints of files that failed to decode once, by inbox and path."""

    async def without_job(self, inbox: Inbox, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths of the files without a job, so that the others are not decoded."""
        fingerprints = {
            path: seen.fingerprint(self._services.owner) for path, seen in files.items()
        }
        return await asyncio.to_thread(self._store.without_job, inbox.name, fingerprints)

    async def handle(
        self, inbox: Inbox, path: str, seen: FileState, *, slow_lane: bool = False
    ) -> RetryLater | DeferToSlowLane | None:
        """Enqueue the jobs of a file, or return when and how to offer it again."""
        images = self._services.image_pool
        inspect = images.inspect_slowly if slow_lane else images.inspect_quickly
        picture = await inspect(inbox.path / path, within=inbox.path)
        if picture is None:
            return DeferToSlowLane()
        if isinstance(picture, Unavailable):
            log.info("picture unavailable", inbox=inbox.name, path=path, reason=picture.reason)
            return RetryLater(float(inbox.unreadable_timeout))
        if isinstance(picture, Rejected):
            return await self._retry_or_reject(inbox, path, seen, picture)
        self._undecodable.pop((inbox.name, path), None)
        drop = Drop(
            inbox=inbox.name,
            path=path,
            fingerprint=seen.fingerprint(self._services.owner),
            sha256=picture.sha256,
            source=picture.model_dump(exclude={"type", "sha256", "format"}),
        )
        planned, jobs = await asyncio.to_thread(self._enqueue, inbox, drop, picture)
        if planned.mistakes:
            reason = "; ".join(map(str, planned.mistakes))
            await self._reject(inbox, drop, f"its sidecar is wrong: {reason}", "sidecar")
            return None
        if planned.choice.rule is None:
            log.warning(
                "picture matched by no rule, kept in the inbox", inbox=inbox.name, path=path
            )
            return RetryLater(None)
        rule = planned.choice.rule.name
        for job, spec in zip(jobs, planned.specs, strict=False):
            log.info(
                "job queued", job=job, inbox=drop.inbox, path=path, rule=rule, preset=spec.preset
            )
        if jobs:
            self._on_queued()
        return None

    def _enqueue(self, inbox: Inbox, drop: Drop, picture: Inspected) -> tuple[Plan, list[int]]:
        """Plan and enqueue; no jobs if no rule matches, or if the drop is already queued."""
        with self._services.enqueue_lock:
            return self._enqueue_locked(inbox, drop, picture)

    def _enqueue_locked(
        self, inbox: Inbox, drop: Drop, picture: Inspected
    ) -> tuple[Plan, list[int]]:
        rules, family = self._services.rules[inbox.name].rules, self._services.family
        overrides = read_sidecar(find_overrides(inbox.path / drop.path), checker(family))
        planned = plan(drop.path, picture, overrides, rules, family, self._rng)
        if planned.choice.rule is None or not planned.specs:
            return planned, []
        jobs = self._store.enqueue(
            drop,
            planned.specs,
            required_memory=[self._services.memory.minimum(spec) for spec in planned.specs],
            clip_name=planned.clip_name,
            rule=planned.choice.rule.name,
            rules_digest=rules.digest,
            priority=planned.priority,
            is_there=lambda: self._is_there(inbox, drop),
        )
        return planned, jobs

    def _is_there(self, inbox: Inbox, drop: Drop) -> bool:
        """Return True if the file is still in the inbox, unchanged. Raises OSError if unknown."""
        try:
            status = (inbox.path / drop.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return FileState.of(status).fingerprint(self._services.owner) == drop.fingerprint

    async def _retry_or_reject(
        self, inbox: Inbox, path: str, seen: FileState, refusal: Rejected
    ) -> RetryLater | None:
        """Reject a file that cannot be decoded on its second try: a paused copy looks broken."""
        if refusal.gone:
            return None
        key, fingerprint = (inbox.name, path), seen.fingerprint(self._services.owner)
        if self._undecodable.get(key) != fingerprint and not isinstance(refusal, PoisonImage):
            self._undecodable[key] = fingerprint
            log.info("picture not readable yet", inbox=inbox.name, path=path, reason=refusal.reason)
            return RetryLater(float(inbox.unreadable_timeout))
        self._undecodable.pop(key, None)
        await asyncio.to_thread(self._services.markers.check, inbox, "path")
        drop = Drop(inbox=inbox.name, path=path, fingerprint=fingerprint, sha256="", source={})
        await self._reject(inbox, drop, refusal.reason, "unreadable")
        return None

    async def _reject(self, inbox: Inbox, drop: Drop, reason: str, kind: str) -> None:
        job = await asyncio.to_thread(
            self._store.reject, drop, reason, lambda: self._is_there(inbox, drop)
        )
        if job is None:
            return
        log.error("picture rejected", job=job, inbox=inbox.name, path=drop.path, reason=reason)
        self._services.metrics.rejected.labels(kind).inc()
        rejected = await asyncio.to_thread(self._services.queries.job, job)
        assert rejected is not None
        await asyncio.to_thread(self._services.archive.archive_job, rejected)
