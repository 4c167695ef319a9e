"""Rule files and sidecars, from text to Rule and Make; every mistake at once, with its place.

The keys that belong to rules stand in three tables here. All other keys of `[make]` are settings
of the clip: a checker that the caller hands in says what is wrong or unwise about them.
"""

import difflib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rules import template
from rules.files import Unreadable, decode, read, rule_files
from rules.rule import OUTPUT_VARIABLES, PROMPT_VARIABLES, PROMPTS, Make, Match, Rule, RuleSet
from rules.rule import digest as digest_of


class Problem(Protocol):
    """What a checker says about one key of the settings; not `fatal` is a warning."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def fatal(self) -> bool: ...  # noqa: D102


Checker = Callable[[Mapping[str, object]], Iterable[Problem]]


class RuleError(NamedTuple):
    """One thing wrong (`fatal`) or unwise in a file; `key` and `line` where they are known."""

    file: str
    line: int | None
    key: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        warning = "" if self.fatal else "warning: "
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {warning}{key}{self.message}"


_MOST_KEYS = 100


class Parsed(NamedTuple):
    """`rules` is None when any of the mistakes is fatal."""

    rules: RuleSet | None
    mistakes: tuple[RuleError, ...]


class Key(NamedTuple):
    """A key's allowed values in words, and as a test."""

    allowed: str
    allows: Callable[[Any], bool]


def _whole(least: int, most: int) -> Key:
    return Key(
        f"{least} to {most}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most,
    )


def _is_name_glob(value: object) -> bool:
    return isinstance(value, str) and value != "" and "/" not in value


def _is_folder_glob(value: object) -> bool:
    return (
        isinstance(value, str)
        and not value.startswith("/")
        and "\\" not in value
        and ".." not in value.split("/")
    )


def _is_name_template(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= 100
        and value.isprintable()
        and not re.search(r"^[.\s]|[/\\]|\s$", value)
    )


_PIXELS = _whole(1, 100_000)

TOP_KEYS = {
    "description": Key("a text", lambda v: isinstance(v, str)),
    "enabled": Key("true or false", lambda v: isinstance(v, bool)),
    "output": Key('a name such as "{stem}-portrait", not a path', _is_name_template),
    "match": Key("a table [match]", lambda v: isinstance(v, dict)),
    "make": Key("a table [make]", lambda v: isinstance(v, dict)),
}
MATCH_KEYS = {
    "names": Key(
        'a list of globs on the file name, such as ["*cat*", "*.png"]',
        lambda v: isinstance(v, list) and v != [] and all(map(_is_name_glob, v)),
    ),
    "folder": Key(
        'a glob on the folder inside the inbox, such as "portraits/**"; "" is the inbox itself',
        _is_folder_glob,
    ),
    "orientation": Key(
        '"portrait", "landscape" or "square"',
        lambda v: isinstance(v, str) and v in ("portrait", "landscape", "square"),
    ),
    "min_width": _PIXELS,
    "max_width": _PIXELS,
    "min_height": _PIXELS,
    "max_height": _PIXELS,
}
MAKE_KEYS = {"priority": _whole(-100, 100), "variants": _whole(1, 16)}


def parse_folder(folder: Path, checker: Checker) -> Parsed:
    """All rule files of a folder, in the order of their names."""
    try:
        files = rule_files(folder)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        return Parsed(None, (RuleError(str(folder), None, "", f"cannot be read: {reason}"),))
    rules: list[Rule] = []
    contents: list[tuple[str, bytes]] = []
    mistakes: list[RuleError] = []
    for file in files:
        if not file.name.isprintable():
            why = f"{shown(file.name)!r}: a rule's name must be printable"
            mistakes.append(RuleError(str(folder), None, "", why))
            continue
        try:
            content = read(file, follow=True)
            rule, found = parse_rule(file.name, decode(content), checker)
        except Unreadable as why:
            rule, found, content = None, [RuleError(file.name, None, "", str(why))], b""
        contents.append((file.name, content))
        mistakes += found
        rules += [] if rule is None else [rule]
    mistakes += _about_the_set(folder, [f.name for f in files], rules)
    if any(m.fatal for m in mistakes):
        return Parsed(None, tuple(mistakes))
    return Parsed(RuleSet(tuple(rules), digest_of(contents)), tuple(mistakes))


