"""Supervisor: keeps one worker child with a loaded model, and replaces it when it fails.

Owns the child's life cycle. What clips are and how they fall back is generator.py's.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import GenerationFailure
from pipeline.children.process import Child, public_environment
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
    """Runs `python -m MODULE` on one device; `timeouts` overrides `HEARTBEAT_TIMEOUTS`."""

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
        self._env = {**public_environment(), **(env or {})}
        self._module = module
        self._count_oom_kills = count_oom_kills

    @property
    def dtype(self) -> Dtype:
        """Configured type of the model's weights."""
        return self._load.dtype

    @property
    def loaded(self) -> Loaded | None:
        """Model loaded in the child, or None."""
        return self.session.loaded if self.session else None

    async def ensure_loaded(
        self, dtype: Dtype | None, report: Report
    ) -> WorkerSession | GenerationFailure:
        """Start a child and load the model unless both are done; return the session.

        `dtype` overrides the configured type.
        """
        load = self._load
        if dtype is not None and dtype != load.dtype:
            load = load.model_copy(update={"dtype": dtype})
        if self.session is not None and self.session.ended:  # between two clips
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
        """Return the bytes that a clip may use now, or None if they are not counted."""
        session = await self.ensure_loaded(dtype, report)
        if isinstance(session, GenerationFailure):
            return session
        match await session.query_memory(report):
            case FreeMemory(free=free):
                return free
            case failure:
                return await self.discard(session, failure, "lost")

    async def close(self) -> None:
        """End an idle child."""
        if self.session is not None:
            session, self.session = self.session, None
            await session.close()

    async def kill(self) -> None:
        """Kill the child; this does not count as a failure."""
        if self.session is not None:
            self.session.killed = True
            await self.session.kill()

    async def replace(self, session: WorkerSession, failure: ChildFailure) -> None:
        """End a working child that lost memory; the next use starts another."""
        if self.session is session:
            self.session = None
            await session.close()
            self._on_failure(failure)

    async def discard(
        self, session: WorkerSession, failure: ChildFailure, kind: Literal["lost", "load"]
    ) -> GenerationFailure:
        """Kill a failed child and return the failure of its clip.

        Called once for each clip in the child; the first call's reason counts. A child that `kill`
        ended is no failure.
        """
        if self.session is session:
            self.session = None
        first, session.failure = session.failure is None, session.failure or failure
        await session.kill()
        if session.killed:
            return ENDED
        if first:
            self._on_failure(failure)
        return GenerationFailure(
            kind, session.failure.reason, retry=True, child_failure=session.failure
        )

    async def _not_loaded(
        self, session: WorkerSession, end: Failed | ChildFailure
    ) -> GenerationFailure:
        if isinstance(end, Failed):
            end = ChildFailure("load", f"the model does not load: {end.reason}")
        return await self.discard(session, end, "load")
