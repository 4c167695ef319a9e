"""Which devices "auto" means."""

from pathlib import Path

import pytest

from daemon.devices import _list_gpus, resolve_devices


@pytest.fixture
def two_cards(tmp_path: Path) -> Path:
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["cuda:0", "cuda:1"]),
        ("1", ["cuda:0"]),
        ("1,0", ["cuda:0", "cuda:1"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["cuda:0"]),
        ("0,-1,1", ["cuda:0"]),
        ("", []),
        ("-1", []),
        ("0,1,2,3", ["cuda:0", "cuda:1"]),
    ],
)
def test_the_cards_are_those_that_we_may_use(
    two_cards: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _list_gpus(two_cards) == found


def test_devices_are_taken_as_named() -> None:
    assert resolve_devices(["cpu", "cuda:1"]) == ["cpu", "cuda:1"]
