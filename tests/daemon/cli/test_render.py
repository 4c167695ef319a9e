"""What is ordered for a clip without the daemon."""

from pathlib import Path

import pytest

from daemon.cli.render import _order
from daemon.config.settings import Settings
from pipeline.memory.modes import Mode
from pipeline.sidecar import Applied
from tests.pipeline.test_sidecar import SPEC


def ladder_like(like: Applied | None) -> list[Mode]:
    order = _order(Settings(), SPEC, "float32", Path(), Path(), like)
    return [rung.mode for rung in order.ladder]


@pytest.mark.parametrize("mode", Mode)
def test_a_clip_is_made_again_in_its_mode_whatever_has_room_now(mode: Mode) -> None:
    """Also in eight bits where the settings do not allow them: without, it is another clip."""
    like = Applied(width=64, height=64, frames=8, mode=mode, seed=1, dtype="float32")
    assert ladder_like(like)[0] is mode


def test_a_new_clip_has_the_whole_ladder_and_eight_bits_only_where_they_are_allowed() -> None:
    assert ladder_like(None)[0] is Mode.FAST
    assert Mode.FP8 not in ladder_like(None)
