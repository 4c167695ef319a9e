"""The generation request of a clip without the daemon."""

import inspect
from pathlib import Path

import pytest

from daemon.cli.clips import render
from daemon.cli.render import _create_request
from daemon.config.settings import Settings
from pipeline.memory.modes import Mode
from pipeline.request.spec import Request
from pipeline.sidecar import Applied
from tests.pipeline.test_sidecar import SPEC


def ladder_like(like: Applied | None) -> list[Mode]:
    request = _create_request(Settings(), SPEC, "float32", Path(), Path(), like)
    return [rung.mode for rung in request.ladder]


@pytest.mark.parametrize("mode", Mode)
def test_a_replayed_clip_starts_in_its_original_mode(mode: Mode) -> None:
    """Also in fp8 if the settings do not allow it: another mode makes another clip."""
    like = Applied(
        width=64,
        height=64,
        frames=8,
        mode=mode,
        seed=1,
        dtype="float32",
        speed="exact",
        steps=10,
        sampler="ddim",
    )
    assert ladder_like(like)[0] is mode


def test_a_new_clip_has_the_whole_ladder_and_fp8_only_if_it_is_allowed() -> None:
    assert ladder_like(None)[0] is Mode.RESIDENT
    assert Mode.FP8 not in ladder_like(None)


def test_each_setting_of_a_clip_is_an_option() -> None:
    options = inspect.signature(render).parameters.keys()
    assert Request.model_fields.keys() <= options
