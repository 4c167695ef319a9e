"""The supervisor: has one worker child at hand, started when needed, replaced when it is lost.

It knows what the child is, not what clips are made of.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from pipeline.children.exit_reasons import Loss
from pipeline.children.generation import NoClip
from pipeline.children.process import Child
from pipeline.children.protocol import (
    SILENCE,
    Dtype,
    Failed,
    Load,
    Loaded,
    Progress,
    Stage,
    Surveyed,
)
from pipeline.children.worker_session import Session

Report = Callable[[Progress | Loaded], None]

ENDED = NoClip("ended", "ended by us", retry=True)


class Supervisor:
    """Of `python -m MODULE` on one device. `silence` overrides limits of `protocol.SILENCE`."""

    def __init__(
        self,
        load: Load,
        on_line: Callable[[str], None],
        on_loss: Callable[[Loss], None],
        *,
        silence: Mapping[Stage, float],
        env: Mapping[str, str] | None,
        module: str,
        count_oom_kills: Callable[[], int],
    ) -> None:
        self.session: Session | None = None
        self._load = load
        self._on_line = on_line
        self._on_loss = on_loss
        self._silence = {**SILENCE, **silence}
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

    async def ready(self, dtype: Dtype | None, report: Report) -> Session | NoClip:
        """Have a child with the model loaded; at once when there is one already.

        In another type than usual only where `dtype` says so.
        """
        load = self._load
        if dtype is not None and dtype != load.dtype:
            load = load.model_copy(update={"dtype": dtype})
        if self.session is not None and self.session.over:  # between two clips
            await self.bury(self.session, self.session.told("no work"), "lost")
        if self.session is None:
            child = await Child.spawn(self._module, self._on_line, self._env)
            self.session = Session(child, self._silence, self._count_oom_kills)
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

    async def room(self, dtype: Dtype | None, report: Report) -> int | NoClip | None:
        """Bytes that a clip may have now; another process may have taken or left some."""
        session = await self.ready(dtype, report)
        if isinstance(session, NoClip):
            return session
        match await session.survey(report):
            case Surveyed(free=free):
                return free
            case lost:
                return await self.bury(session, lost, "lost")

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

    async def replace(self, session: Session, loss: Loss) -> None:
        """End a child that is well, but has lost memory; the next use starts another."""
        if self.session is session:
            self.session = None
            await session.close()
            self._on_loss(loss)

    async def bury(self, session: Session, loss: Loss, kind: Literal["lost", "load"]) -> NoClip:
        """No trace of the child stays; what we ended ourselves is no loss.

        Each clip that was in it comes here, and the first of them knows best.
        """
        if self.session is session:
            self.session = None
        first, session.loss = session.loss is None, session.loss or loss
        await session.kill()
        if session.killed:
            return ENDED
        if first:
            self._on_loss(loss)
        return NoClip(kind, session.loss.reason, retry=True, loss=session.loss)

    async def _not_loaded(self, session: Session, end: Failed | Loss) -> NoClip:
        if isinstance(end, Failed):
            end = Loss("load", f"the model does not load: {end.reason}")
        return await self.bury(session, end, "load")
