"""Short chaos runs, and the errors that the audit and the observer report."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.audit import Audit
from tests.chaos.observer import Observer
from tests.postgres import programs
from tests.system.needs import needs
from tests.system.studio import ROOT, Studio

pytestmark = pytest.mark.slow


def chaos(*options: str) -> None:
    """Run the chaos test; it must end without an error."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_short_chaos_run_loses_and_doubles_nothing() -> None:
    needs("strace", package="strace")
    chaos("--rounds", "8", "--seed", "7", "--stride", "5")


def test_a_short_chaos_run_on_three_hosts_loses_and_doubles_nothing() -> None:
    programs()
    chaos("--hosts", "3", "--rounds", "3", "--seed", "5")


@pytest.fixture
def audited(tmp_path: Path) -> tuple[Audit, Studio]:
    """An audit and matching folders: one picture became a clip, another one failed."""
    studio, audit = Studio(tmp_path), Audit()
    for content, unusable in ((b"cat", False), (b"dog", True)):
        audit.record(content, unusable=unusable)
    sidecar = {
        "source": {"sha256": hashlib.sha256(b"cat").hexdigest()},
        "output": {"sha256": hashlib.sha256(b"clip").hexdigest()},
    }
    for path, text in {
        "outbox/cat.mp4": "clip",
        "outbox/cat.mp4.json": json.dumps(sidecar),
        "archive/cat.png": "cat",
        "failed/dog.png": "dog",
        "failed/dog.png.reason.json": '[{"reason": "broke"}]',
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return audit, studio


def test_an_audit_of_complete_folders_has_no_errors(audited: tuple[Audit, Studio]) -> None:
    audit, studio = audited
    assert list(audit.errors(studio)) == []


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("archive/cat.png", None, "missing"),
        ("archive/cat-2.png", "cat", "too many"),
        ("failed/dog.png", None, "missing"),
        ("failed/dog.png.reason.json", None, "no reason"),
        ("outbox/cat.mp4", None, "a sidecar without its clip"),
        ("outbox/cat.mp4", "cli", "other bytes"),
        ("outbox/cat.mp4.json", None, "no sidecar"),
        ("outbox/.i2vd/1-1/clip.mp4", "clip", "left behind"),
        ("inbox/cat.png", "cat", "still in the inbox"),
        ("archive/.i2vd-1.part", "ca", "left behind"),
    ],
)
def test_an_audit_reports_each_kind_of_error(
    audited: tuple[Audit, Studio], path: str, text: str | None, error: str
) -> None:
    audit, studio = audited
    file = studio.root / path
    file.parent.mkdir(exist_ok=True, parents=True)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert error in "; ".join(audit.errors(studio))


def test_the_observer_sees_a_clip_without_its_sidecar(audited: tuple[Audit, Studio]) -> None:
    _, studio = audited
    with Observer(studio.outbox) as observer:
        (studio.outbox / "bare.mp4").write_text("clip")
        studio.until(lambda: observer.errors, "it is seen", 10)
    assert "bare.mp4: no sound sidecar" in observer.errors[0]