def _about_the_set(folder: Path, names: list[str], rules: list[Rule]) -> list[RuleError]:
    if not names:
        why = "holds no rule (*.toml), so no picture is made into a clip"
        return [RuleError(str(folder), None, "", why, fatal=False)]
    found = []
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name[:-5].casefold(), name)) != name:
            found.append(RuleError(name, None, "", f"has the same rule name as {other}"))
    numbers = [(int(m[0]), n) for n in names if (m := re.match(r"\d{1,9}", n))]
    for (before, first), (after, second) in itertools.pairwise(numbers):
        if after < before:
            why = f"is read after {first}, for names are read as text; give all numbers one length"
            found.append(RuleError(second, None, "", why, fatal=False))
    last = next((i for i, rule in enumerate(rules) if rule.takes_all), len(rules))
    for rule in rules[last + 1 :]:
        why = f"is never reached: {rules[last].name}.toml takes every picture"
        found.append(RuleError(f"{rule.name}.toml", None, "", why, fatal=False))
    return found


def parse_rule(name: str, text: str, checker: Checker) -> tuple[Rule | None, list[RuleError]]:
    """One rule file. The rule is None when a mistake is fatal; all mistakes are told."""
    table = _toml(name, text)
    if isinstance(table, RuleError):
        return None, [table]
    place = _Place(name, text)
    found = [*_top(place, table), *_match(place, table), *_make(place, table, checker)]
    found.sort(key=lambda m: (m.line or 0, not m.fatal))
    if any(m.fatal for m in found):
        return None, found
    top = {k: table[k] for k in ("description", "enabled", "output") if k in table}
    match: dict[str, Any] = dict(table.get("match", {}))
    if "names" in match:
        match["names"] = tuple(match["names"])
    return Rule(name[: -len(".toml")], Match(**match), Make(table["make"]), **top), found


def parse_sidecar(name: str, text: str, checker: Checker) -> tuple[Make | None, list[RuleError]]:
    """What lies beside one picture: `cat.jpg.txt`, its prompt, or `cat.jpg.toml`, as in [make]."""
    if name.lower().endswith(".txt"):
        prompt = " ".join(text.split())
        if not prompt:
            return None, [RuleError(name, None, "", "is empty; it should hold the prompt")]
        table: dict[str, Any] | RuleError = {"make": {"prompt": template.escape(prompt)}}
        text = ""
    else:
        table = _toml(name, text)
    if isinstance(table, RuleError):
        return None, [table]
    place = _Place(name, text)
    nested = "make" in table
    found = [
        place.mistake("", key, "stands outside [make]; here all keys go under it, or none")
        for key in table
        if nested and key != "make"
    ]
    if nested:
        found += _value(place, "", "make", table["make"], TOP_KEYS["make"])
    found += _make(place, table if nested else {"make": table}, checker, flat=not nested)
    if any(m.fatal for m in found):
        return None, found
    return Make(table["make"] if nested else table), found


def read_sidecar(picture: Path, checker: Checker) -> tuple[Make | None, list[RuleError]]:
    """The sidecar beside a picture, if there is one; (None, []) when there is none."""
    files = [picture.with_name(picture.name + ending) for ending in (".toml", ".txt")]
    there = [file for file in files if os.path.lexists(file)]
    if not there:
        return None, []
    if len(there) > 1:
        return None, [
            RuleError(there[0].name, None, "", f"stands beside {there[1].name}; keep one")
        ]
    try:
        text = decode(read(there[0], follow=False))
    except Unreadable as why:
        return None, [RuleError(there[0].name, None, "", str(why))]
    return parse_sidecar(there[0].name, text, checker)


# --- the parts of a file


def _toml(name: str, text: str) -> dict[str, Any] | RuleError:
    try:
        table = tomllib.loads(text)
        if max(len(t) for t in (table, *table.values()) if isinstance(t, dict)) > _MOST_KEYS:
            return RuleError(name, None, "", f"has over {_MOST_KEYS} keys; a rule has a few")
        return table
    except RecursionError:
        return RuleError(name, None, "", "is nested too deeply")
    except ValueError as error:  # TOMLDecodeError, and numbers and dates that Python refuses
        why = str(error)
        if "string conversion" in why:
            why = "a number has too many digits"
        line = re.search(r"\(at line (\d+), column (\d+)\)", why)
        if why.endswith("(at end of document)"):
            number: int | None = text.count("\n") + (not text.endswith("\n"))
        else:
            number = int(line[1]) if line else None
        why = re.sub(r" \(at (line \d+, column \d+|end of document)\)", "", why)
        where = f" (column {line[2]})" if line else ""
        return RuleError(name, number, "", f"not TOML: {why[:1].lower()}{why[1:]}{where}")


