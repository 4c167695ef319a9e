"""Errors of the image child: the file's fault, or the place's."""

CUT = "the end of the picture is missing; was it still being copied?"
EMPTY = "a part of the picture is only zeros; was it still being copied?"
"""Copy programs set a file's size first and fill it later: Explorer over SMB, aria2, fallocate."""
DAMAGED = "the picture is damaged inside; copy or export it again"


class ImageRejected(Exception):
    """Rejected file; the message is a sentence for the user.

    `gone`: the file vanished or changed. `incomplete`: it may still be being copied.
    """

    def __init__(self, reason: str, *, gone: bool = False, incomplete: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
        self.incomplete = incomplete


class Incomplete(ImageRejected):
    """Picture that is not whole, or not yet: `reason` is one of the three sentences above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, incomplete=True)


def unsupported(format_name: str, kind: str) -> ImageRejected:
    """Return the refusal of a rare kind of a format. A half copy may look like one."""
    return ImageRejected(
        f"it is a {format_name} of a rare kind ({kind}), which is not supported; "
        "export it as JPEG or PNG",
        incomplete=True,
    )


class SourceUnavailable(Exception):
    """File that cannot be read now, for a reason of the place; the message is a sentence."""
