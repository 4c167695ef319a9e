"""Why a child was lost or given up: told apart by what is seen of it from outside.

Pure functions, but for `oom_kills`, which reads the kernel's count. maker.py, supervisor.py and
decoder.py act on what is said here.
"""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.children.process import Exited, TimedOut
from pipeline.children.protocol import EXIT_DEVICE_LOST, OutOfMemory, Released

Cause = Literal[
    "device",
    "host_memory",
    "killed",
    "crash",
    "hang",
    "channel",
    "load",
    "fragmentation",
    "leak",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

_ADVICE: dict[Cause, str] = {
    "device": "a new worker gets a fresh context; if it comes again, look for Xid in `dmesg` and "
    "at the card in `nvidia-smi`",
    "host_memory": "the machine or the service (MemoryMax=) has too little memory beside what else "
    "runs there",
    "killed": "somebody sent the signal; a new one takes over",
    "crash": "its last words stand in the log before this line",
    "hang": "look at `nvidia-smi` and `dmesg`; on a slow machine raise `model.heartbeat_timeouts`",
    "channel": "this is a fault in i2vd or in a library: please report it with the log",
    "load": "`i2vd check` looks at the model and the device; the job waits",
    "fragmentation": "a new worker tries the same once more; if it comes often, see that nobody "
    "set PYTORCH_ALLOC_CONF without expandable_segments:True",
    "leak": "a new worker starts with all of the memory; if it comes with every clip, please "
    "report it with the log",
}

_SENT = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a process gets from others; the rest tell of a fault of its own."""

_TOLERATED_LEAK_BYTES = 256 << 20
"""Bytes that may stay on the device after a clip: workspaces of the libraries take some tens of MB,
and are taken once."""

_VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class ChildFailure:
    """One child lost: the cause as metrics have it, and a sentence."""

    cause: Cause
    reason: str

    @property
    def advice(self) -> str:
        """What an operator can do."""
        return _ADVICE[self.cause]


def classify_exit(
    who: str, end: Exited | TimedOut, stage: str, *, oom_killed: bool
) -> ChildFailure:
    """The loss that an ending means; `oom_killed`: the kernel shot a process just then."""
    if isinstance(end, TimedOut):
        return ChildFailure("hang", f"{who} hung in {stage}: silent for {end.seconds:.0f} s")
    if end.returncode == -signal.SIGKILL and oom_killed:
        reason = f"the kernel killed {who} (in {stage}), for the host's memory ran out"
        return ChildFailure("host_memory", reason)
    return ChildFailure(_cause(end.returncode), f"{who} {end} (in {stage})")


def _cause(returncode: int | None) -> Cause:
    if returncode is None:
        return "channel"
    if -returncode in _SENT:
        return "killed"
    return "device" if returncode == EXIT_DEVICE_LOST else "crash"


def fragmentation(end: OutOfMemory) -> ChildFailure | None:
    """The loss of a worker whose memory would have sufficed, were it not in pieces.

    The allocator had more reserved and idle than it was asked for, though not in one piece: a
    smaller clip is no cure for that.
    """
    if end.requested is None or end.allocated is None or end.reserved is None:
        return None
    idle = end.reserved - end.allocated
    if idle < end.requested:
        return None
    told = f"{_mb(end.requested)} were asked for and {_mb(idle)} idle, but in pieces"
    return ChildFailure(
        "fragmentation", f"the device's memory is fragmented: {told} (in {end.stage})"
    )


def leak(end: Released) -> ChildFailure | None:
    """The loss of a worker that keeps memory which its clip should have given back."""
    if end.leaked_bytes is None or end.leaked_bytes <= _TOLERATED_LEAK_BYTES:
        return None
    told = f"{_mb(end.leaked_bytes)} that are no weights did not come back after a clip"
    return ChildFailure("leak", f"the device's memory leaks: {told}")


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def oom_kills(vmstat: Path = _VMSTAT) -> int:
    """How many processes the kernel has killed for lack of memory; 0 where it does not say.

    It counts for the whole machine and for every limit of a control group, which is as near as one
    can come without rights: a child that died by SIGKILL while it rose was shot by the kernel.
    """
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
