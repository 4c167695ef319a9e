"""Parsing: every mistake at once, each with its place, and never a traceback."""

import errno
import os
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.request.presets import I2VGEN_XL
from pipeline.request.spec import Request, check
from rules.characters import has_unsafe
from rules.files import MAX_BYTES, MAX_OVERRIDE_BYTES
from rules.override import find_overrides
from rules.parse import (
    MAKE_KEYS,
    MATCH_KEYS,
    TOP_KEYS,
    parse_folder,
    parse_rule,
    parse_sidecar,
    read_sidecar,
)
from rules.rule import Make, Match, Rule
from rules.source import RuleError, Source
from tests.anything import toml, values

BAD = Path(__file__).parent / "bad"
CHECK = partial(check, family=I2VGEN_XL)
GOOD = '[make]\nprompt = "A cat turning its head"\n'


def told(mistakes):
    return [str(mistake) for mistake in mistakes]


# --- one rule


@pytest.mark.parametrize("name", sorted(file.stem for file in BAD.glob("*.toml")))
def test_a_bad_rule_file_is_reported_exactly(name):
    """Beside each bad rule file stands, in a .txt, what must be said of it."""
    file = BAD / f"{name}.toml"
    rule, mistakes = parse_rule(file.name, file.read_text(), CHECK)
    assert rule is None
    assert told(mistakes) == file.with_suffix(".txt").read_text().splitlines()


def test_a_whole_rule():
    text = """
        description = "Cats"
        enabled = true
        output = "{stem}-{rule}"
        match.names = ["*cat*"]
        match.folder = "pets/**"
        match.orientation = "portrait"
        match.min_width = 512
        [make]
        prompt = "A cat turning its head"
        frames = 16
        priority = 3
    """
    rule, mistakes = parse_rule("10-cats.toml", text, CHECK)
    assert mistakes == []
    assert rule == Rule(
        name="10-cats",
        match=Match(("*cat*",), "pets/**", "portrait", 512),
        make=Make({"prompt": "A cat turning its head", "frames": 16, "priority": 3}),
        output="{stem}-{rule}",
        description="Cats",
    )


def test_warnings_stop_nothing():
    text = '[make]\nprompt = "A beautiful cat"\nguidance = 3.0\n'
    rule, mistakes = parse_rule("a.toml", text, CHECK)
    assert rule is not None
    assert [(m.line, m.key, m.fatal) for m in mistakes] == [
        (2, "make.prompt", False),
        (3, "make.guidance", False),
    ]
    assert str(mistakes[1]) == "a.toml:3: warning: make.guidance: 3.0 is under 7: weak motion"


def test_the_checker_sees_the_settings_and_nothing_else():
    seen = []
    text = '[make]\nprompt = "x"\npriority = 1\nvariants = 2\nanything = [1]\n'
    rule, _ = parse_rule("a.toml", text, lambda settings: seen.append(dict(settings)) or [])
    assert seen == [{"prompt": "x", "anything": [1]}]
    assert rule is not None
    assert (rule.make.priority, rule.make.variants) == (1, 2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[make]\n\n  frames = 4", 3),
        ("[make]\n'frames' = 4", 2),
        ("[ make ]  # x\nframes=4", 2),
        ("make.prompt = 'x'\nmake.frames = 4", 2),
        ("[match]\nnames = ['frames']\n[make]\nframes = 4", 4),
        ("\n\nmake = { frames = 4 }", 3),
        ("[make]\r\nframes = 4\r\n", 2),
    ],
)
def test_the_line_of_a_key_is_found(text, line):
    _, mistakes = parse_rule("a.toml", text, CHECK)
    assert [(m.line, m.key) for m in mistakes] == [(line, "make.frames")]


