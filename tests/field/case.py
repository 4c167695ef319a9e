"""Case: one report from the field, as steps and what must come of them.

Read from `cases/NAME.toml`; README.md describes the keys. A key that is not known is an error.
"""

import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).parent
_SEEN = re.compile(r"i2vd|[\w.-]+(/[\w.-]+)?#\d+|https://\S+")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Odd(_Table):
    """An odd file system in the place of a folder (oddfs.py)."""

    name_max: int = 255
    refuses: str = ""
    """Characters that no name may contain."""
    flags: list[Literal["no_permissions", "no_links", "new_inodes"]] = []


class Expect(_Table):
    """What must be true, all of it at once, before `within` seconds have passed."""

    within: float = 40.0
    hold: float = 0.0
    """Seconds for which it must remain true."""
    clips: list[str] | None = None
    inbox: list[str] | None = None
    archive: list[str] | None = None
    failed: list[str] | None = None
    jobs: dict[str, str] = {}
    error: dict[str, str] = {}
    sidecar: dict[str, dict[str, str | int | float | bool]] = {}
    log: list[str] = []
    silent: list[str] = []
    ready: bool | None = None
    answers: dict[str, int] = {}


class Step(Expect):
    """A change, and then what must come of it."""

    daemon: Literal["start", "stop", "kill", "reload"] | None = None
    run: str = ""
    exit: int = 0
    output: list[str] = []


class Case(_Table):
    """One report: where it was seen first, the steps, what must come out."""

    says: str
    """The expected behaviour in one sentence."""
    seen: str
    """`owner/project#number` of the first report, a URL, or `i2vd`."""
    kind: str
    """The mistake in thinking that the report is an example of."""
    settings: str = ""
    """TOML that is appended to the settings."""
    rules: dict[str, str] = {}
    odd: dict[Literal["inbox", "outbox", "archive", "failed"], Odd] = {}
    mount: dict[Literal["inbox", "outbox", "archive", "failed"], Literal["ntfs", "sshfs"]] = {}
    """Real file systems in the place of folders."""
    unprivileged: bool = False
    """Take from the daemon root's right to ignore the modes of files."""
    started: bool = True
    """Start the daemon before the first step."""
    needs: dict[str, str] = {}
    """Debian package of each program that the steps run."""
    step: list[Step] = Field(min_length=1)


def read_case(file: Path) -> Case:
    """Read a case. Raises ValueError for a mistake in it."""
    case = Case.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    if not _SEEN.fullmatch(case.seen):
        raise ValueError(f"{file}: seen = {case.seen!r} names no report")
    return case


def case_files() -> list[Path]:
    """Return the files of all cases, sorted."""
    return sorted((HERE / "cases").glob("*.toml"))
