"""Rule: which pictures it takes and what it asks for them. RuleSet: the first that matches wins.

Pure: nothing here reads a file. What a clip's settings mean (frames, steps ...) is not known here;
they are handed through, with the variables of the prompts filled in.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, cast

from rules import template

Orientation = Literal["portrait", "landscape", "square"]

PROMPTS = ("prompt", "negative_prompt")
"""Settings whose text may hold variables."""

PROMPT_VARIABLES = ("stem", "folder", "caption")
OUTPUT_VARIABLES = ("stem", "rule")

_LONGEST_PROMPT = 2000
"""Characters of a filled-in prompt; a long caption must not turn a good rule into a mistake."""

_LONGEST_NAME = 200
"""Bytes of a clip's stem: file systems end at 255, and "-2", ".mp4.json" and the like follow."""


@dataclass(frozen=True)
class Picture:
    """What a rule may know of a picture; `path` is relative to the inbox, sizes are in pixels."""

    path: PurePosixPath
    width: int
    height: int
    caption: str = ""

    @property
    def folder(self) -> str:
        """Folder inside the inbox, with "/" between its parts; empty at the top."""
        return "" if self.path.parent == PurePosixPath(".") else str(self.path.parent)

    @property
    def orientation(self) -> Orientation:
        """Shape of the picture; only equal sides make a square."""
        if self.width == self.height:
            return "square"
        return "landscape" if self.width > self.height else "portrait"


@dataclass(frozen=True)
class Match:
    """What a rule asks of a picture; all that is given must hold, nothing given takes all."""

    names: tuple[str, ...] = ()
    folder: str | None = None
    orientation: Orientation | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None

    def why_not(self, picture: Picture) -> str | None:
        """None when the picture is taken, else the first reason against it, as a sentence."""
        name = picture.path.name
        if self.names and not any(fnmatchcase(_folded(name), _folded(g)) for g in self.names):
            globs = " or ".join(f'"{g}"' for g in self.names)
            return f'its name "{name}" does not fit {globs}'
        if self.folder is not None and not folder_fits(picture.folder, self.folder):
            return f'its folder "{picture.folder}" does not fit "{self.folder}"'
        if self.orientation not in (None, picture.orientation):
            size = f"{picture.width}x{picture.height}"
            return f"it is {picture.orientation} ({size}), not {self.orientation}"
        for side, has in (("width", picture.width), ("height", picture.height)):
            least, most = getattr(self, f"min_{side}"), getattr(self, f"max_{side}")
            if least is not None and has < least:
                return f"its {side} of {has} pixels is under min_{side} = {least}"
            if most is not None and has > most:
                return f"its {side} of {has} pixels is over max_{side} = {most}"
        return None


@dataclass(frozen=True)
class Make:
    """All that a rule's `[make]`, or a sidecar beside the picture, says in so many words."""

    keys: Mapping[str, object] = field(default_factory=dict)

    @property
    def priority(self) -> int:
        """Jobs of a higher priority are made first; 0 when nothing is said."""
        return cast("int", self.keys.get("priority", 0))

    @property
    def variants(self) -> int:
        """Clips to make of the one picture; 1 when nothing is said."""
        return cast("int", self.keys.get("variants", 1))

    def over(self, base: "Make") -> "Make":
        """This where it says something, `base` elsewhere."""
        return Make({**base.keys, **self.keys})

    def settings(self, picture: Picture) -> dict[str, object]:
        """The settings of the clip, with the variables in the prompts filled in."""
        values = {
            "stem": picture.path.stem.replace("_", " "),
            "folder": picture.folder.replace("_", " "),
            "caption": picture.caption,
        }
        values = {name: _one_line(value) for name, value in values.items()}
        settings = {k: v for k, v in self.keys.items() if k not in ("priority", "variants")}
        for key in PROMPTS:
            if isinstance(text := settings.get(key), str):
                settings[key] = _one_line(template.fill(text, values))[:_LONGEST_PROMPT].rstrip()
        return settings


@dataclass(frozen=True)
class Rule:
    """One rule file. Its name is the file's, without ".toml"."""

    name: str
    match: Match = Match()
    make: Make = Make()
    output: str = "{stem}"
    description: str = ""
    enabled: bool = True

    def why_not(self, picture: Picture) -> str | None:
        """None when this rule takes the picture, else why it does not, as a sentence."""
        return self.match.why_not(picture) if self.enabled else "it is switched off"

    @property
    def takes_all(self) -> bool:
        """Whether no picture gets past this rule."""
        return self.enabled and self.match in (Match(), Match(names=("*",)))

    def output_stem(self, picture: Picture) -> str:
        """Name of the clip without its ending: never a path, never hidden, never too long."""
        name = template.fill(self.output, {"stem": picture.path.stem, "rule": self.name})
        name = re.sub(r"[\x00-\x1f\x7f/]", "_", name).strip()
        name = re.sub(r"^\.+", "_", name) or "_"
        while len(os.fsencode(name)) > _LONGEST_NAME:
            name = name[:-1]
        return name


class Choice(NamedTuple):
    """The rule that takes a picture, if one does, and those before it with why they do not."""

    rule: Rule | None
    rejected: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order in which they are tried; `digest` names this very set of files."""

    rules: tuple[Rule, ...] = ()
    digest: str = hashlib.sha256().hexdigest()

    def choose(self, picture: Picture) -> Choice:
        """The first rule that takes the picture."""
        rejected: list[tuple[str, str]] = []
        for rule in self.rules:
            why = rule.why_not(picture)
            if why is None:
                return Choice(rule, tuple(rejected))
            rejected.append((rule.name, why))
        return Choice(None, tuple(rejected))


def digest(files: Iterable[tuple[str, bytes]]) -> str:
    """sha256 over names and contents, each with its length, so that nothing can shift across."""
    total = hashlib.sha256()
    for name, content in files:
        for part in (os.fsencode(name), content):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def folder_fits(folder: str, glob: str) -> bool:
    """Whether a folder fits a glob: "*" stays within one folder name, "**" spans any number."""
    return _parts_fit(_parts(folder), _parts(glob))


def _parts(path: str) -> list[str]:
    return [part for part in _folded(path).split("/") if part not in ("", ".")]


def _parts_fit(parts: list[str], globs: list[str]) -> bool:
    reached = {0}
    for glob in globs:
        if glob == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else set()
        else:
            reached = {i + 1 for i in reached if i < len(parts) and fnmatchcase(parts[i], glob)}
    return len(parts) in reached


def _folded(name: str) -> str:
    """Names are the same whatever their case and however the system spells an accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
