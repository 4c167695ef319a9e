"""The API at work: clips, small pictures, priorities, what would be made, and live status."""

import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from daemon.publish.posters import POSTERS
from tests.system.conftest import Open, quick_studio
from tests.system.needs import needs
from tests.system.studio import ROOT, Studio, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon with a stand-in for the worker, for all tests here; each drops names of its own."""
    root = tmp_path_factory.mktemp("api")
    studio = quick_studio(root)
    studio.rule("10-tall", '[match]\norientation = "portrait"\n\n[make]\nprompt = "film"\n')
    yield studio.start()
    studio.close()


@pytest.fixture(scope="module")
def done(studio: Studio) -> dict[str, Any]:
    """A job whose clip is published."""
    studio.drop("tall.png", picture(1, (64, 96)))
    return studio.until_settled("tall.png", "done")[0]


def ask(studio: Studio, method: str, path: str, **options: Any) -> httpx2.Response:
    url = f"http://127.0.0.1:{studio.port}{path}"
    return httpx2.request(method, url, timeout=30, trust_env=False, **options)


def test_the_table_of_calls_is_the_api(studio: Studio) -> None:
    readme = (ROOT / "daemon/README.md").read_text()
    table = re.findall(r"^\| (`(?:GET|POST) /.*?) \| (.*) \|$", readme, re.MULTILINE)
    told = {
        call.partition("?")[0].replace("/NAME", "/{host}").replace("/N", "/{job}")
        for calls, _ in table
        for call in re.findall(r"`([A-Z]+ [^`]+)`", calls)
    }
    document = studio.get("/api/openapi.json")
    there = document["paths"].items()
    assert told == {f"{method.upper()} {path}" for path, methods in there for method in methods}
    (dropping,) = (does for calls, does in table if calls == "`POST /api/jobs`")
    form = document["paths"]["/api/jobs"]["post"]["requestBody"]["content"]
    name = form["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    assert {"picture", "path"} <= fields.keys() <= set(re.findall(r"`(\w+)`", dropping))


def test_a_clip_is_served_whole_and_in_parts(studio: Studio, done: dict[str, Any]) -> None:
    file = (studio.outbox / "tall.mp4").read_bytes()
    path = f"/api/jobs/{done['id']}/clip"
    whole = ask(studio, "GET", path)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.content == file
    assert 'inline; filename="tall.mp4"' in whole.headers["content-disposition"]
    part = ask(studio, "GET", path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, file[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(file)}"
    beyond = ask(studio, "GET", path, headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-type"] == "application/problem+json"
    assert ask(studio, "GET", f"/api/jobs/{done['id']}/sidecar").json()["job"] == str(done["id"])


def test_no_descriptor_stays_open(studio: Studio, done: dict[str, Any]) -> None:
    def held() -> int:
        return len(list(Path(f"/proc/{studio.pid}/fd").iterdir()))

    before = held()
    for _ in range(30):
        with httpx2.stream(
            "GET", f"http://127.0.0.1:{studio.port}/api/jobs/{done['id']}/clip", trust_env=False
        ):
            pass  # the caller hangs up
    studio.until(lambda: held() <= before + 2, "all are closed")


@pytest.mark.parametrize("what", ["link", "folder link", "fifo", "folder", "gone"])
def test_nothing_but_a_plain_file_of_the_outbox_is_served(studio: Studio, what: str) -> None:
    name = f"{what.replace(' ', '-')}"
    studio.drop(f"{name}/cat.png", picture(2))
    (job,) = studio.until_settled(f"{name}/cat.png", "done")
    clip = studio.outbox / name / "cat.mp4"
    secret = studio.root / "secret"
    secret.mkdir(exist_ok=True)
    (secret / "cat.mp4").write_text("secret")
    if what == "folder link":
        clip.parent.rename(studio.root / f"{name}-moved")
        clip.parent.symlink_to(secret)
    else:
        clip.unlink()
    if what == "link":
        clip.symlink_to(secret / "cat.mp4")
    elif what == "fifo":
        os.mkfifo(clip)
    elif what == "folder":
        clip.mkdir()
    answer = ask(studio, "GET", f"/api/jobs/{job['id']}/clip")
    assert answer.status_code == 404
    assert "is not in the outbox any more" in answer.json()["detail"]


def test_a_job_has_a_small_picture_wherever_its_picture_is(
    studio: Studio, done: dict[str, Any]
) -> None:
    answer = ask(studio, "GET", f"/api/jobs/{done['id']}/picture")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (128, 192)
    next(studio.archive.rglob("tall.png")).unlink()
    assert ask(studio, "GET", f"/api/jobs/{done['id']}/picture").status_code == 404
    assert not list((studio.root / ".i2vd").glob("small-*"))


def test_a_clip_has_a_poster_where_the_worker_left_one(
    studio: Studio, done: dict[str, Any]
) -> None:
    make = json.dumps({"prompt": "posed"})
    files = {"picture": ("posed.png", picture(3))}
    assert ask(studio, "POST", "/api/jobs", files=files, data={"make": make}).status_code == 202
    (job,) = studio.until_settled("posed.png", "done")
    assert (job["result"]["poster"], done["result"]["poster"]) == (True, False)
    answer = ask(studio, "GET", f"/api/jobs/{job['id']}/poster")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == (48, 48)
    assert ask(studio, "GET", f"/api/jobs/{done['id']}/poster").status_code == 404
    assert [*studio.outbox.rglob("*.jpg")] == [studio.outbox / POSTERS / f"{job['id']}.jpg"]
    assert studio.staging() == []


def test_jobs_that_do_not_exist_or_have_no_clip_are_told(studio: Studio) -> None:
    for path in ("/api/jobs/999999", "/api/jobs/999999/clip", "/api/jobs/999999/picture"):
        answer = ask(studio, "GET", path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "title": "Not Found", "status": 404, "detail": "there is no job 999999"
        }  # fmt: skip


def test_a_waiting_job_is_made_sooner(studio: Studio) -> None:
    assert ask(studio, "POST", "/api/pause").json()["paused"] is True
    try:
        for number, name in enumerate(("first.png", "second.png")):
            studio.drop(name, picture(10 + number))
            studio.until_state(name, "queued")
        second = studio.jobs("second.png")[0]["id"]
        path = f"/api/jobs/{second}/priority"
        assert ask(studio, "POST", path, json={"priority": 9}).json()["priority"] == 9
        assert ask(studio, "POST", path, json={"priority": 101}).status_code == 422
    finally:
        ask(studio, "POST", "/api/resume")
    studio.until_settled("first.png", "done")
    (first,), (sooner,) = studio.jobs("first.png"), studio.jobs("second.png")
    assert sooner["started"] < first["started"]
    refused = ask(studio, "POST", path, json={"priority": 1})
    assert (refused.status_code, refused.json()["detail"]) == (
        409, f"job {second} is done, not waiting"
    )  # fmt: skip


def test_what_would_be_made_is_told_without_a_picture(studio: Studio, done: dict[str, Any]) -> None:
    def explain(**question: Any) -> Any:
        answer = ask(studio, "POST", "/api/explain", json=question)
        assert answer.status_code == 200, answer.text
        return answer.json()

    tall = explain(width=300, height=400)
    assert tall["rule"] == "10-tall"
    assert tall["specs"][0]["preset"] == "standard"
    assert tall["kept"] == 0.75
    assert tall["estimate"]["bytes"] > 10_000_000
    assert tall["estimate"]["seconds"] is not None, "one of the preset was made"
    wide = explain(width=400, height=300, make={"prompt": "a beautiful cat", "frames": 12})
    assert wide["rule"] == "90-default"
    assert wide["rejected_by"] == [["10-tall", "it is landscape (400x300), not portrait"]]
    assert (wide["specs"][0]["frames"], wide["specs"][0]["prompt"]) == (12, "a beautiful cat")
    assert "'beautiful' says nothing about motion" in wide["warnings"][0]
    fast = explain(make={"speed": "fast", "steps": 40})
    assert (fast["specs"][0]["steps"], fast["estimate"]["steps"]) == (40, 20)
    wrong = explain(make={"frames": 99})
    assert wrong["specs"] == []
    assert "allowed: 8 to 32" in wrong["mistakes"][0]
    assert ask(studio, "POST", "/api/explain", json={"inbox": "x"}).status_code == 422
    large = ask(studio, "POST", "/api/explain", json={"caption": "x" * 100_000})
    assert large.status_code == 413


def test_the_presets_and_what_may_be_asked_are_told(studio: Studio) -> None:
    told = studio.get("/api/presets")
    standard = told["presets"]["standard"]
    assert (standard["frames"], standard["guidance"], standard["speed"]) == (16, 1.0, "exact")
    assert told["settings"]["properties"]["steps"]["anyOf"][0]["maximum"] == 100
    assert {row["mode"] for row in told["needs"]} >= {"resident", "chunked", "offload"}


def test_status_is_told_as_it_changes(studio: Studio) -> None:
    url = f"http://127.0.0.1:{studio.port}/api/live"
    seen: list[dict[str, Any]] = []
    with httpx2.stream("GET", url, timeout=30, trust_env=False) as answer:
        for event in httpx2.EventSource(answer):
            assert event.event == "status"
            seen.append(json.loads(event.data))
            if len(seen) == 1:
                ask(studio, "POST", "/api/pause")
            elif seen[-1]["paused"]:
                break
    ask(studio, "POST", "/api/resume")
    assert seen[0]["paused"] is False


def test_each_change_of_a_jobs_state_is_told_once(studio: Studio) -> None:
    url = f"http://127.0.0.1:{studio.port}/api/events"

    def heard(count: int, act: Any = None, **asked: Any) -> list[dict[str, Any]]:
        """So many events; `act` once there is an answer."""
        changes: list[dict[str, Any]] = []
        with httpx2.stream("GET", url, timeout=30, trust_env=False, **asked) as answer:
            if act:
                act()
            for event in httpx2.EventSource(answer):
                changes.append(json.loads(event.data))
                assert (event.event, event.id) == ("job", str(changes[-1]["number"]))
                if len(changes) == count:
                    return changes
        return changes

    live = heard(4, lambda: studio.drop("heard.png", picture(60)))
    ways = [(each["from"], each["to"]) for each in live]
    assert ways == [
        (None, "queued"), ("queued", "running"), ("running", "publishing"), ("publishing", "done"),
    ]  # fmt: skip
    assert {each["path"] for each in live} == {"heard.png"}
    assert live[-1]["detail"] == "heard.mp4"
    assert heard(2, headers={"Last-Event-ID": str(live[1]["number"])}) == live[2:]
    assert heard(4, params={"after": 0, "job": live[0]["job"]}) == live


def test_a_picture_is_made_again_with_other_settings(studio: Studio, done: dict[str, Any]) -> None:
    studio.drop("far/off/round.png", picture(20))
    (job,) = studio.until_settled("far/off/round.png", "done")
    path, key = f"/api/jobs/{job['id']}/again", {"Idempotency-Key": "again-1"}
    asked = {"make": {"prompt": "film", "seed": 5, "preset": "preview"}}
    answers = [ask(studio, "POST", path, json=asked, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["path"] == "far/off/round.png"
    _, again = studio.until_settled("far/off/round.png", "done", count=2)
    assert again["sha256"] == job["sha256"]
    assert (again["spec"]["seed"], again["spec"]["preset"]) == (5, "preview")
    assert len(studio.jobs("far/off/round.png")) == 2
    assert Path(job["picture_path"]).read_bytes() == picture(20), "the original stays"


def test_a_picture_that_is_not_there_any_more_is_not_made_again(studio: Studio) -> None:
    studio.drop("lost.png", picture(21))
    (job,) = studio.until_settled("lost.png", "done")
    path, archived = f"/api/jobs/{job['id']}/again", Path(job["picture_path"])
    wrong = ask(studio, "POST", path, json={"make": {"frames": 99}})
    assert (wrong.status_code, "allowed: 8 to 32" in wrong.json()["detail"]) == (422, True)
    archived.write_bytes(picture(22))
    other = ask(studio, "POST", path, json={})
    assert (other.status_code, "another picture lies at" in other.json()["detail"]) == (409, True)
    archived.rename(archived.with_name("elsewhere.png"))
    archived.symlink_to(archived.with_name("elsewhere.png"))
    gone = ask(studio, "POST", path, json={})
    assert (gone.status_code, "any more" in gone.json()["detail"]) == (409, True)
    assert not list(studio.inbox.rglob("lost*"))


def test_what_waits_is_told_in_the_order_of_its_turn(studio: Studio) -> None:
    ask(studio, "POST", "/api/pause")
    try:
        for number, name in enumerate(("a.png", "b.png", "c.png")):
            studio.drop(f"turn/{name}", picture(30 + number))
            studio.until_state(f"turn/{name}", "queued")
        last = studio.job("turn/c.png")["id"]
        ask(studio, "POST", f"/api/jobs/{last}/priority", json={"priority": 1})
        waiting = [job["path"] for job in studio.get("/api/queue")]
        assert waiting == ["turn/c.png", "turn/a.png", "turn/b.png"]
        assert [job["path"] for job in studio.get("/api/queue", limit=1)] == ["turn/c.png"]
    finally:
        ask(studio, "POST", "/api/resume")
    studio.until_settled("turn/b.png", "done")


def test_what_the_rules_say_is_told(studio: Studio) -> None:
    tall, rest = studio.get("/api/rules")["inbox"]["described"]
    assert tall == {
        "name": "10-tall",
        "description": "",
        "match": {"orientation": "portrait"},
        "make": {"prompt": "film"},
    }
    assert (rest["name"], rest["match"]) == ("90-default", {})


def test_the_daemon_tells_about_itself(studio: Studio, done: dict[str, Any]) -> None:
    told = studio.get("/api/about")
    assert told["version"] and told["model"] == "micro"
    assert told["workers"][0]["name"] == "peer"
    (inbox,) = told["inboxes"]
    assert (inbox["name"], inbox["on_success"], inbox["watch"]) == ("inbox", "archive", "inotify")
    outbox = next(folder for folder in inbox["folders"] if folder["role"] == "outbox")
    assert Path(outbox["path"]) == studio.outbox
    assert outbox["free"] > 0


def test_a_file_that_is_no_picture_by_its_size_is_refused_unread(studio: Studio) -> None:
    huge = studio.inbox / "huge.png"
    with huge.open("wb") as file:
        file.truncate(20 * 2**30)  # a hole alone
    form = {"data": {"path": "huge.png"}, "headers": {"Idempotency-Key": "huge"}}
    answer = ask(studio, "POST", "/api/jobs", **form)
    assert (answer.status_code, answer.json()["detail"]) == (
        413, "'huge.png' has over 536,870,912 bytes",
    )  # fmt: skip
    assert answer.elapsed.total_seconds() < 3
    huge.unlink()


def test_a_picture_made_again_goes_through_no_link(studio: Studio) -> None:
    studio.drop("linked/cat.png", picture(40))
    (job,) = studio.until_settled("linked/cat.png", "done")
    elsewhere = studio.root / "elsewhere"
    elsewhere.mkdir()
    (studio.inbox / "linked").rmdir()
    (studio.inbox / "linked").symlink_to(elsewhere)
    answer = ask(studio, "POST", f"/api/jobs/{job['id']}/again", json={})
    assert answer.status_code == 507
    assert "a link or a file stands in the place of a folder" in answer.json()["detail"]
    assert list(elsewhere.iterdir()) == []


def test_the_readmes_examples_work(quick_in: Open, tmp_path: Path) -> None:
    needs("curl", package="curl")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## The API\n.*?```sh\n(.*?)```", text, re.DOTALL)
    block = block.replace("camera panning right slowly", "film").replace("panning", "film")
    lines = [line for line in block.replace("\\\n", "").splitlines() if line[0] != "#"]
    studio = quick_in().start()
    where = lines[0].replace("7860", str(studio.port))
    (tmp_path / "cat.jpg").write_bytes(picture(1, form="JPEG"))

    def run(line: str, *options: str, code: int = 0) -> str:
        asked = line.replace("curl", " ".join(["curl", "--fail-with-body", "-sS", *options]), 1)
        done = subprocess.run(
            ["bash", "-euc", f"{where}\n{asked}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, (asked, done.stdout, done.stderr)
        return done.stdout

    drop, take, listen, find, hurry, fetch = lines[1:]
    studio.post("/api/pause")
    studio.drop("shoes/red.jpg", picture(2, form="JPEG"))
    assert json.loads(run(take))["path"] == "shoes/red.jpg"
    studio.until_state("shoes/red.jpg", "queued")
    assert json.loads(run(drop))["path"] == "cat.jpg"
    studio.until_state("cat.jpg", "queued")
    assert json.loads(run(hurry))["priority"] == 9
    studio.post("/api/resume")
    studio.until_settled("shoes/red.jpg", "done")
    studio.until_settled("cat.jpg", "done")
    assert '"from":"publishing","to":"done"' in run(listen, "--max-time 3", code=28)
    assert [job["path"] for job in json.loads(run(find))] == ["cat.jpg", "shoes/red.jpg"]
    run(fetch)
    assert b"ftyp" in (tmp_path / "cat.mp4").read_bytes()[:16]


def test_an_answer_does_not_wait_for_the_network(studio: Studio) -> None:
    took = []
    with httpx2.Client(base_url=f"http://127.0.0.1:{studio.port}", trust_env=False) as http:
        for _ in range(60):  # the first are acknowledged at once
            began = time.perf_counter()
            http.get("/api/queue")
            took.append(time.perf_counter() - began)
    assert min(took[40:]) < 0.03, "an acknowledgement that is delayed costs 0.04 s each time"
