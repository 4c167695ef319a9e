"""Arbitrary overrides and file names: a plan, or errors that name the file.

Arbitrary rule files are tested in tests/rules.
"""

import random
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.fs.atomic import CommitMethod
from daemon.intake.intake import Plan, checker, plan
from daemon.publish.publisher import CLIP, SIDECAR, publish
from daemon.storage.folders import PRIVATE
from pipeline.children.protocol import Inspected
from pipeline.request.presets import MICRO_FAMILY
from rules.characters import has_unsafe
from rules.override import find_overrides
from rules.parse import parse_rule, read_sidecar
from rules.rule import Make, Rule, RuleSet
from tests.anything import toml, values

CHECK = checker(MICRO_FAMILY)
EVERYTHING = Make({"prompt": "{stem} {folder} {caption}", "preset": "draft"})
ALL = RuleSet((Rule("10-all", make=EVERYTHING, output="{stem}"),))
"""A rule that puts all that a stranger chooses into the prompt and the clip's name."""


def planned(file: Path, path: str, caption: str = "") -> Plan:
    picture = Inspected(
        sha256="ab" * 32, size=1, width=64, height=64, format="PNG", caption=caption
    )
    return plan(
        path,
        picture,
        read_sidecar(find_overrides(file), CHECK),
        ALL,
        MICRO_FAMILY,
        random.Random(0),
    )


sidecars = (
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode(errors="replace"))
    | st.dictionaries(
        st.sampled_from(["prompt", "steps", "preset", "seed", "variants", "size", "make", "x"]),
        values,
        max_size=3,
    ).map(lambda t: "".join(f"{toml(k)} = {toml(v)}\n" for k, v in t.items()).encode())
    | st.sampled_from(
        [
            b"",
            b"\0",
            b"\xff\xfe\x00",
            b"x" * 20_000,
            b"a = " + b"[" * 10_000,
            b'prompt = "{stem.__class__.__mro__}"',
            b'prompt = "%(stem)s %n {0!r}"',
            b'output = "../../etc/cron.d/x"',
            b'prompt = "' + b"{{" * 2000 + b'"',
            b"prompt = 0x" + b"f" * 9000,
            b"variants = 99999999999999999999",
        ]
    )
)


@settings(max_examples=150, deadline=None)
@given(content=sidecars, ending=st.sampled_from([".toml", ".txt"]))
def test_any_sidecar_is_a_request_or_mistakes_that_name_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    folder = tmp_path_factory.mktemp("inbox")
    (folder / f"cat.png{ending}").write_bytes(content)
    found = planned(folder / "cat.png", "cat.png")
    assert bool(found.specs) != bool(found.mistakes)
    for mistake in found.mistakes:
        assert str(mistake).startswith(f"cat.png{ending}")
        assert not has_unsafe(str(mistake))
        assert len(str(mistake)) < 500
    for spec in found.specs:
        assert not has_unsafe(spec.prompt)
        assert len(spec.prompt) <= 2000
    assert found.clip_name in ("", "cat")


def one_name(text: str) -> str:
    """A name as file systems allow it, and as the scan takes it."""
    return text.encode()[:245].decode(errors="ignore").lstrip(".") or "x"


names = (
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), max_size=300)
    | st.sampled_from(
        ["..", "../x", "{stem.__class__}", "{0}", "%s%n", "a\nb", "\x1b[31m", "x" * 300]
    )
    | st.sampled_from(["-rf", "con", " ", "~", "a.mp4", "a.mp4.json", "..\\..\\etc", "\u202egpj"])
).map(lambda text: one_name(text.replace("/", "_")))


@settings(max_examples=60, deadline=None)
@given(st.lists(names, max_size=3), names, st.text(max_size=50))
def test_no_name_leads_out_of_the_outbox(
    tmp_path_factory: pytest.TempPathFactory, folders: list[str], name: str, caption: str
) -> None:
    base = tmp_path_factory.mktemp("names")
    inbox, outbox = base / "inbox", base / "outbox"
    staging = outbox / PRIVATE / "1-1"
    path = PurePosixPath(*folders, f"{name}.png")
    (inbox / path).parent.mkdir(parents=True)
    staging.mkdir(parents=True)
    (staging / CLIP).write_text("clip")
    (staging / SIDECAR).write_text("{}")
    found = planned(inbox / path, str(path), caption)
    (spec,) = found.specs
    assert not has_unsafe(spec.prompt)
    clip = publish(staging, outbox, found.clip_name, CommitMethod.LINK, "")
    assert clip.resolve().parent == outbox.joinpath(*folders).resolve()
    assert clip.resolve().is_relative_to(outbox.resolve())
    assert clip.read_text() == "clip"
    assert clip.suffix == ".mp4"
    assert sorted(each.name for each in base.iterdir()) == ["inbox", "outbox"]


@pytest.mark.parametrize(
    "output", ["../x", "/etc/x", "..", ".hidden", "a/b", "a\\\\b", "", "x" * 101, "a\\u0000b"]
)
def test_no_template_leads_out_of_the_outbox(output: str) -> None:
    rule, mistakes = parse_rule("a.toml", f'output = "{output}"\n[make]\nprompt = "x"\n', CHECK)
    assert rule is None
    assert [mistake.key for mistake in mistakes if mistake.fatal] == ["output"]


def test_a_name_in_braces_is_only_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.png.txt").write_text("{stem.__class__} {0} %s {{caption}}")
    found = planned(tmp_path / "x.png", "x.png", "{folder}")
    assert found.specs[0].prompt == "{stem.__class__} {0} %s {{caption}}"
    found = planned(tmp_path / "y.png", "{stem}/{caption.__class__}.png", "{folder}")
    assert found.specs[0].prompt == "{caption. class } {stem} {folder}"
    assert found.clip_name == "{stem}/{caption.__class__}"
