"""The page in a real browser: what its user does, and what the daemon makes of it."""

from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys

from tests.system.browser import Browser
from tests.system.page.acts import failed_again, findings, pick, settled
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>.png"


def test_a_picture_sent_from_the_page_becomes_a_clip_that_plays(
    studio: Studio, page: Browser, tmp_path: Path
) -> None:
    pick(page, tmp_path, sent=1, other=2)
    page.find("#prompt").send_keys("posed")
    page.press("Make 2 clips")
    page.until("document.querySelectorAll('.result video').length === 2")
    for name in ("sent.png", "other.png"):
        assert len(studio.jobs(name)) == 1
    page.turn_to("clips")
    page.until("document.querySelectorAll('.grid .frame img').length >= 2")
    page.until("[...document.querySelectorAll('.grid img')].every((i) => i.naturalWidth === 48)")
    assert page.value("document.querySelectorAll('.grid video').length") == 0
    ActionChains(page.driver).move_to_element(page.find(".clip")).perform()
    page.until("document.querySelector('.grid video')?.currentTime > 0.2")
    ActionChains(page.driver).move_to_element(page.find("h1")).perform()
    page.until("!document.querySelector('.grid video')")
    page.click(".clip")
    page.until("document.querySelector('dialog video').readyState >= 3")
    page.until("document.querySelector('dialog video').currentTime > 0.2")
    page.until_text("Requested")
    assert "outbox/" in page.find("dialog dl.facts").text
    assert page.find("dialog a[download]").get_attribute("href").endswith("/clip")
    page.press("Close")


