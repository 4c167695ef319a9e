"""Errors of the image child: the file's fault, or the place's."""


class ImageRejected(Exception):
    """Rejected file; the message is a sentence for the user.

    `gone`: the file vanished or changed. `incomplete`: it may still be being copied.
    """

    def __init__(self, reason: str, *, gone: bool = False, incomplete: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
        self.incomplete = incomplete


class SourceUnavailable(Exception):
    """File that cannot be read now, for a reason of the place; the message is a sentence."""
