"""The token file: what is accepted."""

from pathlib import Path

import pytest

from daemon.config.secret_file import read_token
from daemon.config.settings import SettingsError

TOKEN = "0123456789abcdef"


def test_a_token_is_one_word_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    assert read_token(None) is None


@pytest.mark.parametrize("content", [b"", b"short", b"two words of a token", b"\xff" * 32, b"\n"])
def test_what_is_no_token_is_refused_with_the_way_to_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"token: not .*openssl rand"):
        read_token(file)


def test_a_missing_token_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no such file; make one"):
        read_token(tmp_path / "token")
    with pytest.raises(SettingsError, match=r"is not a regular file"):
        read_token(tmp_path)
