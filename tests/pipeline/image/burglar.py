"""The real picture child, taken over by its first picture.

`python -m tests.pipeline.image.burglar`. Inspect starts a program, Prepare computes for ever.
"""

import os
import sys

from pipeline.children.protocol import Inspect, Prepare
from pipeline.image import server


def break_out(_: Inspect | Prepare, *__: int) -> None:
    os.execv("/bin/sh", ["sh", "-c", "true"])


def spin(*_: object) -> None:
    while True:
        pass


if __name__ == "__main__":
    server.inspect = break_out
    server.prepare = spin
    sys.exit(server.main())
