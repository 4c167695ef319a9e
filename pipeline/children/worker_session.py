"""Worker session: one worker child from start to exit, with its replies routed by job.

Two jobs can be in the child at once: one on the device, one whose MP4 is being encoded. So a
single task reads the channel and puts each reply into its job's mailbox.
"""

import asyncio
from collections.abc import Callable, Mapping

from pipeline.children.exit_reasons import ChildFailure, classify_exit
from pipeline.children.process import Child, Exited, TimedOut
from pipeline.children.protocol import (
    Cancel,
    Cancelled,
    ClipDone,
    Embed,
    Failed,
    FramesReady,
    FreeMemory,
    Generate,
    Hello,
    Load,
    Loaded,
    OutOfMemory,
    Progress,
    QualityRejected,
    QueryMemory,
    Reply,
    Request,
    Stage,
)
from pipeline.children.timeouts import wait_excluding_stalls

_CHILD = "the worker"
_NO_JOB = ""
"""Mailbox of replies without a job: while the child starts, loads or reports free memory."""

FailureReply = OutOfMemory | QualityRejected | Failed | Cancelled
Report = Callable[[Progress], None]


class WorkerSession:
    """Session with one child.

    `loaded`: the model loaded last. `killed`: i2vd ended the child. `failure`: why it failed.
    """

    def __init__(
        self, child: Child, timeouts: Mapping[Stage, float], count_oom_kills: Callable[[], int]
    ) -> None:
        self.loaded: Loaded | None = None
        self.killed = False
        self.failure: ChildFailure | None = None
        self._child = child
        self._timeouts = timeouts
        self._count_oom_kills = count_oom_kills
        self._oom_killed = False
        self._mailboxes: dict[str, asyncio.Queue[Reply | None]] = {}
        self._end: Exited | TimedOut | None = None
        self._open(_NO_JOB)
        self._routing = asyncio.create_task(self._route_replies())

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    @property
    def is_stopped(self) -> bool:
        """Return True if the child stands still by SIGSTOP, or in a debugger."""
        return self._child.is_stopped

    @property
    def ended(self) -> bool:
        """Return True after the child's last message."""
        return self._end is not None

    async def hello(self, report: Report) -> ChildFailure | Failed | None:
        """Wait for Hello; return the failure if there is one."""
        match await self._answer(_NO_JOB, "start", report):
            case Hello():
                return None
            case (ChildFailure() | Failed()) as end:
                return end
            case other:
                return _unexpected(other)

    async def load(self, request: Load, report: Report) -> Loaded | Failed | ChildFailure:
        """Load a model, which replaces the current one."""
        match await self._ask(request, "load", report):
            case Loaded() as loaded:
                self.loaded = loaded
                return loaded
            case (Failed() | ChildFailure()) as end:
                return end
            case other:
                return _unexpected(other)

    async def query_memory(self, report: Report) -> FreeMemory | ChildFailure:
        """Ask how many bytes of the device's memory a clip may use now."""
        match await self._ask(QueryMemory(), "condition", report):
            case (FreeMemory() | ChildFailure()) as answer:
                return answer
            case other:
                return _unexpected(other)

    async def generate(
        self, request: Generate, report: Report
    ) -> FramesReady | FailureReply | ChildFailure:
        """Generate a clip's frames. After FramesReady the device is free; then call `finish`."""
        self._open(request.job)
        await self._child.send(request)
        match await self._answer(request.job, "condition", report):
            case FramesReady() as ready:
                return ready
            case (
                OutOfMemory() | QualityRejected() | Failed() | Cancelled() | ChildFailure()
            ) as end:
                del self._mailboxes[request.job]
                return end
            case other:
                return _unexpected(other)

    async def finish(self, job: str, report: Report) -> ClipDone | FailureReply | ChildFailure:
        """Wait for the final reply to a clip whose frames are ready."""
        answer = await self._answer(job, "encode_video", report)
        del self._mailboxes[job]
        match answer:
            case (
                ClipDone()
                | OutOfMemory()
                | QualityRejected()
                | Failed()
                | Cancelled()
                | ChildFailure()
            ) as end:
                return end
            case other:
                return _unexpected(other)

    async def embed(self, request: Embed) -> None:
        """Embed prompts and picture of a clip that will follow soon."""
        await self._child.send(request)

    async def cancel(self, job: str) -> None:
        """Cancel a clip at its next step."""
        await self._child.send(Cancel(job=job))

    def abandon(self, job: str) -> None:
        """Stop waiting for a clip whose frames are ready: `finish` returns Cancelled."""
        if mailbox := self._mailboxes.get(job):
            mailbox.put_nowait(Cancelled(job=job))

    def child_failure(self, stage: str) -> ChildFailure:
        """Classify the child's exit, which happened in `stage`. Only after `ended`."""
        assert self._end is not None
        return classify_exit(_CHILD, self._end, stage, oom_killed=self._oom_killed)

    async def kill(self) -> None:
        """Kill the child."""
        await self._child.kill()
        await self._routing

    async def close(self) -> None:
        """End a child whose device is idle, after it has encoded pending MP4s."""
        self._child.half_close()
        await asyncio.wait({self._routing}, timeout=self._timeouts["encode_video"])
        await self.kill()

    def _open(self, job: str) -> None:
        mailbox = self._mailboxes[job] = asyncio.Queue()
        if self.ended:
            mailbox.put_nowait(None)

    async def _ask(self, request: Request, stage: Stage, report: Report) -> Reply | ChildFailure:
        self._open(_NO_JOB)
        await self._child.send(request)
        return await self._answer(_NO_JOB, stage, report)

    async def _answer(self, job: str, stage: Stage, report: Report) -> Reply | ChildFailure:
        """Return the next reply other than Progress; each stage has its own timeout."""
        mailbox = self._mailboxes[job]
        while True:
            try:
                reply = await wait_excluding_stalls(self._timeouts[stage], mailbox.get)
            except TimeoutError:
                return classify_exit(
                    _CHILD, TimedOut(self._timeouts[stage]), stage, oom_killed=False
                )
            match reply:
                case None:
                    return self.child_failure(stage)
                case Progress():
                    stage = reply.stage
                    report(reply)
                case _:
                    if job == _NO_JOB:
                        del self._mailboxes[job]
                    return reply

    async def _route_replies(self) -> None:
        """Route replies until the child exits; an unrequested reply kills the child."""
        while self._end is None:
            kills_before = self._count_oom_kills()
            reply = await self._child.receive()
            if isinstance(reply, (Exited, TimedOut)):
                self._end = reply
                self._oom_killed = self._count_oom_kills() > kills_before
            elif mailbox := self._mailboxes.get(getattr(reply, "job", _NO_JOB)):
                mailbox.put_nowait(reply)
            elif not getattr(reply, "job", _NO_JOB):
                await self._child.kill()
                self._end = Exited(f"answered out of turn ({reply.type})")
        for mailbox in self._mailboxes.values():
            mailbox.put_nowait(None)


def _unexpected(reply: Reply) -> ChildFailure:
    return ChildFailure("channel", f"{_CHILD} answered out of turn ({reply.type})")
