"""About this daemon: version, model, devices, folders and their free space at the last look."""

import platform
from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel

from daemon.config.settings import Inbox
from daemon.dispatch.slot import Slot
from daemon.intake.inotify import Mode
from daemon.status import Status
from daemon.storage.folders import folder_of
from daemon.storage.health import STATE, StorageHealth

_SHOWN_ROLES = ("path", "outbox", "rules", "archive", "failed")


class Worker(BaseModel):
    """A device; `name`, `dtype` and `versions` are known only while the model is loaded."""

    device: str
    name: str | None
    dtype: str | None
    memory: int | None
    """Total memory of the device in bytes; None on a CPU."""
    versions: dict[str, str]


class Folder(BaseModel):
    """A folder and the free bytes of its file system at the last look; None if not known."""

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
    settings, health = status.services.settings, status.services.storage_health
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
            state=Folder(
                role="state", path=str(settings.state), free=health.free.get((STATE, "state"))
            ),
            workers=[_worker(slot) for slot in status.slots],
            inboxes=[
                InboxFolders(
                    name=inbox.name,
                    watch=status.notifier.modes.get(inbox.name),
                    unmatched=unmatched.get(inbox.name, 0),
                    on_success=inbox.on_success,
                    folders=[_folder(health, inbox, role) for role in _SHOWN_ROLES],
                )
                for inbox in settings.inbox
            ],
        )

    return router


def _folder(health: StorageHealth, inbox: Inbox, role: str) -> Folder:
    return Folder(
        role="inbox" if role == "path" else role,
        path=str(folder_of(inbox, role)),
        free=health.free.get((inbox.name, role)),
    )


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
