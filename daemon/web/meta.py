"""About this daemon over http: its version, its model and workers, its folders and their room."""

import platform
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel

from daemon.config.settings import Inbox
from daemon.dispatch.slot import Slot
from daemon.intake.notifier import Mode
from daemon.status import Status
from daemon.telemetry.metrics import free_bytes


class Worker(BaseModel):
    """A device; `name`, `dtype` and `versions` are known while the model is loaded."""

    device: str
    name: str | None
    dtype: str | None
    memory: int | None
    """Bytes of the device in all; None on a CPU."""
    versions: dict[str, str]


class Folder(BaseModel):
    """A folder, and the bytes that are free where it lies; None when that cannot be told."""

    role: str
    path: str
    free: float | None


class InboxFolders(BaseModel):
    """An inbox: how it is watched, pictures that no rule takes, and where things go from it."""

    name: str
    watch: Mode | None
    unmatched: int
    after: str
    folders: list[Folder]


class About(BaseModel):
    """What does not change from one second to the next."""

    version: str
    python: str
    model: str
    max_upload: int
    state: Folder
    workers: list[Worker]
    inboxes: list[InboxFolders]


def about(status: Status) -> APIRouter:
    """The call."""
    settings = status.services.settings
    calls = APIRouter(prefix="/api", tags=["status"])

    @calls.get("/about")
    def told() -> About:
        """Version, model, workers and folders."""
        unmatched = {watcher.inbox.name: len(watcher.unmatched) for watcher in status.watchers}
        return About(
            version=version("i2vd"),
            python=platform.python_version(),
            model=settings.model.name,
            max_upload=settings.http.max_upload,
            state=_folder("state", settings.state),
            workers=[_worker(slot) for slot in status.slots],
            inboxes=[
                InboxFolders(
                    name=inbox.name,
                    watch=status.notifier.modes.get(inbox.name),
                    unmatched=unmatched.get(inbox.name, 0),
                    after=inbox.after,
                    folders=_folders(inbox),
                )
                for inbox in settings.inbox
            ],
        )

    return calls


def _folders(inbox: Inbox) -> list[Folder]:
    roles = ("outbox", "rules", "archive", "failed")
    return [
        _folder("inbox", inbox.path),
        *(_folder(role, getattr(inbox, role)) for role in roles),
    ]


def _folder(role: str, path: Path) -> Folder:
    return Folder(role=role, path=str(path), free=free_bytes(path))


def _worker(slot: Slot) -> Worker:
    loaded = slot.generator.loaded
    if loaded is None:
        return Worker(device=slot.device, name=None, dtype=None, memory=None, versions={})
    return Worker(
        device=slot.device,
        name=loaded.device_name,
        dtype=loaded.dtype,
        memory=loaded.memory,
        versions=loaded.versions,
    )
