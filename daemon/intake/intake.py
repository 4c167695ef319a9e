"""Intake: turn a complete file into jobs.

Decodes the picture, chooses the rule, resolves each Spec once and enqueues the jobs. `plan` is a
pure function that `i2vd explain` and the API share. The watcher decides which files are complete.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import structlog

from daemon.config.settings import Inbox
from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import find_beneath
from daemon.intake.skipped import Skip
from daemon.intake.watcher import Answer, DeferToSlowLane, RetryLater, RetryWithBackoff
from daemon.jobs.job import Drop
from daemon.services import Services
from pipeline.children.image_pool import PoisonImage
from pipeline.children.protocol import Inspected, Rejected, Unavailable
from pipeline.request.presets import Family
from pipeline.request.spec import Problem, Request, SeedChoice, Spec, check, resolve
from rules.override import Arrival, Override, find_overrides
from rules.parse import read_sidecar
from rules.rule import Choice, Make, Picture, RuleSet
from rules.source import RuleError

Checker = Callable[[Mapping[str, object]], list[Problem]]

_MAX_REMEMBERED_FILES = 10_000

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
    seed: SeedChoice = "random"


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
        choice,
        specs,
        warnings=tuple(mistakes),
        priority=make.priority,
        clip_name=str(name),
        seed=request.seed if request.seed is not None else "random",
    )


def _folder_of(inbox: Inbox, path: str) -> AbstractContextManager[Path]:
    """Open the folder of a file in an inbox; a link in its place is an empty folder."""
    return find_beneath(inbox.path, PurePosixPath(path).parent)


@dataclass(frozen=True)
class _FirstLook:
    """The first look at a state of a file that gave it no job."""

    fingerprint: str
    at: float
    """Seconds since 1970."""
    undecodable: bool


class Intake:
    """Enqueues complete files, one after another."""

    def __init__(self, services: Services, on_queued: Callable[[], None]) -> None:
        self._services = services
        self._store = services.store
        self._run = services.folder_threads.run
        self._on_queued = on_queued
        self._rng = random.SystemRandom()
        self._first_looks: dict[tuple[str, str], _FirstLook] = {}
        """By inbox and path."""

    async def without_job(self, inbox: Inbox, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths of the files without a job, so that the others are not decoded."""
        fingerprints = {path: seen.fingerprint for path, seen in files.items()}
        return await asyncio.to_thread(self._store.without_job, inbox.name, fingerprints)

    async def overrides_used(self, inbox: Inbox, overrides: Mapping[str, str]) -> dict[str, bool]:
        """Return if each override was used; without those whose picture has no job yet."""
        pictures = set(overrides.values())
        used = await asyncio.to_thread(self._services.queries.used_overrides, inbox.name, pictures)
        return {
            override: PurePosixPath(override).name in used[picture]
            for override, picture in overrides.items()
            if picture in used
        }

    def named_folders(self, inbox: Inbox) -> Collection[str]:
        """Return the folders that the rules of an inbox name."""
        return self._services.rules[inbox.name].rules.named_folders()

    async def handle(
        self, inbox: Inbox, path: str, seen: FileState, *, slow_lane: bool = False
    ) -> Answer:
        """Enqueue the jobs of a file, or return when and how to offer it again."""
        images = self._services.image_pool
        inspect = images.inspect_slowly if slow_lane else images.inspect_quickly
        first = self._first_look(inbox, path, seen)
        picture = await inspect(
            inbox.path / path, within=inbox.path, lenient=first is not None and first.undecodable
        )
        if picture is None:
            return DeferToSlowLane()
        if isinstance(picture, Unavailable):
            self._remember(inbox, path, seen)
            return RetryWithBackoff(Skip("unreadable", picture.reason))
        if isinstance(picture, Rejected):
            return await self._retry_or_reject(inbox, path, seen, picture)
        drop = Drop(
            inbox=inbox.name,
            path=path,
            fingerprint=seen.fingerprint,
            sha256=picture.sha256,
            source=picture.model_dump(exclude={"type", "sha256", "format"}),
        )
        if await asyncio.to_thread(self._store.recognise, drop):
            return None
        self._remember(inbox, path, seen)  # for the case that its override cannot be read now
        answer = await self._plan_and_enqueue(inbox, drop, seen, picture)
        if answer is None:
            self._first_looks.pop((inbox.name, path), None)
        return answer

    async def _plan_and_enqueue(
        self, inbox: Inbox, drop: Drop, seen: FileState, picture: Inspected
    ) -> Answer:
        planned, drop, jobs = await self._run(inbox, self._enqueue, inbox, drop, seen, picture)
        if planned.mistakes:
            reason = "; ".join(map(str, planned.mistakes))
            await self._reject(inbox, drop, f"its sidecar is wrong: {reason}", "sidecar")
            return None
        if planned.choice.rule is None:
            return RetryLater(None, Skip("no_rule", "no rule matches it"))
        rule = planned.choice.rule.name
        for job, spec in zip(jobs, planned.specs, strict=False):
            log.info(
                "job queued",
                job=job,
                inbox=drop.inbox,
                path=drop.path,
                rule=rule,
                preset=spec.preset,
            )
        if jobs:
            self._on_queued()
        return None

    def _enqueue(
        self, inbox: Inbox, drop: Drop, seen: FileState, picture: Inspected
    ) -> tuple[Plan, Drop, list[int]]:
        """Plan and enqueue; no jobs if no rule matches, or if the drop is already queued.

        Returns the drop with its overrides. Raises OSError if they cannot be read now.
        """
        rules, family = self._services.rules[inbox.name].rules, self._services.family
        lock = self._services.enqueue_locks[inbox.name]
        with lock, _folder_of(inbox, drop.path) as folder:
            overrides = self._find_overrides(inbox, drop.path, folder, seen)
            drop = drop.with_overrides(overrides)
            settings = read_sidecar(overrides, checker(family), inbox.overrides)
            planned = plan(drop.path, picture, settings, rules, family, self._rng)
            if planned.choice.rule is None or not planned.specs:
                return planned, drop, []
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
            return planned, drop, jobs

    def _find_overrides(
        self, inbox: Inbox, path: str, folder: Path, seen: FileState
    ) -> list[Override]:
        """Return the overrides of a picture, without those that are left over. Raises OSError.

        `folder` is the picture's, opened.
        """
        found = find_overrides(folder / PurePosixPath(path).name)
        if not found:
            return []
        first = self._first_look(inbox, path, seen)
        # A change of its mode, which made it readable, is no arrival.
        arrived = min(seen.ctime_ns / 1e9, first.at if first else math.inf)
        arrival = Arrival(arrived, self._services.queries.last_taken(inbox.name, path))
        return [override for override in found if not override.is_leftover(arrival)]

    def _is_there(self, inbox: Inbox, drop: Drop) -> bool:
        """Return True if the file is still in the inbox, unchanged. Raises OSError if unknown."""
        with _folder_of(inbox, drop.path) as folder:
            found = FileState.find(folder / PurePosixPath(drop.path).name)
        return found is not None and found.fingerprint == drop.fingerprint

    # --- files that cannot be used, or not yet

    def _first_look(self, inbox: Inbox, path: str, seen: FileState) -> _FirstLook | None:
        first = self._first_looks.get((inbox.name, path))
        return first if first and first.fingerprint == seen.fingerprint else None

    def _remember(
        self, inbox: Inbox, path: str, seen: FileState, *, undecodable: bool = False
    ) -> None:
        """Remember the time of the first look at a file, and if it was undecodable."""
        first = self._first_look(inbox, path, seen)
        at = first.at if first else time.time()
        undecodable |= first is not None and first.undecodable
        self._first_looks[inbox.name, path] = _FirstLook(seen.fingerprint, at, undecodable)
        while len(self._first_looks) > _MAX_REMEMBERED_FILES:  # those of files that were removed
            del self._first_looks[next(iter(self._first_looks))]

    async def _retry_or_reject(
        self, inbox: Inbox, path: str, seen: FileState, refusal: Rejected
    ) -> Answer:
        """Reject a file that cannot be decoded on its second try: a paused copy looks broken."""
        if refusal.gone:
            return None
        first = self._first_look(inbox, path, seen)
        if not (first and first.undecodable) and not isinstance(refusal, PoisonImage):
            self._remember(inbox, path, seen, undecodable=True)
            log.info("picture not readable yet", inbox=inbox.name, path=path, reason=refusal.reason)
            skip = Skip("incomplete", f"cannot be decoded yet: {refusal.reason}")
            return RetryLater(float(inbox.unreadable_timeout), skip)
        await self._run(inbox, self._services.markers.check, inbox, "path")
        drop = await self._run(inbox, self._undecoded, inbox, path, seen)
        await self._reject(inbox, drop, refusal.reason, "unreadable")
        self._first_looks.pop((inbox.name, path), None)
        return None

    def _undecoded(self, inbox: Inbox, path: str, seen: FileState) -> Drop:
        """Return the drop of a picture that cannot be decoded. Raises OSError."""
        drop = Drop(inbox=inbox.name, path=path, fingerprint=seen.fingerprint, sha256="", source={})
        with _folder_of(inbox, path) as folder:
            return drop.with_overrides(self._find_overrides(inbox, path, folder, seen))

    async def _reject(self, inbox: Inbox, drop: Drop, reason: str, kind: str) -> None:
        job = await self._run(
            inbox, self._store.reject, drop, reason, lambda: self._is_there(inbox, drop)
        )
        if job is None:
            return
        log.error("picture rejected", job=job, inbox=inbox.name, path=drop.path, reason=reason)
        self._services.metrics.rejected.labels(kind).inc()
        rejected = await asyncio.to_thread(self._services.queries.job, job)
        assert rejected is not None
        await self._run(inbox, self._services.archive.archive_job, rejected)
