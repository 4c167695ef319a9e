"""Secret files: the token that callers of the API must show, in a file of its own."""

from pathlib import Path

from daemon.config.settings import SettingsError

OPEN_TO_OTHERS = "other machines reach it, and the token crosses the network as it is: use TLS"
_SHORTEST = 16


def read_token(file: Path | None, key: str = "http.token_file") -> str | None:
    """The token in a file that the setting `key` names, None without one. Raises SettingsError."""
    if file is None:
        return None
    how = f"make one: (umask 077; openssl rand -hex 32 > {file})"
    try:
        token = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise SettingsError(f"{key} {file}: no such file; {how}") from None
    except OSError as error:
        raise SettingsError(f"{key} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{key} {file}: not a line of ASCII; {how}") from None
    if len(token) < _SHORTEST or not token.isprintable() or " " in token:
        raise SettingsError(f"{key} {file}: not one word of {_SHORTEST} characters or more; {how}")
    return token
