"""A fleet: two real daemons as hosts, with one real PostgreSQL and one shared folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.postgres import Server, serving
from tests.system.conftest import quick_studio
from tests.system.studio import DRAFT, Studio

_SETTINGS = """\
host = "{name}"
min_free = 0
scan_interval = 0.2
stop_grace = 60
{more}

[queue]
url = "{url}"
lease = 3
backoff = 0.1

[model]
devices = {devices}
{model}

[[inbox]]
path = "{shared}/inbox"
outbox = "{shared}/outbox"
archive = "{shared}/archive"
failed = "{shared}/failed"
rules = "{shared}/rules"
stability_delay = 0.2
"""
_STEADY = '[match]\nnames = ["steady*"]\n\n' + DRAFT.replace("camera zooming in slowly", "steady")


class Fleet:
    """Two hosts, "one" and "two", each with its own state folder; not started."""

    def __init__(self, root: Path, server: Server) -> None:
        self.url = server.url(server.fresh())
        self.server = server
        self.root = root
        self.hosts = [quick_studio(root, name) for name in ("one", "two")]
        for host in self.hosts:
            self.settings(host)
            for role in ("inbox", "outbox", "archive", "failed", "rules"):
                setattr(host, role, root / role)
        (root / "rules").mkdir()
        self.any = self.hosts[0]
        self.any.rule("10-steady", _STEADY)
        self.any.rule("90-default", DRAFT.replace("camera zooming in slowly", "posed"))

    def settings(
        self, host: Studio, *, more: str = "", devices: str = '["cpu"]', model: str = ""
    ) -> None:
        """Write a host's settings; `more` are top-level keys, `model` keys of `[model]`."""
        host.settings(
            _SETTINGS.format(
                name=host.root.name, url=self.url, shared=self.root, more=more,
                devices=devices, model=model,
            )
        )  # fmt: skip

    def at(self, path: str) -> Studio:
        """Wait until a host works on a picture, and return the host."""

        def busy() -> Studio | None:
            return next((host for host in self.hosts if host.slot()["path"] == path), None)

        return self.any.until(busy, f"a host works on {path}")

    def other(self, host: Studio) -> Studio:
        """Return the other host."""
        return self.hosts[1 - self.hosts.index(host)]

    def close(self) -> None:
        """End all processes."""
        for host in self.hosts:
            host.close()


@contextlib.contextmanager
def running(root: Path) -> Iterator[Fleet]:
    """Start a server and both hosts; all processes end with the context."""
    with serving() as server:
        fleet = Fleet(root, server)
        try:
            for host in fleet.hosts:
                host.start()
            yield fleet
        finally:
            fleet.close()
