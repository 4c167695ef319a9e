"""Submitting a picture: a copy that appears in the inbox at once and whole."""

import os
import shutil
import uuid
from pathlib import Path

from daemon.place import Method, numbered, place


def copy_in(picture: Path, folder: Path, prompt: str | None) -> Path:
    """Copy under a hidden name, then place it: the watcher never sees a part.

    A `prompt` goes beside it as its sidecar, first, so that the picture never comes without it.
    """
    part = folder / f".i2vd-{uuid.uuid4().hex}.part"
    shutil.copyfile(picture, part)
    os.utime(part)
    try:
        for name in numbered(picture.stem, picture.suffix):
            there = folder / name
            if there.exists():
                continue
            if prompt is not None:
                (folder / f"{name}.txt").write_text(prompt, encoding="utf-8")
            try:
                placed = place(part, there, Method.LINK)
            except OSError:
                placed = place(part, there, Method.RENAME)
            if placed:
                return there
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("numbered() never ends")
