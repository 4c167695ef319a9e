"""What is shipped: the examples, the demo's rules, and the reference in the README."""

import re
import tomllib
from functools import partial
from pathlib import Path, PurePosixPath

import pytest

from pipeline.request.presets import I2VGEN_XL, MICRO_FAMILY
from pipeline.request.spec import check
from rules.parse import MAKE_KEYS, MATCH_KEYS, TOP_KEYS, parse_folder, parse_rule
from rules.rule import OUTPUT_VARIABLES, PROMPT_VARIABLES, PROMPTS, Picture

RULES = Path(__file__).parents[2] / "rules"
README = (RULES / "README.md").read_text()
SETS = {"examples": I2VGEN_XL, "demo": MICRO_FAMILY}


@pytest.mark.parametrize("name", SETS)
def test_a_shipped_set_is_sound_and_warns_of_nothing(name):
    rules, mistakes = parse_folder(RULES / name, partial(check, family=SETS[name]))
    assert mistakes == ()
    assert rules is not None
    assert rules.rules[-1].takes_all
    for rule in rules.rules:
        assert rule.description
        assert rule.make.keys["prompt"]


def test_the_examples_can_be_tried_with_the_demonstration_model():
    rules, mistakes = parse_folder(RULES / "examples", partial(check, family=MICRO_FAMILY))
    assert rules is not None
    assert {(mistake.fatal, "the preset's is taken" in str(mistake)) for mistake in mistakes} == {
        (False, True)
    }


@pytest.mark.parametrize(
    ("folder", "picture", "rule"),
    [
        ("examples", "person.jpg", "10-walking-person"),
        ("examples", "Walking_in_the_park.png", "10-walking-person"),
        ("examples", "beach.jpg", "20-ocean-waves"),
        ("examples", "cat.jpg", "30-cat"),
        ("examples", "my_cat.jpg", "30-cat"),
        ("examples", "vacation.jpg", "90-default"),
        ("demo", "person.jpg", "10-person"),
        ("demo", "landscape.jpg", "20-landscape"),
        ("demo", "beach.jpg", "20-landscape"),
        ("demo", "cat.jpg", "30-cat"),
        ("demo", "house.jpg", "90-default"),
    ],
)
def test_the_shipped_sets_take_what_they_should(folder, picture, rule):
    rules = parse_folder(RULES / folder, partial(check, family=SETS[folder])).rules
    assert rules is not None
    choice = rules.choose(Picture(PurePosixPath(picture), 64, 64))
    assert choice.rule is not None
    assert choice.rule.name == rule


def test_the_recommended_settings():
    def made(name: str) -> dict[str, object]:
        return tomllib.loads((RULES / "examples" / f"{name}.toml").read_text())["make"]

    for name in ("10-walking-person", "20-ocean-waves"):
        make = made(name)
        assert (make["preset"], make["size"], make["frames"], make["steps"], make["guidance"]) == (
            "standard",
            512,
            16,
            50,
            9.0,
        )
    assert (made("30-cat")["steps"], made("30-cat")["guidance"]) == (60, 10.0)


def test_every_key_stands_in_the_readme():
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    for key in (k for k in TOP_KEYS if k not in ("match", "make")):
        assert f"`{key}`" in table
    for where, keys in (("match", MATCH_KEYS), ("make", (*MAKE_KEYS, *PROMPTS))):
        for key in keys:
            assert f"`{where}.{key}`" in table
    for variable in {*PROMPT_VARIABLES, *OUTPUT_VARIABLES}:
        assert f"`{{{variable}}}`" in table


def test_what_is_allowed_is_said_in_the_readme_as_in_the_messages():
    plain = README.replace("\\*", "*")
    for keys in (TOP_KEYS, MATCH_KEYS, MAKE_KEYS):
        for name, key in keys.items():
            if name not in ("match", "make"):
                assert key.allowed in plain, name


def test_the_readmes_example_is_a_rule():
    for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL):
        rule, mistakes = parse_rule("a.toml", text, partial(check, family=I2VGEN_XL))
        assert mistakes == []
        assert rule is not None


def test_every_file_of_the_package_stands_in_the_readme():
    for file in RULES.glob("*.py"):
        if file.name != "__init__.py":
            assert f"`{file.name}`" in README
