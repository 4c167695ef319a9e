"""Submissions of a chaos run, and a test for an idle daemon."""

from pathlib import Path

from tests.chaos.audit import Audit
from tests.system.studio import Studio, picture, visible


class Drops:
    """Pictures that are submitted to a studio, and their audit."""

    def __init__(self, studio: Studio) -> None:
        self.audit = Audit()
        self.count = 0
        self._studio = studio

    def drop(self, name: str) -> None:
        """Submit a picture, by a new name if the file exists: overwriting would lose that one."""
        self.count += 1
        path = Path(name)
        if (self._studio.inbox / path).exists():
            path = path.with_stem(f"{path.stem}{self.count}")
        content = picture(self.count) + self.count.to_bytes(4, "big")
        if path.stem.startswith("rubbish"):
            content = b"no picture" + content
        self.audit.record(content, unusable=path.stem.startswith(("rubbish", "fail", "poison")))
        self._studio.drop(str(path), content)


def is_idle(studio: Studio) -> bool:
    """Return True if no job is open and no picture is in the inbox or on its way."""
    try:
        states = studio.get("/api/status")["jobs"]
        newest = studio.get("/api/jobs", limit=50)
    except AssertionError:
        return False
    open_jobs = states["queued"] + states["running"] + states["publishing"]
    # The reason of a failed job may not be written yet.
    on_the_way = [job for job in newest if job["picture_location"] == "inbox"]
    in_inbox = any(p.is_file() for p in visible(studio.inbox, "*"))
    return not (open_jobs or on_the_way or in_inbox)
