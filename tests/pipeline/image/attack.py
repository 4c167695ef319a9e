"""A picture child in bad hands: `python -m tests.pipeline.image.attack LAYERS FOLDER`.

For each attack a process becomes what the real child is, in these layers of the sandbox, and then
does what code would do that took it over, by Python and by bare system calls. Prints what came of
each as JSON.
"""

import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.image import sandbox, server
from pipeline.image.limits import limit_resources

_libc = ctypes.CDLL(None, use_errno=True)
_libseccomp = ctypes.CDLL("libseccomp.so.2")

GOT_IN = "got in"
PICTURE = 10
"""Number of the descriptor of a picture, open for reading, as the parent passes it."""


class Attack:
    """What can be tried; `victim` is a process, `port` a server's, `folder` a place for files."""

    def __init__(self, victim: int, port: int, folder: Path) -> None:
        self.victim, self.port, self.folder = victim, port, folder
        self.address = int(Path(f"/proc/{victim}/maps").read_text().partition("-")[0], 16)

    # --- files

    def read_a_file(self) -> None:
        assert Path("/etc/passwd").read_text()

    def read_by_openat2(self) -> None:
        how = (ctypes.c_uint64 * 3)(os.O_RDONLY)
        call("openat2", -100, b"/etc/passwd", how, 24)

    def list_a_folder(self) -> None:
        assert [*self.folder.iterdir()]

    def look_at_a_file(self) -> None:
        Path("/etc/passwd").stat()

    def look_by_statx(self) -> None:
        call("statx", -100, b"/etc/passwd", 0, 0x7FF, ctypes.create_string_buffer(256))

    def write_a_file(self) -> None:
        (self.folder / "new").write_text("hello")

    def make_a_folder(self) -> None:
        (self.folder / "folder").mkdir()

    def remove_a_file(self) -> None:
        (self.folder / "old").unlink()

    def rename_a_file(self) -> None:
        (self.folder / "old").rename(self.folder / "other")

    def link_a_file(self) -> None:
        (self.folder / "link").symlink_to("/etc/passwd")

    def make_a_file_public(self) -> None:
        (self.folder / "old").chmod(0o777)

    def make_the_picture_public(self) -> None:
        os.fchmod(PICTURE, 0o777)

    def mark_the_picture(self) -> None:
        call("fsetxattr", PICTURE, b"user.mark", b"x", 1, 0)

    def change_the_pictures_time(self) -> None:
        os.utime(PICTURE, (0, 0))

    def open_the_picture_again(self) -> None:
        os.close(os.open(f"/proc/self/fd/{PICTURE}", os.O_RDWR))

    def watch_a_folder(self) -> None:
        call("inotify_init1", 0)

    def make_a_pipe_on_disk(self) -> None:
        os.mkfifo(self.folder / "pipe")

    # --- the network

    def make_a_socket(self) -> None:
        socket.socket().close()

    def make_a_local_socket(self) -> None:
        socket.socketpair()[0].close()

    def connect(self) -> None:
        with socket.socket() as stream:
            stream.connect(("127.0.0.1", self.port))

    def send_a_datagram(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"hello", ("127.0.0.1", self.port))

    # --- programs and processes

    def start_a_program(self) -> None:
        os.execv("/bin/echo", ["echo", GOT_IN])

    def start_by_execveat(self) -> None:
        words = (ctypes.c_char_p * 3)(b"echo", GOT_IN.encode(), None)
        call("execveat", -100, b"/bin/echo", words, None, 0)

    def fork(self) -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    def clone_a_process(self) -> None:
        if call("clone", signal.SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)
        os.wait()

    def clone_by_clone3(self) -> None:
        arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD)
        if call("clone3", arguments, 64) == 0:
            os._exit(0)
        os.wait()

    def kill_another(self) -> None:
        os.kill(self.victim, signal.SIGKILL)

    def kill_the_parent(self) -> None:
        os.kill(os.getppid(), 0)

    def kill_a_thread_of_another(self) -> None:
        call("tgkill", self.victim, self.victim, signal.SIGKILL)

    def kill_by_tkill(self) -> None:
        call("tkill", self.victim, signal.SIGKILL)

    def kill_by_descriptor(self) -> None:
        signal.pidfd_send_signal(os.pidfd_open(self.victim), signal.SIGKILL)

    def stop_all(self) -> None:
        os.kill(0, 0)  # its own group, which the tests' process shares

    def trace_another(self) -> None:
        call("ptrace", 0x4206, self.victim, 0, 0)  # PTRACE_SEIZE

    def read_the_memory_of_another(self) -> None:
        buffer = ctypes.create_string_buffer(8)
        here = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
        there = (ctypes.c_uint64 * 2)(self.address, 8)
        call("process_vm_readv", self.victim, here, 1, there, 1, 0)

    def read_the_environment_of_the_parent(self) -> None:
        assert Path(f"/proc/{os.getppid()}/environ").read_bytes() is not None

    def take_a_descriptor_of_another(self) -> None:
        call("pidfd_getfd", os.pidfd_open(self.victim), 0, 0)

    def slow_another_down(self) -> None:
        os.setpriority(os.PRIO_PROCESS, self.victim, 19)

    def raise_its_limits(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (1000, hard))

    def limit_another(self) -> None:
        resource.prlimit(self.victim, resource.RLIMIT_NOFILE, (3, 3))

    def run_new_code(self) -> None:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()

    def make_data_executable(self) -> None:
        memory = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call("mprotect", ctypes.c_void_p(address), 4096, 7)

    # --- the system

    def leave_by_a_namespace(self) -> None:
        call("unshare", 0x10000000)  # CLONE_NEWUSER

    def mount(self) -> None:
        call("mount", b"none", os.fsencode(self.folder), b"tmpfs", 0, None)
        call("umount2", os.fsencode(self.folder), 0)

    def change_the_root(self) -> None:
        os.chroot(self.folder)

    def become_another(self) -> None:
        os.setuid(os.getuid())

    def share_memory(self) -> None:
        call("shmget", 0, 4096, 0o600)

    def read_keys(self) -> None:
        call("keyctl", 0, -3, 1)  # KEYCTL_GET_KEYRING_ID of the session

    def make_a_ring(self) -> None:
        call("io_uring_setup", 1, ctypes.create_string_buffer(120))

    def load_a_program_into_the_kernel(self) -> None:
        call("bpf", 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)  # an array map

    def catch_page_faults(self) -> None:
        call("userfaultfd", 1)

    def control_a_device(self) -> None:
        fcntl.ioctl(PICTURE, 0x541B, b"\0" * 8)  # FIONREAD; TIOCSTI would go the same way

    # --- what it may do

    def start_a_thread(self) -> None:
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()

    def read_the_picture(self) -> None:
        assert os.pread(PICTURE, 100, 0) == b"picture"

    def use_memory(self) -> None:
        mmap.mmap(-1, 1 << 20).write(b"x")

    def abort(self) -> None:
        print(GOT_IN, flush=True)
        os.abort()


