"""What strangers leave in the folders: links that lead elsewhere, and pipes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rules.characters import has_unsafe
from tests.system.conftest import Open, quick_studio
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

IN_THE_WAY = "a link or a file stands in the place of a folder; remove it"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running daemon whose outbox and archive hold links that somebody else made."""
    root = tmp_path_factory.mktemp("house")
    studio = quick_studio(root)
    (studio.root / "elsewhere").mkdir()
    for folder in (studio.outbox, studio.archive):
        folder.mkdir()
    (studio.outbox / "pets").symlink_to(studio.root / "elsewhere")
    (studio.archive / "boats").symlink_to(studio.root / "elsewhere")
    try:
        yield studio.start()
    finally:
        studio.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_link_in_the_outbox_holds_up_the_pictures_of_that_folder_alone(house: Studio) -> None:
    link = house.outbox / "pets"
    house.drop("pets/cat.png", picture(1))
    house.drop("dog.png", picture(2))
    house.until_settled("dog.png", "done")
    house.until(lambda: house.job("pets/cat.png")["waits"], "it waits")
    assert house.job("pets/cat.png")["error"] == f"{IN_THE_WAY}: {link}"
    assert house.is_ready()
    assert names_in(house.root / "elsewhere") == []
    link.unlink()
    house.until_settled("pets/cat.png", "done")
    assert "pets/cat.mp4" in house.clips()


def test_a_link_swapped_in_before_publication_holds_up_that_clip_alone(house: Studio) -> None:
    house.rule("10-long", '[match]\nfolder = "planes"\n[make]\nprompt = "long"\npreset = "draft"\n')
    house.until(lambda: "10-long" in str(house.get("/api/rules")), "the rule is read")
    link = house.outbox / "planes"
    house.drop("planes/jet.png", picture(11))
    house.until_state("planes/jet.png", "running")
    time.sleep(0.5)  # it was looked at before the work began
    link.symlink_to(house.root / "elsewhere")
    (job,) = house.until_state("planes/jet.png", "publishing")
    house.drop("ship.png", picture(12))
    house.until_settled("ship.png", "done")
    house.until(lambda: house.events(job["id"])[-1] == "publication_blocked", "it is told")
    assert f"{IN_THE_WAY}: {link}" in house.job("planes/jet.png")["error"]
    assert house.is_ready()
    assert names_in(house.root / "elsewhere") == []
    assert len([line for line in house.log() if line["event"] == "publication blocked"]) == 1
    link.unlink()
    (job,) = house.until_settled("planes/jet.png", "done")
    assert (job["failures"], job["error"]) == (0, None)
    assert "planes/jet.mp4" in house.clips()


def test_a_link_in_the_archive_keeps_the_pictures_of_that_folder_in_the_inbox(
    house: Studio,
) -> None:
    link = house.archive / "boats"
    house.drop("boats/sail.png", picture(3))
    house.until_state("boats/sail.png", "done")
    house.drop("car.png", picture(4))
    house.until_settled("car.png", "done")
    assert (house.inbox / "boats" / "sail.png").read_bytes() == picture(3)
    assert names_in(house.root / "elsewhere") == []
    told = [line["reason"] for line in house.log() if "kept in the inbox" in line["event"]]
    assert told == [f"{IN_THE_WAY}: {link}"]
    link.unlink()
    house.until_settled("boats/sail.png", "done")


def test_a_pipe_or_a_link_beside_a_picture_is_never_opened(house: Studio) -> None:
    os.mkfifo(house.inbox / "owl.png.toml")
    (house.inbox / "fox.png.txt").symlink_to("/etc/hostname")
    house.drop("owl.png", picture(5))
    house.drop("fox.png", picture(6))
    house.until_settled("owl.png", "failed")
    house.until_settled("fox.png", "failed")
    told = "its sidecar is wrong"
    assert house.reason("owl.png") == f"{told}: owl.png.toml: is not a regular file"
    assert house.reason("fox.png") == f"{told}: fox.png.txt: is a symbolic link"


def test_a_name_says_nothing_to_a_terminal(house: Studio) -> None:
    name = "\x1b[31m\nred[/x]\x9b{stem.__class__}.png"
    house.drop(name, picture(7))
    house.until_settled(name, "done")
    for command in ("jobs",), ("explain", house.inbox / name):
        told = house.command(*command)
        assert told.returncode == 0, told.stderr
        assert "red[/x]" in told.stdout
        assert all(not has_unsafe(line) for line in told.stdout.split("\n"))
    assert any("{stem.__class__}.mp4" in clip for clip in house.clips())


def test_a_link_in_the_place_of_staging_is_waited_for_and_never_swept(quick_in: Open) -> None:
    studio = quick_in()
    precious = studio.root / "elsewhere" / "my-holiday" / "film.mp4"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    studio.outbox.mkdir()
    link = studio.outbox / ".i2vd"
    link.symlink_to(studio.root / "elsewhere")
    studio.start()
    studio.drop("cat.png", picture(1))
    studio.until(lambda: not studio.is_ready(), "it says that it cannot work")
    why = [line["reason"] for line in studio.log() if line["event"] == "intake paused"]
    assert why == [f"{IN_THE_WAY}: {link}"]
    assert names_in(studio.root / "elsewhere") == ["film.mp4", "my-holiday"]
    link.unlink()
    studio.until_settled("cat.png", "done")
    assert precious.read_text() == "precious"


def test_the_log_says_at_the_start_what_the_sandbox_of_pictures_has(house: Studio) -> None:
    house.until(
        lambda: any(line["event"].startswith("picture sandbox") for line in house.log()), "it does"
    )
    (said,) = [line for line in house.log() if line["event"].startswith("picture sandbox")]
    assert said["event"] == "picture sandbox ready"
    assert said["layers"] == ["Landlock", "seccomp"]
