"""`i2vd explain PICTURE`: a dry run of a picture with its reasons, and its earlier jobs."""

import hashlib
import os
import random
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field
from rich.console import Console

from daemon.cli.paths import is_utf8, readable_by_children, shown
from daemon.config.settings import Inbox, Settings
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.estimator import Estimator
from daemon.estimate.memory import MemoryEstimator
from daemon.intake.dry_run import DryRun, dry_run
from daemon.intake.intake import checker, plan
from daemon.intake.junk import is_ignored
from daemon.intake.scanner import is_picture
from daemon.jobs.database import Database
from daemon.jobs.job import Event, Job
from daemon.jobs.queries import JobQueries
from daemon.publish.picture_location import with_local_paths
from daemon.telemetry.terminal import escape
from pipeline.checkpoint.text_limit import text_limit_of
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Rejected, Unavailable
from pipeline.image.formats import find_by_name
from pipeline.request.presets import family_of
from pipeline.request.spec import Spec
from rules.characters import quoted
from rules.live import LiveRules
from rules.names import spellings
from rules.override import Arrival, Override, find_overrides
from rules.parse import read_sidecar
from rules.text_file import open_regular


class NotExplained(Exception):
    """There is nothing to explain; the message gives the reason."""


class EarlierJob(BaseModel):
    """An earlier job of the picture and its events."""

    job: Job
    events: list[Event]


class Explanation(DryRun):
    """Result of a dry run, with the picture's earlier jobs."""

    picture: str
    inbox: str
    ignored: str | None = None
    """Reason why the watcher ignores the file."""
    unreadable: str | None = None
    width: int = 0
    height: int = 0
    past: list[EarlierJob] = Field(default_factory=list)


async def explain(settings: Settings, picture: Path) -> Explanation:
    """Process the picture as intake would, without queueing it. Raises NotExplained."""
    picture = _as_spelled(picture)
    if not picture.is_file():
        found = _earlier_jobs(settings, None, picture)
        if not found:
            raise NotExplained(f"{shown(picture)}: no such file, and no job knows it")
        return Explanation(picture=shown(picture), inbox=found[0].job.inbox, past=found)
    inbox, path = _locate(settings, picture)
    family = family_of(settings.model.name)
    answer = Explanation(picture=shown(picture), inbox=inbox.name, ignored=_ignore_reason(path))
    if not is_utf8(Path(path)):
        return answer
    answer.past = _earlier_jobs(settings, _sha256(picture), picture)
    image_pool = ImagePool(lambda _: None, lambda _: None)
    try:
        with readable_by_children(picture) as readable:
            inspected = await image_pool.inspect(readable, lenient=True)
    finally:
        await image_pool.close()
    if isinstance(inspected, (Rejected, Unavailable)):
        answer.unreadable = inspected.reason
        return answer
    rules = LiveRules(inbox.rules, checker(family))
    loaded = rules.reload(0.0)
    if not loaded.ok:
        answer.mistakes = [str(mistake) for mistake in loaded.mistakes]
        return answer
    database = _database(settings)
    overrides, leftover = _overrides(database, inbox, path, picture)
    planned = plan(
        path,
        inspected,
        read_sidecar(overrides, checker(family)),
        rules.rules,
        family,
        random.SystemRandom(),
    )
    memory = MemoryEstimator(database, settings.model.name) if database else None
    durations = DurationEstimator.from_history(JobQueries(database)) if database else None
    source = (inspected.width, inspected.height)
    expected = dry_run(
        planned, source, Estimator(settings, memory), durations, text_limit_of(settings.model.name)
    )
    expected.warnings += [f"{name} is not applied: it came long before" for name in leftover]
    fields = {key: getattr(expected, key) for key in DryRun.model_fields}
    return answer.model_copy(update=fields | {"width": inspected.width, "height": inspected.height})


def _as_spelled(picture: Path) -> Path:
    """Return the path as the file system has it, whose accents may be written otherwise."""
    forms = (Path(form) for form in spellings(str(picture)))
    return next((form for form in forms if form.is_file()), picture)


def _overrides(
    database: Database | None, inbox: Inbox, path: str, picture: Path
) -> tuple[list[Override], list[str]]:
    """Return the overrides of a picture, and the names of those that are left over."""
    earlier = JobQueries(database).last_taken(inbox.name, path) if database else None
    arrival = Arrival(picture.stat().st_ctime, earlier)
    found = find_overrides(picture)
    leftover = [each.path.name for each in found if each.is_leftover(arrival)]
    return [each for each in found if each.path.name not in leftover], leftover


