from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.film import film
from tests.system.studio import DRAFT, SLOW, Studio

Open = Callable[..., Studio]

_RULES = {
    "10-slow": SLOW,
    "30-three": """\
[match]
names = ["three*"]

[make]
prompt = "camera tilting down"
preset = "draft"
size = 32
seed = 7
variants = 3
""",
}


_URGENT = '[match]\nnames = ["urgent*"]\n\n[make]\nprompt = "film"\npriority = 5\n'

STEADY = '[match]\nnames = ["slow*"]\n\n' + DRAFT.replace("camera zooming in slowly", "steady")
"""Rule: the stand-in worker takes three seconds."""


def quick_studio(root: Path, name: str = "studio", **settings: Any) -> Studio:
    """Create a studio below `root` whose stand-in worker returns a clip at once."""
    clip = film(root / "film.mp4")
    studio = Studio(
        root / name,
        program="tests.chaos.launch",
        PEER_FILM=str(clip),
        CHAOS_SKIPPED="1",
        **settings,
    )
    studio.rule("90-default", DRAFT.replace("camera zooming in slowly", "film"))
    return studio


@pytest.fixture
def studio_in(tmp_path: Path) -> Iterator[Open]:
    """Factory of studios for one test, not started; their processes end with the test."""
    opened: list[Studio] = []

    def make(name: str = "studio", **settings: Any) -> Studio:
        opened.append(Studio(tmp_path / name, **settings))
        return opened[-1]

    yield make
    for studio in opened:
        studio.close()


@pytest.fixture
def quick_in(tmp_path: Path) -> Iterator[Open]:
    """Factory of studios with a stand-in worker: real protocol, real MP4s, 0.1 s for a clip."""
    opened: list[Studio] = []

    def make(name: str = "studio", **settings: Any) -> Studio:
        opened.append(quick_studio(tmp_path, name, **settings))
        return opened[-1]

    yield make
    for studio in opened:
        studio.close()


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running daemon with a stand-in worker, for tests that do not need the real one.

    Clips whose names begin with "slow" take three seconds.
    """
    studio = quick_studio(tmp_path_factory.mktemp("quick"))
    studio.rule("10-slow", STEADY)
    studio.rule("20-urgent", _URGENT)
    try:
        yield studio.start()
    finally:
        studio.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running daemon for all tests that leave it intact; each test uses its own file names."""
    studio = Studio(tmp_path_factory.mktemp("shared") / "studio")
    for name, text in _RULES.items():
        studio.rule(name, text)
    try:
        yield studio.start()
    finally:
        studio.close()
