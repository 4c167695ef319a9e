"""`i2vd check`: compiler and headers for the GPU kernels, and the sandbox of pictures."""

import socket
from pathlib import Path

import pytest

from daemon.cli.check import Finding, check
from daemon.config.loader import load
from daemon.fs.lock import Lock


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Python's headers, on a machine with a GPU in its settings and a compiler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2VD_MODEL__DEVICES", '["cuda:0"]')
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcc").touch(0o755)
    folder = tmp_path / "include"
    folder.mkdir()
    monkeypatch.setattr("daemon.cli.check.sysconfig.get_path", lambda _: str(folder))
    (folder / "Python.h").touch()
    return folder


def kernels() -> list[Finding]:
    return [found for found in check(load(None)) if found.what == "kernels"]


def test_with_compiler_and_headers_there_is_no_finding(headers: Path) -> None:
    assert kernels() == []
    (headers.parent / "bin" / "gcc").rename(headers.parent / "bin" / "clang")
    assert kernels() == []


def test_a_missing_compiler_or_header_is_a_warning_with_advice(
    headers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (headers / "Python.h").unlink()
    (found,) = kernels()
    assert found.verdict == "warning"
    assert "no headers of Python, so" in found.detail
    (headers.parent / "bin" / "gcc").unlink()
    (found,) = kernels()
    assert "neither a C compiler nor headers of Python" in found.detail
    assert "apt install gcc python3-dev" in found.detail
    monkeypatch.setenv("CC", "/opt/cc")
    (found,) = kernels()
    assert "C compiler" not in found.detail


def test_without_a_gpu_there_is_no_finding(headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (headers / "Python.h").unlink()
    monkeypatch.setenv("I2VD_MODEL__DEVICES", '["cpu"]')
    assert kernels() == []


def test_webhooks_are_checked_without_telling_their_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("whsec_no base64 at all")
    (tmp_path / "i2vd.toml").write_text(
        '[[webhook]]\nurl = "https://user:pw@hooks.example.com:8443/T0KEN?key=T0KEN"\n'
        '[[webhook]]\nurl = "https://example.org/"\nsecret_file = "secret"\n'
    )
    found = [each for each in check(load(tmp_path / "i2vd.toml")) if each.what == "webhook"]
    assert found[0] == Finding("ok", "webhook", "https://hooks.example.com:8443, not signed")
    assert found[1].verdict == "mistake"
    assert not any("T0KEN" in each.detail or "base64 at" in each.detail for each in found)


def test_a_port_that_is_taken_is_a_warning_unless_the_daemon_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def http() -> Finding:
        return next(found for found in check(load(None)) if found.what == "http")

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("I2VD_HTTP__LISTEN", f"127.0.0.1:{port}")
        assert http().verdict == "warning"
        assert "Address already in use; choose another port" in http().detail
        load(None).state.mkdir()
        with Lock(load(None).state):
            assert http().verdict == "ok"
    assert http().verdict == "ok"


def test_the_sandbox_of_pictures_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = [found for found in check(load(None)) if found.what == "pictures"]
    assert found == Finding("ok", "pictures", "decoded in a sandbox of Landlock and seccomp")


@pytest.mark.parametrize(
    ("code", "verdict", "words"),
    [
        ("sandbox._load_libseccomp = lambda: None", "warning", "libseccomp.so.2 is missing"),
        ("sandbox._LANDLOCK_CREATE_RULESET = 100_000", "warning", "Landlock: function not impl"),
        ("raise SystemExit(7)", "mistake", "exit code 7"),
    ],
)
def test_what_a_kernel_does_not_have_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, verdict: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poor_child.py").write_text(
        f"from pipeline.image import sandbox, server\n{code}\nserver.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("pipeline.children.image_lane._MODULE", "poor_child")
    (found,) = [found for found in check(load(None)) if found.what == "pictures"]
    assert found.verdict == verdict
    assert words in found.detail
