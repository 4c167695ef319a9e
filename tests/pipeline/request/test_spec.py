"""Spec: what may be asked, how it is told when it may not, and how it is resolved."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.request.presets import I2VGEN_XL, MICRO, MICRO_FAMILY, MICRO_FOLDER, family_of
from pipeline.request.spec import Request, Spec, allowed, check, clip_size, resolve

SHA = "0123abcd" * 8


def given_for(asked: Request, family=I2VGEN_XL, source=(640, 480)) -> Spec:
    return resolve(asked, family, source=source, sha256=SHA, rng=random.Random(1))


# --- ranges

RANGES = {
    "size": (32, 2048),
    "frames": (8, 32),
    "fps": (4, 24),
    "motion_fps": (1, 60),
    "steps": (10, 100),
    "guidance": (1.0, 20.0),
    "guidance_rescale": (0.0, 1.0),
    "quality": (0, 51),
}


@pytest.mark.parametrize("key", RANGES)
def test_a_range_is_told_with_both_its_ends(key):
    least, most = RANGES[key]
    assert allowed(key) == f"{least} to {most}"
    for value in (least, most):
        Request(**{key: value})
    for value in (least - 1, most + 1):
        problem = check({key: value}, I2VGEN_XL)[0]
        assert (problem.key, problem.fatal) == (key, True)
        assert problem.message == f"{value}; allowed: {least} to {most}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": "16"}, '"16"; allowed: a whole number, 8 to 32'),
        ({"frames": True}, "true; allowed: a whole number, 8 to 32"),
        ({"guidance": True}, "true; allowed: a number, 1.0 to 20.0"),
        ({"guidance": float("nan")}, "NaN; allowed: 1.0 to 20.0"),
        ({"seed": -1}, '-1; allowed: 0 to 9223372036854775807, "random" or "content"'),
        ({"seed": "x"}, '"x"; allowed: 0 to 9223372036854775807, "random" or "content"'),
        ({"framing": "zoom"}, '"zoom"; allowed: "crop", "fit" or "blur"'),
        ({"aspect": "9"}, '"9": must be "square", "source" or a ratio such as "16:9"'),
        ({"aspect": "9:1"}, '"9:1": must lie between 1:4 and 4:1'),
        ({"preset": "standart"}, 'unknown preset "standart"; did you mean "standard"?'),
        ({"preset": "x"}, 'unknown preset "x"; known: draft, preview, standard, high, ultra'),
        ({"frmes": 16}, 'unknown key "frmes"; did you mean "frames"?'),
        ({"size": 500}, "500 is not a multiple of 64; nearest: 512"),
        ({"size": 10**5000}, "this number; allowed: 32 to 2048"),
    ],
)
def test_a_mistake_is_told_exactly(settings, message):
    assert [(p.message, p.fatal) for p in check(settings, I2VGEN_XL)] == [(message, True)]


def test_all_mistakes_are_told_at_once():
    settings = {"frames": 4, "stpes": 3, "preset": "x", "size": 500, "prompt": "a nice cat"}
    found = {(p.key, p.fatal) for p in check(settings, I2VGEN_XL)}
    assert found == {
        ("frames", True),
        ("stpes", True),
        ("preset", True),
        ("size", True),
        ("prompt", False),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": "A beautiful, NICE cat"}, "'beautiful', 'nice' says nothing about motion"),
        ({"prompt": "Eine Katze dreht den Kopf, schön"}, "English"),
        ({"guidance": 6.9}, "6.9 is under 7"),
        ({"guidance": 12.5}, "12.5 is over 12"),
        ({"size": 640}, "640 is untried"),
    ],
)
def test_lint(settings, words):
    (problem,) = check(settings, I2VGEN_XL)
    assert not problem.fatal
    assert words in problem.message


@pytest.mark.parametrize("settings", [{}, {"guidance": 7.0}, {"guidance": 12}, {"size": 512}])
def test_nothing_to_say(settings):
    assert check(settings, I2VGEN_XL) == []


def test_every_key_says_what_it_allows():
    for key in Request.model_fields:
        assert re.fullmatch(r"[\x20-\x7e]+", allowed(key))
    with pytest.raises(KeyError):
        allowed("nothing")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)


@given(st.dictionaries(st.sampled_from(list(Request.model_fields)) | st.text(max_size=9), values))
def test_what_the_check_lets_pass_can_be_resolved(settings):
    if not any(problem.fatal for problem in check(settings, I2VGEN_XL)):
        spec = given_for(Request.model_validate(settings))
        assert Spec.model_validate_json(spec.model_dump_json()) == spec


# --- resolving


@pytest.mark.parametrize(
    ("preset", "want"),
    [
        ("draft", (256, 8, 20)),
        ("preview", (512, 8, 30)),
        ("standard", (512, 16, 50)),
        ("high", (768, 24, 80)),
        ("ultra", (1024, 32, 80)),
    ],
)
def test_the_presets_that_users_know(preset, want):
    spec = given_for(Request(preset=preset))
    assert (spec.width, spec.frames, spec.steps) == want
    assert (spec.height, spec.fps, spec.guidance) == (spec.width, 8, 9.0)


def test_what_is_asked_goes_over_the_preset():
    spec = given_for(Request(preset="draft", frames=16, guidance_rescale=0.0, quality=0, seed=0))
    assert (spec.frames, spec.steps, spec.quality, spec.seed) == (16, 20, 0, 0)


def test_one_request_over_another():
    base = Request(prompt="a", frames=16, seed=3)
    assert Request(prompt="b", seed=0).over(base) == Request(prompt="b", frames=16, seed=0)


def test_the_seed():
    assert given_for(Request(seed=7)).seed == 7
    assert given_for(Request(seed="content")).seed == 0x0123ABCD
    assert given_for(Request()).seed == given_for(Request(seed="random")).seed < 2**32


@given(
    st.sampled_from([256, 384, 512, 768, 1024]),
    st.sampled_from(["square", "source", "16:9", "9:16", "1:4", "4:1", "3:2"]),
    st.tuples(st.integers(16, 20_000), st.integers(16, 20_000)),
)
def test_a_clip_has_about_the_area_asked_in_multiples(side, aspect, source):
    width, height = clip_size(side, aspect, source, 64)
    assert width % 64 == height % 64 == 0
    assert min(width, height) >= 64
    assert 0.7 < width * height / side**2 < 1.4


def test_a_size_beyond_the_model_counts_as_the_presets():
    (problem,) = check({"size": 512}, MICRO_FAMILY)
    assert not problem.fatal
    assert given_for(Request(size=512), family=MICRO_FAMILY).width == 64


def test_sizes_that_people_know():
    assert clip_size(512, "square", (3000, 100), 64) == (512, 512)
    assert clip_size(512, "16:9", (1, 1), 64) == (704, 384)
    assert clip_size(512, "source", (1080, 1920), 64) == (384, 704)


def test_the_family_of_a_model():
    assert family_of(MICRO) is family_of(str(MICRO_FOLDER)) is MICRO_FAMILY
    assert family_of("ali-vilab/i2vgen-xl") is family_of("/srv/model") is I2VGEN_XL


@pytest.mark.parametrize("family", [I2VGEN_XL, MICRO_FAMILY], ids=lambda f: f.name)
def test_every_preset_is_within_the_ranges(family):
    for name, preset in family.presets.items():
        settings = {"preset": name, "size": preset.side, "frames": preset.frames}
        settings |= {"steps": preset.steps, "guidance": preset.guidance, "fps": preset.fps}
        assert check(settings | {"quality": preset.quality}, family) == []