def test_pictures_are_dropped_and_pasted_on_any_tab(page: Browser, tmp_path: Path) -> None:
    dragged = tmp_path / "dragged.png"
    dragged.write_bytes(picture(6))
    page.turn_to("health")
    data = {"items": [], "files": [str(dragged)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.driver.execute_cdp_cmd(
            "Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 400, "data": data}
        )
        if kind == "dragOver":
            page.until("document.querySelector('.drop.over')")
    page.until_text("dragged.png")
    page.until_text("96 \N{MULTIPLICATION SIGN} 96")
    assert page.value("document.querySelector('.drop.over')") is None
    page.turn_to("queue")
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": allowed})
    page.driver.execute_async_script("""
        const tell = arguments[0];
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [80, 40];
        canvas.getContext("2d").fillRect(0, 0, 9, 9);
        canvas.toBlob(async (png) => {
            await navigator.clipboard.write([new ClipboardItem({"image/png": png})]);
            tell();
        });""")
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    page.until_text("80 \N{MULTIPLICATION SIGN} 40")
    assert "pasted" in page.find(".caption .name").text
    assert page.value("document.querySelectorAll('.thumbs li').length") == 2


def test_an_answer_that_is_lost_costs_no_second_clip(
    studio: Studio, page: Browser, tmp_path: Path
) -> None:
    pick(page, tmp_path, unheard=3)
    page.driver.execute_script("""
        const send = XMLHttpRequest.prototype.send;
        window.sends = 0;
        XMLHttpRequest.prototype.send = function (body) {
            if (window.sends++ === 0) this.onload = this.onerror;
            send.call(this, body);
        };""")
    page.press("Make the clip")
    page.until("document.querySelector('.result video')")
    assert page.value("window.sends") == 2
    assert [job["path"] for job in studio.jobs() if "unheard" in job["path"]] == ["unheard.png"]


def test_what_will_come_of_it_is_told_while_one_types(page: Browser, tmp_path: Path) -> None:
    pick(page, tmp_path, typed=4)
    page.find("#prompt").send_keys("a beautiful cat")
    page.until_text("'beautiful' says nothing about motion")
    page.click("label:has([value='high'])")
    page.until_text("16 frames (2.0 s), 16 steps")
    told = page.find(".dry-run").text
    assert all(word in told for word in ("Memory\n", "Begins as\nresident, ", "Time\n"))
    page.click("summary")
    page.find("#set-speed").send_keys("soonest")
    page.until_text("16 frames (2.0 s), 10 of 16 steps")
    assert "10\N{EN DASH}100 \N{MIDDLE DOT} usually" in page.find("label[for='set-steps']").text
    frames = page.find("#set-frames")
    page.until("document.querySelector('#set-frames').placeholder === '16'")
    frames.send_keys("99")
    page.until_text("allowed: 8 to 32")
    assert frames.get_attribute("aria-invalid") == "true"
    frames.send_keys("\ue003\ue003")  # backspace
    page.until("!document.querySelector('#set-frames').ariaInvalid")
    assert "90-default" in page.find(".dry-run").text


def test_progress_moves_while_a_clip_is_made(studio: Studio, page: Browser, tmp_path: Path) -> None:
    studio.drop("pace.png", picture(9))
    settled(studio, "pace.png")  # now it is known how long one takes
    pick(page, tmp_path, moving=5)
    page.find("#prompt").send_keys("steady")
    page.press("Make the clip")
    page.until("document.querySelector('.sent progress')?.value >= 2")
    page.turn_to("queue")
    page.until("document.querySelector('.running .live:not([hidden]) img')?.naturalWidth === 512")
    source = page.value("document.querySelector('.live img').src")
    first = page.value("document.querySelector('.running progress').value")
    page.until("document.querySelector('.running .state')?.textContent.includes('step')")
    page.until(f"document.querySelector('.running progress')?.value > {first}")
    page.until_text("All done in about")
    assert page.value("document.querySelector('.live img').src") != source
    preview = f"/api/jobs/{settled(studio, 'moving.png')['id']}/preview"
    studio.until(lambda: studio.request("GET", preview).status_code == 404, "it has no preview")
    assert "preview" not in str(studio.log())


def test_the_queue_is_paused_hurried_and_cut_short(studio: Studio, page: Browser) -> None:
    page.turn_to("queue")
    page.press("Pause")
    page.until_text("Paused")
    assert studio.get("/api/status")["paused"] is True
    for number, name in enumerate(("q1.png", "q2.png", "q3.png")):
        studio.drop(name, picture(10 + number))
        studio.until_state(name, "queued")
    shown = "[...document.querySelectorAll('.waiting .name')].map((e) => e.textContent).join()"
    page.until(f"{shown} === 'q1.png,q2.png,q3.png'")
    page.click("[aria-label='Sooner: q3.png']")
    page.until(f"{shown} === 'q3.png,q1.png,q2.png'")
    assert page.value("document.activeElement.ariaLabel") == "Sooner: q3.png"
    page.find("[aria-label='Cancel: q1.png']").send_keys("\ue015")  # arrow down
    assert page.value("document.activeElement.ariaLabel") == "Cancel: q2.png"
    page.driver.switch_to.active_element.send_keys("\ue017")  # delete
    page.until(f"{shown} === 'q3.png,q1.png'")
    assert studio.job("q2.png")["state"] == "cancelled"
    page.press("Go on")
    settled(studio, "q1.png")
    assert studio.job("q3.png")["started"] < studio.job("q1.png")["started"]
    page.until_text("Nothing waits.")


def test_a_running_clip_is_cancelled(studio: Studio, page: Browser) -> None:
    studio.drop("endless.png", picture(20))
    page.turn_to("queue")
    page.click("[aria-label='Cancel: endless.png']")
    studio.until_state("endless.png", "cancelled")
    page.until_text("free")


def test_a_failure_is_told_tried_again_and_changed(studio: Studio, page: Browser) -> None:
    studio.drop("bad.png", picture(30))
    (job,) = studio.until_settled("bad.png", "failed")
    page.turn_to("failures")
    page.until_text("spoilt")
    page.until_text("What to do: once the reason is removed, try again")
    page.until("document.querySelector('.failures img')?.naturalWidth === 192")
    page.click("[aria-label='Try again: bad.png']")
    failed_again(studio, page, job)
    page.click("[aria-label='Change and make again: bad.png']")
    prompt = page.find("#prompt")
    assert prompt.get_attribute("value") == "fail"
    prompt.clear()
    prompt.send_keys("film")
    page.press("Make the clip")
    again = settled(studio, "bad.png")
    assert again["sha256"] == job["sha256"]
    assert again["spec"] == job["spec"] | {"prompt": "film"}


def test_all_failures_are_tried_again_at_once(studio: Studio, page: Browser) -> None:
    names = ["bad-one.png", "bad-two.png"]
    for number, name in enumerate(names):
        studio.drop(name, picture(34 + number))
    jobs = [studio.until_settled(name, "failed")[0] for name in names]
    page.turn_to("failures")
    page.until_text("bad-two.png")
    page.press("Try all again")
    page.until_text("are waiting again.")
    for job in jobs:
        failed_again(studio, page, job)


def test_a_clip_is_made_again_with_another_seed(studio: Studio, page: Browser) -> None:
    studio.drop("encore.png", picture(31))
    first = settled(studio, "encore.png")
    page.turn_to("clips")
    page.find("#find").send_keys("encore")
    page.until("document.querySelectorAll('.grid > li').length === 1")
    page.until("document.querySelector('.grid video')?.readyState >= 2")  # it has no poster
    page.click(".clip")
    page.press("Make again")
    page.until_text("is in the inbox again")
    jobs = studio.until_settled("encore.png", "done", count=2)
    assert jobs[1]["spec"] | {"seed": 0} == first["spec"] | {"seed": 0}
    assert jobs[1]["spec"]["seed"] != first["spec"]["seed"]
    page.until("document.querySelectorAll('.grid > li').length === 2")
    page.click(".clip")
    assert page.find("dialog a[target]").get_attribute("href").endswith("/sidecar")
    page.press("Change and make again")
    page.until("location.hash === '#make' && document.querySelector('#prompt').value === 'film'")
    assert page.find("#set-seed").get_attribute("value") == str(jobs[1]["spec"]["seed"])


def test_clips_are_found_by_rule_preset_and_date(studio: Studio, page: Browser) -> None:
    studio.drop("sought.png", picture(36))
    settled(studio, "sought.png")
    page.turn_to("clips")
    page.find("#find").send_keys("sought")
    shown = "document.querySelectorAll('.grid > li').length"
    page.until(f"{shown} === 1")
    for name, right, wrong in (
        ("rule", "90-default", "10-bad"),
        ("preset", "draft", "high"),
        ("since", "2020-01-31", "2099-01-31"),
        ("until", "2099-01-31", "2020-01-31"),
    ):
        for value, count in ((wrong, 0), (right, 1)):
            page.driver.execute_script(
                "const [id, value] = arguments, field = document.getElementById(id);"
                "field.value = value; field.dispatchEvent(new Event('input', {bubbles: true}));",
                f"by-{name}",
                value,
            )
            page.until(f"{shown} === {count}")
    assert page.value("document.querySelector('#by-rule').value") == "90-default"


def test_the_rules_are_told_tried_and_read_again(studio: Studio, page: Browser) -> None:
    page.turn_to("rules")
    page.until_text("20-endless")
    page.until_text("90-default")
    name = page.find("#ask-name")
    name.clear()
    name.send_keys("BAD cat.jpg")
    page.until("document.querySelector('.answer strong')?.textContent === '10-bad'")
    wrong = studio.rule("50-wrong", "[make]\nframes = 99\n")
    page.press("Read the rules again")
    page.until_text("make.frames: 99; allowed: 8 to 32")
    page.until_text("the rules below are the last good ones")
    wrong.unlink()
    page.press("Read the rules again")
    page.until("!document.querySelector('.stack .mistake')")


def test_what_there_is_is_told(studio: Studio, page: Browser) -> None:
    studio.drop("known.png", picture(37))
    settled(studio, "known.png")
    page.turn_to("health")
    for text in ("peer", "float32", "i2vd 0.", "Model “micro”", "watched with inotify"):
        page.until_text(text)
    page.until_text(str(studio.outbox))
    rows = page.value("[...document.querySelectorAll('.wide tr')].map((row) => row.textContent)")
    assert any(row.startswith("outbox") and row.endswith("GB") for row in rows), rows
    assert any(row.startswith("standard") and "MB" in row for row in rows), rows


def test_a_name_is_shown_as_it_is_and_never_run(studio: Studio, page: Browser) -> None:
    studio.drop(HOSTILE, picture(32))
    job = settled(studio, HOSTILE)
    page.turn_to("clips")
    page.until_text(HOSTILE)
    page.click(f"[data-job='{job['id']}'] .clip")
    page.until("document.querySelector('dialog table')")
    assert page.find("dialog h2").text == HOSTILE
    assert page.value("document.querySelectorAll('img[src=x]').length") == 0


def test_without_live_news_the_page_asks(studio: Studio, window: Browser) -> None:
    window.driver.execute_cdp_cmd("Network.enable", {})
    window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/live"]})
    studio.drop("bad-unheard.png", picture(38))
    (job,) = studio.until_settled("bad-unheard.png", "failed")
    try:
        window.open("failures")
        window.click("[aria-label='Try again: bad-unheard.png']")
        failed_again(studio, window, job)
        window.open("queue")
        window.until_text("Nothing to do")
        assert studio.post("/api/pause").is_success
        window.until_text("Paused")
    finally:
        studio.post("/api/resume")
        window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        window.errors()


def test_a_drained_host_is_told_and_works_again(studio: Studio, page: Browser) -> None:
    page.turn_to("health")
    page.until_text("All is well")
    assert "Hosts of this queue" not in page.text()
    studio.command("drain")
    page.until_text("drained")
    assert findings(page) == []
    page.press("Work again")
    page.until("document.querySelector('.hosts').hidden")
    studio.drop("worked.png", picture(50))
    settled(studio, "worked.png")
