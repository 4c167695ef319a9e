"""Secret files: read a token from the file that a setting names."""

from pathlib import Path

from daemon.config.settings import SettingsError

OPEN_TO_OTHERS = "other machines reach it, and the token crosses the network as it is: use TLS"
_MIN_CHARACTERS = 16


def read_token(file: Path | None, key: str = "http.token_file") -> str | None:
    """Return the token in a file, or None without a file. Raises SettingsError.

    `key` is the name of the setting, for messages.
    """
    if file is None:
        return None
    remedy = f"make one: (umask 077; openssl rand -hex 32 > {file})"
    try:
        token = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise SettingsError(f"{key} {file}: no such file; {remedy}") from None
    except OSError as error:
        raise SettingsError(f"{key} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{key} {file}: not a line of ASCII; {remedy}") from None
    if len(token) < _MIN_CHARACTERS or not token.isprintable() or " " in token:
        raise SettingsError(
            f"{key} {file}: not one word of {_MIN_CHARACTERS} characters or more; {remedy}"
        )
    return token
