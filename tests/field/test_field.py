"""Each report from the field, once fixed, stays fixed."""

from pathlib import Path

import pytest

from tests.field.case import Expect, case_files, read_case
from tests.field.runner import UNPRIVILEGED, play, require_root, unmet
from tests.system.conftest import Open

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("file", case_files(), ids=lambda file: file.stem)
def test_case(file: Path, quick_in: Open) -> None:
    case = read_case(file)
    if case.unprivileged or case.odd or case.mount:
        require_root()
    play(case, quick_in(prefix=UNPRIVILEGED if case.unprivileged else ()))


def test_a_wrong_expectation_is_noticed(quick_in: Open) -> None:
    studio = quick_in().start()
    wrong = Expect(
        clips=["x.mp4"],
        inbox=["x.png"],
        failed=["x.png"],
        jobs={"x.png": "done"},
        error={"x.png": "disk"},
        sidecar={"x.mp4": {"requested.seed": 1}},
        log=["job done"],
        silent=["daemon ready"],
        ready=False,
        answers={"GET /healthz": 500},
    )
    assert len([*unmet(wrong, studio)]) == 10
    right = Expect(clips=[], inbox=[], jobs={"x.png": "none"}, log=["daemon ready"], ready=True)
    assert [*unmet(right, studio)] == []


def test_no_case_is_there_twice() -> None:
    says = [read_case(file).says for file in case_files()]
    assert len(set(says)) == len(says)
