"""`i2vd check`: problems that can be found before the first picture arrives."""

import asyncio
import os
import shutil
import sysconfig
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
from daemon.fs.lock import is_locked
from daemon.fs.mounts import queue_refusal
from daemon.fs.probe import check_takes_files, find_name_rules, write_probe
from daemon.intake.intake import checker
from daemon.jobs.database import Database, DatabaseUnusable, shown
from daemon.jobs.queries import JobQueries
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.folders import ROLES, Locations, find_loop, folder_of, locate
from daemon.storage.volumes import VolumeMarkers
from daemon.telemetry.metrics import free_bytes
from daemon.telemetry.terminal import escape
from daemon.web.server import CannotListen, listen
from daemon.webhooks import origin_of, signer_of
from pipeline.checkpoint.layout import ModelUnusable, find
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Hello
from pipeline.memory.dimensions import read_dimensions
from pipeline.request.presets import MICRO, family_of
from rules.parse import parse_folder

Verdict = Literal["ok", "warning", "mistake"]
LOW_SPACE_BYTES = 2 * 10**9
_UNUSUAL_NAME = '"*:<>?|\\' + "x" * 200
"""The characters that exFAT, NTFS and SMB refuse, and about the length of a long name."""


class Finding(NamedTuple):
    """Result of one check: verdict, subject and detail."""

    verdict: Verdict
    what: str
    detail: str


def check(settings: Settings) -> list[Finding]:
    """Run all checks. Changes nothing, except probe files that are removed again."""
    return [*_run_checks(settings)]


