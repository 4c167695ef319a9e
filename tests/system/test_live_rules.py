"""Rules that change under a running daemon."""

import signal

import pytest

from tests.system.conftest import Open
from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow

BROKEN = '[make]\npreset = "draught"\nframes = 99\n'


def is_loaded(studio: Studio) -> bool:
    return studio.metric("i2vd_rules_last_reload_successful", inbox="inbox") == 1


def test_broken_rules_leave_the_last_good_set_in_force(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.post("/api/pause")
    good = studio.get("/api/rules")["inbox"]["digest"]
    assert is_loaded(studio)

    studio.rule("10-broken", BROKEN)
    studio.signal(signal.SIGHUP)
    studio.until(lambda: not is_loaded(studio), "the metric tells of the broken rules")
    answer = studio.post("/api/rules/reload").json()["inbox"]
    assert answer["ok"] is False
    told = "\n".join(answer["mistakes"])
    for word in ("10-broken.toml", "draught", "did you mean", "draft", "frames", "8 to 32"):
        assert word in told, word
    assert studio.get("/api/rules")["inbox"]["digest"] == good
    assert studio.is_ready(), "the old rules serve"
    studio.drop("still.png", picture(1))
    (job,) = studio.until_state("still.png", "queued")
    assert (job["rule"], job["rules_digest"]) == ("90-default", good)

    studio.rule("10-broken", DRAFT)
    assert studio.post("/api/rules/reload").json()["inbox"]["ok"] is True
    assert is_loaded(studio)
    assert studio.get("/api/rules")["inbox"]["digest"] != good
    (job,) = studio.jobs("still.png")
    assert job["rules_digest"] == good, "a reload never touches queued work"


def test_a_rule_file_that_changed_is_read_without_being_told(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.post("/api/pause")
    good = studio.get("/api/rules")["inbox"]
    studio.rule("10-cat", BROKEN)
    studio.until(lambda: not is_loaded(studio), "the broken rule is noticed")
    studio.rule("10-cat", '[match]\nnames = ["cat*"]\n\n' + DRAFT)
    studio.until(lambda: is_loaded(studio), "the mended rule is noticed")
    assert good["rules"] == ["90-default"]
    assert studio.get("/api/rules")["inbox"]["rules"] == ["10-cat", "90-default"]


def test_without_any_good_rules_it_is_not_ready_and_says_why(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("90-default", BROKEN)
    studio.start(ready=False)

    def told() -> str:
        return studio.request("GET", "/readyz").text if studio.is_alive() else ""

    assert "no rules could be loaded" in studio.until(told, "http answers")
    studio.rule("90-default", DRAFT)
    studio.until(studio.is_ready, "the mended rules make it ready")
