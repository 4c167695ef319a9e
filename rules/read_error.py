"""Read errors: what a person can do about a file or folder that i2vd cannot read now."""

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

_SERVER = "look whether the share is mounted and its server answers"
_OPEN_ELSEWHERE = "close it in the program that has it open"
_TOO_MANY = "raise the limit of open files (LimitNOFILE= in the unit)"
_LOCKED = "unlock the encrypted folder"
_DISK = "look at the disk or the share, and at `dmesg`"
_ADVICE = {
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOMEM: "free memory on this machine",
    **dict.fromkeys(
        (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
         errno.ENETDOWN, errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
        _SERVER,
    ),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.EDEADLK), _OPEN_ELSEWHERE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _TOO_MANY),
    **dict.fromkeys((errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREJECTED), _LOCKED),
}  # fmt: skip


def describe(error: OSError, path: Path) -> str:
    """Return the error and what a person can do about it, as the end of a sentence."""
    reason = os.strerror(error.errno or errno.EIO).lower()
    return f"cannot be read: {reason}; {advise(error, path)}"


def advise(error: OSError, path: Path | None = None) -> str:
    """Return what a person can do about the error, as the end of a sentence.

    `path`: what could not be read, if it is known. May block on a share that hangs.
    """
    if error.errno not in (errno.EACCES, errno.EPERM):
        return _ADVICE.get(error.errno or errno.EIO, _DISK)
    if os.geteuid() == 0:
        return "root may not read it either: look at the mount options (root_squash, allow_other)"
    user = _user_name()
    if path is None:
        return f"let the user {user} read it"
    change, blocked = _find_change(path)
    return f"let the user {user} read it: sudo chmod {change} {shlex.quote(str(blocked))}"


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _find_change(path: Path) -> tuple[str, Path]:
    """Return how chmod lets this user read `path`, and the path on the way to change."""
    folders: Iterable[Path] = reversed(path.parents)
    blocked = next((f for f in folders if not os.access(f, os.X_OK, effective_ids=True)), path)
    try:
        status = blocked.stat()
    except OSError:
        return "o+r", blocked
    if status.st_uid == os.geteuid():
        who = "u"
    else:
        who = "g" if status.st_gid in (os.getegid(), *os.getgroups()) else "o"
    return f"{who}+rx" if stat.S_ISDIR(status.st_mode) else f"{who}+r", blocked