def call(name: str, *arguments: object) -> int:
    """A bare system call, by its name. Raises OSError."""
    number = _libseccomp.seccomp_syscall_resolve_name(name.encode())
    assert number >= 0, f"no call is named {name}"
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def enter(layers: list[str]) -> None:
    """Become the child, in those layers of its sandbox."""
    if "landlock" not in layers:
        sandbox._restrict_by_landlock = lambda: None
    if "seccomp" not in layers:
        sandbox._restrict_by_seccomp = lambda _: None
    if layers != ["none"]:
        limit_resources(memory=2048, pixels=10**8)
        assert sandbox.enter() == []


class Outcome(NamedTuple):
    """What came of an attack: exit code as in subprocess, what it said, and what it did."""

    returncode: int
    said: str
    victim_lives: bool
    files: list[str]


ATTACKS = [name for name in vars(Attack) if not name.startswith("_")]


def attempt(what: str, layers: list[str], folder: Path) -> Outcome:
    """Try one attack in a process of its own."""
    folder.mkdir()
    for name in ("old", "picture"):
        (folder / name).write_text(name)
    victim = subprocess.Popen(["sleep", "600"])
    output, theirs = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack = Attack(victim.pid, server.getsockname()[1], folder)
        pid = os.fork()
        if pid == 0:
            os.dup2(theirs, 1)
            os.dup2(os.open(folder / "picture", os.O_RDONLY), PICTURE)
            os._exit(carry_out(getattr(attack, what), layers))
        os.close(theirs)
        returncode = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(output, "rb") as file:
        said = file.read().decode()
    lives = victim.poll() is None
    victim.kill()
    victim.wait()
    return Outcome(returncode, said, lives, sorted(each.name for each in folder.iterdir()))


def carry_out(attack: Callable[[], None], layers: list[str]) -> int:
    try:
        enter(layers)
        attack()
    except Exception as error:
        print(f"refused: {error!r}", flush=True)
        return 3
    print(GOT_IN, flush=True)
    return 0


def main() -> None:
    layers, folder = sys.argv[1].split("+"), Path(sys.argv[2])
    server.load_codecs()
    print(json.dumps({what: attempt(what, layers, folder / what) for what in ATTACKS}))


if __name__ == "__main__":
    main()
