"""Templates: variables and braces, nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.template import escape, fill, mistakes

KNOWN = ("stem", "folder")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{stem} in {folder}", "S in F"),
        ("{{stem}}", "{stem}"),
        ("{{{stem}}}", "{S}"),
        ("100 %s $stem", "100 %s $stem"),
    ],
)
def test_a_template_is_filled(text, filled):
    assert mistakes(text, KNOWN) == []
    assert fill(text, {"stem": "S", "folder": "F"}) == filled


@pytest.mark.parametrize(
    "text",
    [
        "{stem.upper}",
        "{stem[0]}",
        "{stem!r}",
        "{stem:>9}",
        "{0}",
        "{}",
        "{ stem }",
        "{",
        "}",
        "{{}",
    ],
)
def test_anything_else_is_a_mistake(text):
    assert mistakes(text, KNOWN)


@given(st.text())
def test_an_escaped_text_comes_back(text):
    assert mistakes(escape(text), ()) == []
    assert fill(escape(text), {}) == text


@given(st.text("{}stem ", max_size=30))
def test_what_has_no_mistake_can_be_filled(text):
    if not mistakes(text, KNOWN):
        fill(text, {"stem": "S", "folder": "F"})


@given(st.text("{}stem"))
def test_values_are_never_read_as_templates(value):
    assert fill("{stem}", {"stem": value}) == value