class _Place(NamedTuple):
    """A file in which mistakes are found, to tell the line of each."""

    file: str
    text: str

    def mistake(self, table: str, key: str, message: str, *, fatal: bool = True) -> RuleError:
        full = f"{table}.{key}" if table and key else table or key
        return RuleError(self.file, self._line(table, key), shown(full), _printable(message), fatal)

    def _line(self, table: str, key: str) -> int | None:
        """A light search, good for what people write: a key on its line, under its table."""
        if not (table and key):
            table, key = "", table or key
        current, of_table = "", None
        for number, line in enumerate(self.text.split("\n"), 1):
            if header := re.match(r"""\s*\[\s*(["']?)([^\[\]]*?)\1\s*\]""", line):
                current = header[2]
                if not table and current == key:
                    return number
            elif current == table and re.match(rf"\s*{_spelt(key)}\s*[=.]", line):
                return number
            elif table and not current and re.match(rf"\s*{_spelt(table)}\s*[=.]", line):
                of_table = of_table or number
                if re.match(rf"\s*{_spelt(table)}\s*\.\s*{_spelt(key)}\s*[=.]", line):
                    return number
        return of_table


def _spelt(key: str) -> str:
    return rf"""(?:{re.escape(key)}|"{re.escape(key)}"|'{re.escape(key)}')"""


def _top(place: _Place, table: Mapping[str, Any]) -> Iterable[RuleError]:
    for key, value in table.items():
        if key in TOP_KEYS:
            yield from _value(place, "", key, value, TOP_KEYS[key])
        elif key in MATCH_KEYS:
            yield place.mistake("", key, "belongs under [match]")
        elif key in MAKE_KEYS or key in PROMPTS:
            yield place.mistake("", key, "belongs under [make]")
        else:
            yield place.mistake("", key, f"unknown key; {_nearest(key, TOP_KEYS)}")
    if isinstance(output := table.get("output"), str):
        for why in template.mistakes(output, OUTPUT_VARIABLES):
            yield place.mistake("", "output", why)


def _match(place: _Place, table: Mapping[str, Any]) -> Iterable[RuleError]:
    match = table.get("match", {})
    if not isinstance(match, dict):
        return
    for key, value in match.items():
        if key in MATCH_KEYS:
            yield from _value(place, "match", key, value, MATCH_KEYS[key])
        elif key in ("description", "enabled", "output"):
            yield place.mistake("match", key, "belongs at the top of the file, before [match]")
        else:
            yield place.mistake("match", key, f"unknown key; {_nearest(key, MATCH_KEYS)}")
    for side in ("width", "height"):
        least: Any = match.get(f"min_{side}")
        most: Any = match.get(f"max_{side}")
        if _PIXELS.allows(least) and _PIXELS.allows(most) and least > most:
            why = f"{least} is over max_{side} = {most}, so nothing can match"
            yield place.mistake("match", f"min_{side}", why)


def _make(
    place: _Place, table: Mapping[str, Any], checker: Checker, *, flat: bool = False
) -> Iterable[RuleError]:
    if "make" not in table:
        yield place.mistake("make", "", "is missing; it says at least the prompt")
        return
    make = table["make"]
    if not isinstance(make, dict):
        return
    where = "" if flat else "make"
    settings = {}
    for key, value in make.items():
        near = difflib.get_close_matches(key, MAKE_KEYS, n=1, cutoff=0.8)
        if key in MAKE_KEYS:
            yield from _value(place, where, key, value, MAKE_KEYS[key])
        elif near:
            yield place.mistake(where, key, f'unknown key; did you mean "{near[0]}"?')
        elif key in MATCH_KEYS:
            yield place.mistake(where, key, "belongs under [match] of a rule")
        elif key in ("description", "enabled", "output"):
            yield place.mistake(where, key, "belongs at the top of a rule, before [match]")
        else:
            settings[key] = value
    for key in PROMPTS:
        if isinstance(text := settings.get(key), str):
            for why in template.mistakes(text, PROMPT_VARIABLES):
                yield place.mistake(where, key, why)
    for problem in checker(settings):
        yield place.mistake(where, problem.key, problem.message, fatal=problem.fatal)


def _value(place: _Place, table: str, key: str, value: object, known: Key) -> Iterable[RuleError]:
    if not known.allows(value):
        yield place.mistake(table, key, f"{_value_shown(value)}; allowed: {known.allowed}")


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"


def _value_shown(value: object) -> str:
    try:
        return shown(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:  # Python refuses to write out a number of thousands of digits
        return "this number"


def shown(text: str) -> str:
    """A text from a file, short and printable, for one line of a message."""
    text = _printable(text)
    return text if len(text) <= 80 else text[:77] + "..."


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
