"""What a library logs in the daemon's process."""

import json
import subprocess
import sys

_CODE = """
import logging
from daemon.telemetry import logs
from daemon.config.settings import Log
logs.configure(Log())
logging.getLogger("some.library").warning("half of %s, 50 %%", "it")
logging.getLogger("some.library").warning("too few: %s %s", "one")
print("still alive")
"""


def test_a_warning_of_a_library_is_a_line_like_ours_and_never_an_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=60
    )
    line = json.loads(ended.stderr.splitlines()[0])
    assert (line["logger"], line["event"]) == ("some.library", "half of it, 50 %")
    assert line["level"] == "warning"
    assert ended.stdout == "still alive\n"
