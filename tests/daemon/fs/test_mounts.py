"""File systems, as the kernel lists them."""

import subprocess
from pathlib import Path

import pytest

from daemon.fs import mounts


@pytest.mark.parametrize(
    "name",
    ["a b", "tab\tin", "line\nbreak", "back\\slash", "back\\040slash", "ha#sh", "\u2028", "猫"],
)
def test_a_mount_point_of_any_name_is_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if subprocess.run(["mount", "-t", "ramfs", "x y", str(folder)], check=False).returncode:
        pytest.skip("this test needs root")
    try:
        (folder / "inside").mkdir()
        assert mounts.file_system(folder / "inside") == "ramfs"
        assert mounts.file_system(tmp_path) != "ramfs"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_line_that_is_no_mount_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "mounts"
    listed.write_bytes(b"\nodd\n\xff /\\377\xfe ext4 rw 0 0\nroot / xfs rw 0 0\n")
    monkeypatch.setattr(mounts, "MOUNTS", listed)
    assert mounts.file_system(tmp_path) == "xfs"
