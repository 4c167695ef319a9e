"""File descriptors: the limit of open files of this process."""

import contextlib
import resource

_ENOUGH = 65536
"""More would slow programs that close every possible descriptor, and gain nothing."""


def raise_limit() -> int:
    """Raise the soft limit of open files as far as the hard limit allows, and return it.

    The soft limit of 1,024 of most systems is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """Return the number of files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft
