"""Sandbox: what a hostile picture can do once it has taken over this process.

It may compute, read the descriptors that the parent passed, write into the memory that the parent
passed, and answer. It may open no file, reach no network or other process, and start no program.
Two layers of the kernel say so, neither of which needs privileges: Landlock and seccomp. Where the
kernel or a container has not both, the other one stays, and the limits of limits.py.
"""

import ctypes
import errno
import os
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
"""linux/prctl.h"""


class Unsupported(Exception):
    """A layer that is not to be had here; the message gives its name and the reason."""


def enter() -> list[str]:
    """Lock this process down for good, with all threads that it will start.

    Call it with one thread, after everything has been imported. Returns the layers that are not in
    force, each as a sentence; an empty list if all are.
    """
    # no core dump with a private picture in it, no tracing by other processes of the user
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return [f"no_new_privs: {os.strerror(ctypes.get_errno())}"]
    missing = []
    libseccomp = _load_libseccomp()  # before Landlock, after which no file can be opened
    for restrict in (_restrict_by_landlock, lambda: _restrict_by_seccomp(libseccomp)):
        try:
            restrict()
        except Unsupported as error:
            missing.append(str(error))
    return missing


# --- Landlock: no file, TCP port, abstract socket or signal beyond this process

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
"""System call numbers, the same on all architectures since Linux 5.0 (linux/unistd.h)."""


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr of linux/landlock.h: rights that are denied unless allowed."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def _restrict_by_landlock() -> None:
    """Deny all rights that this kernel's Landlock knows. Raises Unsupported."""
    ruleset = _Ruleset()
    for name, _ in ruleset._fields_:
        setattr(ruleset, name, _all_rights(name))
    descriptor = _create_ruleset(ruleset)
    if descriptor < 0:
        raise Unsupported(f"Landlock: {os.strerror(ctypes.get_errno()).lower()}")
    try:
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, descriptor, 0):
            raise Unsupported(f"Landlock: {os.strerror(ctypes.get_errno()).lower()}")
    finally:
        os.close(descriptor)


def _all_rights(name: str) -> int:
    """Return the largest mask that this kernel takes for a field: bits are given out in order."""
    for bits in range(64, 0, -1):
        mask = (1 << bits) - 1
        descriptor = _create_ruleset(_Ruleset(**{name: mask}))
        if descriptor >= 0:
            os.close(descriptor)
            return mask
    return 0


def _create_ruleset(ruleset: _Ruleset) -> int:
    return int(
        _libc.syscall(
            _LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), ctypes.c_int(0)
        )
    )


# --- seccomp: a list of system calls

_ALLOWED = (
    # the descriptors that the parent passed
    "read", "pread64", "write", "writev", "lseek", "_llseek", "close", "fstat", "fcntl",
    "recvfrom", "recvmsg", "sendto", "poll", "ppoll", "select", "pselect6",
    # memory
    "brk", "munmap", "mremap", "madvise",
    # threads and signals within this process
    "futex", "set_robust_list", "rseq", "membarrier", "exit", "exit_group", "sched_yield",
    "sched_getaffinity", "getcpu", "getpid", "gettid", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "sigaltstack", "restart_syscall",
    # clocks, randomness and the state of this process
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "getrandom",
    "getrusage", "getrlimit", "uname",
)  # fmt: skip
"""Calls that decoders and Python make; those with conditions are in `_rules`."""

_REFUSED = (
    "open", "openat", "openat2", "stat", "lstat", "newfstatat", "statx", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat",
)  # fmt: skip
"""Reading by name: refused, but no reason to end the process.

C libraries do it on their own, at moments that nobody chooses, and cope with a refusal: glibc's
malloc reads /proc/sys/vm/overcommit_memory when it shrinks a thread's heap, and get_nprocs reads
/sys/devices/system/cpu/online.
"""

