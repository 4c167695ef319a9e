"""About this daemon: version, model, devices, folders and their free space."""

import platform
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel

from daemon.config.settings import Inbox
from daemon.dispatch.slot import Slot
from daemon.intake.inotify import Mode
from daemon.status import Status
from daemon.telemetry.metrics import free_bytes


class Worker(BaseModel):
    """A device; `name`, `dtype` and `versions` are known only while the model is loaded."""

    device: str
    name: str | None
    dtype: str | None
    memory: int | None
    """Total memory of the device in bytes; None on a CPU."""
    versions: dict[str, str]


class Folder(BaseModel):
    """A folder and the free bytes of its file system; None if they cannot be read."""

    role: str
    path: str
    free: float | None


class InboxFolders(BaseModel):
    """An inbox: watch mode, number of pictures without a rule, and its folders."""

    name: str
    watch: Mode | None
    unmatched: int
    on_success: str
    folders: list[Folder]


class About(BaseModel):
    """Properties of the daemon that rarely change."""

    version: str
    python: str
    model: str
    max_upload: int
    state: Folder
    workers: list[Worker]
    inboxes: list[InboxFolders]


def create_router(status: Status) -> APIRouter:
    """Create the router of the daemon's properties."""
    settings = status.services.settings
    router = APIRouter(prefix="/api", tags=["status"])

    @router.get("/about")
    def get_about() -> About:
        """Return version, model, devices and folders."""
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
                    on_success=inbox.on_success,
                    folders=_folders(inbox),
                )
                for inbox in settings.inbox
            ],
        )

    return router


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
