"""What a request may hold: form fields, keys and ranges; all errors are problem details."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, File, Form, Query, UploadFile
from fastapi.testclient import TestClient

from daemon.web.clips import _PublishedResponse
from daemon.web.errors import PROBLEM_MEDIA_TYPE, add_error_handlers
from daemon.web.jobs import JobPage, Priority
from daemon.web.upload_form import check_fields

calls: list[str] = []
"""The names of the functions that read a clip, in threads of its inbox."""


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    calls.append(call.__name__)
    return call(*arguments)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    (tmp_path / "clip.mp4").write_bytes(bytes(range(100)))
    api = FastAPI()
    add_error_handlers(api)

    @api.post("/upload", dependencies=[Depends(check_fields)])
    def upload(
        picture: Annotated[UploadFile | None, File()] = None,
        make: Annotated[str, Form()] = "",
    ) -> str:
        return f"{picture.filename if picture else None} {make}"

    @api.post("/priority")
    def prioritise(body: Priority) -> int:
        return body.priority

    @api.get("/jobs")
    def page(page: Annotated[JobPage, Query()]) -> int:
        return page.limit

    @api.get("/clip")
    def clip() -> _PublishedResponse:
        file = (tmp_path / "clip.mp4").open("rb")
        status = os.fstat(file.fileno())
        return _PublishedResponse(
            file, in_thread, stat_result=status, filename="clip.mp4", media_type="video/mp4"
        )

    return TestClient(api)


def problem(answer: Any) -> str:
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert answer.json()["status"] == answer.status_code
    return str(answer.json()["detail"])


def test_a_form_field_is_known_and_comes_once(client: TestClient) -> None:
    one = ("picture", ("a.png", b"a"))
    assert client.post("/upload", files=[one], data={"make": "{}"}).json() == "a.png {}"
    assert client.post("/upload", files=[]).status_code == 200
    for form, says in (
        ({"files": [one, ("picture", ("b.png", b"b"))]}, "2 fields 'picture'; send one picture"),
        ({"files": [one], "data": {"make": ["{}", "{}"]}}, "2 fields 'make'"),
        ({"files": [one], "data": {"prompt": "x"}}, "no form field 'prompt'; known: picture, "),
        ({"files": [one, ("image", ("b.png", b"b"))]}, "no form field 'image'"),
        ({"data": {"evil\x1b[31m": "x"}}, r"no form field 'evil\x1b[31m'"),
    ):
        answer = client.post("/upload", **form)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert says in problem(answer)


def test_a_misspelt_key_is_told(client: TestClient) -> None:
    assert client.post("/priority", json={"priority": 3}).json() == 3
    for answer in (
        client.post("/priority", json={"priority": 3, "Priority": 4}),
        client.get("/jobs", params={"stat": "failed"}),
    ):
        assert answer.status_code == 422
        assert "there is no such key" in problem(answer)


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=100-", 416), ("bytes=5-2", 400), ("bytes=x-y", 400), ("bytes=", 400),
     ("bytes=0-9,200-", 416)],
)  # fmt: skip
def test_a_range_that_cannot_be_had_is_a_problem(
    client: TestClient, asked: str, status: int
) -> None:
    answer = client.get("/clip", headers={"range": asked})
    assert answer.status_code == status
    assert "Range header" in problem(answer)
    assert answer.headers.get("content-range") == ("bytes */100" if status == 416 else None)


@pytest.mark.parametrize(
    ("asked", "status", "length"),
    [("bytes=10-19", 206, 10), ("bytes=-5", 206, 5), ("rows=1-2", 200, 100), ("rows", 200, 100)],
)
def test_a_range_is_served_and_an_unknown_unit_ignored(
    client: TestClient, asked: str, status: int, length: int
) -> None:
    calls.clear()
    answer = client.get("/clip", headers={"range": asked})
    assert (answer.status_code, len(answer.content)) == (status, length)
    assert "read" in calls, "a share that hangs must not hold the threads of others"
