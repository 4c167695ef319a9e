"""Obstacle: what keeps a job from starting, found before its attempt costs anything."""

import errno
import os

from daemon.config.settings import Inbox
from daemon.jobs.job import Job
from daemon.publish.picture_location import open_below
from daemon.publish.publisher import check_clip_folder
from rules.text_file import NotRegular

_READ_BYTES = 64 * 1024


def check_startable(inbox: Inbox, job: Job) -> None:
    """Check that the picture can be read and that the clip's folder takes files. Raises OSError.

    A picture that is gone or replaced is no obstacle: its job is cancelled when it starts.
    """
    check_clip_folder(inbox.outbox, job.clip_name)
    path = inbox.path / job.path
    try:
        picture = open_below(inbox.path, path)
    except (ValueError, FileNotFoundError, NotADirectoryError, NotRegular):
        return
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link in its place
            return
        raise
    try:
        os.read(picture, _READ_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(picture)
