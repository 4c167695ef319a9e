"""A machine with its own systemd, which can be prepared for i2vd's installation.

It is a container (booted_systemd.sh), or has its own kernel (booted_kernel.sh), which is slower.
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
"""Folders of Python and of this environment's packages."""
_NOT_COPIED = (".git", ".venv", "demo", "build", "*.egg-info", ".*_cache", "__pycache__")


class Machine:
    """A booted machine, created by `booted` or `with_kernel`; its files are temporary."""

    def __init__(self, name: str, script: Path) -> None:
        self._name, self._script = name, script
        self._root = Path(_run(script, "root", name).strip())

    @classmethod
    @contextlib.contextmanager
    def booted(cls, name: str, *options: str, within: Sequence[str] = ()) -> Iterator["Machine"]:
        """Boot a container; `options` of systemd-nspawn, `within` a command prefix."""
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
        """Boot a machine with its own kernel and a tap device in a network namespace."""
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
        """Copy i2vd's source, and create /opt/i2vd with this machine's packages."""
        self._make_environment()
        target = self.path(SOURCE)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_COPIED))

    def _make_environment(self) -> None:
        """Create /opt/i2vd as `venv` and `pip install` would, without i2vd itself."""
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
        """Run `make TARGET` in the source folder and return its output."""
        return self.run("make", "--no-print-directory", "-C", SOURCE, target)

    def run(self, *command: str) -> str:
        """Run a command on the machine and return its output. Raises CalledProcessError."""
        return _run(self._script, "exec", self._name, *command)

    def run_here(self, *command: str) -> str:
        """Run a command on this host's kernel, which is ten times as fast as the machine's own."""
        verb = "here" if self._script == KERNEL else "exec"
        return _run(self._script, verb, self._name, *command)

    def path(self, inside: str) -> Path:
        """Return the path on this host of a path on the machine."""
        return self._root / inside.lstrip("/")

    def copy(self, source: Path, folder: str) -> None:
        """Copy a file, or the files of a folder, to a folder of the machine."""
        files = source.iterdir() if source.is_dir() else [source]
        for file in files:
            target = self.path(folder) / file.name
            shutil.copyfile(file, target)
            target.chmod(0o644)

    def shown(self, *properties: str, unit: str = "i2vd.service") -> dict[str, str]:
        """Return properties of a unit."""
        output = self.run("systemctl", "show", unit, "-p", ",".join(properties))
        return dict(line.split("=", 1) for line in output.splitlines())

    def metric(self, name: str) -> float:
        """Return the first sample of a metric."""
        scrape = self.run("curl", "-s", "http://127.0.0.1:7860/metrics")
        lines = [line for line in scrape.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2])

    @staticmethod
    def wait_for(happened: Callable[[], bool], seconds: float) -> None:
        """Wait until the condition is true. Raises TimeoutError."""
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
