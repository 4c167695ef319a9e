"""Which files are taken, when, and with which request."""

import time

import pytest

from tests.system.conftest import Open
from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow


def test_a_file_that_is_still_growing_is_not_taken(quick: Studio) -> None:
    content = picture(1, size=(300, 300), form="BMP")
    length = len(content) // 6 + 1
    pieces = [content[at : at + length] for at in range(0, len(content), length)]
    with (quick.inbox / "growing.bmp").open("wb") as file:
        for piece in pieces:
            assert quick.jobs("growing.bmp") == []
            file.write(piece)
            file.flush()
            time.sleep(0.6)  # longer than stability_delay: a copy that stalls looks finished
    (job,) = quick.until_settled("growing.bmp", "done")
    assert job["source"]["size"] == len(content)
    assert len(quick.jobs("growing.bmp")) == 1
    assert "growing.mp4" in quick.clips()


def test_files_that_are_no_pictures_of_a_person_are_passed_over(quick: Studio) -> None:
    junk = [".hidden.png", "._shot.png", "shot.png.part", "shot.png.crdownload", "~$shot.png",
            "Thumbs.db", "notes.txt", "@eaDir/shot.png", ".stfolder/shot.png"]  # fmt: skip
    for name in junk:
        quick.drop(name, picture(2))
    (quick.inbox / "link.png").symlink_to(quick.inbox / ".hidden.png")
    (quick.inbox / "folder.png").mkdir()
    quick.drop("after-the-junk.png", picture(2))
    quick.until_settled("after-the-junk.png", "done")
    taken = {job["path"] for job in quick.jobs()}
    assert taken.isdisjoint([*junk, "link.png", "folder.png"])
    assert all((quick.inbox / name).exists() for name in junk)
    for name in ("link.png", *junk):
        (quick.inbox / name).unlink()


def test_a_picture_that_no_rule_takes_stays_until_one_does(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("90-default", '[match]\nnames = ["cat*"]\n\n' + DRAFT)
    studio.start().post("/api/pause")
    sent = studio.http.post("/api/jobs", files={"picture": ("dog.png", picture(3))})
    assert sent.status_code == 202
    (warning,) = sent.json()["warnings"]
    assert warning.startswith("no rule matches its name and folder")
    studio.until(lambda: studio.metric("i2vd_inbox_unmatched") == 1, "dog.png is unmatched")
    assert studio.jobs() == []
    assert (studio.inbox / "dog.png").exists()
    studio.rule("10-dog", '[match]\nnames = ["dog*"]\n\n' + DRAFT)
    studio.until_state("dog.png", "queued")
    assert studio.metric("i2vd_inbox_unmatched") == 0


def test_a_text_beside_the_picture_is_its_prompt(quick: Studio) -> None:
    quick.drop("told.png.txt", b"posed\n")
    quick.drop("told.png", picture(4))
    quick.until_settled("told.png", "done")
    assert quick.sidecar("told.mp4")["requested"]["prompt"] == "posed"
    assert (quick.archive / "told.png.txt").is_file()
    assert not (quick.inbox / "told.png.txt").exists()


def test_a_wrong_sidecar_fails_its_picture_with_the_reason(quick: Studio) -> None:
    quick.drop("wrong.png.toml", b"frames = 99\nstepps = 20\n")
    quick.drop("wrong.png", picture(5))
    (job,) = quick.until_settled("wrong.png", "failed")
    for word in ("frames", "8 to 32", "stepps", "steps"):
        assert word in quick.reason("wrong.png"), word
        assert word in job["error"], word
    assert (quick.failed / "wrong.png.toml").is_file()
    assert "wrong.mp4" not in quick.clips()


def test_an_inbox_that_vanishes_is_waited_for(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.post("/api/pause")
    studio.drop("patient.png", picture(6))
    studio.until_state("patient.png", "queued")
    away = studio.inbox.rename(studio.root / "away")
    studio.until(lambda: not studio.is_ready(), "it is not ready without its inbox")
    assert "inbox" in studio.request("GET", "/readyz").text
    assert studio.metric("i2vd_inbox_available", inbox="inbox") == 0
    away.rename(studio.inbox)
    studio.until(studio.is_ready, "the inbox is back")
    assert [job["state"] for job in studio.jobs()] == ["queued"]


def test_each_inbox_keeps_or_deletes_its_pictures_as_told(quick_in: Open) -> None:
    studio = quick_in()
    text = studio.config.read_text(encoding="utf-8")
    for name, after in (("kept", "keep"), ("deleted", "delete")):
        text += f"""
[[inbox]]
name = "{name}"
path = "{name}"
outbox = "{name}-clips"
on_success = "{after}"
stability_delay = 0.2
"""
    studio.settings(text)
    for name in ("kept", "deleted"):
        (studio.root / name).mkdir()
    studio.start()
    for name in ("kept", "deleted"):
        studio.drop(f"{name}.png", picture(7), folder=studio.root / name)
        studio.until_state(f"{name}.png", "done")
        assert (studio.root / f"{name}-clips" / f"{name}.mp4").is_file()
    gone = studio.root / "deleted" / "deleted.png"
    studio.until(lambda: not gone.exists(), "the picture is deleted")
    studio.stop()
    studio.start()
    studio.drop("last.png", picture(8))
    studio.until_state("last.png", "queued", "running")
    assert (studio.root / "kept" / "kept.png").is_file()
    assert len(studio.jobs()) == 3, "a kept picture is not taken again"
