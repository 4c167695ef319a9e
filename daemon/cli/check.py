"""`i2vd check`: everything that can be known to be wrong before the first picture comes."""

import os
import shutil
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from daemon.config.address import is_loopback
from daemon.config.secret_file import OPEN_TO_OTHERS, read_token
from daemon.config.settings import Inbox, Settings, SettingsError
from daemon.devices import resolve_devices
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from daemon.estimate.requirements import Requirement, known
from daemon.fs.atomic import probe_commit_method
from daemon.fs.mounts import queue_refusal
from daemon.intake.intake import checker
from daemon.jobs.database import Database, DatabaseUnusable
from daemon.jobs.queries import JobQueries
from daemon.storage.folders import ROLES, folder_of
from daemon.storage.marker import VolumeMarkers
from daemon.telemetry.metrics import free_bytes
from daemon.telemetry.terminal import escape
from pipeline.checkpoint.layout import ModelUnusable, find
from pipeline.request.presets import MICRO, family_of
from rules.parse import parse_folder

Verdict = Literal["ok", "warning", "mistake"]
LITTLE_SPACE = 2 * 10**9


class Finding(NamedTuple):
    """What was looked at, and what was found."""

    verdict: Verdict
    what: str
    detail: str


def check(settings: Settings) -> list[Finding]:
    """Look at everything; nothing is changed but for probes that are removed again."""
    return [*_look(settings)]


