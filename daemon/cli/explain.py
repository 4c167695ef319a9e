"""`i2vd explain PICTURE`: a dry run of a picture with its reasons, and its earlier jobs."""

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field
from rich.console import Console

from daemon.cli.paths import is_utf8, readable_by_children, shown
from daemon.config.settings import Inbox, Settings
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.estimator import Estimator
from daemon.estimate.memory import MemoryEstimator
from daemon.fs.atomic import describe_os_error
from daemon.intake.dry_run import DryRun, dry_run
from daemon.intake.intake import checker, plan
from daemon.intake.scanner import Entry, find_entry
from daemon.jobs.database import Database
from daemon.jobs.job import Event, Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.publish.picture_location import with_local_paths
from daemon.telemetry.terminal import escape
from pipeline.checkpoint.text_limit import text_limit_of
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Inspected, Rejected, Unavailable
from pipeline.request.presets import family_of
from pipeline.request.spec import SeedChoice, Spec
from rules.characters import quoted
from rules.live import LiveRules
from rules.names import spellings
from rules.override import Arrival, Override, find_overrides
from rules.parse import read_sidecar


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
    waits: list[str] = Field(default_factory=list)
    """What holds up every picture, or this one for a moment."""
    width: int = 0
    height: int = 0
    past: list[EarlierJob] = Field(default_factory=list)

    @property
    def gives_clip(self) -> bool:
        """Return True if a clip is made, or the file is gone and was a picture of a job."""
        refused = self.ignored or self.unreadable or self.mistakes or self.width
        return bool(self.specs) or not refused


class _Place(NamedTuple):
    """A file: the inbox to whose rules it belongs, the folder to start from, and the path there."""

    inbox: Inbox
    root: Path
    path: str
    recursive: bool = True

    @property
    def file(self) -> Path:
        return self.root / self.path


