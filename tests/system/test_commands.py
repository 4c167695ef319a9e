"""The command line: what each command says, and its exit code."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline.worker.optimizations.registry import OPTIMIZATIONS
from tests.system.conftest import Open
from tests.system.studio import SIDE, Studio, picture

pytestmark = pytest.mark.slow

MISTAKE, NO_DAEMON, BUSY = 2, 3, 4


def test_run_in_an_empty_folder_makes_what_it_needs_and_says_so(studio_in: Open) -> None:
    studio = studio_in(bare=True).start()
    lines = studio.log()
    said = {line["path"] for line in lines if line["event"] == "path created"}
    for folder in (studio.inbox, studio.outbox, studio.archive, studio.failed, studio.rules):
        assert folder.is_dir()
        assert str(folder) in said
    assert str(studio.rules / "90-default.toml") in said
    assert any("settings file missing" in line["event"] for line in lines)
    studio.post("/api/pause")
    studio.drop("cat.png", picture(1))
    studio.until_state("cat.png", "queued")


def test_two_daemons_cannot_share_a_state_folder(studio_in: Open) -> None:
    studio = studio_in().start()
    second = studio.command("run")
    assert second.returncode == BUSY
    assert f"another i2vd (pid {studio.pid}) is at work here" in second.stderr
    assert studio.is_ready()


def test_a_port_that_is_taken_is_said(shared: Studio, studio_in: Open) -> None:
    second = studio_in().command("run", I2VD_HTTP__LISTEN=f"127.0.0.1:{shared.port}")
    assert second.returncode == BUSY
    assert str(shared.port) in second.stderr
    assert "choose another port" in second.stderr


def test_broken_settings_are_told_all_at_once(studio_in: Open) -> None:
    studio = studio_in()
    studio.settings(
        "stop_gracee = 1\n[queue]\nmax_attempts = 0\n"
        '[[inbox]]\nstability_delai = 1\non_success = "burn"\n'
    )
    for command in ("run", "check"):
        ended = studio.command(command)
        assert ended.returncode == MISTAKE
        for word in (
            "'stop_grace'",
            "queue.max_attempts",
            "'stability_delay'",
            "inbox.0.on_success",
            "'archive'",
        ):
            assert word in ended.stderr, word
        assert "Traceback" not in ended.stderr
    assert not studio.outbox.exists()


def test_check_looks_at_everything(studio_in: Open) -> None:
    studio = studio_in()
    good = studio.command("check", "--json")
    assert good.returncode == 0, good.stdout
    found = {finding["what"]: finding["verdict"] for finding in json.loads(good.stdout)}
    assert {"settings", "queue", "device", "model", "inbox: rules", "inbox: outbox"} <= set(found)
    assert "mistake" not in found.values()
    studio.rule("10-broken", "[make]\nframes = 99\n")
    bad = studio.command("check")
    assert bad.returncode == MISTAKE
    assert "10-broken.toml" in bad.stdout
    assert "8 to 32" in bad.stdout


def test_explain_knows_a_picture_wherever_it_is(shared: Studio) -> None:
    shared.drop("known.png", picture(70))  # the content of no other picture
    (job,) = shared.until_settled("known.png", "done")

    def explained(path: object) -> dict:
        ended = shared.command("explain", "--json", str(path))
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    for place in (shared.archive / "known.png", shared.inbox / "known.png"):
        (past,) = explained(place)["past"]
        assert (past["job"]["id"], past["job"]["state"]) == (job["id"], "done")
        assert [event["event"] for event in past["events"]] == [
            "queued", "running", "publishing", "done",
        ]  # fmt: skip
    elsewhere = shared.drop("stranger.png", picture(77), folder=shared.root)
    answer = explained(elsewhere)
    assert answer["past"] == []
    assert (answer["rule"], answer["specs"][0]["width"]) == ("90-default", SIDE)
    assert [name for name, _ in answer["rejected_by"]] == ["10-slow", "30-three"]
    assert answer["estimate"]["seconds"] > 0
    unknown = shared.command("explain", shared.root / "nowhere.png")
    assert unknown.returncode == MISTAKE
    assert "no such file" in unknown.stderr


def test_jobs_are_listed_and_the_lack_of_a_daemon_is_said(shared: Studio, studio_in: Open) -> None:
    shared.drop("listed.png", picture(3))
    (job,) = shared.until_settled("listed.png", "done")
    listed = json.loads(shared.command("jobs", "--json", "--limit", "1000").stdout)
    assert job["id"] in [each["id"] for each in listed]
    alone = studio_in().command("jobs", "--json")
    assert alone.returncode == NO_DAEMON
    assert "start it with `i2vd run`" in alone.stderr
    assert alone.stdout == ""


def test_submit_copies_a_picture_into_the_inbox(shared: Studio) -> None:
    content = picture(4)
    mine = shared.drop("submitted.png", content, folder=shared.root)
    ended = shared.command("submit", mine, "--prompt", "camera rotating slowly")
    assert ended.returncode == 0, ended.stderr
    shared.until_settled("submitted.png", "done")
    assert mine.read_bytes() == content
    assert shared.sidecar("submitted.mp4")["requested"]["prompt"] == "camera rotating slowly"
    assert not ended.stderr
    missing = shared.command("submit", shared.root / "nowhere.png")
    assert missing.returncode == MISTAKE
    os.mkfifo(shared.root / "pipe.png")
    pipe = shared.command("submit", shared.root / "pipe.png")
    assert (pipe.returncode, "is not a regular file" in pipe.stderr) == (MISTAKE, True)
    bare = shared.drop("without ending", picture(31), folder=shared.root)
    assert shared.command("submit", bare).stdout.endswith("/without ending.png\n")
    shared.until_settled("without ending.png", "done")


def test_render_makes_a_clip_without_a_daemon(studio_in: Open) -> None:
    studio = studio_in()
    mine = studio.drop("mine.png", picture(5), folder=studio.root)
    clip = studio.root / "mine.mp4"
    asked = ["--prompt", "pan left", "--preset", "draft", "--size", "32", "--speed", "balanced"]
    asked += ["-o", clip]
    first = studio.command("render", mine, *asked)
    assert first.returncode == 0, first.stderr
    told = json.loads((studio.root / "mine.mp4.json").read_text(encoding="utf-8"))
    assert (told["requested"]["speed"], told["applied"]["sampler"]) == ("balanced", "dpm++2m")
    assert told["output"]["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()

    second = studio.command("render", mine, *asked)
    assert (second.returncode, "exists" in second.stderr) == (MISTAKE, True)
    wrong = studio.command("render", mine, "--prompt", "x", "--frames", "99", "-o", "other.mp4")
    assert (wrong.returncode, "8 to 32" in wrong.stderr) == (MISTAKE, True)


def test_replay_makes_the_daemons_clip_again(shared: Studio) -> None:
    """Also where a picture's own settings ask for a speed."""
    beside = 'speed = "fast"\nsteps = 14\nguidance = 2.0\n'
    shared.drop("original.png.toml", beside.encode())
    shared.drop("original.png", picture(6))
    shared.until_settled("original.png", "done")
    told = shared.sidecar("original.mp4")
    assert (told["requested"]["speed"], told["requested"]["steps"]) == ("fast", 14)
    made = {key: told["applied"][key] for key in ("speed", "steps", "sampler", "spacing")}
    assert made == {"speed": "fast", "steps": 10, "sampler": "dpm++2m", "spacing": "trailing"}
    assert not told["degraded"]
    again = shared.root / "again.mp4"
    ended = shared.command("replay", shared.outbox / "original.mp4.json", "-o", again)
    assert ended.returncode == 0, ended.stderr
    assert "the same clip, byte for byte" in ended.stdout
    assert again.read_bytes() == (shared.outbox / "original.mp4").read_bytes()