def test_numbers_that_python_will_not_write_out():
    for value in ("9" * 5000, "0x" + "f" * 5000, "1e999", "-1e999", "nan"):
        for text in (f"[make]\nframes = {value}", f"[match]\nmin_width = {value}\n{GOOD}"):
            rule, mistakes = parse_rule("a.toml", text, CHECK)
            assert rule is None
            assert all(len(str(m)) < 200 for m in mistakes)
    _, (mistake,) = parse_rule("a.toml", f"x = {'9' * 5000}", CHECK)
    assert str(mistake) == "a.toml: not TOML: a number has too many digits"


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * MAX_BYTES,
        "x" + ".x" * (MAX_BYTES // 2 - 4) + "=1",
        "x={x=" * (MAX_BYTES // 5),
        "".join(f"k{i}=1\n" for i in range(MAX_BYTES // 8)),
        "make={" + ",".join(f"k{i}=1" for i in range(MAX_BYTES // 8)) + "}",
        "".join(f"[a{i}]\nb=1\n" for i in range(MAX_BYTES // 12)),
        "a=1\n" * (MAX_BYTES // 4),
        "[make]\nprompt='" + "{" * MAX_BYTES + "'",
        "[make]\nprompt='" + "".join(f"{{{i}}}" for i in range(MAX_BYTES // 6)) + "'",
    ],
    ids=lambda text: text[:12],
)
def test_texts_made_to_take_long(text):
    """A sidecar comes from strangers, and is parsed in the daemon."""
    began = time.process_time()
    for name in ("a.toml", "a.jpg.toml"):
        parse = parse_rule if name == "a.toml" else parse_sidecar
        made, mistakes = parse(name, text, CHECK)
        assert made is None
        assert 1 <= len(mistakes) <= 10
    assert time.process_time() - began < 10  # about two seconds here


# --- a folder


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name in ("90-z", "10-b", "20-a", "10-a"):
        (tmp_path / f"{name}.toml").write_text(f'match.names = ["{name}"]\n{GOOD}')
    (tmp_path / "notes.txt").write_text("not a rule")
    (tmp_path / ".10-hidden.toml").write_text("not = a = rule")
    (tmp_path / "10-b.toml~").write_text("an editor's copy")
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert mistakes == ()
    assert rules is not None
    assert [rule.name for rule in rules.rules] == ["10-a", "10-b", "20-a", "90-z"]


def test_all_mistakes_of_all_files_are_reported(tmp_path):
    for file in BAD.glob("*.toml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "good.toml").write_text(GOOD)
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is None
    expected = [
        line for file in sorted(BAD.glob("*.txt")) for line in file.read_text().splitlines()
    ]
    assert sorted(told(m for m in mistakes if m.fatal)) == sorted(expected)


def test_the_digest_is_that_of_the_files(tmp_path):
    (tmp_path / "a.toml").write_text(GOOD)
    first = parse_folder(tmp_path, CHECK).rules
    assert first == parse_folder(tmp_path, CHECK).rules
    (tmp_path / "a.toml").write_text(GOOD + "# a word more\n")
    second = parse_folder(tmp_path, CHECK).rules
    (tmp_path / "a.toml").rename(tmp_path / "b.toml")
    third = parse_folder(tmp_path, CHECK).rules
    assert first is not None
    assert second is not None
    assert third is not None
    assert len({first.digest, second.digest, third.digest}) == 3


def test_a_missing_or_empty_folder(tmp_path):
    rules, mistakes = parse_folder(tmp_path / "no", CHECK)
    assert rules is None
    assert told(mistakes) == [f"{tmp_path}/no: cannot be read: no such file or directory"]
    (tmp_path / "file").touch()
    assert parse_folder(tmp_path / "file", CHECK).rules is None
    (tmp_path / "empty").mkdir()
    rules, mistakes = parse_folder(tmp_path / "empty", CHECK)
    assert rules is not None
    assert rules.rules == ()
    assert told(mistakes) == [
        f"{tmp_path}/empty: warning: holds no rule (*.toml), so no picture is made into a clip"
    ]


def test_files_that_cannot_be_read_as_rules(tmp_path):
    (tmp_path / "10-latin.toml").write_bytes(b'[make]\nprompt = "caf\xe9"\n')
    (tmp_path / "20-huge.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "30-folder.toml").mkdir()
    (tmp_path / "40-dangling.toml").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "50-pipe.toml")
    (tmp_path / "60-loop.toml").symlink_to(tmp_path / "60-loop.toml")
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is None
    assert told(mistakes) == [
        "10-latin.toml: is not UTF-8 text (line 2); save it as UTF-8",
        "20-huge.toml: is over 16 KiB; a few lines of text are enough",
        "30-folder.toml: is not a regular file",
        "40-dangling.toml: is a link to a file that does not exist",
        "50-pipe.toml: is not a regular file",
        "60-loop.toml: is a symbolic link that leads to itself",
    ]


def test_a_linked_rule_and_one_with_a_byte_order_mark_are_fine(tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "elsewhere").write_text(GOOD)
    (tmp_path / "rules" / "10-a.toml").symlink_to(tmp_path / "elsewhere")
    text = '[match]\nnames = ["b*"]\n' + GOOD
    (tmp_path / "rules" / "05-b.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert parse_folder(tmp_path / "rules", CHECK).mistakes == ()


def test_names_that_differ_in_case_alone(tmp_path):
    (tmp_path / "10-Cat.toml").write_text('match.names = ["cat"]\n' + GOOD)
    (tmp_path / "10-cat.toml").write_text(GOOD)
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is None
    assert told(mistakes) == ["10-cat.toml: has the same rule name as 10-Cat.toml"]


def test_what_is_unwise_in_the_set(tmp_path):
    for name in ("10-all", "9-late", "90-default"):
        (tmp_path / f"{name}.toml").write_text(GOOD)
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is not None
    assert told(mistakes) == [
        "9-late.toml: warning: is read after 10-all.toml, for names are read as text; "
        "give all numbers one length",
        "9-late.toml: warning: is never reached: 10-all.toml takes every picture",
        "90-default.toml: warning: is never reached: 10-all.toml takes every picture",
    ]


def test_a_rule_whose_name_cannot_be_shown(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/10-\xff\n.toml", os.O_CREAT | os.O_WRONLY))
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is None
    assert all(not has_unsafe(str(m)) for m in mistakes)


# --- a sidecar

ONLY_PROMPTS = "this inbox takes only prompts beside its pictures"


def test_a_text_beside_a_picture_is_its_prompt():
    make, mistakes = parse_sidecar("a.jpg.txt", " A cat\n turns {its} head\n", CHECK)
    assert mistakes == []
    assert make == Make({"prompt": "A cat turns {{its}} head"})


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_a_mistake(text):
    make, mistakes = parse_sidecar("a.jpg.txt", text, CHECK)
    assert make is None
    assert told(mistakes) == ["a.jpg.txt: is empty; it should hold the prompt"]


def test_a_text_that_is_too_long_is_a_mistake():
    make, mistakes = parse_sidecar("a.jpg.txt", "x" * 2001, CHECK)
    assert make is None
    assert "allowed: a text of up to 2000 characters" in str(mistakes[0])


@pytest.mark.parametrize("text", ["frames = 24\nvariants = 2\n", "[make]\nframes=24\nvariants=2"])
def test_keys_beside_a_picture_stand_flat_or_under_make(text):
    assert parse_sidecar("a.jpg.toml", text, CHECK) == (Make({"frames": 24, "variants": 2}), [])


def test_an_empty_sidecar_says_nothing():
    assert parse_sidecar("a.jpg.toml", "# nothing yet\n", CHECK) == (Make({}), [])


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("frames = 4", ["a.jpg.toml:1: frames: 4; allowed: 8 to 32"]),
        ("[make]\nframes = 4", ["a.jpg.toml:2: make.frames: 4; allowed: 8 to 32"]),
        ("names = ['x']", ["a.jpg.toml:1: names: belongs under [match] of a rule"]),
        (
            "frames = 16\n[make]\nsteps = 50",
            ["a.jpg.toml:1: frames: stands outside [make]; here all keys go under it, or none"],
        ),
        ("make = 3", ["a.jpg.toml:1: make: 3; allowed: a table [make]"]),
        ("frames =", ["a.jpg.toml:1: not TOML: invalid value"]),
        (
            "prompt = '{name}'",
            ["a.jpg.toml:1: prompt: unknown variable {name}; known: {stem}, {folder}, {caption}"],
        ),
    ],
)
def test_mistakes_in_a_sidecar(text, mistakes):
    make, found = parse_sidecar("a.jpg.toml", text, CHECK)
    assert make is None
    assert told(found) == mistakes


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("a.jpg.txt", "A cat", []),
        ("a.jpg.toml", "prompt = 'A cat'\nnegative_prompt = 'blur'", []),
        ("a.jpg.toml", "prompt = 'A cat'\nframes = 8\npriority = 100\nvariants = 16", [
            f"a.jpg.toml:2: frames: {ONLY_PROMPTS}",
            f"a.jpg.toml:3: priority: {ONLY_PROMPTS}",
            f"a.jpg.toml:4: variants: {ONLY_PROMPTS}",
        ]),
        ("a.jpg.toml", "[make]\nvariants = 2", [f"a.jpg.toml:2: make.variants: {ONLY_PROMPTS}"]),
    ],
)  # fmt: skip
def test_an_inbox_says_what_an_override_may_set(name, text, refused):
    make, found = parse_sidecar(name, text, CHECK, "prompt")
    assert (make is None, told(found)) == (refused != [], refused)
    make, found = parse_sidecar(name, text, CHECK, "none")
    assert (make, told(found)) == (
        None,
        [f"{name}: this inbox takes no settings beside its pictures"],
    )


def test_what_an_inbox_does_not_take_is_not_even_read(tmp_path, monkeypatch):
    (tmp_path / "cat.jpg.txt").write_text("A cat sleeps")
    found = find_overrides(tmp_path / "cat.jpg")
    monkeypatch.setattr("rules.parse.read", None)
    make, mistakes = read_sidecar(found, CHECK, "none")
    assert make is None
    assert told(mistakes) == ["cat.jpg.txt: this inbox takes no settings beside its pictures"]
    assert read_sidecar([], CHECK, "none") == (None, [])


def test_a_sidecar_is_found_beside_its_picture(tmp_path):
    picture = tmp_path / "cat.jpg"
    assert read_sidecar(find_overrides(picture), CHECK) == (None, [])
    (tmp_path / "cat.jpg.txt").write_text("A cat sleeps")
    assert read_sidecar(find_overrides(picture), CHECK) == (Make({"prompt": "A cat sleeps"}), [])
    (tmp_path / "cat.jpg.toml").write_text("frames = 8")
    make, mistakes = read_sidecar(find_overrides(picture), CHECK)
    assert make is None
    assert told(mistakes) == ["cat.jpg.toml: stands beside cat.jpg.txt; keep one"]
    (tmp_path / "cat.jpg.txt").unlink()
    assert read_sidecar(find_overrides(picture), CHECK) == (Make({"frames": 8}), [])


def test_a_sidecar_comes_from_strangers(tmp_path):
    (tmp_path / "secret").write_text("A secret")
    (tmp_path / "a.jpg.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "b.jpg.txt")
    (tmp_path / "c.jpg.toml").mkdir()
    (tmp_path / "d.jpg.txt").write_bytes(b"\xffA")
    (tmp_path / "e.jpg.txt").write_bytes(b"x" * (MAX_OVERRIDE_BYTES + 1))
    reasons = {}
    for name in "abcde":
        make, mistakes = read_sidecar(find_overrides(tmp_path / f"{name}.jpg"), CHECK)
        assert make is None
        reasons[name] = [mistake.message for mistake in mistakes]
    assert reasons == {
        "a": ["is a symbolic link"],
        "b": ["is not a regular file"],
        "c": ["is not a regular file"],
        "d": ["is not UTF-8 text (line 1); save it as UTF-8"],
        "e": ["is over 8 KiB; a few lines of text are enough"],
    }


# --- anything at all

known = [*TOP_KEYS, *MATCH_KEYS, *MAKE_KEYS, *Request.model_fields]
keys = st.sampled_from(known) | st.sampled_from(known).map(lambda k: k[:-1] or "x") | st.text()
tables = st.dictionaries(keys, values, max_size=6)
rules_tables = st.fixed_dictionaries(
    {"make": tables | values}, optional={"match": tables | values}
).flatmap(lambda fixed: tables.map(lambda more: {**more, **fixed}))


def assert_sound(made: object, mistakes: list[RuleError]) -> None:
    assert (made is None) == any(m.fatal for m in mistakes)
    for mistake in mistakes:
        assert not has_unsafe(str(mistake))
        assert mistake.message
        assert len(str(mistake)) < 500


@settings(max_examples=400, deadline=None)
@given(rules_tables)
def test_any_structure_is_a_rule_or_mistakes(table):
    text = "".join(f"{toml(k)} = {toml(v)}\n" for k, v in table.items())
    assert_sound(*parse_rule("a.toml", text, CHECK))
    assert_sound(*parse_sidecar("a.jpg.toml", text, CHECK))


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text('[]{}="\n.#mateprompt1', max_size=60))
def test_any_text_is_a_rule_or_mistakes(text):
    assert_sound(*parse_rule("a.toml", text, CHECK))
    assert_sound(*parse_sidecar("a.jpg.toml", text, CHECK))
    assert_sound(*parse_sidecar("a.jpg.txt", text, CHECK))


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=80))
def test_any_bytes_are_rules_or_mistakes(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "a.toml").write_bytes(content)
    rules, mistakes = parse_folder(folder, CHECK)
    assert_sound(rules, list(mistakes))


# --- texts that were written to harm


@pytest.mark.parametrize(
    "text",
    [
        "frames" + ".a" * 4000 + " = 1",
        "frames = " + "{a = " * 30 + "1" + "}" * 30,
        "[make" + ".b" * 50 + "]\nframes = 8",
        "frames = " + "[" * 3000 + "]" * 3000,
    ],
    ids=["dotted", "inline", "header", "lists"],
)
def test_a_deeply_nested_override_is_a_mistake(text):
    make, (mistake,) = parse_sidecar("a.jpg.toml", text, CHECK)
    assert make is None
    assert str(mistake) == "a.jpg.toml: is nested too deeply"


@pytest.mark.parametrize(
    "text",
    [
        'a = """\n[' + " " * 8000 + '\n"""\nx = 1',
        'a = """\n' + " " * 8000 + '"""\nx = 1',
        'a = """\n[' + "'" * 8000 + '\n"""\nx = 1',
        '"' + " " * 3900 + '" = 1\na = """\n' + " " * 3900 + '"""',
        "\n".join(f'" {" " * n}" = {n}' for n in range(90)),
    ],
    ids=["header", "spaces", "quotes", "key of spaces", "many keys"],
)
def test_the_line_of_a_mistake_is_found_in_linear_time(text):
    start = time.process_time()
    make, mistakes = parse_sidecar("a.jpg.toml", text, CHECK)
    assert time.process_time() - start < 0.5
    assert make is None
    assert all(mistake.line for mistake in mistakes)


@given(st.text(alphabet="[]\"'.= \tab\n", max_size=200), st.sampled_from(["", "a", "make"]))
def test_any_text_has_lines_or_none(text, table):
    line = Source("a.toml", text).mistake(table, "b", "is wrong").line
    assert line is None or 1 <= line <= text.count("\n") + 1


def test_an_override_that_cannot_be_read_now_is_no_mistake_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cat.jpg.txt").write_text("A cat")
    overrides = find_overrides(tmp_path / "cat.jpg")
    for number in (errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(os, "open", Mock(side_effect=error))
        with pytest.raises(OSError, match=os.strerror(number)):
            read_sidecar(overrides, CHECK)
        monkeypatch.undo()
    (tmp_path / "cat.jpg.txt").unlink()
    assert read_sidecar(overrides, CHECK) == (None, [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("steps = 20", "is missing; say what moves"),
        ('prompt = ""', "is empty; say what moves"),
        ('prompt = "  "', "is empty; say what moves"),
        ('prompt = "it turns"', None),
    ],
)
def test_a_rule_without_a_prompt_is_warned_of(make, message):
    rule, found = parse_rule("a.toml", f"[make]\n{make}\n", CHECK)
    assert rule is not None
    assert [mistake.key for mistake in found] == ["make.prompt"] * (message is not None)
    assert all(message in mistake.message and not mistake.fatal for mistake in found)
    assert parse_sidecar("a.jpg.toml", "steps = 20", CHECK)[1] == []
