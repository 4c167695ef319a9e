"""Whatever is asked over http, as the API's own description allows it or not: an answer."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.system.conftest import Open
from tests.system.studio import picture

pytestmark = pytest.mark.slow

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


def test_no_request_is_answered_with_an_error_of_ours(quick_in: Open) -> None:
    studio = quick_in(I2VD_HTTP__MAX_UPLOAD="50kB").start()
    for name in ("one.png", "two.png"):
        studio.drop(name, picture())
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "schemathesis", "run",
            f"http://127.0.0.1:{studio.port}/api/openapi.json",
            "--checks", ",".join(CHECKS), "--max-examples", "8", "--seed", "1", "--no-color",
            "--exclude-path", "/api/live", "--exclude-path", "/api/events",  # they never end
            "--mode", "all", "--phases", "examples,coverage,fuzzing",
        ],
        cwd=studio.root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert studio.running
    assert "Traceback" not in studio.log_file.read_text()
