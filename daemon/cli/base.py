"""Shared by all commands: the Typer app, the exit codes, and reading the settings."""

from enum import IntEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from daemon.config.loader import find_config, load
from daemon.config.settings import Settings, SettingsError
from daemon.telemetry import logs

app = typer.Typer(
    help="Turns pictures into short videos: drop one into the inbox, find the clip in the outbox.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; else $I2VD_CONFIG, ./i2vd.toml, /etc/i2vd/i2vd.toml."),
]


class Exit(IntEnum):
    """Exit codes."""

    FAILED = 1
    """The command failed."""
    MISTAKE = 2
    """Settings, rules or arguments are wrong."""
    NO_DAEMON = 3
    """The command needs a running daemon, and none responds."""
    BUSY = 4
    """Another daemon uses the same state folder or port."""


def fail(code: Exit, message: str) -> NoReturn:
    """End the command with a message on stderr."""
    logs.write_line(f"i2vd: {message}")
    raise typer.Exit(code)


def utf8(text: str | None) -> str | None:
    """Refuse an option that is not UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not UTF-8 text") from None
    return text


def load_settings(config: Path | None, *, quiet: bool = True) -> Settings:
    """Return the settings, or end the command with a list of all mistakes.

    `quiet`: log errors only, for commands that print for a person.
    """
    try:
        settings = load(find_config(config))
    except SettingsError as error:
        fail(Exit.MISTAKE, str(error))
    logs.configure(settings.log.model_copy(update={"level": "error"}) if quiet else settings.log)
    return settings
