"""A short chaos run on three hosts."""

import subprocess
import sys

from tests.postgres import programs
from tests.system.studio import ROOT


def test_a_short_chaos_run_on_three_hosts_loses_and_doubles_nothing() -> None:
    programs()
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--hosts", "3", "--rounds", "4", "--seed", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
