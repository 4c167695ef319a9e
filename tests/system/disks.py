"""Real file systems for tests: mount, fill, make read-only, break and unmount them."""

import contextlib
import fcntl
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.system.needs import missing, needs

ROOT = Path(__file__).resolve().parents[2]

_EXT4_SHUTDOWN = 0x8004587D


def mount(*arguments: str | Path) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    """Mount a file system on `folder`; lazily unmounted at the end, even if it is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mount(*arguments, folder)
    except (subprocess.CalledProcessError, FileNotFoundError):
        missing("file systems cannot be mounted here; run this test as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def tmpfs(folder: Path, *, size: str = "24m", files: int = 2000) -> AbstractContextManager[Path]:
    """Mount a small disk in memory."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size},nr_inodes={files}", "tmpfs")


@contextlib.contextmanager
def ext4(folder: Path, *, size: int = 24 * 2**20, options: str = "loop") -> Iterator[Path]:
    """Mount a small ext4 from a file beside the folder."""
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    with mounted(folder, "-o", options, image):
        yield folder


def turn_ext4_read_only(folder: Path) -> None:
    """Trigger a file-system error; needs a mount with `errors=remount-ro`."""
    device = Path(_run("findmnt", "-no", "SOURCE", folder)).name
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")


def repair_ext4(folder: Path) -> None:
    """Unmount, repair and mount it again; e2fsck returns 1 after a repair."""
    image = folder.with_name(f"{folder.name}.img")
    subprocess.run(["umount", folder], check=True)
    assert subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False).returncode < 2
    mount("-o", "loop", image, folder)


@contextlib.contextmanager
def btrfs(folder: Path) -> Iterator[Path]:
    """Mount a small btrfs with quotas from a file beside the folder."""
    mkfs = needs("mkfs.btrfs", package="btrfs-progs")
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(128 * 2**20)
    subprocess.run([mkfs, "-q", image], check=True)
    with mounted(folder, "-o", "loop", image):
        _run("btrfs", "quota", "enable", folder)
        yield folder


@contextlib.contextmanager
def ntfs(folder: Path) -> Iterator[Path]:
    """Mount a small NTFS that refuses what Windows refuses: `:`, `CON`, a dot at the end."""
    mkfs = needs("mkfs.ntfs", package="ntfs-3g")
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run([mkfs, "-F", "-Q", "-q", image], check=True, capture_output=True)
    folder.mkdir(parents=True, exist_ok=True)
    mounting = subprocess.Popen(
        ["ntfs-3g", "-o", "windows_names,no_detach", image, folder], stdout=subprocess.DEVNULL
    )
    with _mounted(folder, mounting, reason="NTFS cannot be mounted here"):
        yield folder


def set_quota(folder: Path, limit: str) -> None:
    """Limit the bytes of a btrfs; "none" removes the limit."""
    _run("btrfs", "qgroup", "limit", limit, folder)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def break_ext4(folder: Path) -> None:
    """Shut the file system down: every access is an I/O error from now on."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _EXT4_SHUTDOWN, struct.pack("I", 2))
    finally:
        os.close(descriptor)


def fill(folder: Path, *, leave: int) -> Path:
    """Fill the disk up to `leave` bytes and return the file that fills it."""
    ballast = folder / ".ballast"
    space = os.statvfs(folder)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(space.f_bavail * space.f_frsize - leave, 0, -65536):
            file.write(bytes(65536))
        if not leave:
            while True:
                file.write(bytes(512))
    return ballast


def fill_names(folder: Path, *, leave: int) -> list[Path]:
    """Create files until only `leave` inodes are free, and return them."""
    made = []
    while os.statvfs(folder).f_favail > leave:
        made.append(folder / f".ballast-{len(made)}")
        made[-1].touch()
    return made


def sftp_server() -> Path:
    """Return the path of OpenSSH's SFTP server, which talks on stdin and stdout."""
    server = Path("/usr/lib/openssh/sftp-server")
    if not server.exists():
        missing("sftp-server is missing; to run this test: apt-get install openssh-sftp-server")
    return server


