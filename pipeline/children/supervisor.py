"""The supervisor: has one worker child at hand, started when needed, replaced when it is lost.

It knows what the child is, not what clips are made of.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import GenerationFailure
from pipeline.children.process import Child
from pipeline.children.protocol import (
    HEARTBEAT_TIMEOUTS,
    Dtype,
    Failed,
    FreeMemory,
    Load,
    Loaded,
    Progress,
    Stage,
)
from pipeline.children.worker_session import WorkerSession

Report = Callable[[Progress | Loaded], None]

ENDED = GenerationFailure("ended", "ended by us", retry=True)


class Supervisor:
    """Of `python -m MODULE` on one device. `silence` overrides limits of `protocol.SILENCE`."""

    def __init__(
        self,
        load: Load,
        on_line: Callable[[str], None],
        on_failure: Callable[[ChildFailure], None],
        *,
        timeouts: Mapping[Stage, float],
        env: Mapping[str, str] | None,
        module: str,
        count_oom_kills: Callable[[], int],
    ) -> None:
        self.session: WorkerSession | None = None
        self._load = load
        self._on_line = on_line
        self._on_failure = on_failure
        self._timeouts = {**HEARTBEAT_TIMEOUTS, **timeouts}
        self._env = env
        self._module = module
        self._count_oom_kills = count_oom_kills

    @property
    def dtype(self) -> Dtype:
        """The type in which the model is asked for."""
        return self._load.dtype

    @property
    def loaded(self) -> Loaded | None:
        """The model that the child has, if there is one."""
        return self.session.loaded if self.session else None

    async def ensure_loaded(
        self, dtype: Dtype | None, report: Report
    ) -> WorkerSession | GenerationFailure:
        """Have a child with the model loaded; at once when there is one already.

        In another type than usual only where `dtype` says so.
        """
        load = self._load
        if dtype is not None and dtype != load.dtype:
            load = load.model_copy(update={"dtype": dtype})
        if self.session is not None and self.session.over:  # between two clips
            await self.discard(self.session, self.session.child_failure("no work"), "lost")
        if self.session is None:
            child = await Child.spawn(self._module, self._on_line, self._env)
            self.session = WorkerSession(child, self._timeouts, self._count_oom_kills)
            if end := await self.session.hello(report):
                return await self._not_loaded(self.session, end)
        session = self.session
        if session.loaded is None or session.loaded.dtype != load.dtype:
            match await session.load(load, report):
                case Loaded() as loaded:
                    report(loaded)
                case end:
                    return await self._not_loaded(session, end)
        return session

    async def free_memory(
        self, dtype: Dtype | None, report: Report
    ) -> int | GenerationFailure | None:
        """Bytes that a clip may have now; another process may have taken or left some."""
        session = await self.ensure_loaded(dtype, report)
        if isinstance(session, GenerationFailure):
            return session
        match await session.query_memory(report):
            case FreeMemory(free=free):
                return free
            case lost:
                return await self.discard(session, lost, "lost")

    async def close(self) -> None:
        """End an idle child."""
        if self.session is not None:
            session, self.session = self.session, None
            await session.close()

    async def kill(self) -> None:
        """End the child now; that is no loss."""
        if self.session is not None:
            self.session.killed = True
            await self.session.kill()

    async def replace(self, session: WorkerSession, loss: ChildFailure) -> None:
        """End a child that is well, but has lost memory; the next use starts another."""
        if self.session is session:
            self.session = None
            await session.close()
            self._on_failure(loss)

    async def discard(
        self, session: WorkerSession, loss: ChildFailure, kind: Literal["lost", "load"]
    ) -> GenerationFailure:
        """No trace of the child stays; what we ended ourselves is no loss.

        Each clip that was in it comes here, and the first of them knows best.
        """
        if self.session is session:
            self.session = None
        first, session.failure = session.failure is None, session.failure or loss
        await session.kill()
        if session.killed:
            return ENDED
        if first:
            self._on_failure(loss)
        return GenerationFailure(
            kind, session.failure.reason, retry=True, child_failure=session.failure
        )

    async def _not_loaded(
        self, session: WorkerSession, end: Failed | ChildFailure
    ) -> GenerationFailure:
        if isinstance(end, Failed):
            end = ChildFailure("load", f"the model does not load: {end.reason}")
        return await self.discard(session, end, "load")
