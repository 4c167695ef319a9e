"""Kernel cache: what is kept, what is removed, and what is never touched."""

import os
from pathlib import Path

import pytest

from pipeline.worker import server
from pipeline.worker.optimizations import kernel_cache
from pipeline.worker.optimizations.kernel_cache import VARIABLE
from tests.system import disks


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the variable names, which `set_up` changes."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "compiled"))
    return tmp_path / "compiled"


def filled(folder: Path, size: int) -> Path:
    (folder / "ab").mkdir(parents=True)
    (folder / "ab" / "code.so").write_bytes(bytes(size))
    return folder / "ab" / "code.so"


def test_the_folder_is_named_by_versions_and_setup_is_idempotent(base: Path) -> None:
    folder = kernel_cache.set_up()
    assert folder.parent == base
    assert folder.is_dir()
    assert os.environ[VARIABLE] == str(folder)
    assert kernel_cache.set_up() == folder
    assert list(folder.iterdir()) == []


def test_the_default_is_inside_tritons_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernel_cache.set_up().parent == tmp_path / ".triton" / "cache"


def test_only_a_cache_above_the_limit_is_emptied(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = filled(kernel_cache.set_up(), 1000)
    monkeypatch.setattr(kernel_cache, "MAX_BYTES", 1000)
    kernel_cache.set_up()
    assert code.exists()
    monkeypatch.setattr(kernel_cache, "MAX_BYTES", 999)
    assert list(kernel_cache.set_up().iterdir()) == []


def test_only_folders_of_other_versions_are_removed(base: Path, tmp_path: Path) -> None:
    old = filled(base / "i2vd-torch-1.0-i2vd-0.0.1", 10)
    foreign = filled(base / "somebody", 10)
    linked = base / "i2vd-torch-linked"
    linked.symlink_to(tmp_path / "elsewhere")
    elsewhere = filled(tmp_path / "elsewhere", 10)
    kernel_cache.set_up()
    assert not old.exists()
    assert foreign.exists()
    assert elsewhere.exists()


def test_folders_beside_a_configured_folder_are_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = filled(tmp_path / "i2vd-outbox", 10)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "i2vd-compiled"))
    assert kernel_cache.set_up().parent == tmp_path / "i2vd-compiled"
    assert clip.exists()


def test_files_that_another_worker_removes_are_no_error(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = filled(kernel_cache.set_up(), 10)
    walk = os.walk

    def racing(folder: Path) -> object:
        for found in walk(folder):
            code.unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", racing)
    assert kernel_cache.set_up().is_dir()


def test_a_read_only_or_full_folder_is_reported(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with disks.tmpfs(base, size="64k"):
        with pytest.raises(OSError, match=f"No space left on device: '{base}/i2vd-torch-"):
            kernel_cache.set_up()
        disks.mount("-o", "remount,ro,size=24m", base)
        with pytest.raises(OSError, match=f"Read-only file system: '{base}/i2vd-torch-"):
            kernel_cache.set_up()
        server._set_up_kernel_cache()
        said = capsys.readouterr().err
        assert said.startswith(
            "kernel cache disabled, each worker recompiles: [Errno 30] Read-only file system: "
        )
        assert said.endswith("; make it writable, or set $TRITON_CACHE_DIR to another folder\n")