def _run_checks(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", "settings", f"{len(settings.inbox)} inbox(es)")
    yield _http(settings)
    yield from _webhooks(settings)
    yield from _state(settings)
    yield from _inboxes(settings)
    yield _picture_sandbox()
    yield from _device(settings)
    yield from _kernels(settings)
    yield _weights(settings)


def _http(settings: Settings) -> Finding:
    http = settings.http
    try:
        token = read_token(http.token_file)
    except SettingsError as error:
        return Finding("mistake", "http", str(error))
    summary = f"{http.url}, {'a token is demanded' if token else 'no token is demanded'}"
    if not is_locked(settings.state):
        try:
            for opened in listen(http):
                opened.close()
        except CannotListen as error:
            return Finding("warning", "http", f"{error}, unless i2vd.socket holds this one")
    if is_loopback(http.host):
        return Finding("ok", "http", summary)
    return Finding("warning", "http", f"{summary}; {OPEN_TO_OTHERS}")


def _webhooks(settings: Settings) -> Iterator[Finding]:
    for hook in settings.webhook:
        try:
            signed = "signed" if signer_of(hook) else "not signed"
        except SettingsError as error:
            yield Finding("mistake", "webhook", str(error))
        else:
            yield Finding("ok", "webhook", f"{origin_of(hook.url)}, {signed}")


def _state(settings: Settings) -> Iterator[Finding]:
    if (queue := settings.queue_file) and (refusal := queue_refusal(queue.parent)):
        yield Finding("mistake", "queue", refusal)
    problem = _write_problem(settings.state)
    if problem:
        yield Finding("mistake", "state", problem)
        return
    if settings.queue_file and not settings.queue_file.is_file():
        yield Finding("ok", "queue", f"{settings.queue_file}, made by the first `i2vd run`")
        return
    try:
        Database(settings.queue_url).close()
        yield Finding("ok", "queue", shown(settings.queue_url))
    except DatabaseUnusable as error:
        yield Finding("mistake", "queue", str(error))


def _inboxes(settings: Settings) -> Iterator[Finding]:
    """Check the folders of the inboxes, at once and with a time limit: a share may hang."""
    database = _open_queue(settings)
    markers = VolumeMarkers(settings, database) if database else None
    threads = FolderThreads(settings.inbox)

    def look(inbox: Inbox) -> tuple[Locations, list[Finding]]:
        return locate(inbox), [*_inbox(settings, inbox, markers)]

    try:
        found = asyncio.run(threads.run_for_each(settings.inbox, look))
    finally:
        if database:
            database.close()
    if loop := find_loop(settings.inbox, {name: where for name, (where, _) in found.items()}):
        yield Finding("mistake", "folders", loop)
    for inbox in settings.inbox:
        if hangs := threads.hangs(inbox):
            yield Finding("mistake", f"{inbox.name}: folders", hangs)
        else:
            yield from found[inbox.name][1]


def _inbox(settings: Settings, inbox: Inbox, markers: VolumeMarkers | None) -> Iterator[Finding]:
    # a folder may be a mount point without its share
    if markers and (reason := markers.problem(inbox)):
        yield Finding("mistake", f"{inbox.name}: storage", reason)
    yield from _folders(inbox, settings.min_free)
    yield from _rules(settings, inbox)


def _open_queue(settings: Settings) -> Database | None:
    if settings.queue_file and not settings.queue_file.is_file():
        return None
    try:
        return Database(settings.queue_url)
    except DatabaseUnusable:  # reported by _state
        return None


def _folders(inbox: Inbox, min_free: int) -> Iterator[Finding]:
    for role in ROLES:
        folder = folder_of(inbox, role)
        name = f"{inbox.name}: {'inbox' if role == 'path' else role}"
        if role == "rules":
            continue
        problem = _write_problem(folder)
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
                detail += _name_limits(folder)
            except OSError as error:
                yield Finding("mistake", name, f"{folder}: {error.strerror}")
                continue
        yield Finding("ok" if free > LOW_SPACE_BYTES else "warning", name, detail)
    yield from _other_file_system(inbox)


def _name_limits(folder: Path) -> str:
    """Return which usual names the folder does not take; the daemon spells them differently."""
    rules = find_name_rules(folder, _UNUSUAL_NAME)
    if rules is None:
        return ""
    refused = "".join(c for c in _UNUSUAL_NAME if c in rules.refused)
    limits = [
        f"characters {refused}" if refused else "",
        f"more than {rules.max_bytes} bytes" if rules.max_bytes else "",
    ]
    return f"; names with {' or '.join(filter(None, limits)) or 'odd ends'} are changed"


def _other_file_system(inbox: Inbox) -> Iterator[Finding]:
    """Warn about moves across file systems: these are copies, slower, and need free space."""
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


def _write_problem(folder: Path) -> str | None:
    """Return why the folder is not writable, or cannot be created; None if all is well."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a folder"
    if existing != folder:
        try:
            check_takes_files(existing)
        except OSError:
            return f"{folder} is missing and {existing} is not writable"
        return None
    try:
        write_probe(folder)
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


def _picture_sandbox() -> Finding:
    """Start a child that decodes pictures, and report which layers of its sandbox are in force."""

    async def start() -> Hello | ChildFailure:
        image_pool = ImagePool(lambda _: None, lambda _: None)
        try:
            return await image_pool.start()
        finally:
            await image_pool.close()

    try:
        first = asyncio.run(start())
    except OSError as error:
        return Finding("mistake", "pictures", f"no child can be started: {error.strerror}")
    if isinstance(first, ChildFailure):
        return Finding("mistake", "pictures", first.reason)
    if first.unprotected:
        detail = "; ".join(first.unprotected)
        return Finding("warning", "pictures", f"their decoder's sandbox is incomplete: {detail}")
    return Finding("ok", "pictures", "decoded in a sandbox of Landlock and seccomp")


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
    """Check for the compiler and the headers that Triton needs to build i2vd's GPU kernels."""
    if not any(device.startswith("cuda") for device in resolve_devices(settings.model.devices)):
        return
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    if not (compiler and headers):
        missing = "no C compiler" if headers else "no headers of Python"
        if not (compiler or headers):
            missing = "neither a C compiler nor headers of Python"
        yield Finding(
            "warning",
            "kernels",
            f"{missing}, so torch's kernels are used instead of ours, and clips take about twice "
            "as long: apt install gcc python3-dev",
        )


def _weights(settings: Settings) -> Finding:
    try:
        source = find(settings.model.name, small=True)
        read_dimensions(source)
    except ModelUnusable as error:
        return Finding("mistake" if settings.model.devices else "warning", "model", str(error))
    size = sum(file.stat().st_size for files in source.weights.values() for file in files)
    return Finding("ok", "model", f"{settings.model.name}, {size / 1e6:,.0f} MB in {source.folder}")


def table(settings: Settings) -> list[Requirement]:
    """Return the predicted and measured memory of each preset in each mode."""
    if settings.queue_file and not settings.queue_file.is_file():
        return known(settings, None, None)
    try:
        database = Database(settings.queue_url)
    except DatabaseUnusable:
        return known(settings, None, None)
    try:
        memory = MemoryEstimator(database, settings.model.name)
        return known(settings, memory, DurationEstimator.from_history(JobQueries(database)))
    finally:
        database.close()


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield one line of rich markup for each finding."""
    colours = {"ok": "green", "warning": "yellow", "mistake": "red"}
    for verdict, what, detail in findings:
        yield f"[{colours[verdict]}]{verdict:8}[/]{escape(what)}: {escape(detail)}"