_FATAL = (
    # programs and processes
    "execve", "execveat", "fork", "vfork", "kill", "tkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
    "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp", "setpriority", "sched_setscheduler",
    # the network and other ways to speak
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "shmget", "shmat",
    "msgget", "semget", "mq_open",
    # changes of files
    "creat", "truncate", "ftruncate", "fallocate", "link", "linkat", "symlink", "symlinkat",
    "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "mknod",
    "mknodat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown",
    "fchownat", "utime", "utimes", "utimensat", "setxattr", "fsetxattr", "open_by_handle_at",
    "name_to_handle_at", "inotify_init", "inotify_init1", "fanotify_init",
    # the system
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount",
    "unshare", "setns", "keyctl", "add_key", "request_key", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_secret",
    "init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "quotactl",
    "personality", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
    "setgroups", "capset", "iopl", "ioperm", "modify_ldt",
)  # fmt: skip
"""Calls that no decoder makes: the process is killed, and the log of the daemon says why.

Any other call answers as one that the kernel does not have. A newer C library tries new calls and
has a way without them, so that a list that is older than the library costs no picture.
"""

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERROR = 0x00050000
"""SCMP_ACT_ALLOW, _KILL_PROCESS, _ERRNO(0) of seccomp.h."""
_BAD_ARCHITECTURE = 2
"""SCMP_FLTATR_ACT_BADARCH."""
_NOT_EQUAL, _EQUAL, _MASKED = 1, 4, 7
"""SCMP_CMP_NE, _EQ, _MASKED_EQ."""
_CLONE_THREAD = 0x10000
_PROT_EXEC = 4


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp.h."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


_Rule = tuple[int, str, tuple[_Comparison, ...]]


def _rules() -> Iterator[_Rule]:
    """Yield (action, system call, conditions on its arguments)."""
    for action, names in ((_ALLOW, _ALLOWED), (_ERROR | errno.EACCES, _REFUSED), (_KILL, _FATAL)):
        yield from ((action, name, ()) for name in names)
    # memory may hold code only if it did before
    for name in ("mmap", "mmap2", "mprotect"):
        yield _ALLOW, name, (_Comparison(2, _MASKED, _PROT_EXEC, 0),)
    # threads, but no processes; clone3 hides its flags in memory, and glibc then uses clone
    yield _ALLOW, "clone", (_Comparison(0, _MASKED, _CLONE_THREAD, _CLONE_THREAD),)
    yield _KILL, "clone", (_Comparison(0, _MASKED, _CLONE_THREAD, 0),)
    # abort() signals this process
    yield _ALLOW, "tgkill", (_Comparison(0, _EQUAL, os.getpid()),)
    yield _KILL, "tgkill", (_Comparison(0, _NOT_EQUAL, os.getpid()),)
    # limits are read, and not set
    yield _ALLOW, "prlimit64", (_Comparison(0, _EQUAL, 0), _Comparison(2, _EQUAL, 0))
    yield _ALLOW, "prctl", (_Comparison(0, _EQUAL, _PR_SET_NAME),)


def _load_libseccomp() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None


def _restrict_by_seccomp(library: ctypes.CDLL | None) -> None:
    """Load the filter by libseccomp, which knows the calls' numbers. Raises Unsupported."""
    if library is None:
        raise Unsupported("seccomp: libseccomp.so.2 is missing; install libseccomp2 or libseccomp")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERROR | errno.ENOSYS)))
    if not context:
        raise Unsupported("seccomp: libseccomp has no filter for this machine")
    try:
        _check(library.seccomp_attr_set(context, _BAD_ARCHITECTURE, ctypes.c_uint32(_KILL)))
        for action, name, conditions in _rules():
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # not on this architecture, or newer than the library
                continue
            array = (_Comparison * len(conditions))(*conditions)
            _check(
                library.seccomp_rule_add_array(
                    context, ctypes.c_uint32(action), number, len(conditions), array
                )
            )
        _check(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _check(result: int) -> None:
    if result < 0:
        raise Unsupported(f"seccomp: {os.strerror(-result).lower()}")
