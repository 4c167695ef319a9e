"""Runner: play the steps of a case in a studio, and wait for what must come of them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.field.case import HERE, Case, Expect, Odd, Step
from tests.system.disks import ntfs, odd_folder, sshfs
from tests.system.needs import missing, needs
from tests.system.studio import ROOT, Studio, visible

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")
"""Command that runs a program as root without root's right to ignore the modes of files."""


_FUNCTIONS = """
set -eu
i2vd() { "$PYTHON" -m daemon "$@"; }
draw() { "$PYTHON" -m tests.field.draw "$@"; }
"""


def play(case: Case, studio: Studio) -> None:
    """Play all steps. Raises AssertionError with what is not as it must be."""
    for program, package in case.needs.items():
        needs(program, package=package)
    with contextlib.ExitStack() as stack:
        for name, odd in case.odd.items():
            stack.enter_context(_shown_through(studio.root / name, odd))
        for name, kind in case.mount.items():
            stack.enter_context({"ntfs": ntfs, "sshfs": sshfs}[kind](studio.root / name))
        studio.config.write_text(studio.config.read_text() + case.settings, encoding="utf-8")
        for name, text in case.rules.items():
            studio.rule(name, text)
        if case.started:
            studio.start()
        try:
            for number, step in enumerate(case.step, start=1):
                _play_step(step, studio, f"step {number}")
        finally:
            _shell("chattr -f -R -i . || true; chmod -R u+rwX . || true", studio)


def _shown_through(folder: Path, odd: Odd) -> contextlib.AbstractContextManager[Path]:
    return odd_folder(folder, name_max=odd.name_max, refuses=odd.refuses, flags=odd.flags)


def _play_step(step: Step, studio: Studio, what: str) -> None:
    match step.daemon:
        case "start":
            studio.start(ready=step.ready is not False)
        case "stop":
            assert studio.stop() == 0, f"{what}: {studio.log_tail()}"
        case "kill":
            studio.kill()
        case "reload":
            studio.signal(signal.SIGHUP)
    if step.run:
        ended = _shell(step.run, studio)
        told = ended.stdout + ended.stderr
        assert ended.returncode == step.exit, f"{what}: exit code {ended.returncode}\n{told}"
        for pattern in step.output:
            assert re.search(pattern, told), f"{what}: {pattern!r} is not in:\n{told}"
    _wait_for(step, studio, what)


def _shell(text: str, studio: Studio) -> "subprocess.CompletedProcess[str]":
    folders = {
        "INBOX": studio.inbox,
        "OUTBOX": studio.outbox,
        "ARCHIVE": studio.archive,
        "FAILED": studio.failed,
        "RULES": studio.rules,
        "ROOT": studio.root,
        "FILES": HERE / "files",
    }
    own = {name: str(folder) for name, folder in folders.items()} | {
        "PYTHON": sys.executable,
        "URL": str(studio.http.base_url).rstrip("/"),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        ["bash", "-c", _FUNCTIONS + text],
        cwd=studio.root,
        env=os.environ | studio.variables() | own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=120,
        check=False,
    )


def _wait_for(expect: Expect, studio: Studio, what: str) -> None:
    end = time.monotonic() + expect.within
    while found := [*unmet(expect, studio)]:
        if time.monotonic() > end:
            raise AssertionError("\n".join([f"{what}:", *found, studio.log_tail()]))
        time.sleep(0.1)
    end = time.monotonic() + expect.hold
    while time.monotonic() < end:
        found = [*unmet(expect, studio)]
        assert not found, "\n".join([f"{what}, later:", *found, studio.log_tail()])
        time.sleep(0.2)


def unmet(expect: Expect, studio: Studio) -> Iterator[str]:
    """Yield what is not as it must be, one sentence each."""
    if expect.clips is not None and (clips := studio.clips()) != sorted(expect.clips):
        yield f"clips: {clips}, expected {sorted(expect.clips)}"
    for role in ("inbox", "archive", "failed"):
        wanted = getattr(expect, role)
        if wanted is not None and (found := files_in(getattr(studio, role))) != sorted(wanted):
            yield f"{role}: {found}, expected {sorted(wanted)}"
    yield from _unmet_answers(expect, studio)
    yield from _unmet_jobs(expect, studio)
    for clip, values in expect.sidecar.items():
        yield from _unmet_sidecar(studio.outbox / f"{clip}.json", values, studio, clip)
    if expect.log or expect.silent:
        events = {line["event"] for line in studio.log()}
        yield from (f"not logged: {event}" for event in expect.log if event not in events)
        yield from (f"logged: {event}" for event in expect.silent if event in events)


def _unmet_answers(expect: Expect, studio: Studio) -> Iterator[str]:
    wanted = dict(expect.answers)
    if expect.ready is not None:
        wanted["GET /readyz"] = 200 if expect.ready else 503
    for request, status in wanted.items():
        method, _, path = request.partition(" ")
        try:
            answer = studio.http.request(method, path)
        except httpx2.TransportError as error:
            yield f"{request}: {error!r}"
        else:
            if answer.status_code != status:
                yield f"{request}: {answer.status_code}, expected {status}: {answer.text[:500]}"


def _unmet_jobs(expect: Expect, studio: Studio) -> Iterator[str]:
    if not expect.jobs and not expect.error:
        return
    latest: dict[str, dict[str, Any]] = {job["path"]: job for job in studio.jobs()}
    for path, state in expect.jobs.items():
        found = latest[path]["state"] if path in latest else "none"
        if found != state:
            yield f"job of {path}: {found}, expected {state}"
    for path, pattern in expect.error.items():
        error = str(latest[path]["error"]) if path in latest else "no job"
        if not re.search(pattern, error):
            yield f"error of {path}: {error}, expected {pattern!r}"


def _unmet_sidecar(file: Path, values: dict[str, Any], studio: Studio, clip: str) -> Iterator[str]:
    if not file.exists():
        yield f"{clip} has no sidecar"
        return
    content = studio.sidecar(clip)
    for dotted, wanted in values.items():
        found: Any = content
        for key in dotted.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found != wanted:
            yield f"{clip}: {dotted} is {found!r}, expected {wanted!r}"


def files_in(folder: Path) -> list[str]:
    """Return the visible files below a folder, without reason files."""
    return sorted(
        str(path.relative_to(folder))
        for path in visible(folder, "*")
        if not path.is_dir() and not path.name.endswith(".reason.json")
    )


def require_root() -> None:
    """Skip the test, or fail it in CI, if it does not run as root."""
    if os.geteuid() != 0:
        missing("this case needs root")
