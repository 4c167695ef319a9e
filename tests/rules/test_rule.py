"""Rules: what matches, which wins, what is asked."""

import hashlib
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.characters import has_unsafe
from rules.rule import Choice, Make, Match, Picture, Rule, RuleSet, digest, folder_fits


def pic(path: str = "cat.jpg", width: int = 640, height: int = 480, caption: str = "") -> Picture:
    return Picture(PurePosixPath(path), width, height, caption)


# --- Match


@pytest.mark.parametrize(
    ("match", "picture", "why"),
    [
        (Match(), pic(), None),
        (Match(names=("*cat*",)), pic("My-CAT.JPG"), None),
        (Match(names=("*dog*", "*.jpg")), pic(), None),
        (
            Match(names=("*dog*", "*.png")),
            pic(),
            'its name "cat.jpg" does not fit "*dog*" or "*.png"',
        ),
        (Match(names=("*cat*",)), pic("cats/dog.jpg"), 'its name "dog.jpg" does not fit "*cat*"'),
        (Match(names=("STRASSE.*",)), pic("straße.jpg"), None),
        (Match(names=("*m\u00f6we*",)), pic("mo\u0308we.jpg"), None),  # macOS spells it apart
        (Match(folder="cats"), pic("cats/a.jpg"), None),
        (Match(folder="cats"), pic("a.jpg"), 'its folder "" does not fit "cats"'),
        (Match(folder=""), pic("a.jpg"), None),
        (Match(folder=""), pic("cats/a.jpg"), 'its folder "cats" does not fit ""'),
        (Match(orientation="landscape"), pic(), None),
        (Match(orientation="portrait"), pic(), "it is landscape (640x480), not portrait"),
        (Match(orientation="square"), pic(width=480), None),
        (Match(orientation="square"), pic(width=481), "it is landscape (481x480), not square"),
        (Match(min_width=640, max_width=640, min_height=480, max_height=480), pic(), None),
        (Match(min_width=641), pic(), "its width of 640 pixels is under min_width = 641"),
        (Match(max_width=639), pic(), "its width of 640 pixels is over max_width = 639"),
        (Match(min_height=481), pic(), "its height of 480 pixels is under min_height = 481"),
        (Match(max_height=479), pic(), "its height of 480 pixels is over max_height = 479"),
        (
            Match(names=("*cat*",), orientation="portrait"),
            pic(),
            "it is landscape (640x480), not portrait",
        ),
    ],
)
def test_a_match_or_the_mismatch(match, picture, why):
    assert match.mismatch(picture) == why


@pytest.mark.parametrize(
    ("folder", "glob", "fits"),
    [
        ("", "", True),
        ("", ".", True),
        ("", "*", False),
        ("", "**", True),
        ("a", "*", True),
        ("a/b", "*", False),
        ("a/b", "a/*", True),
        ("a/b", "A/B/", True),
        ("a", "a/**", True),
        ("a/b/c", "a/**", True),
        ("ab/c", "a/**", False),
        ("a/b/c", "**/c", True),
        ("c", "**/c", True),
        ("a/b/c/d", "a/**/d", True),
        ("a/d", "a/**/d", True),
        ("a/b/c/d", "a/**/c", False),
        ("a/b/a/b", "**/a/b", True),
        ("2024-05", "20[12]?-*", True),
        ("a/b", "**/**/b", True),
        ("a*", "a[*]", True),
    ],
)
def test_a_folder_fits_a_glob(folder, glob, fits):
    assert folder_fits(folder, glob) is fits


def test_many_stars_take_no_time():
    assert not folder_fits("/".join("a" * 200), "/".join(["**", "a"] * 40 + ["b"]))
    match = Match(names=("*a" * 40 + "b",))
    assert match.mismatch(pic("a" * 200 + ".jpg"))


# --- RuleSet

