"""Load settings: one TOML file plus `I2VD_*` variables, checked as a whole.

Relative paths are relative to the file, or to the working folder without one. All mistakes are
reported at once, each with the most similar known name.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

import pydantic_settings
from pydantic import ValidationError
from pydantic_settings import PydanticBaseSettingsSource

from daemon.config.fields import CHILD_VARIABLES, CONFIG_VARIABLE
from daemon.config.pipe import read_pipe
from daemon.config.settings import ENV_PREFIX, Inbox, Settings, SettingsError, WebhookSettings
from pipeline.request.presets import MICRO
from rules.source import show
from rules.text_file import Unreadable, read_text

DEFAULT_CONFIGS = (Path("i2vd.toml"), Path("/etc/i2vd/i2vd.toml"))


_SECRETS = {"queue", "url", "webhook", "token_file", "secret_file"}
"""Keys whose values may contain a password, and are not shown."""


def find_config(path: Path | None) -> Path | None:
    """Return the settings file: `path`, else `$I2VD_CONFIG`, else the first default that exists."""
    if path is None and (variable := os.environ.get(CONFIG_VARIABLE)):
        path = Path(variable)
    if path is not None:
        return path
    return next((default for default in DEFAULT_CONFIGS if default.is_file()), None)


def load(config: Path | None) -> Settings:
    """Load settings from a file (None: defaults) and the environment; make all paths absolute.

    Raises SettingsError, which lists every mistake.
    """
    content = _read(config) if config else {}
    mistakes = _unknown_variables()
    base = config.resolve().parent if config else Path.cwd()
    try:
        settings = Settings(**content)
        if not mistakes:
            return _Resolved.model_validate(_absolute(settings, base).model_dump())
    except ValidationError as error:
        mistakes += [_explain(each) for each in error.errors()]
    except pydantic_settings.SettingsError as error:
        mistakes.append(f"{error}; in a variable a list or a table is written as JSON")
    except RecursionError:
        mistakes.append("a value is nested too deeply")
    where = str(config) if config else "the settings"
    raise SettingsError("\n".join(f"{where}: {mistake}" for mistake in mistakes))


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read_text(config))
    except FileNotFoundError:
        raise SettingsError(f"{config}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{config}: {error.strerror}") from None
    except Unreadable as error:
        raise SettingsError(f"{config}: {error}") from None
    except RecursionError:
        raise SettingsError(f"{config}: is nested too deeply") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number that Python refuses
        reason = "a number has too many digits" if "string conversion" in str(error) else error
        raise SettingsError(f"{config}: not TOML: {reason}") from None


class _Resolved(Settings):
    """Settings that are checked once more, and no longer overridden by the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **_others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the values as they are given."""
        return (init_settings,)


def _read_text(config: Path) -> str:
    return read_pipe(config) if config.is_fifo() else read_text(config)


def _absolute(settings: Settings, base: Path) -> Settings:
    inboxes = tuple(
        inbox.model_copy(
            update={
                role: _resolve_path(base, getattr(inbox, role))
                for role in ("path", "outbox", "rules", "archive", "failed")
            }
        )
        for inbox in settings.inbox
    )
    model = settings.model
    if model.name != MICRO and (base / model.name).is_dir():
        model = model.model_copy(update={"name": str(_resolve_path(base, Path(model.name)))})
    http = settings.http
    if http.token_file is not None:
        http = http.model_copy(update={"token_file": _resolve_path(base, http.token_file)})
    return settings.model_copy(
        update={
            "state": _resolve_path(base, settings.state),
            "inbox": inboxes,
            "model": model,
            "http": http,
            "webhook": tuple(
                webhook.model_copy(update={"secret_file": _resolve_path(base, webhook.secret_file)})
                if webhook.secret_file
                else webhook
                for webhook in settings.webhook
            ),
        }
    )


def _resolve_path(base: Path, path: Path) -> Path:
    return Path(os.path.normpath(base / path.expanduser()))


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the section at `path` may have."""
    section: Any = Settings
    for step in path:
        if isinstance(step, int):
            continue
        lists = {"inbox": Inbox, "webhook": WebhookSettings}
        section = lists.get(step) or section.model_fields[step].annotation
    return list(section.model_fields)


def _explain(error: Any) -> str:
    path, key = error["loc"][:-1], str(error["loc"][-1]) if error["loc"] else ""
    dotted = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(path)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {show(repr(dotted))}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not dotted:
        return str(message)
    if _SECRETS.intersection(error["loc"]):
        return f"{show(dotted)}: {message}"
    return f"{show(dotted)}: {message} (given: {_show_value(error['input'])})"


def _show_value(value: object) -> str:
    try:
        return show(repr(value))
    except ValueError:  # Python refuses to write out a number of thousands of digits
        return "a number of thousands of digits"


def _unknown_variables() -> list[str]:
    """Report unknown variables; pydantic would ignore a mistyped one silently."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {
        f"{ENV_PREFIX}{name.upper()}__{key.upper()}"
        for name in ("queue", "model", "quality", "http", "log")
        for key in _known_keys((name,))
    }
    mistakes = []
    for variable in os.environ:
        if not variable.startswith(ENV_PREFIX) or variable in CHILD_VARIABLES | known:
            continue
        near = difflib.get_close_matches(variable, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
        mistakes.append(f"unknown variable {show(variable)}; {hint}")
    return mistakes