def _look(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", "settings", f"{len(settings.inbox)} inbox(es)")
    yield _http(settings)
    yield from _state(settings)
    yield from _storage(settings)
    for inbox in settings.inbox:
        yield from _folders(inbox, settings.min_free)
        yield from _rules(settings, inbox)
    yield from _device(settings)
    yield from _kernels(settings)
    yield _weights(settings)


def _http(settings: Settings) -> Finding:
    http = settings.http
    try:
        token = read_token(http.token_file)
    except SettingsError as error:
        return Finding("mistake", "http", str(error))
    told = f"{http.url}, {'a token is demanded' if token else 'no token is demanded'}"
    if is_loopback(http.host):
        return Finding("ok", "http", told)
    return Finding("warning", "http", f"{told}; {OPEN_TO_OTHERS}")


def _state(settings: Settings) -> Iterator[Finding]:
    refusal = queue_refusal(settings.state) if settings.queue.url is None else None
    if refusal:
        yield Finding("mistake", "queue", refusal)
    writable = _writable(settings.state)
    if writable:
        yield Finding("mistake", "state", writable)
        return
    if settings.queue.url is None and not (settings.state / "queue.sqlite").is_file():
        yield Finding("ok", "queue", f"{settings.queue_url}, made by the first `i2vd run`")
        return
    try:
        Database(settings.queue_url).close()
        yield Finding("ok", "queue", settings.queue_url)
    except DatabaseUnusable as error:
        yield Finding("mistake", "queue", str(error))


def _storage(settings: Settings) -> Iterator[Finding]:
    """Folders that are not those of the queue: a share that is not mounted."""
    if settings.queue.url is None and not (settings.state / "queue.sqlite").is_file():
        return
    try:
        database = Database(settings.queue_url)
    except DatabaseUnusable:  # told already
        return
    try:
        storage = VolumeMarkers(settings, database)
        for inbox in settings.inbox:
            if why := storage.problem(inbox):
                yield Finding("mistake", f"{inbox.name}: storage", why)
    finally:
        database.close()


def _folders(inbox: Inbox, min_free: int) -> Iterator[Finding]:
    for role in ROLES:
        folder = folder_of(inbox, role)
        name = f"{inbox.name}: {'inbox' if role == 'path' else role}"
        if role == "rules":
            continue
        problem = _writable(folder)
        if problem:
            yield Finding("mistake", name, problem)
            continue
        if not folder.is_dir():
            yield Finding("warning", name, f"{folder} is missing; `i2vd run` makes it")
            continue
        free = free_bytes(folder) or 0.0
        detail = f"{folder}, {free / 1e9:.1f} GB free"
        if free < min_free:
            yield Finding("mistake", name, f"{detail}, less than min_free: nothing new begins")
            continue
        if role == "outbox":
            try:
                detail += f", clips appear by {probe_commit_method(folder)}"
            except OSError as error:
                yield Finding("mistake", name, f"{folder}: {error.strerror}")
                continue
        yield Finding("ok" if free > LITTLE_SPACE else "warning", name, detail)
    yield from _apart(inbox)


def _apart(inbox: Inbox) -> Iterator[Finding]:
    """A move across file systems is a copy: safe, but slower, and it needs room."""
    try:
        home = inbox.path.stat().st_dev
        far = [r for r in ("archive", "failed") if folder_of(inbox, r).stat().st_dev != home]
    except OSError:
        return
    if far:
        yield Finding(
            "warning",
            f"{inbox.name}: {' and '.join(far)}",
            "on another file system than the inbox: pictures are copied instead of renamed",
        )


def _writable(folder: Path) -> str | None:
    """Why we cannot write there; a missing folder counts when it cannot be made."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    if place != folder:
        writable = os.access(place, os.W_OK)
        return None if writable else f"{folder} is missing and {place} is not writable"
    probe_file = folder / f".i2vd-probe-{uuid.uuid4().hex}"
    try:
        probe_file.touch()
        probe_file.unlink()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return None


def _rules(settings: Settings, inbox: Inbox) -> Iterator[Finding]:
    name = f"{inbox.name}: rules"
    if not inbox.rules.is_dir():
        yield Finding("warning", name, f"{inbox.rules} is missing; `i2vd run` makes it")
        return
    parsed = parse_folder(inbox.rules, checker(family_of(settings.model.name)))
    for mistake in parsed.mistakes:
        yield Finding("mistake" if mistake.fatal else "warning", name, str(mistake))
    if parsed.rules is not None:
        yield Finding("ok", name, f"{inbox.rules}, {len(parsed.rules.rules)} rule(s)")


def _device(settings: Settings) -> Iterator[Finding]:
    if not settings.model.devices:
        yield Finding("ok", "device", "none: clips are made by other hosts")
    for device in resolve_devices(settings.model.devices):
        if device.startswith("cuda") and not Path("/dev/nvidiactl").exists():
            yield Finding("mistake", "device", f"{device}: there is no NVIDIA driver here")
        elif device == "cpu" and settings.model.name != MICRO:
            yield Finding("warning", "device", "cpu: a clip of the full model takes hours")
        else:
            yield Finding("ok", "device", device)


def _kernels(settings: Settings) -> Iterator[Finding]:
    """What Triton needs to make our own kernels for a GPU."""
    if not any(device.startswith("cuda") for device in resolve_devices(settings.model.devices)):
        return
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    if not (compiler and headers):
        lacking = "no C compiler" if headers else "no headers of Python"
        if not (compiler or headers):
            lacking = "neither a C compiler nor headers of Python"
        yield Finding(
            "warning",
            "kernels",
            f"{lacking}, so torch's kernels are used instead of ours, and clips take about twice "
            "as long: apt install gcc python3-dev",
        )


def _weights(settings: Settings) -> Finding:
    try:
        source = find(settings.model.name, small=True)
    except ModelUnusable as error:
        return Finding("mistake" if settings.model.devices else "warning", "model", str(error))
    size = sum(file.stat().st_size for files in source.weights.values() for file in files)
    return Finding("ok", "model", f"{settings.model.name}, {size / 1e6:,.0f} MB in {source.folder}")


def table(settings: Settings) -> list[Requirement]:
    """What each preset needs here in each mode, and what it took."""
    if settings.queue.url is None and not (settings.state / "queue.sqlite").is_file():
        return known(settings, None, None)
    try:
        database = Database(settings.queue_url)
    except DatabaseUnusable:
        return known(settings, None, None)
    try:
        forecast = MemoryEstimator(database, settings.model.name)
        return known(settings, forecast, DurationEstimator.from_history(JobQueries(database)))
    finally:
        database.close()


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """The findings for a person, or the journal: one line each, markup for rich."""
    colours = {"ok": "green", "warning": "yellow", "mistake": "red"}
    for verdict, what, detail in findings:
        yield f"[{colours[verdict]}]{verdict:8}[/]{escape(what)}: {escape(detail)}"