@contextlib.contextmanager
def sshfs(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a network share by sshfs and a real SFTP server; yields the served folder."""
    server = sftp_server()
    program = needs("sshfs", package="sshfs fuse3")
    served = folder.with_name(f"{folder.name}-far")
    for each in (folder, served):
        each.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = subprocess.Popen([server], stdin=ours, stdout=ours)
        mounting = subprocess.Popen(
            [program, f":{served}", folder, "-f", "-o", ",".join(("passive", *options))],
            stdin=theirs,
            stdout=theirs,
        )
    with _mounted(folder, mounting, serving, reason="sshfs cannot mount here"):
        yield served


_SMB = """\
[global]
server role = standalone server
interfaces = lo
bind interfaces only = yes
smb ports = {port}
map to guest = Bad User
guest account = nobody
disable netbios = yes
load printers = no
private dir = {own}
lock directory = {own}
state directory = {own}
cache directory = {own}
pid directory = {own}
ncalrpc dir = {own}/ncalrpc
log file = {own}/log
[share]
path = {served}
guest ok = yes
read only = no
force user = root
"""


@contextlib.contextmanager
def samba(folder: Path) -> Iterator[Path]:
    """Mount a Windows share by rclone and a real smbd; yields the served folder."""
    smbd, rclone = needs("smbd", package="samba"), needs("rclone", package="rclone fuse3")
    served, own = (folder.with_name(f"{folder.name}-{suffix}") for suffix in ("far", "smbd"))
    for each in (folder, served, own):
        each.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (own / "smb.conf").write_text(_SMB.format(port=port, own=own, served=served), encoding="utf-8")
    password = subprocess.run([rclone, "obscure", "x"], check=True, capture_output=True, text=True)
    share = f":smb,host=127.0.0.1,port={port},user=guest,pass={password.stdout.strip()}:share"
    with (own / "out").open("wb") as out:
        serving = subprocess.Popen(
            [smbd, "-s", own / "smb.conf", "-F", "--no-process-group"],
            stdout=out,
            stderr=out,
            start_new_session=True,  # it signals its whole group on its end
        )
        mounting = subprocess.Popen(
            [rclone, "mount", share, folder, "--dir-cache-time", "1s", "--attr-timeout", "1s",
             "--vfs-cache-mode", "writes", "--cache-dir", own / "cache", "--config", "/dev/null"],
            stdout=out,
            stderr=out,
        )  # fmt: skip
    with _mounted(folder, mounting, serving, reason="a Windows share cannot be mounted here"):
        yield served


@contextlib.contextmanager
def odd_folder(
    folder: Path, *, name_max: int = 255, refuses: str = "", flags: Sequence[str] = ()
) -> Iterator[Path]:
    """Show a folder through the odd file system of tests/field/oddfs.py; yields the backing one."""
    needs("fusermount3", package="fuse3")
    backing = folder.with_name(f"{folder.name}-far") / folder.name
    for each in (folder, backing):
        each.mkdir(parents=True, exist_ok=True)
    options = [f"--name-max={name_max}", f"--refuse={refuses}"]
    options += [f"--{flag.replace('_', '-')}" for flag in flags]
    mounting = subprocess.Popen(
        [sys.executable, "-m", "tests.field.oddfs", backing, folder, *options], cwd=ROOT
    )
    with _mounted(folder, mounting, reason="FUSE cannot mount here"):
        yield backing


@contextlib.contextmanager
def hanging(folder: Path) -> Iterator[None]:
    """Let nothing at the mount point of `odd_folder` be answered meanwhile."""
    (server,) = (
        int(command.parent.name)
        for command in Path("/proc").glob("[0-9]*/cmdline")
        if {b"tests.field.oddfs", bytes(folder)} <= set(_read(command).split(b"\0"))
    )
    calls = Path(f"/proc/{server}/syscall")
    samples = []
    for _ in range(50):
        samples.append(_read(calls).split()[0])
        time.sleep(0.01)
    while True:  # not in the middle of a call: the kernel would not even let its caller be killed
        os.kill(server, signal.SIGSTOP)
        time.sleep(0.05)
        if _read(calls).split()[0] == statistics.mode(samples):
            break
        os.kill(server, signal.SIGCONT)
        time.sleep(0.05)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


@contextlib.contextmanager
def _mounted(folder: Path, *processes: subprocess.Popen[bytes], reason: str) -> Iterator[None]:
    """Wait until a share is mounted, and end its processes afterwards."""
    try:
        end = time.monotonic() + 20
        while not folder.is_mount():
            if any(each.poll() is not None for each in processes) or time.monotonic() > end:
                missing(f"{reason}; run this test as root, with /dev/fuse")
            time.sleep(0.05)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
        for process in processes:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
