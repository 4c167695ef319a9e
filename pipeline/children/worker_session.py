"""A session: one worker child from its start to its end, and what it says, sorted by job.

Two jobs can be in the child at once, one on the device and one whose MP4 is being written; so a
single task reads the channel, and each answer goes to whom it concerns.
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

_WHO = "the worker"
_NOBODY = ""
"""Stands for the job where none is concerned: while the child starts, loads or is surveyed."""

FailureReply = OutOfMemory | QualityRejected | Failed | Cancelled
Report = Callable[[Progress], None]


class WorkerSession:
    """`loaded`: what the child has loaded last. `killed`: we ended it; `loss`: why it was lost."""

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
        self._open(_NOBODY)
        self._routing = asyncio.create_task(self._route_replies())

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    @property
    def over(self) -> bool:
        """Whether the child has said its last."""
        return self._end is not None

    async def hello(self, report: Report) -> ChildFailure | Failed | None:
        """Wait until the child can be asked something; what went wrong instead, if anything."""
        match await self._answer(_NOBODY, "start", report):
            case Hello():
                return None
            case (ChildFailure() | Failed()) as end:
                return end
            case other:
                return _out_of_turn(other)

    async def load(self, order: Load, report: Report) -> Loaded | Failed | ChildFailure:
        """Have a model loaded in place of the present one."""
        match await self._ask(order, "load", report):
            case Loaded() as loaded:
                self.loaded = loaded
                return loaded
            case (Failed() | ChildFailure()) as end:
                return end
            case other:
                return _out_of_turn(other)

    async def query_memory(self, report: Report) -> FreeMemory | ChildFailure:
        """Ask how much of the device's memory a clip may have now."""
        match await self._ask(QueryMemory(), "encode", report):
            case (FreeMemory() | ChildFailure()) as answer:
                return answer
            case other:
                return _out_of_turn(other)

    async def generate(
        self, order: Generate, report: Report
    ) -> FramesReady | FailureReply | ChildFailure:
        """Have a clip filmed; after Filmed ask `finish` how it ends. The device is free then."""
        self._open(order.job)
        await self._child.send(order)
        match await self._answer(order.job, "encode", report):
            case FramesReady() as filmed:
                return filmed
            case (
                OutOfMemory() | QualityRejected() | Failed() | Cancelled() | ChildFailure()
            ) as end:
                del self._mailboxes[order.job]
                return end
            case other:
                return _out_of_turn(other)

    async def finish(self, job: str, report: Report) -> ClipDone | FailureReply | ChildFailure:
        """How a clip that was filmed ends."""
        answer = await self._answer(job, "write", report)
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
                return _out_of_turn(other)

    async def embed(self, order: Embed) -> None:
        """Have made ahead what a clip needs that will be filmed soon."""
        await self._child.send(order)

    async def cancel(self, job: str) -> None:
        """Have a clip given up at its next step."""
        await self._child.send(Cancel(job=job))

    def abandon(self, job: str) -> None:
        """Do not wait for the end of a clip that was filmed: `finish` answers Cancelled."""
        if box := self._mailboxes.get(job):
            box.put_nowait(Cancelled(job=job))

    def child_failure(self, stage: str) -> ChildFailure:
        """Why a session is over; it was lost while `doing` something."""
        assert self._end is not None
        return classify_exit(_WHO, self._end, stage, oom_killed=self._oom_killed)

    async def kill(self) -> None:
        """End the child now, whatever it does."""
        await self._child.kill()
        await self._routing

    async def close(self) -> None:
        """End a child whose device is idle, when what it still writes is written."""
        self._child.half_close()
        await asyncio.wait({self._routing}, timeout=self._timeouts["write"])
        await self.kill()

    def _open(self, job: str) -> None:
        box = self._mailboxes[job] = asyncio.Queue()
        if self.over:
            box.put_nowait(None)

    async def _ask(self, request: Request, stage: Stage, report: Report) -> Reply | ChildFailure:
        self._open(_NOBODY)
        await self._child.send(request)
        return await self._answer(_NOBODY, stage, report)

    async def _answer(self, job: str, stage: Stage, report: Report) -> Reply | ChildFailure:
        """The next answer that is no progress; each stage has its own limit for silence."""
        box = self._mailboxes[job]
        while True:
            try:
                reply = await wait_excluding_stalls(self._timeouts[stage], box.get)
            except TimeoutError:
                return classify_exit(_WHO, TimedOut(self._timeouts[stage]), stage, oom_killed=False)
            match reply:
                case None:
                    return self.child_failure(stage)
                case Progress():
                    stage = reply.stage
                    report(reply)
                case _:
                    if job == _NOBODY:
                        del self._mailboxes[job]
                    return reply

    async def _route_replies(self) -> None:
        """Until the child has said its last. What nobody asked for breaks the channel."""
        while self._end is None:
            shot_before = self._count_oom_kills()
            reply = await self._child.receive()
            if isinstance(reply, (Exited, TimedOut)):
                self._end = reply
                self._oom_killed = self._count_oom_kills() > shot_before
            elif box := self._mailboxes.get(getattr(reply, "job", _NOBODY)):
                box.put_nowait(reply)
            elif not getattr(reply, "job", _NOBODY):
                await self._child.kill()
                self._end = Exited(f"answered out of turn ({reply.type})")
        for box in self._mailboxes.values():
            box.put_nowait(None)


def _out_of_turn(reply: Reply) -> ChildFailure:
    return ChildFailure("channel", f"{_WHO} answered out of turn ({reply.type})")
