"""The units and what goes with them, held against systemd's own tools."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.config import loader
from tests.system.needs import needs

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
SERVICE = UNITS / "i2vd.service"

WORST_EXPOSURE = 0.5


def told_by(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def verify(folder: Path, service: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze on both units; i2vd itself need not be installed for it."""
    analyze = needs("systemd-analyze", package="systemd")
    stand_in = shutil.which("true")
    files = [folder / "i2vd.service", folder / "i2vd.socket"]
    files[0].write_text(service.replace("/opt/i2vd/bin/i2vd", stand_in))
    shutil.copy(UNITS / "i2vd.socket", files[1])
    # Without --recursive-errors=no a misspelt key is told but does not count.
    return told_by(analyze, "verify", "--man=no", "--recursive-errors=no", *files)


def test_units_are_clean(tmp_path):
    result = verify(tmp_path, SERVICE.read_text())
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("OOMPolicy=", "OOMPolicies=", "Unknown key 'OOMPolicies'"),
        ("KillMode=mixed", "KillMode=mixt", "mixt"),
        ("[Install]", "[Instal]", "Unknown section 'Instal'"),
    ],
)
def test_a_misspelt_unit_is_found(tmp_path, right, wrong, told):
    text = SERVICE.read_text()
    assert right in text
    result = verify(tmp_path, text.replace(right, wrong))
    assert result.returncode != 0
    assert told in result.stdout


def test_exposure_is_small():
    analyze = needs("systemd-analyze", package="systemd")
    result = told_by(analyze, "security", "--offline=yes", "--threshold=100", SERVICE)
    level = re.search(r"Overall exposure level for i2vd.service: ([0-9.]+)", result.stdout)
    assert level, result.stdout
    assert float(level[1]) <= WORST_EXPOSURE


def test_stop_leaves_time_for_the_grace():
    seconds = re.search(r"^TimeoutStopSec=(\d+)min$", SERVICE.read_text(), re.MULTILINE)
    grace = loader.load(UNITS / "i2vd.toml").stop_grace
    assert int(seconds[1]) * 60 >= grace + 30


def test_user_and_group_are_made(tmp_path):
    sysusers = needs("systemd-sysusers", package="systemd")
    (tmp_path / "etc").mkdir()
    result = told_by(sysusers, f"--root={tmp_path}", UNITS / "i2vd.sysusers")
    assert result.returncode == 0, result.stdout
    assert "/var/lib/i2vd" in (tmp_path / "etc/passwd").read_text()
    assert "i2vd" in (tmp_path / "etc/group").read_text()


def test_folders_are_made(tmp_path):
    tmpfiles = needs("systemd-tmpfiles", package="systemd")
    # systemd 252 looks for users on this machine even under --root: the folders are made ours.
    text = (UNITS / "i2vd.tmpfiles").read_text().replace(":i2vd:", f":{os.getuid()}:")
    text = re.sub(r"^(d \S+ +\d+) \S+ \S+", r"\1 - -", text, flags=re.MULTILINE)
    given = tmp_path / "i2vd.conf"
    given.write_text(text)
    result = told_by(tmpfiles, "--create", f"--root={tmp_path}", given)
    assert result.returncode == 0, result.stdout
    modes = {p.name: oct(p.stat().st_mode)[-4:] for p in (tmp_path / "srv/i2vd").iterdir()}
    assert modes == {
        "inbox": "2770",
        "outbox": "2750",
        "archive": "2770",
        "failed": "2770",
        "rules": "2750",
    }


def test_drop_ins_are_clean(tmp_path):
    """notify-reload.conf too, but for what an older systemd does not know."""
    folder = tmp_path / "i2vd.service.d"
    shutil.copytree(UNITS / "drop-ins", folder)
    result = verify(tmp_path, SERVICE.read_text())
    unknown = [line for line in result.stdout.splitlines() if "notify-reload" not in line]
    assert unknown == []
