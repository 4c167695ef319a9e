"""Exit reasons: classify why a child process ended or had to be replaced.

Pure functions, except `oom_kills`, which reads the kernel's counter. generator.py, supervisor.py
and image_pool.py act on the result.
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
    "forbidden_call",
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
    "forbidden_call": "a picture may have tried to take it over, or i2vd's sandbox is wrong here: "
    "keep the picture and report it with what `journalctl -k --grep=type=1326` says",
    "crash": "its last words stand in the log before this line",
    "hang": "look at `nvidia-smi` and `dmesg`; on a slow machine raise `model.heartbeat_timeouts`",
    "channel": "this is a fault in i2vd or in a library: please report it with the log",
    "load": "`i2vd check` looks at the model and the device; the job waits",
    "fragmentation": "a new worker tries the same once more; if it comes often, see that nobody "
    "set PYTORCH_ALLOC_CONF without expandable_segments:True",
    "leak": "a new worker starts with all of the memory; if it comes with every clip, please "
    "report it with the log",
}

_EXTERNAL_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals sent by other processes, as real-time signals are; any other is the child's own fault."""

_TOLERATED_LEAK_BYTES = 256 << 20
"""Bytes that may stay on the device after a clip: libraries keep some tens of MB of workspace,
allocated once."""

_VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class ChildFailure:
    """Failure of a child: `cause` as in the metrics' label, `reason` as a sentence."""

    cause: Cause
    reason: str
    stage: str = ""

    @property
    def blames_request(self) -> bool:
        """Return True if what the child was asked to do may have caused it.

        It did not if the child was killed from outside, or never started.
        """
        return self.cause not in ("host_memory", "killed") and self.stage != "start"

    @property
    def advice(self) -> str:
        """Hint for the operator."""
        return _ADVICE[self.cause]


def classify_exit(
    child: str, end: Exited | TimedOut, stage: str, *, oom_killed: bool
) -> ChildFailure:
    """Classify the end of a child in `stage`.

    `oom_killed`: the kernel's OOM killer ended a process at that time.
    """
    if isinstance(end, TimedOut):
        reason = f"{child} hung in {stage}: silent for {end.seconds:.0f} s"
        return ChildFailure("hang", reason, stage)
    if end.returncode == -signal.SIGKILL and oom_killed:
        reason = f"the kernel killed {child} (in {stage}), for the host's memory ran out"
        return ChildFailure("host_memory", reason, stage)
    cause = _exit_cause(end.returncode)
    if cause == "forbidden_call":
        reason = f"{child} made a system call that its sandbox forbids, and {end} (in {stage})"
        return ChildFailure(cause, reason, stage)
    return ChildFailure(cause, f"{child} {end} (in {stage})", stage)


def _exit_cause(returncode: int | None) -> Cause:
    if returncode is None:
        return "channel"
    if -returncode in _EXTERNAL_SIGNALS or -returncode >= signal.SIGRTMIN:
        return "killed"
    if -returncode == signal.SIGSYS:
        return "forbidden_call"
    return "device" if returncode == EXIT_DEVICE_LOST else "crash"


def fragmentation(end: OutOfMemory) -> ChildFailure | None:
    """Return a failure if memory fragmentation caused this out-of-memory error, else None.

    The allocator had enough reserved and unused memory, but not in one block. A smaller clip does
    not cure that.
    """
    if end.requested is None or end.allocated is None or end.reserved is None:
        return None
    idle = end.reserved - end.allocated
    if idle < end.requested:
        return None
    detail = f"{_mb(end.requested)} were asked for and {_mb(idle)} idle, but in pieces"
    return ChildFailure(
        "fragmentation", f"the device's memory is fragmented: {detail} (in {end.stage})"
    )


def leak(end: Released) -> ChildFailure | None:
    """Return a failure if the worker kept memory that its clip should have freed, else None."""
    if end.leaked_bytes is None or end.leaked_bytes <= _TOLERATED_LEAK_BYTES:
        return None
    detail = f"{_mb(end.leaked_bytes)} that are no weights did not come back after a clip"
    return ChildFailure("leak", f"the device's memory leaks: {detail}")


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Return the kernel's count of OOM kills; 0 if it is not available.

    The counter covers the whole machine and every cgroup limit, the best that is readable without
    privileges. If it rose while a child died by SIGKILL, the OOM killer ended the child.
    """
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
