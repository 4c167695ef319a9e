"""Jobs over http: look at them, cancel them, try them again; pause and go on."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import Field

from daemon import operate
from daemon.history import Wanted
from daemon.job import Event, Job

if TYPE_CHECKING:
    from daemon.app import App

Number = Annotated[int, Path(alias="job", ge=1, le=2**63 - 1, description="Number of the job.")]


class Page(Wanted):
    """Which jobs, and how many of them."""

    limit: int = Field(default=50, ge=1, le=1000)
    before: int | None = Field(default=None, ge=1, le=2**63 - 1)


def jobs(app: "App") -> APIRouter:
    """The calls. Handlers are plain functions: they run in threads."""
    calls = APIRouter(prefix="/api", tags=["jobs"])

    def found(number: int) -> Job:
        job = app.history.job(number)
        if job is None:
            raise HTTPException(404, f"there is no job {number}")
        return job

    @calls.get("/status")
    def status() -> dict[str, Any]:
        """What the daemon is doing."""
        return {
            "paused": app.ledger.paused(),
            "problems": app.problems(),
            "jobs": app.history.counts(),
            "eta": app.until_done(),
            "slots": [
                {
                    "device": slot.device,
                    "job": slot.job.id if slot.job else None,
                    "path": slot.job.path if slot.job else None,
                    "progress": slot.told(),
                    "pid": slot.maker.pid,
                }
                for slot in app.slots
            ],
        }

    @calls.get("/jobs")
    def newest(
        wanted: Annotated[Page, Query()],
    ) -> list[Job]:
        """The newest jobs; `before` an id for the next page."""
        return app.history.newest(wanted, wanted.limit, wanted.before)

    @calls.get("/jobs/{job}")
    def one(number: Number) -> Job:
        """One job."""
        return found(number)

    @calls.get("/jobs/{job}/events")
    def events(number: Number) -> list[Event]:
        """What happened to a job."""
        return app.history.events(found(number).id)

    @calls.post("/jobs/{job}/cancel")
    def cancel(number: Number) -> Job:
        """A waiting job at once, a running one at its next step."""
        return operate.cancel(app.parts, found(number).id)

    @calls.post("/jobs/{job}/retry")
    def retry(number: Number) -> Job:
        """Put a failed or cancelled job into the queue, and its picture into the inbox."""
        return operate.retry(app.parts, found(number).id)

    @calls.post("/pause")
    def pause() -> dict[str, bool]:
        """Claim nothing more; what runs goes on."""
        app.ledger.pause(True)
        return {"paused": True}

    @calls.post("/resume")
    def resume() -> dict[str, bool]:
        """Claim again."""
        app.ledger.pause(False)
        return {"paused": False}

    return calls
