"""A machine with a systemd of its own, for tests: booted_systemd.sh with i2vd installed in it."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.system.needs import missing, needs

SCRIPT = Path(__file__).with_name("booted_systemd.sh")
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

LAUNCHER = """\
#!/opt/i2vd/bin/python
from daemon.__main__ import main

main()
"""


class Machine:
    """A booted machine. Made by `booted`; what is written in it does not last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._root = Path(_script("root", name).strip())

    @classmethod
    @contextlib.contextmanager
    def booted(cls, name: str, source: Path) -> Iterator["Machine"]:
        """A machine in which /opt/i2vd holds this interpreter, its packages and our source."""
        needs("systemd-nspawn", package="systemd-container")
        needs("nsenter", package="util-linux")
        if os.geteuid() != 0:
            missing("only root can boot a machine for this test")
        if not Path("/sys/fs/cgroup/systemd").is_dir():
            missing("this test needs control groups in the hybrid layout (/sys/fs/cgroup/systemd)")
        _script(
            "up",
            name,
            f"--bind-ro={sys.base_prefix}:/opt/python",
            f"--bind-ro={sysconfig.get_path('purelib')}:/opt/site-packages",
            f"--bind-ro={source}:/opt/i2vd-source",
        )
        try:
            machine = cls(name)
            machine._make_environment()
            yield machine
        finally:
            _script("down", name)

    def _make_environment(self) -> None:
        """/opt/i2vd as pip would leave it; nothing in a home, for units cannot see those."""
        home = self.path("/opt/i2vd")
        packages = home / "lib" / VERSION / "site-packages"
        packages.mkdir(parents=True)
        (home / "bin").mkdir()
        (home / "bin/python").symlink_to(f"/opt/python/bin/{VERSION}")
        (home / "pyvenv.cfg").write_text(
            "home = /opt/python/bin\ninclude-system-site-packages = false\n"
        )
        (packages / "i2vd.pth").write_text("/opt/i2vd-source\n/opt/site-packages\n")
        launcher = home / "bin/i2vd"
        launcher.write_text(LAUNCHER)
        launcher.chmod(0o755)
        self.path("/etc/ld.so.conf.d/000-python.conf").write_text("/opt/python/lib\n")
        self.run("ldconfig")

    def install(self, units: Path) -> None:
        """Put the units, the user and the folders in place, as systemd/README.md says."""
        for source, target in (
            ("i2vd.service", "/etc/systemd/system/i2vd.service"),
            ("i2vd.socket", "/etc/systemd/system/i2vd.socket"),
            ("i2vd.sysusers", "/usr/lib/sysusers.d/i2vd.conf"),
            ("i2vd.tmpfiles", "/usr/lib/tmpfiles.d/i2vd.conf"),
            ("i2vd.toml", "/etc/i2vd/i2vd.toml"),
        ):
            self.path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(units / source, self.path(target))
        self.run("systemd-sysusers", "i2vd.conf")
        self.run("systemd-tmpfiles", "--create", "i2vd.conf")
        self.run("systemctl", "daemon-reload")

    def run(self, *command: str) -> str:
        """What a command prints there. Raises CalledProcessError."""
        return _script("exec", self._name, *command)

    def path(self, inside: str) -> Path:
        """Where a path of the machine can be reached from here."""
        return self._root / inside.lstrip("/")

    def copy(self, source: Path, folder: str) -> None:
        """Copy a file, or the files of a folder, to a folder of the machine."""
        files = source.iterdir() if source.is_dir() else [source]
        for file in files:
            target = self.path(folder) / file.name
            shutil.copyfile(file, target)
            target.chmod(0o644)

    def shown(self, *properties: str, unit: str = "i2vd.service") -> dict[str, str]:
        """Properties of a unit."""
        told = self.run("systemctl", "show", unit, "-p", ",".join(properties))
        return dict(line.split("=", 1) for line in told.splitlines())

    def metric(self, name: str) -> float:
        """The first sample of a metric."""
        scrape = self.run("curl", "-s", "http://127.0.0.1:7860/metrics")
        lines = [line for line in scrape.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2])

    @staticmethod
    def wait_for(happened: Callable[[], bool], seconds: float) -> None:
        """Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                raise TimeoutError(f"nothing within {seconds} s")
            time.sleep(0.2)


def _script(*words: str) -> str:
    result = subprocess.run(
        [str(SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode:
        print(result.stdout, result.stderr)
        raise subprocess.CalledProcessError(result.returncode, words, result.stdout, result.stderr)
    return result.stdout
