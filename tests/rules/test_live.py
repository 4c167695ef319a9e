"""The rules in force: a reload swaps all or nothing."""

import os
import tempfile
from functools import partial
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.request.presets import I2VGEN_XL
from pipeline.request.spec import check
from rules.live import LiveRules
from rules.rule import Picture, RuleSet

CHECK = partial(check, family=I2VGEN_XL)
GOOD = '[make]\nprompt = "A cat turning its head"\n'
CAT = Picture(PurePosixPath("cat.jpg"), 64, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "10-cat.toml").write_text(GOOD)
    return tmp_path


def test_nothing_is_in_force_before_the_first_reload(folder):
    live = LiveRules(folder, CHECK)
    assert live.rules == RuleSet()
    assert live.last is None
    reloaded = live.reload(now=12.5)
    assert reloaded == live.last
    assert (reloaded.ok, reloaded.mistakes, reloaded.warnings, reloaded.at) == (True, (), (), 12.5)
    assert [r.name for r in live.rules.rules] == ["10-cat"]


def test_a_broken_file_leaves_the_last_good_set(folder):
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    before = live.rules
    (folder / "20-bad.toml").write_text("[make]\nframes = 4\nguidance = 3.0\n")
    reloaded = live.reload(2.0)
    assert not reloaded.ok
    assert [m.key for m in reloaded.mistakes] == ["make.frames"]
    assert {m.key for m in reloaded.warnings} == {"make.guidance"}
    assert reloaded.at == 2.0
    assert live.rules is before
    (folder / "20-bad.toml").unlink()
    assert live.reload(3.0).ok
    assert live.rules == before


def test_a_folder_that_vanishes_leaves_the_last_good_set(folder, tmp_path):
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    away = tmp_path.parent / f"{tmp_path.name}-away"
    folder.rename(away)
    assert not live.has_changed()
    assert live.has_changed()
    assert not live.reload(2.0).ok
    assert len(live.rules.rules) == 1
    away.rename(folder)
    assert not live.has_changed()
    assert live.has_changed()
    assert live.reload(3.0).ok


def test_a_change_is_reported_once_it_is_stable(folder):
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    assert not live.has_changed()
    file = folder / "20-dog.toml"
    file.write_text("[ma")
    assert not live.has_changed()
    file.write_text(GOOD)
    assert not live.has_changed()
    assert live.has_changed()
    assert live.has_changed()  # until someone reloads
    live.reload(2.0)
    assert not live.has_changed()


def test_a_failed_reload_is_not_tried_again_without_a_change(folder):
    (folder / "20-bad.toml").write_text("[make]\nframes = 4\n")
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    assert not live.has_changed()
    assert not live.has_changed()


@pytest.mark.parametrize("change", ["touch", "rename", "remove", "same size"])
def test_every_kind_of_change_is_seen(folder, change):
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    file = folder / "10-cat.toml"
    if change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "rename":
        file.rename(folder / "11-cat.toml")
    elif change == "remove":
        file.unlink()
    else:
        status = file.stat()
        file.write_text(GOOD.replace("cat", "dog"))
        os.utime(file, ns=(1, status.st_mtime_ns + 1))
    live.has_changed()
    assert live.has_changed()


def test_other_files_are_no_change(folder):
    live = LiveRules(folder, CHECK)
    live.reload(1.0)
    (folder / "README.md").write_text("x")
    (folder / ".10-cat.toml.swp").write_text("x")
    live.has_changed()
    assert not live.has_changed()


class Reloads(RuleBasedStateMachine):
    """Files come, go and break in any order; what is in force is always the last sound folder."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = tempfile.TemporaryDirectory()
        self.folder = Path(self.kept.name)
        self.live = LiveRules(self.folder, CHECK)
        self.good: list[str] = []
        self.now = 0.0

    @rule(number=st.integers(10, 14), sound=st.booleans())
    def write(self, number: int, sound: bool) -> None:
        text = f'match.names = ["{number}*"]\n{GOOD}' if sound else "[make]\nframes = 4\n"
        (self.folder / f"{number}.toml").write_text(text)

    @precondition(lambda self: any(self.folder.iterdir()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(sorted(self.folder.iterdir()))).unlink()

    @rule()
    def reload(self) -> None:
        self.now += 1
        files = sorted(self.folder.iterdir())
        sound = all("frames" not in file.read_text() for file in files)
        reloaded = self.live.reload(self.now)
        assert reloaded.ok == sound
        assert reloaded.at == self.now
        if sound:
            self.good = [file.stem for file in files]

    @invariant()
    def the_last_good_set_is_in_force(self) -> None:
        assert [r.name for r in self.live.rules.rules] == self.good

    def teardown(self) -> None:
        self.kept.cleanup()


TestReloads = Reloads.TestCase
TestReloads.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