def _locate(settings: Settings, picture: Path) -> tuple[Inbox, str]:
    """Return the inbox of a picture and its path there; a picture outside belongs to the first."""
    real = picture.resolve()
    for inbox in settings.inbox:
        for folder in (inbox.path, inbox.archive, inbox.failed):
            if real.is_relative_to(folder.resolve()):
                return inbox, str(real.relative_to(folder.resolve()))
    return settings.inbox[0], picture.name


def _sha256(picture: Path) -> str:
    with os.fdopen(open_regular(picture, follow=True), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore_reason(path: str) -> str | None:
    if not is_utf8(Path(path)):
        return f"{shown(Path(path))} is not UTF-8; rename it"
    parts = Path(path).parts
    ignored = next((part for part in parts if is_ignored(part)), None)
    if ignored:
        return f"{quoted(ignored)} is the name of a temporary or hidden file"
    if is_picture(path):
        return None
    if known := find_by_name(path):
        return f"{quoted(parts[-1])} is {known}"
    return f"{quoted(parts[-1])} has not the ending of a picture"


def _database(settings: Settings) -> Database | None:
    """Open the queue; None if there is none, because explaining must not create one."""
    if settings.queue_file and not settings.queue_file.exists():
        return None
    return Database(settings.queue_url)


def _earlier_jobs(settings: Settings, sha256: str | None, picture: Path) -> list[EarlierJob]:
    database = _database(settings)
    if database is None:
        return []
    queries = JobQueries(database)
    inbox, path = _locate(settings, picture)
    if not is_utf8(Path(path)):  # no job has such a name
        return []
    found = {job.id: job for job in queries.by_path(inbox.name, path)}
    if sha256:
        found |= {job.id: job for job in queries.by_content(sha256)}
    newest = [found[number] for number in sorted(found, reverse=True)]
    return [
        EarlierJob(job=with_local_paths(settings, job), events=queries.events(job.id))
        for job in newest
    ]


def show(answer: Explanation, console: Console) -> None:
    """Print the explanation."""
    console.print(f"[bold]{escape(answer.picture)}[/], inbox {answer.inbox}")
    if answer.ignored:
        console.print(f"passed over: {escape(answer.ignored)}")
    if answer.unreadable:
        console.print(f"[red]not usable:[/] {escape(answer.unreadable)}")
    for name, reason in answer.rejected_by:
        console.print(f"  not {escape(name)}: {escape(reason)}")
    for mistake in answer.mistakes:
        console.print(f"[red]mistake:[/] {escape(mistake)}")
    if answer.rule:
        console.print(f"[green]rule {escape(answer.rule)}[/]")
    elif answer.width:
        console.print("[yellow]no rule takes it: it would stay in the inbox[/]")
    for warning in answer.warnings:
        console.print(f"[yellow]{escape(warning)}[/]")
    for spec in answer.specs:
        _show_spec(spec, console)
    if answer.specs:
        _show_costs(answer, console)
    _show_earlier_jobs(answer.past, console)


def _show_spec(spec: Spec, console: Console) -> None:
    for key, value in spec.model_dump().items():
        console.print(f"  {key:16} {escape(str(value))}", highlight=False)


def _show_costs(answer: Explanation, console: Console) -> None:
    if answer.kept < 1:
        console.print(f"  the crop keeps {answer.kept:.0%} of the picture; see `framing`, `aspect`")
    cost = answer.estimate
    assert cost is not None
    memory = f"{cost.bytes / 1e9:.2f} GB, less where there is not so much"
    console.print(f"  predicted memory {memory}")
    if cost.room is not None:
        begins = f"{cost.mode}, {cost.width}x{cost.height}, {cost.frames} frames"
        console.print(f"  begins as        {begins}, for there are {cost.room / 1e9:.2f} GB")
    spec = answer.specs[0]
    if spec.speed != "exact":
        console.print(f"  steps made       {cost.steps}, for the speed is {spec.speed}")
    unknown = "unknown until a clip of this preset was made"
    duration = unknown if cost.seconds is None else f"{cost.seconds:.0f} s"
    console.print(f"  predicted time   {duration}")


def _show_earlier_jobs(past: Sequence[EarlierJob], console: Console) -> None:
    for each in past:
        job = each.job
        console.print(f"job {job.id}: [bold]{job.state}[/] {escape(job.error or '')}")
        for event in each.events:
            at = datetime.fromtimestamp(event.at).strftime("%d %b %H:%M:%S")
            console.print(f"  {at}  {event.event} {escape(event.detail)}", highlight=False)
        if job.picture_path:
            console.print(f"  the picture is at {escape(job.picture_path)}")
