"""Secret files: read a token from the file that a setting names."""

import shlex
from pathlib import Path

from daemon.config.settings import SettingsError
from rules.characters import has_unsafe
from rules.text_file import Unreadable, read_text

OPEN_TO_OTHERS = "other machines reach it, and the token crosses the network as it is: use TLS"
_MIN_CHARACTERS = 16
_MAX_BYTES = 4096


def read_token(file: Path | None, key: str = "http.token_file") -> str | None:
    """Return the token in a file, or None without a file. Raises SettingsError.

    `key` is the name of the setting, for messages.
    """
    if file is None:
        return None
    remedy = f"make one: (umask 077; openssl rand -hex 32 > {shlex.quote(str(file))})"
    try:
        token = read_text(file, max_bytes=_MAX_BYTES).strip()
    except FileNotFoundError:
        raise SettingsError(f"{key} {file}: no such file; {remedy}") from None
    except Unreadable as error:
        raise SettingsError(f"{key} {file}: not a token: it {error}; {remedy}") from None
    if not token.isascii():
        raise SettingsError(f"{key} {file}: not a line of ASCII; {remedy}")
    if len(token) < _MIN_CHARACTERS or has_unsafe(token) or " " in token:
        raise SettingsError(
            f"{key} {file}: not one word of {_MIN_CHARACTERS} characters or more; {remedy}"
        )
    return token