def test_a_worker_is_told_where_kernels_are_kept(shared: Studio) -> None:
    shared.drop("kept.png", picture(8))
    shared.until_settled("kept.png", "done")
    (worker,) = shared.processes("pipeline.worker")
    told = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    kept = [each for each in told if each.startswith(b"TRITON_CACHE_DIR=")]
    assert kept == [f"TRITON_CACHE_DIR={shared.root}/.i2vd/compiled".encode()]


def test_every_line_of_the_log_is_json_and_changes_of_state_have_their_job(shared: Studio) -> None:
    shared.drop("logged.png", picture(7))
    (job,) = shared.until_settled("logged.png", "done")
    assert shared.logged_events(job["id"]) == [
        "job queued", "job started", "job done", "picture archived",
    ]  # fmt: skip
    assert all({"timestamp", "level"} <= line.keys() for line in shared.log())


def test_bench_speed_tells_of_every_transform_and_of_all(studio_in: Open) -> None:
    small = ["--rounds", "1", "--frames", "2", "--side", "8"]
    ended = studio_in().command("bench", "speed", *small, "--json")
    assert ended.returncode == 0, ended.stderr
    rows = {row["case"]: row for row in json.loads(ended.stdout)}
    assert rows.keys() == {
        *(f"mid-size, {name}" for name in OPTIMIZATIONS), "mid-size, all", "micro, all",
        "VAE decoder, subpixel_upsample",
    }  # fmt: skip
    assert all(row["max_abs_diff"] < 1e-3 for row in rows.values())
    assert all(row["seconds"] > 0 for row in rows.values())
