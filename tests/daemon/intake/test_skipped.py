"""Skipped files: listed after a minute, logged once, many of them in one line."""

import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.intake.skipped import Skip, SkippedFiles

MOVIE = Skip("unsupported_format", "is a video; save one frame of it as JPEG or PNG")
RULE = Skip("no_rule", "no rule matches it")


@pytest.fixture
def skipped(tmp_path: Path) -> SkippedFiles:
    return SkippedFiles("inbox", tmp_path)


def logged(skipped: SkippedFiles, found: dict[str, Skip], now: float) -> list[Any]:
    with capture_logs() as lines:
        skipped.update(found, now)
    return lines


def test_a_file_is_listed_after_a_minute_and_logged_once(skipped: SkippedFiles) -> None:
    assert logged(skipped, {"a.mov": MOVIE}, 0) == []
    assert logged(skipped, {"a.mov": MOVIE}, 59) == []
    assert (skipped.total, skipped.listed()) == (0, [])
    (line,) = logged(skipped, {"a.mov": MOVIE}, 60)
    assert (line["event"], line["path"], line["reason"]) == (
        "file skipped", "a.mov", "unsupported_format",
    )  # fmt: skip
    assert logged(skipped, {"a.mov": MOVIE}, 200) == []
    (file,) = skipped.listed()
    assert (file.path, file.since, file.detail) == ("a.mov", 0, MOVIE.detail)
    assert skipped.counts()["unsupported_format"] == skipped.total == 1


def test_another_reason_is_another_line(skipped: SkippedFiles) -> None:
    logged(skipped, {"a.jpg": RULE}, 0)
    logged(skipped, {"a.jpg": RULE}, 60)
    unreadable = Skip("unreadable", "cannot be read: Permission denied")
    assert logged(skipped, {"a.jpg": unreadable}, 61) == []
    assert skipped.total == 0
    assert len(logged(skipped, {"a.jpg": unreadable}, 121)) == 1


def test_what_has_gone_is_not_listed(skipped: SkippedFiles) -> None:
    logged(skipped, {"a.mov": MOVIE}, 0)
    logged(skipped, {"a.mov": MOVIE}, 60)
    logged(skipped, {}, 61)
    assert (skipped.total, skipped.listed()) == (0, [])


def test_thousands_share_a_line_for_each_reason(skipped: SkippedFiles) -> None:
    many = {f"{number}.mov": MOVIE for number in range(5000)} | {"a.jpg": RULE}
    logged(skipped, many, 0)
    lines = logged(skipped, many, 60)
    assert sorted((line["event"], line["reason"], line["count"]) for line in lines) == [
        ("files skipped", "no_rule", 1), ("files skipped", "unsupported_format", 5000),
    ]  # fmt: skip
    assert skipped.total == 5001
    assert len(skipped.listed()) == 1000


def test_a_steady_stream_of_files_does_not_flood_the_log(skipped: SkippedFiles) -> None:
    lines = 0
    for number in range(600):  # ten files a second for a minute
        found = {f"{each}.mov": MOVIE for each in range(number * 10)}
        lines += len(logged(skipped, found, 100 + number / 10))
        lines += len(logged(skipped, found, 200 + number / 10))
    assert lines <= 60


def test_a_temporary_name_is_listed_an_hour_after_its_last_change(
    skipped: SkippedFiles, tmp_path: Path
) -> None:
    part = {"a.jpg.part": Skip("temporary_name", "has the name of an unfinished copy")}
    (tmp_path / "a.jpg.part").touch()
    os.utime(tmp_path / "a.jpg.part", (3000, 3000))
    assert logged(skipped, part, 0) == []
    assert logged(skipped, part, 3601) == [], "it is still growing"
    assert len(logged(skipped, part, 6601)) == 1


def test_a_name_that_is_not_utf8_can_be_shown(skipped: SkippedFiles) -> None:
    found = {os.fsdecode(b"bad\xff.jpg"): Skip("name_not_utf8", "its name is not UTF-8; rename it")}
    logged(skipped, found, 0)
    logged(skipped, found, 60)
    assert skipped.listed()[0].model_dump_json()
    assert skipped.listed()[0].path == "bad\\xff.jpg"
