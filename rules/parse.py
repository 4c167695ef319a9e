"""Parse rule files and the files beside pictures into Rule and Make.

All mistakes are reported at once, each with its line. The keys of rules are in three tables here.
All other keys of `[make]` are settings of the clip; the caller's checker validates them.
"""

import difflib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

from rules import template
from rules.characters import FORBIDDEN, has_unsafe, one_line, quoted
from rules.files import read, rule_files
from rules.override import AllowedOverrides, Override
from rules.rule import OUTPUT_VARIABLES, PROMPT_VARIABLES, PROMPTS, Make, Match, Rule, RuleSet
from rules.rule import digest as digest_of
from rules.source import RuleError, Source, show
from rules.text_file import Unreadable, decode


class Problem(Protocol):
    """A checker's finding about one key of the settings; a warning unless `fatal`."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def fatal(self) -> bool: ...  # noqa: D102


Checker = Callable[[Mapping[str, object]], Iterable[Problem]]


_MAX_KEYS = 100
_MAX_DEPTH = 8
"""Tables and lists in each other. Deeper ones would exhaust the stack of code that walks them."""


class Parsed(NamedTuple):
    """Result of parsing a folder; `rules` is None if any mistake is fatal."""

    rules: RuleSet | None
    mistakes: tuple[RuleError, ...]


class Key(NamedTuple):
    """Allowed values of a key: as a text, and as a predicate."""

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
        and not has_unsafe(value)
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
    """Parse all rule files of a folder, in the order of their names."""
    try:
        files = rule_files(folder)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        return Parsed(None, (RuleError(str(folder), None, "", f"cannot be read: {reason}"),))
    rules: list[Rule] = []
    contents: list[tuple[str, bytes]] = []
    mistakes: list[RuleError] = []
    for file in files:
        if has_unsafe(file.name):
            message = f"{quoted(file.name)}: a rule's name must not hold {FORBIDDEN}"
            mistakes.append(RuleError(str(folder), None, "", message))
            continue
        try:
            content = read(file, follow=True)
            rule, found = parse_rule(file.name, decode(content), checker)
        except (Unreadable, OSError) as error:
            rule, found, content = None, [RuleError(file.name, None, "", _reason(error))], b""
        contents.append((file.name, content))
        mistakes += found
        rules += [] if rule is None else [rule]
    mistakes += _check_set(folder, [f.name for f in files], rules)
    if any(m.fatal for m in mistakes):
        return Parsed(None, tuple(mistakes))
    return Parsed(RuleSet(tuple(rules), digest_of(contents)), tuple(mistakes))


def _check_set(folder: Path, names: list[str], rules: list[Rule]) -> list[RuleError]:
    if not names:
        message = "holds no rule (*.toml), so no picture is made into a clip"
        return [RuleError(str(folder), None, "", message, fatal=False)]
    found = []
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name[:-5].casefold(), name)) != name:
            found.append(RuleError(name, None, "", f"has the same rule name as {other}"))
    numbers = [(int(m[0]), n) for n in names if (m := re.match(r"\d{1,9}", n))]
    for (before, first), (after, second) in itertools.pairwise(numbers):
        if after < before:
            message = (
                f"is read after {first}, for names are read as text; give all numbers one length"
            )
            found.append(RuleError(second, None, "", message, fatal=False))
    last = next((i for i, rule in enumerate(rules) if rule.takes_all), len(rules))
    for rule in rules[last + 1 :]:
        message = f"is never reached: {rules[last].name}.toml takes every picture"
        found.append(RuleError(f"{rule.name}.toml", None, "", message, fatal=False))
    return found


def parse_rule(name: str, text: str, checker: Checker) -> tuple[Rule | None, list[RuleError]]:
    """Parse a rule file; return the rule (None if a mistake is fatal) and all mistakes."""
    table = _toml(name, text)
    if isinstance(table, RuleError):
        return None, [table]
    source = Source(name, text)
    found = [
        *_check_top(source, table),
        *_check_match(source, table),
        *_check_make(source, table, checker),
    ]
    found.sort(key=lambda m: (m.line or 0, not m.fatal))
    if any(m.fatal for m in found):
        return None, found
    if "prompt" not in table["make"]:
        message = "is missing; say what moves, which way, how fast"
        found.append(source.mistake("make", "prompt", message, fatal=False))
    top = {k: table[k] for k in ("description", "enabled", "output") if k in table}
    match: dict[str, Any] = dict(table.get("match", {}))
    if "names" in match:
        match["names"] = tuple(match["names"])
    return Rule(name[: -len(".toml")], Match(**match), Make(table["make"]), **top), found


def parse_sidecar(
    name: str, text: str, checker: Checker, allowed: AllowedOverrides = "all"
) -> tuple[Make | None, list[RuleError]]:
    """Parse the file beside a picture: `cat.jpg.txt` (a prompt) or `cat.jpg.toml` (as [make])."""
    if allowed == "none":
        return None, [RuleError(name, None, "", "this inbox takes no settings beside its pictures")]
    if name.lower().endswith(".txt"):
        prompt = one_line(text)
        if not prompt:
            return None, [RuleError(name, None, "", "is empty; it should hold the prompt")]
        table: dict[str, Any] | RuleError = {"make": {"prompt": template.escape(prompt)}}
        text = ""
    else:
        table = _toml(name, text)
    if isinstance(table, RuleError):
        return None, [table]
    source = Source(name, text)
    nested = "make" in table
    found = [
        source.mistake("", key, "stands outside [make]; here all keys go under it, or none")
        for key in table
        if nested and key != "make"
    ]
    if nested:
        found += _check_value(source, "", "make", table["make"], TOP_KEYS["make"])
    found += _check_make(source, table if nested else {"make": table}, checker, flat=not nested)
    if allowed == "prompt":
        found += _check_prompts_only(source, table["make"] if nested else table, flat=not nested)
    if any(m.fatal for m in found):
        return None, found
    return Make(table["make"] if nested else table), found


def read_sidecar(
    overrides: Sequence[Override], checker: Checker, allowed: AllowedOverrides = "all"
) -> tuple[Make | None, list[RuleError]]:
    """Read and parse the override of a picture; (None, []) if there is none.

    Raises OSError if it cannot be read now: that is the fault of the place, not of the file.
    """
    if not overrides:
        return None, []
    file, *others = (override.path for override in overrides)
    if others:
        return None, [RuleError(file.name, None, "", f"stands beside {others[0].name}; keep one")]
    try:
        text = "" if allowed == "none" else decode(read(file, follow=False))
    except Unreadable as error:
        return None, [RuleError(file.name, None, "", str(error))]
    except FileNotFoundError:
        return None, []
    return parse_sidecar(file.name, text, checker, allowed)


def _reason(error: Unreadable | OSError) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


# --- the parts of a file


def _toml(name: str, text: str) -> dict[str, Any] | RuleError:
    try:
        table = tomllib.loads(text)
    except RecursionError:
        return RuleError(name, None, "", "is nested too deeply")
    except ValueError as error:  # TOMLDecodeError, and numbers and dates that Python refuses
        reason = str(error)
        if "string conversion" in reason:
            reason = "a number has too many digits"
        line = re.search(r"\(at line (\d+), column (\d+)\)", reason)
        if reason.endswith("(at end of document)"):
            number: int | None = text.count("\n") + (not text.endswith("\n"))
        else:
            number = int(line[1]) if line else None
        reason = re.sub(r" \(at (line \d+, column \d+|end of document)\)", "", reason)
        where = f" (column {line[2]})" if line else ""
        return RuleError(name, number, "", f"not TOML: {reason[:1].lower()}{reason[1:]}{where}")
    if max(len(t) for t in (table, *table.values()) if isinstance(t, dict)) > _MAX_KEYS:
        return RuleError(name, None, "", f"has over {_MAX_KEYS} keys; a rule has a few")
    if is_too_deep(table):
        return RuleError(name, None, "", "is nested too deeply")
    return table


def is_too_deep(value: object) -> bool:
    """Return True if tables and lists are nested too deeply for settings; does not recurse."""
    values, depth = [value], 0
    while values:
        if depth > _MAX_DEPTH:
            return True
        inner = [v.values() if isinstance(v, dict) else v for v in values if _is_nest(v)]
        values, depth = [each for nest in inner for each in nest], depth + 1
    return False


def _is_nest(value: object) -> TypeGuard[dict[str, object] | list[object]]:
    return isinstance(value, (dict, list))


def _check_top(source: Source, table: Mapping[str, Any]) -> Iterable[RuleError]:
    for key, value in table.items():
        if key in TOP_KEYS:
            yield from _check_value(source, "", key, value, TOP_KEYS[key])
        elif key in MATCH_KEYS:
            yield source.mistake("", key, "belongs under [match]")
        elif key in MAKE_KEYS or key in PROMPTS:
            yield source.mistake("", key, "belongs under [make]")
        else:
            yield source.mistake("", key, f"unknown key; {_nearest(key, TOP_KEYS)}")
    if isinstance(output := table.get("output"), str):
        for message in template.mistakes(output, OUTPUT_VARIABLES):
            yield source.mistake("", "output", message)


def _check_match(source: Source, table: Mapping[str, Any]) -> Iterable[RuleError]:
    match = table.get("match", {})
    if not isinstance(match, dict):
        return
    for key, value in match.items():
        if key in MATCH_KEYS:
            yield from _check_value(source, "match", key, value, MATCH_KEYS[key])
        elif key in ("description", "enabled", "output"):
            yield source.mistake("match", key, "belongs at the top of the file, before [match]")
        else:
            yield source.mistake("match", key, f"unknown key; {_nearest(key, MATCH_KEYS)}")
    for side in ("width", "height"):
        least: Any = match.get(f"min_{side}")
        most: Any = match.get(f"max_{side}")
        if _PIXELS.allows(least) and _PIXELS.allows(most) and least > most:
            message = f"{least} is over max_{side} = {most}, so nothing can match"
            yield source.mistake("match", f"min_{side}", message)


def _check_make(
    source: Source, table: Mapping[str, Any], checker: Checker, *, flat: bool = False
) -> Iterable[RuleError]:
    if "make" not in table:
        yield source.mistake("make", "", "is missing; it says at least the prompt")
        return
    make = table["make"]
    if not isinstance(make, dict):
        return
    where = "" if flat else "make"
    settings = {}
    for key, value in make.items():
        near = difflib.get_close_matches(key, MAKE_KEYS, n=1, cutoff=0.8)
        if key in MAKE_KEYS:
            yield from _check_value(source, where, key, value, MAKE_KEYS[key])
        elif near:
            yield source.mistake(where, key, f'unknown key; did you mean "{near[0]}"?')
        elif key in MATCH_KEYS:
            yield source.mistake(where, key, "belongs under [match] of a rule")
        elif key in ("description", "enabled", "output"):
            yield source.mistake(where, key, "belongs at the top of a rule, before [match]")
        else:
            settings[key] = value
    for key in PROMPTS:
        if isinstance(text := settings.get(key), str):
            for message in template.mistakes(text, PROMPT_VARIABLES):
                yield source.mistake(where, key, message)
    for problem in checker(settings):
        yield source.mistake(where, problem.key, problem.message, fatal=problem.fatal)


def _check_prompts_only(source: Source, make: object, *, flat: bool) -> Iterable[RuleError]:
    if isinstance(make, dict):
        for key in (key for key in make if key not in PROMPTS):
            message = "this inbox takes only prompts beside its pictures"
            yield source.mistake("" if flat else "make", key, message)


def _check_value(
    source: Source, table: str, key: str, value: object, known: Key
) -> Iterable[RuleError]:
    if not known.allows(value):
        yield source.mistake(table, key, f"{_show_value(value)}; allowed: {known.allowed}")


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"


def _show_value(value: object) -> str:
    try:
        return show(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:  # Python refuses to write out a number of thousands of digits
        return "this number"