parts = st.sampled_from(["cat", "dog", "cats", "x.y", "Möwe"])
pictures = st.builds(
    lambda folders, name, size: pic("/".join([*folders, f"{name}.jpg"]), *size),
    st.lists(parts, max_size=3),
    parts,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
optional_side = st.none() | st.integers(1, 3)
matches = st.builds(
    Match,
    names=st.sampled_from([(), ("*cat*",), ("*dog*", "x*"), ("*",)]),
    folder=st.none() | st.sampled_from(["", "*", "**", "cat", "**/cat", "cat/**"]),
    orientation=st.sampled_from([None, "portrait", "landscape", "square"]),
    min_width=optional_side,
    max_height=optional_side,
)
rule_lists = st.lists(st.tuples(matches, st.booleans()), max_size=6).map(
    lambda them: tuple(
        Rule(f"{i}", match, enabled=enabled) for i, (match, enabled) in enumerate(them)
    )
)


@given(rule_lists, pictures)
def test_the_first_match_wins_and_all_before_it_say_why(rules, picture):
    choice = RuleSet(rules).choose(picture)
    taken = [rule for rule in rules if rule.enabled and rule.match.mismatch(picture) is None]
    assert choice.rule is (taken[0] if taken else None)
    before = rules[: rules.index(choice.rule)] if choice.rule else rules
    assert [name for name, _ in choice.rejected] == [rule.name for rule in before]
    assert all(why and "\n" not in why for _, why in choice.rejected)


@given(rule_lists, pictures)
def test_nothing_gets_past_a_rule_that_takes_all(rules, picture):
    if any(rule.takes_all for rule in rules):
        assert RuleSet(rules).choose(picture).rule is not None


def test_a_rule_that_is_switched_off_takes_nothing():
    rules = RuleSet((Rule("10-off", enabled=False), Rule("90-on")))
    assert rules.choose(pic()) == Choice(rules.rules[1], (("10-off", "it is switched off"),))


@given(rule_lists, pictures)
def test_what_is_said_to_be_unmatched_by_its_path_is_never_taken(rules, picture):
    if RuleSet(rules).warn_unmatched(picture.path):
        assert RuleSet(rules).choose(picture).rule is None


def test_a_path_that_no_rule_takes_is_told():
    rules = RuleSet(
        (
            Rule("10-off", enabled=False),
            Rule("20-cats", Match(names=("*cat*",), min_width=5000)),
            Rule("30-trips", Match(folder="trips/**")),
        )
    )
    (warning,) = rules.warn_unmatched(PurePosixPath("dog.png"))
    assert warning.startswith("no rule matches its name and folder; it stays in the inbox")
    for path in ("cat.png", "trips/dog.png"):
        assert rules.warn_unmatched(PurePosixPath(path)) == []


def test_no_rule_no_choice():
    assert RuleSet().choose(pic()) == Choice(None, ())


@given(st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=3))
@example([("a", b"bc")])
def test_the_digest_distinguishes_sets(files):
    assert digest(files) != digest([*files, ("", b"")])
    moved = [(name + "x", content) for name, content in files]
    assert (digest(files) == digest(moved)) is (not files)
    assert digest([("a", b"bc")]) != digest([("ab", b"c")])
    assert RuleSet().digest == digest([]) == hashlib.sha256().hexdigest()


# --- Make


def test_the_variables_of_a_prompt_are_filled_in():
    make = Make({"prompt": "{stem} in {folder}: {caption} {{x}}", "negative_prompt": "no {stem}"})
    settings = make.settings(pic("my_trips/old_cat.v2.jpg", caption="{stem} sleeps"))
    assert settings == {
        "prompt": "old cat.v2 in my trips: {stem} sleeps {x}",
        "negative_prompt": "no old cat.v2",
    }


def test_a_prompt_is_one_line_without_control_characters():
    settings = Make({"prompt": " {caption}  a\n b"}).settings(pic(caption="\x07line\n\u202etwo"))
    assert settings == {"prompt": "line two a b"}


def test_a_filled_in_prompt_is_never_too_long():
    assert len(Make({"prompt": "{caption}" * 9}).settings(pic(caption="x" * 500))["prompt"]) == 2000


def test_settings_are_passed_through_without_the_rules_own_keys():
    make = Make({"priority": 3, "variants": 2, "frames": 16, "seed": "content"})
    assert make.settings(pic()) == {"frames": 16, "seed": "content"}
    assert (make.priority, make.variants) == (3, 2)
    assert (Make().priority, Make().variants) == (0, 1)


def test_the_override_of_a_picture_wins_over_the_rule():
    rule = Make({"prompt": "a", "frames": 16, "priority": 5})
    beside = Make({"prompt": "b", "priority": 0})
    assert beside.over(rule) == Make({"prompt": "b", "frames": 16, "priority": 0})
    assert Make().over(rule) == rule


# --- output


@pytest.mark.parametrize(
    ("output", "path", "stem"),
    [
        ("{stem}", "trips/cat.jpg", "cat"),
        ("{stem}", "cat.v2.final.jpg", "cat.v2.final"),
        ("{rule}-{stem}-{{x}}", "cat.jpg", "10-cats-cat-{x}"),
        ("{stem}", "a\nb\x7f.jpg", "a_b_"),
        ("{stem}", "  .jpg", "_"),
        ("{stem}", "caf\udce9.jpg", "caf\udce9"),  # a name that is not UTF-8, as the system has it
        ("{stem}", "x" * 251 + ".jpg", "x" * 200),
        ("{stem}", "ö" * 125 + ".jpg", "ö" * 100),
    ],
)
def test_the_clips_name(output, path, stem):
    assert Rule("10-cats", output=output).output_stem(pic(path)) == stem


@given(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=100
    )
)
def test_the_clips_name_is_never_a_path_nor_hidden(name):
    if name in (".", ".."):
        return
    stem = Rule("10-cats").output_stem(pic(name))
    assert stem
    assert stem[0] != "."
    assert "/" not in stem
    assert not has_unsafe(stem)
