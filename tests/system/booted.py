"""A machine with a systemd of its own, for tests; it can be made ready for i2vd's installation.

As a container (booted_systemd.sh), or with a kernel of its own (booted_kernel.sh), which is slower.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.system.needs import missing, needs

SYSTEMD = Path(__file__).with_name("booted_systemd.sh")
KERNEL = Path(__file__).with_name("booted_kernel.sh")
SOURCE = "/usr/local/src/i2vd"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

_FOLDERS = (sys.base_prefix, sysconfig.get_path("purelib"))
"""Those of Python and of this environment's packages."""
_NOT_COPIED = (".git", ".venv", "demo", "build", "*.egg-info", ".*_cache", "__pycache__")


class Machine:
    """A booted machine. Made by `booted`; what is written in it does not last."""

    def __init__(self, name: str, script: Path) -> None:
        self._name, self._script = name, script
        self._root = Path(_run(script, "root", name).strip())

    @classmethod
    @contextlib.contextmanager
    def booted(cls, name: str, *options: str, within: Sequence[str] = ()) -> Iterator["Machine"]:
        """A container, with options of systemd-nspawn, by a command that becomes another one."""
        needs("systemd-nspawn", package="systemd-container")
        needs("nsenter", package="util-linux")
        if not Path("/sys/fs/cgroup/systemd").is_dir():
            missing("this test needs control groups in the hybrid layout (/sys/fs/cgroup/systemd)")
        python, packages = _FOLDERS
        folders = (f"--bind-ro={python}:/opt/python", f"--bind-ro={packages}:/opt/site-packages")
        with cls._up(SYSTEMD, name, *folders, *options, within=within) as machine:
            yield machine

    @classmethod
    @contextlib.contextmanager
    def with_kernel(cls, name: str, space: str, device: str, address: str) -> Iterator["Machine"]:
        """One with a kernel of its own, whose card is a tap device in a network namespace."""
        needs("linux.uml", package="user-mode-linux")
        needs("modprobe", package="kmod")
        python, packages = _FOLDERS
        folders = (f"{python}:/opt/python", f"{packages}:/opt/site-packages")
        with cls._up(KERNEL, name, space, device, address, *folders) as machine:
            yield machine

    @classmethod
    @contextlib.contextmanager
    def _up(
        cls, script: Path, name: str, *options: str, within: Sequence[str] = ()
    ) -> Iterator["Machine"]:
        if os.geteuid() != 0:
            missing("only root can boot a machine for this test")
        _run(script, "up", name, *options, within=within)
        try:
            yield cls(name, script)
        finally:
            _run(script, "down", name)

    def get_ready(self, source: Path) -> None:
        """Our source, and at /opt/i2vd an environment of this machine's packages."""
        self._make_environment()
        target = self.path(SOURCE)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_COPIED))

    def _make_environment(self) -> None:
        """/opt/i2vd as `venv` and a first `pip install` would leave it, but for i2vd itself."""
        home = self.path("/opt/i2vd")
        packages = home / "lib" / VERSION / "site-packages"
        packages.mkdir(parents=True)
        (home / "bin").mkdir()
        (home / "bin/python").symlink_to(f"/opt/python/bin/{VERSION}")
        (home / "pyvenv.cfg").write_text(
            "home = /opt/python/bin\ninclude-system-site-packages = false\n"
        )
        (packages / "packages.pth").write_text("/opt/site-packages\n")
        self.path("/etc/ld.so.conf.d/000-python.conf").write_text("/opt/python/lib\n")
        self.run_here("ldconfig")

    def make(self, target: str) -> str:
        """What `make TARGET` prints in the source folder."""
        return self.run("make", "--no-print-directory", "-C", SOURCE, target)

    def run(self, *command: str) -> str:
        """What a command prints there. Raises CalledProcessError."""
        return _run(self._script, "exec", self._name, *command)

    def run_here(self, *command: str) -> str:
        """The same by this machine's kernel, which is ten times as fast as one of its own."""
        verb = "here" if self._script == KERNEL else "exec"
        return _run(self._script, verb, self._name, *command)

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


def _run(script: Path, *words: str, within: Sequence[str] = ()) -> str:
    result = subprocess.run(
        [*within, str(script), *words], capture_output=True, text=True, timeout=120, check=False
    )
    if result.returncode:
        print(result.stdout, result.stderr)
        raise subprocess.CalledProcessError(result.returncode, words, result.stdout, result.stderr)
    return result.stdout
