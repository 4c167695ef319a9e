"""Uploads: a picture sent over http is a drop into an inbox, with limits."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.system.conftest import Open
from tests.system.studio import Studio, names, picture

pytestmark = pytest.mark.slow


@pytest.fixture
def studio(quick_in: Open) -> Studio:
    return quick_in(I2VD_HTTP__MAX_UPLOAD="1MB").start()


def send(
    studio: Studio, name: str, content: bytes, headers: dict[str, str] | None = None, **form: Any
) -> httpx2.Response:
    return httpx2.post(
        f"http://127.0.0.1:{studio.port}/api/jobs",
        files={"picture": (name, content)},
        data=form,
        headers=headers,
        timeout=30,
        trust_env=False,
    )


def test_an_upload_becomes_a_clip_as_it_asks(studio: Studio) -> None:
    make = {"prompt": "film", "seed": 7, "priority": 3}
    answer = send(studio, "my cat.png", picture(1), make=json.dumps(make), inbox="inbox")
    assert answer.status_code == 202
    assert answer.json() == {"inbox": "inbox", "path": "my cat.png", "warnings": []}
    studio.until_settled("my cat.png", "done")
    (job,) = studio.get("/api/jobs", inbox="inbox", path="my cat.png")
    assert (job["state"], job["priority"]) == ("done", 3)
    assert (job["spec"]["prompt"], job["spec"]["seed"]) == (make["prompt"], 7)
    assert studio.get("/api/jobs", text="FIL")[0]["id"] == job["id"]
    assert studio.get("/api/jobs", text="fi_m") == []
    assert studio.get("/api/jobs", text="MY C")[0]["id"] == job["id"]
    assert studio.get("/api/jobs", until=job["created"]) == []


def test_the_same_key_twice_is_one_clip(studio: Studio) -> None:
    key = {"Idempotency-Key": "order-17"}
    answers = [send(studio, "cat.png", picture(2), key) for _ in range(3)]
    assert {answer.json()["path"] for answer in answers} == {"cat.png"}
    studio.until_settled("cat.png", "done")
    assert send(studio, "cat.png", picture(2), key).json()["path"] == "cat.png"
    assert len(studio.jobs()) == 1
    other = send(studio, "cat.png", picture(3), key)
    assert other.status_code == 422
    assert "used for another request" in other.json()["detail"]


def test_a_picture_in_the_inbox_is_taken_as_it_is_asked_by_its_path(quick_in: Open) -> None:
    studio = quick_in()
    slow = studio.config.read_text().replace("scan_interval = 0.2", "scan_interval = 600")
    studio.settings(slow.replace("stability_delay = 0.2", "stability_delay = 2.0"))
    studio.start()
    url, key = f"http://127.0.0.1:{studio.port}/api/jobs", {"Idempotency-Key": "order-18"}

    def ask(path: str, headers: dict[str, str] | None = None, **form: Any) -> httpx2.Response:
        data = {"path": path} | form
        return httpx2.post(url, data=data, headers=headers, timeout=30, trust_env=False)

    studio.drop("by/path.png", picture(7))
    make = json.dumps({"prompt": "film", "seed": 9})
    for _ in range(2):
        answer = ask("by/path.png", key, make=make)
        assert answer.status_code == 202, answer.text
        assert answer.json() == {"inbox": "inbox", "path": "by/path.png", "warnings": []}
    other = ask("by/path.png", make=json.dumps({"seed": 8}))
    assert (other.status_code, "another sidecar" in other.json()["detail"]) == (409, True)
    (job,) = studio.until_settled("by/path.png", "done")
    assert job["spec"]["seed"] == 9
    assert ask("by/path.png", key, make=make).status_code == 202
    assert len(studio.jobs()) == 1
    assert ask("by/path.png").status_code == 404
    for wrong in ("../secret.png", "/etc/secret.png", ".hidden/cat.png", "cat.exe"):
        assert ask(wrong).status_code == 422, wrong
    (studio.inbox / "link.png").symlink_to(studio.archive / "by/path.png")
    assert ask("link.png").status_code == 404
    both = httpx2.post(url, data={"path": "a.png"}, files={"picture": ("a.png", b"")}, timeout=30)
    assert both.status_code == 422


@pytest.mark.parametrize(
    ("name", "form", "says"),
    [
        ("cat.exe", {}, "a picture's name ends in one of"),
        ("..", {}, "a picture's name ends in one of"),
        ("cat.png", {"inbox": "other"}, "there is no inbox 'other'; known: inbox"),
        ("cat.png", {"make": "{"}, "make: not JSON"),
        ("cat.png", {"make": "[" * 100_000}, "make: not JSON"),
        ("cat.png", {"make": "[]"}, "make: must be an object"),
        ("cat.png", {"make": '{"steps": 1}'}, "allowed: 10 to 100"),
        ("cat.png", {"make": '{"stops": 20}'}, "unknown key"),
        ("cat.png", {"make": '{"prompt": null}'}, "make"),
        ("cat.png", {"make": '{"prompt": "\\ud800"}'}, "make"),
        ("cat.png", {"prompt": "zoom in"}, "there is no form field 'prompt'"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_dropped(
    quick: Studio, name: str, form: dict[str, str], says: str
) -> None:
    before = sorted(quick.inbox.rglob("*"))
    answer = send(quick, name, picture(4), **form)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert sorted(quick.inbox.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "form", "path"),
    [("image", "JPEG", "image.jpg"), ("blob", "PNG", "blob.png"),
     ("at 4.42.48", "PNG", "at 4.42.48.png"),
     ("4.42.48\u202fPM.png", "PNG", "4.42.48\u202fPM.png"),
     ("می\u200cخواهم.png", "PNG", "می\u200cخواهم.png")],
)  # fmt: skip
def test_any_name_is_taken_with_the_ending_of_its_content(
    quick: Studio, name: str, form: str, path: str
) -> None:
    answer = send(quick, name, picture(11, form=form))
    assert (answer.status_code, answer.json()["path"]) == (202, path), answer.text
    quick.until_settled(path, "done")
    assert quick.get("/api/jobs", path=path)[0]["path"] == path


@pytest.mark.parametrize(
    ("disposition", "status", "says"),
    [
        ('filename=""', 202, '"picture.png"'),
        ('filename="C:\\\\pictures\\\\blob"', 202, '"blob.png"'),
        ("filename=-", 202, '"-.png"'),
        ("", 422, "send it with a file name"),
    ],
)
def test_a_form_without_a_name_is_taken_or_told_what_is_missing(
    studio: Studio, disposition: str, status: int, says: str
) -> None:
    parts = ["form-data", 'name="picture"', *filter(None, [disposition])]
    head = f"--x\r\nContent-Disposition: {'; '.join(parts)}\r\n\r\n".encode()
    answer = httpx2.post(
        f"http://127.0.0.1:{studio.port}/api/jobs", content=head + picture(13) + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"}, trust_env=False,
    )  # fmt: skip
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nested_settings_are_refused_at_any_depth(quick: Studio, opening: str) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    for depth in (2, 50, 300, 500, 700, 900, 990, 1000, 5000, 10_000):
        make = f'{{"prompt": {opening * depth}1{closing * depth}}}'
        answer = send(quick, "deep.png", picture(4), make=make)
        assert answer.status_code == 422, (depth, answer.text)
        body = f'{{"make": {make}}}'
        explained = httpx2.post(
            f"http://127.0.0.1:{quick.port}/api/explain", content=body, timeout=30, trust_env=False,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert explained.status_code in (200, 400, 422), (depth, explained.text)
    assert "Traceback" not in quick.log_file.read_text()


def test_no_name_leads_out_of_the_inbox(studio: Studio) -> None:
    answer = send(studio, "../../outside.png", picture(5))
    assert answer.json()["path"] == "outside.png"
    assert not list(studio.root.parent.glob("outside*"))


def test_an_upload_over_the_limit_is_cut_off(studio: Studio) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        while True:
            sent += 1 << 16
            yield b"\0" * (1 << 16)

    url = f"http://127.0.0.1:{studio.port}/api/jobs"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx2.post(url, content=endless(), headers=form, timeout=30, trust_env=False)
        assert answer.status_code == 413
    except httpx2.WriteError:  # the connection is closed while we still send
        pass
    assert 1_000_000 < sent < 20_000_000
    refused = send(studio, "a.png", b"\0" * 2_000_000)
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert "more than the 1,065,536 bytes it may have" in refused.json()["detail"]
    assert "content-security-policy" in refused.headers
    assert names(studio.inbox) == []
    assert send(studio, "a.png", picture(6)).status_code == 202


def test_a_full_inbox_refuses_uploads_and_says_why(quick_in: Open) -> None:
    studio = quick_in(min_free="900TB").start(ready=False)
    studio.until(lambda: not studio.is_ready() and studio.is_alive(), "it lacks room")
    answer = send(studio, "cat.png", picture(7))
    assert answer.status_code == 507
    assert "min_free" in answer.json()["detail"]
    assert names(studio.inbox) == []


def test_what_a_prompt_says_beyond_77_tokens_is_told_before_and_after(shared: Studio) -> None:
    prompt = "cat " * 75 + "and a dog that waits"
    body = {"make": {"prompt": prompt}}
    url = f"http://127.0.0.1:{shared.port}/api/explain"
    expected = httpx2.post(url, json=body, timeout=30, trust_env=False).json()
    assert expected["unread"] == {"prompt": "and a dog that waits"}
    assert any("77 tokens" in warning for warning in expected["warnings"])
    send(shared, "long.png", picture(12), make=json.dumps({"prompt": prompt, "size": 32}))
    (job,) = shared.until_settled("long.png", "done")
    assert job["result"]["unread"] == {"prompt": "and a dog that waits"}
    assert shared.sidecar("long.mp4")["unread"] == {"prompt": "and a dog that waits"}
    told = shared.command("explain", shared.archive / "long.png")
    assert "and a dog that waits" in told.stdout
