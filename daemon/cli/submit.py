"""`i2vd submit`: copy pictures into an inbox; the daemon need not run."""

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from daemon.cli.base import Config, Exit, app, fail, load_settings, utf8
from daemon.cli.paths import shown
from daemon.config.settings import Inbox, Settings
from daemon.intake.submit import InvalidFileName, copy_in, picture_name, prompt_override, read_head
from rules.characters import escape_unsafe
from rules.rule import RuleSet
from rules.text_file import open_regular


@app.command()
def submit(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures to copy into the inbox.")],
    inbox: Annotated[
        str | None, typer.Option(help="Name of the inbox; default: the first.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt in place of the rule's.", callback=utf8)
    ] = None,
    config: Config = None,
) -> None:
    """Copy pictures into an inbox, each one atomically."""
    settings = load_settings(config)
    target = settings.inbox[0] if inbox is None else settings.inbox_named(inbox)
    if target is None:
        names = ", ".join(each.name for each in settings.inbox)
        fail(Exit.MISTAKE, f"there is no inbox {inbox!r}; known: {names}")
    named: list[tuple[Path, str]] = []
    for picture in pictures:
        try:
            with os.fdopen(open_regular(picture, follow=True), "rb") as content:
                named.append((picture, picture_name(picture.name, read_head(content))))
        except InvalidFileName as error:
            fail(Exit.MISTAKE, str(error))
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            fail(Exit.MISTAKE, f"{shown(picture)}: {reason}")
    if prompt is not None and target.overrides == "none":
        fail(Exit.MISTAKE, f'inbox {target.name}: overrides = "none", so it takes no prompt')
    if missing := _missing_volume(settings, target):
        fail(Exit.FAILED, missing)
    target.path.mkdir(parents=True, exist_ok=True)
    override = None if prompt is None else prompt_override(prompt)
    rules = _load_rules(settings, target)
    for picture, name in named:
        with os.fdopen(open_regular(picture, follow=True), "rb") as content:
            copied = copy_in(content, name, target.path, override)
        typer.echo(copied)
        for warning in rules.warn_unmatched(PurePosixPath(copied.name)) if rules else ():
            typer.echo(f"warning: {escape_unsafe(copied.name)}: {warning}", err=True)


def _missing_volume(settings: Settings, inbox: Inbox) -> str | None:
    """Return why the inbox is not the one that the queue knows, such as a share that is away.

    None also where the queue cannot be asked, as by a user who may only write to the inbox.
    """
    from daemon.jobs.database import Database, DatabaseUnusable, QueueUnavailable
    from daemon.storage.volumes import VolumeMarkers

    if settings.queue_file and not settings.queue_file.is_file():
        return None
    try:
        with contextlib.closing(Database(settings.queue_url)) as database:
            return VolumeMarkers(settings, database).problem(inbox, "path")
    except (DatabaseUnusable, QueueUnavailable):
        return None


def _load_rules(settings: Settings, inbox: Inbox) -> RuleSet | None:
    """Return the rules of an inbox as their files are now; None if they have mistakes."""
    from daemon.intake.intake import checker
    from pipeline.request.presets import family_of
    from rules.live import LiveRules

    live = LiveRules(inbox.rules, checker(family_of(settings.model.name)))
    return live.rules if live.reload(0.0).ok else None
