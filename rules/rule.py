"""Rule: match pictures and give their settings. RuleSet: the first rule that matches wins.

Pure: nothing here reads a file. The meaning of a clip's settings (frames, steps ...) is unknown
here. They are passed through, with the variables of the prompts filled in.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, cast

from rules import template
from rules.characters import one_line, replace_unsafe_in_path
from rules.names import fold

Orientation = Literal["portrait", "landscape", "square"]

PROMPTS = ("prompt", "negative_prompt")
"""Settings whose text may hold variables."""

PROMPT_VARIABLES = ("stem", "folder", "caption")
OUTPUT_VARIABLES = ("stem", "rule")

_MAX_PROMPT_CHARACTERS = 2000
"""Limit of a filled-in prompt; a long caption must not make a valid rule fail."""

_MAX_STEM_BYTES = 200
"""Limit of a clip's stem: file systems allow 255, and "-2", ".mp4.json" and so on follow."""


@dataclass(frozen=True)
class Picture:
    """Properties of a picture for matching; `path` is relative to the inbox, sizes in pixels."""

    path: PurePosixPath
    width: int
    height: int
    caption: str = ""

    @property
    def folder(self) -> str:
        """Folder inside the inbox, with "/" between its parts; "" at the top."""
        return folder_of(self.path)

    @property
    def orientation(self) -> Orientation:
        """Shape of the picture; "square" means equal sides."""
        if self.width == self.height:
            return "square"
        return "landscape" if self.width > self.height else "portrait"


@dataclass(frozen=True)
class Match:
    """Conditions of a rule: all that are set must hold; without any, every picture matches."""

    names: tuple[str, ...] = ()
    folder: str | None = None
    orientation: Orientation | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None

    def mismatch(self, picture: Picture) -> str | None:
        """Return the first condition that fails, as a sentence; None if the picture matches."""
        if reason := self.path_mismatch(picture.path):
            return reason
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

    def path_mismatch(self, path: PurePosixPath) -> str | None:
        """Return why a picture at this path in its inbox cannot match, whatever its size."""
        name, folder = path.name, folder_of(path)
        if self.names and not any(fnmatchcase(fold(name), fold(g)) for g in self.names):
            globs = " or ".join(f'"{g}"' for g in self.names)
            return f'its name "{name}" does not fit {globs}'
        if self.folder is not None and not folder_fits(folder, self.folder):
            return f'its folder "{folder}" does not fit "{self.folder}"'
        return None


@dataclass(frozen=True)
class Make:
    """Settings that a rule's `[make]`, or the file beside a picture, states explicitly."""

    keys: Mapping[str, object] = field(default_factory=dict)

    @property
    def priority(self) -> int:
        """Priority of the jobs, 0 by default; higher ones run first."""
        return cast("int", self.keys.get("priority", 0))

    @property
    def variants(self) -> int:
        """Clips for the one picture, 1 by default."""
        return cast("int", self.keys.get("variants", 1))

    def over(self, base: "Make") -> "Make":
        """Merge over `base`: keys of this one win."""
        return Make({**base.keys, **self.keys})

    def settings(self, picture: Picture) -> dict[str, object]:
        """Return the settings of the clip, with the variables in the prompts filled in."""
        values = {
            "stem": picture.path.stem.replace("_", " "),
            "folder": picture.folder.replace("_", " "),
            "caption": picture.caption,
        }
        values = {name: one_line(value) for name, value in values.items()}
        settings = {k: v for k, v in self.keys.items() if k not in ("priority", "variants")}
        for key in PROMPTS:
            if isinstance(text := settings.get(key), str):
                settings[key] = one_line(template.fill(text, values))[
                    :_MAX_PROMPT_CHARACTERS
                ].rstrip()
        return settings


@dataclass(frozen=True)
class Rule:
    """A rule file; `name` is the file's name without ".toml"."""

    name: str
    match: Match = Match()
    make: Make = Make()
    output: str = "{stem}"
    description: str = ""
    enabled: bool = True

    def mismatch(self, picture: Picture) -> str | None:
        """Return why this rule does not match, as a sentence; None if it matches."""
        return self.match.mismatch(picture) if self.enabled else "it is switched off"

    @property
    def takes_all(self) -> bool:
        """Return True if the rule matches every picture."""
        return self.enabled and self.match in (Match(), Match(names=("*",)))

    def output_stem(self, picture: Picture) -> str:
        """Return the clip's name without suffix; never a path, hidden or too long."""
        name = template.fill(self.output, {"stem": picture.path.stem, "rule": self.name})
        name = replace_unsafe_in_path(name, "_").replace("/", "_").strip()
        name = re.sub(r"^\.+", "_", name) or "_"
        while len(os.fsencode(name)) > _MAX_STEM_BYTES:
            name = name[:-1]
        return name


class Choice(NamedTuple):
    """The matching rule or None, and the rules before it with their mismatches."""

    rule: Rule | None
    rejected: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order in which they are tried; `digest` identifies this set of files."""

    rules: tuple[Rule, ...] = ()
    digest: str = hashlib.sha256().hexdigest()

    def choose(self, picture: Picture) -> Choice:
        """Choose the first rule that matches the picture."""
        rejected: list[tuple[str, str]] = []
        for rule in self.rules:
            reason = rule.mismatch(picture)
            if reason is None:
                return Choice(rule, tuple(rejected))
            rejected.append((rule.name, reason))
        return Choice(None, tuple(rejected))

    def warn_unmatched(self, path: PurePosixPath) -> list[str]:
        """Return a warning if no rule can match a picture at this path, whatever its size."""
        if any(rule.enabled and not rule.match.path_mismatch(path) for rule in self.rules):
            return []
        return ["no rule matches its name and folder; it stays in the inbox until one does"]

    def named_folders(self) -> set[str]:
        """Return the folders that rules name, and their parents, up to the first wildcard."""
        named = set()
        for rule in self.rules:
            parts: list[str] = []
            for part in (rule.match.folder or "").split("/"):
                if re.search(r"[*?\[]", part):
                    break
                parts.append(part)
                named.add("/".join(parts))
        return named - {""}


def digest(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the SHA-256 of names and contents, each preceded by its length to be unambiguous."""
    total = hashlib.sha256()
    for name, content in files:
        for part in (os.fsencode(name), content):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def folder_of(path: PurePosixPath) -> str:
    """Return the folder of a path in an inbox; "" at the top."""
    return "" if path.parent == PurePosixPath(".") else str(path.parent)


def folder_fits(folder: str, glob: str) -> bool:
    """Return True if a folder matches: "*" is within one folder name, "**" any number of them."""
    return _parts_fit(_parts(folder), _parts(glob))


def _parts(path: str) -> list[str]:
    return [part for part in fold(path).split("/") if part not in ("", ".")]


def _parts_fit(parts: list[str], globs: list[str]) -> bool:
    reached = {0}
    for glob in globs:
        if glob == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else set()
        else:
            reached = {i + 1 for i in reached if i < len(parts) and fnmatchcase(parts[i], glob)}
    return len(parts) in reached