async def explain(settings: Settings, picture: Path) -> Explanation:
    """Process the picture as intake would, without queueing it. Raises NotExplained."""
    place = _locate(settings, picture)
    inbox, path, file = place.inbox, place.path, place.file
    answer = Explanation(picture=shown(file), inbox=inbox.name)
    answer.past = _earlier_jobs(settings, None, place)
    try:
        file.lstat()
        answer.ignored = _ignore_reason(find_entry(place.root, path, place.recursive))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not answer.past:
            raise NotExplained(f"{shown(picture)}: no such file, and no job knows it") from error
        return answer
    except OSError as error:
        raise NotExplained(f"{shown(picture)}: {describe_os_error(error)}") from error
    if answer.ignored:
        return answer
    answer.waits = [*_find_waits(settings, place)]
    inspected = await _inspect(file)
    if isinstance(inspected, (Rejected, Unavailable)):
        answer.unreadable = inspected.reason
        return answer
    answer.past = _earlier_jobs(settings, inspected.sha256, place)
    family = family_of(settings.model.name)
    rules = LiveRules(inbox.rules, checker(family))
    loaded = rules.reload(0.0)
    if not loaded.ok:
        answer.mistakes = [str(mistake) for mistake in loaded.mistakes]
        return answer
    database = _database(settings)
    overrides, leftover = _overrides(database, inbox, path, file)
    planned = plan(
        path,
        inspected,
        read_sidecar(overrides, checker(family), inbox.overrides),
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


def _find_waits(settings: Settings, place: _Place) -> Iterator[str]:
    delay = place.inbox.stability_delay
    if place.root == place.inbox.path and time.time() - place.file.stat().st_ctime < delay:
        yield f"still changing: it is taken {delay:g} s after its last change"
    database = _database(settings)
    if database and Operator(database).paused():
        yield "the queue is paused, and no clip is begun: `i2vd resume`"


def _ignore_reason(entry: Entry) -> str | None:
    path = shown(Path(entry.path))
    match entry.kind:
        case "picture":
            return None
        case "skipped":
            return f"{path}: {entry.detail}"
        case "override":
            return f"{path}: has the settings of {quoted(entry.detail)}"
        case "folder":
            return f"{path}: is a folder; give the path of a picture in it"
        case "system":
            return f"{path}: has a name that systems and programs give to files of their own"


async def _inspect(file: Path) -> Inspected | Rejected | Unavailable:
    image_pool = ImagePool(lambda _: None, lambda _: None)
    try:
        with readable_by_children(file) as readable:
            return await image_pool.inspect(readable, lenient=True)
    except OSError as error:
        return Unavailable(reason=describe_os_error(error))
    finally:
        await image_pool.close()


def _locate(settings: Settings, picture: Path) -> _Place:
    """Return where a picture is: in an inbox, archive or failed folder, or outside of them.

    A relative path may also be one in an inbox, as the page and the API give it. One outside is
    taken for a picture of the first inbox.
    """
    whole = _as_spelled(picture.absolute())
    if ".." in whole.parts:
        whole = whole.parent.resolve() / whole.name
    places = list(_possible_places(settings, whole))
    if not picture.is_absolute():
        places += [
            _Place(inbox, inbox.path, str(_as_spelled(picture, inbox.path)), inbox.recursive)
            for inbox in settings.inbox
        ]
    for place in places:
        if _exists(place.file):
            return place
    return next((each for each in places if _earlier_jobs(settings, None, each)), places[0])


def _possible_places(settings: Settings, picture: Path) -> Iterator[_Place]:
    for inbox in settings.inbox:
        folders = ((inbox.path, inbox.recursive), (inbox.archive, True), (inbox.failed, True))
        for folder, recursive in folders:
            if path := _path_below(folder, picture):
                yield _Place(inbox, folder, path, recursive)
    yield _Place(settings.inbox[0], picture.parent, picture.name)


def _path_below(folder: Path, file: Path) -> str | None:
    """Return the path of a file below a folder that may be reached through links; else None."""
    for parent in file.parents:
        with contextlib.suppress(OSError):
            if parent.samefile(folder):
                return str(file.relative_to(parent))
    return None


def _as_spelled(picture: Path, root: Path = Path()) -> Path:
    """Return the path as the file system has it, whose accents may be written otherwise."""
    forms = (Path(form) for form in spellings(str(picture)))
    return next((form for form in forms if _exists(root / form)), picture)


def _exists(file: Path) -> bool:
    """Return True if there is something of this name, or it cannot be known."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _overrides(
    database: Database | None, inbox: Inbox, path: str, picture: Path
) -> tuple[list[Override], list[str]]:
    """Return the overrides of a picture, and the names of those that are left over."""
    earlier = JobQueries(database).last_taken(inbox.name, path) if database else None
    arrival = Arrival(picture.stat().st_ctime, earlier)
    found = find_overrides(picture)
    leftover = [each.path.name for each in found if each.is_leftover(arrival)]
    return [each for each in found if each.path.name not in leftover], leftover


def _database(settings: Settings) -> Database | None:
    """Open the queue; None if there is none, because explaining must not create one."""
    if settings.queue_file and not settings.queue_file.exists():
        return None
    return Database(settings.queue_url)


def _earlier_jobs(settings: Settings, sha256: str | None, place: _Place) -> list[EarlierJob]:
    database = _database(settings)
    if database is None or not is_utf8(Path(place.path)):  # no job has such a name
        return []
    queries = JobQueries(database)
    found = {job.id: job for job in queries.by_path(place.inbox.name, place.path)}
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
    for reason in answer.waits:
        console.print(f"[yellow]waits:[/] {escape(reason)}")
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
        _show_spec(spec, answer.seed, console)
    if answer.specs:
        _show_costs(answer, console)
    _show_earlier_jobs(answer.past, console)


def _show_spec(spec: Spec, seed: SeedChoice, console: Console) -> None:
    chosen_later = {"seed": "drawn when the picture is taken"} if seed == "random" else {}
    for key, value in (spec.model_dump() | chosen_later).items():
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
