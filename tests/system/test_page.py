"""The page in a real browser: what its user does, and what the daemon makes of it."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import ActionChains, Keys

from daemon.web.page import FILES
from tests.daemon.test_sentences import book
from tests.system.browser import Browser, browser
from tests.system.conftest import quick_studio
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

TABS = ("make", "queue", "clips", "failures", "rules", "health")
HOSTILE = "<img src=x onerror=alert(1)>.png"
MOST = 150_000


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon with a stand-in for the worker; each test uses names of its own."""
    root = tmp_path_factory.mktemp("page")
    studio = quick_studio(root)
    studio.rule("10-bad", '[match]\nnames = ["bad*"]\n\n[make]\nprompt = "fail"\n')
    studio.rule("20-endless", '[match]\nnames = ["endless*"]\n\n[make]\nprompt = "wait"\n')
    yield studio.start()
    studio.close()


@pytest.fixture(scope="module")
def window(studio: Studio) -> Iterator[Browser]:
    """One browser for all tests here."""
    with browser(f"http://127.0.0.1:{studio.port}") as opened:
        yield opened


@pytest.fixture
def page(window: Browser) -> Iterator[Browser]:
    """The page, newly opened; in the end the browser has nothing to complain of."""
    window.be()
    window.open("make")
    window.complaints()
    yield window
    assert window.complaints() == []


def pick(page: Browser, folder: Path, **pictures: int) -> None:
    """Choose pictures, each drawn from its number."""
    paths = []
    for name, seed in pictures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(picture(seed))
    page.driver.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def settled(studio: Studio, name: str, **more: Any) -> dict[str, Any]:
    return studio.until_settled(name, "done", **more)[-1]


def test_a_picture_sent_from_the_page_becomes_a_clip_that_plays(
    studio: Studio, page: Browser, tmp_path: Path
) -> None:
    pick(page, tmp_path, sent=1, other=2)
    page.find("#prompt").send_keys("posed")
    page.button("Make 2 clips").click()
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
    page.find(".clip").click()
    page.until("document.querySelector('dialog video').readyState >= 3")
    page.until("document.querySelector('dialog video').currentTime > 0.2")
    page.until_said("Asked")
    assert "outbox/" in page.find("dialog dl.facts").text
    assert page.find("dialog a[download]").get_attribute("href").endswith("/clip")
    page.button("Close").click()


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
    page.until_said("dragged.png")
    page.until_said("96 \N{MULTIPLICATION SIGN} 96")
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
    page.until_said("80 \N{MULTIPLICATION SIGN} 40")
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
    page.button("Make the clip").click()
    page.until("document.querySelector('.result video')")
    assert page.value("window.sends") == 2
    assert [job["path"] for job in studio.jobs() if "unheard" in job["path"]] == ["unheard.png"]


def test_what_will_come_of_it_is_told_while_one_types(page: Browser, tmp_path: Path) -> None:
    pick(page, tmp_path, typed=4)
    page.find("#prompt").send_keys("a beautiful cat")
    page.until_said("'beautiful' says nothing about motion")
    page.find("label:has([value='high'])").click()
    page.until_said("16 frames (2.0 s), 16 steps")
    page.find("summary").click()
    frames = page.find("#set-frames")
    page.until("document.querySelector('#set-frames').placeholder === '16'")
    frames.send_keys("99")
    page.until_said("allowed: 8 to 32")
    assert frames.get_attribute("aria-invalid") == "true"
    frames.send_keys("\ue003\ue003")  # backspace
    page.until("!document.querySelector('#set-frames').ariaInvalid")
    assert "90-default" in page.find(".outlook").text


def test_progress_moves_while_a_clip_is_made(studio: Studio, page: Browser, tmp_path: Path) -> None:
    pick(page, tmp_path, moving=5)
    page.find("#prompt").send_keys("steady")
    page.button("Make the clip").click()
    page.until("document.querySelector('.sent progress')?.value >= 2")
    page.turn_to("queue")
    page.until("document.querySelector('.running .live:not([hidden]) img')?.naturalWidth === 512")
    source = page.value("document.querySelector('.live img').src")
    first = page.value("document.querySelector('.running progress').value")
    page.until("document.querySelector('.running .state')?.textContent.includes('step')")
    page.until(f"document.querySelector('.running progress')?.value > {first}")
    assert page.value("document.querySelector('.live img').src") != source
    preview = f"/api/jobs/{settled(studio, 'moving.png')['id']}/preview"
    studio.until(lambda: studio.request("GET", preview).status_code == 404, "it has no preview")
    assert "preview" not in str(studio.log())


def test_the_queue_is_paused_hurried_and_cut_short(studio: Studio, page: Browser) -> None:
    page.turn_to("queue")
    page.button("Pause").click()
    page.until_said("Paused")
    assert studio.get("/api/status")["paused"] is True
    for number, name in enumerate(("q1.png", "q2.png", "q3.png")):
        studio.drop(name, picture(10 + number))
        studio.until_state(name, "queued")
    shown = "[...document.querySelectorAll('.waiting .name')].map((e) => e.textContent).join()"
    page.until(f"{shown} === 'q1.png,q2.png,q3.png'")
    page.find("[aria-label='Sooner: q3.png']").click()
    page.until(f"{shown} === 'q3.png,q1.png,q2.png'")
    assert page.value("document.activeElement.ariaLabel") == "Sooner: q3.png"
    page.find("[aria-label='Cancel: q1.png']").send_keys("\ue015")  # arrow down
    assert page.value("document.activeElement.ariaLabel") == "Cancel: q2.png"
    page.driver.switch_to.active_element.send_keys("\ue017")  # delete
    page.until(f"{shown} === 'q3.png,q1.png'")
    assert studio.job("q2.png")["state"] == "cancelled"
    page.button("Go on").click()
    settled(studio, "q1.png")
    assert studio.job("q3.png")["started"] < studio.job("q1.png")["started"]
    page.until_said("Nothing waits.")


def test_a_running_clip_is_cancelled(studio: Studio, page: Browser) -> None:
    studio.drop("endless.png", picture(20))
    page.turn_to("queue")
    page.find("[aria-label='Cancel: endless.png']").click()
    studio.until_state("endless.png", "cancelled")
    page.until_said("free")


def test_a_failure_is_told_tried_again_and_changed(studio: Studio, page: Browser) -> None:
    studio.drop("bad.png", picture(30))
    (job,) = studio.until_settled("bad.png", "failed")
    page.turn_to("failures")
    page.until_said("spoilt")
    page.until("document.querySelector('.failures img')?.naturalWidth === 192")
    page.find("[aria-label='Try again: bad.png']").click()
    studio.until(
        lambda: studio.events(job["id"]).count("failed") == 2, "it was tried again and failed"
    )
    page.find("[aria-label='Change and make again: bad.png']").click()
    prompt = page.find("#prompt")
    assert prompt.get_attribute("value") == "fail"
    prompt.clear()
    prompt.send_keys("film")
    page.button("Make the clip").click()
    again = settled(studio, "bad.png")
    assert again["sha256"] == job["sha256"]
    assert again["spec"] == job["spec"] | {"prompt": "film"}


def test_all_failures_are_tried_again_at_once(studio: Studio, page: Browser) -> None:
    names = ["bad-one.png", "bad-two.png"]
    for number, name in enumerate(names):
        studio.drop(name, picture(34 + number))
    jobs = [studio.until_settled(name, "failed")[0]["id"] for name in names]
    page.turn_to("failures")
    page.until_said("bad-two.png")
    page.button("Try all again").click()
    page.until_said("are waiting again.")
    for job in jobs:
        studio.until(lambda job=job: studio.events(job).count("failed") == 2, "it failed again")


def test_a_clip_is_made_again_with_another_seed(studio: Studio, page: Browser) -> None:
    studio.drop("encore.png", picture(31))
    first = settled(studio, "encore.png")
    page.turn_to("clips")
    page.find("#find").send_keys("encore")
    page.until("document.querySelectorAll('.grid > li').length === 1")
    page.until("document.querySelector('.grid video')?.readyState >= 2")  # it has no poster
    page.find(".clip").click()
    page.button("Make again").click()
    page.until_said("is in the inbox again")
    jobs = studio.until_settled("encore.png", "done", count=2)
    assert jobs[1]["spec"] | {"seed": 0} == first["spec"] | {"seed": 0}
    assert jobs[1]["spec"]["seed"] != first["spec"]["seed"]
    page.until("document.querySelectorAll('.grid > li').length === 2")


def test_the_rules_are_told_tried_and_read_again(studio: Studio, page: Browser) -> None:
    page.turn_to("rules")
    page.until_said("20-endless")
    page.until_said("90-default")
    name = page.find("#ask-name")
    name.clear()
    name.send_keys("BAD cat.jpg")
    page.until("document.querySelector('.answer strong')?.textContent === '10-bad'")
    wrong = studio.rule("50-wrong", "[make]\nframes = 99\n")
    page.button("Read the rules again").click()
    page.until_said("make.frames: 99; allowed: 8 to 32")
    page.until_said("the rules below are the last good ones")
    wrong.unlink()
    page.button("Read the rules again").click()
    page.until("!document.querySelector('.stack .mistake')")


def test_a_name_is_shown_as_it_is_and_never_run(studio: Studio, page: Browser) -> None:
    studio.drop(HOSTILE, picture(32))
    job = settled(studio, HOSTILE)
    page.turn_to("clips")
    page.until_said(HOSTILE)
    page.find(f"[data-job='{job['id']}'] .clip").click()
    page.until("document.querySelector('dialog table')")
    assert page.find("dialog h2").text == HOSTILE
    assert page.value("document.querySelectorAll('img[src=x]').length") == 0


def test_without_live_news_the_page_asks(studio: Studio, window: Browser) -> None:
    window.driver.execute_cdp_cmd("Network.enable", {})
    window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/live"]})
    try:
        window.open("queue")
        window.until_said("Nothing to do")
        assert studio.post("/api/pause").is_success
        window.until_said("Paused")
    finally:
        studio.post("/api/resume")
        window.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        window.complaints()


def test_it_speaks_english_and_chinese(page: Browser, tmp_path: Path) -> None:
    pick(page, tmp_path, stays=7, too=8)
    page.find("#prompt").send_keys("a cat")
    page.find("label:has([value='high'])").click()
    page.turn_to("queue")
    assert page.value("document.documentElement.lang") == "en"
    page.find("#language").click()
    page.until("document.documentElement.lang === 'zh-Hans'")
    page.until_said("空闲")
    assert page.value("location.hash") == "#queue"
    page.turn_to("make")
    page.until_said("too.png")
    page.until_said("96 \N{MULTIPLICATION SIGN} 96")
    assert page.find("#prompt").get_attribute("value") == "a cat"
    assert page.value("document.querySelector('[name=preset]:checked').value") == "high"
    assert page.value("document.querySelectorAll('.thumbs li').length") == 2
    page.turn_to("health")
    page.until_said("一切正常")
    page.find("#language").click()
    page.until("document.documentElement.lang === 'en'")
    page.until_said("All is well")


COMPOSED = {
    "its sidecar is wrong: my cat.jpg.toml:1: frames: 99; allowed: 8 to 32; "
    "my cat.jpg.toml:2: sise: unknown key; did you mean \"size\"?":
    "图片旁的设置有误：my cat.jpg.toml:1: frames: 99；允许：8 到 32；"
    "my cat.jpg.toml:2: sise: 未知的键；是不是“size”？",
    "10-cat.toml:3: warning: prompt: 'nice' says nothing about motion; name what moves, "
    "which way, how fast":
    "10-cat.toml:3: 警告：prompt: 'nice' 没有说明运动；请写出什么在动、朝哪个方向、多快",
    "inbox main: archive /srv/a b: 3 MB free, min_free is 500 MB; make room":
    "收件箱 main：归档 /srv/a b：剩余 3 MB，min_free 为 500 MB；请腾出空间",
    "the worker was killed by SIGKILL (in denoise)": "工作进程被 SIGKILL 终止（在“生成画面”阶段）",
    "job 7 is done, not waiting or running": "任务 7 的状态是“完成”，不在等待或制作",
    "out of memory at 48x48, 8 frames, fast, the last rung (needs 3.0 GB, 1.0 GB may be used); "
    "the preset draft would fit (1.0 GB); or choose a smaller preset, or buy a card":
    "在最后一级（48×48，8 帧，fast）仍内存不足（需要 3.0 GB，可用 1.0 GB）；"
    "预设 draft 放得下（1.0 GB）；或者选更小的预设，或者buy a card",
    "what nobody knows; road to nowhere": "what nobody knows; road to nowhere",
}  # fmt: skip


def test_the_daemons_sentences_are_said_in_chinese(studio: Studio, page: Browser) -> None:
    def said(texts: list[str]) -> list[str]:
        return page.driver.execute_async_script(
            "const [texts, tell] = arguments;"
            "import('/page/said.js').then(({said}) => tell(texts.map(said)));",
            texts,
        )

    assert said(["an archive"]) == ["an archive"], "the page is in English"
    page.open("failures", first="localStorage.language = 'zh'")
    asked, wanted = [], []
    for english, chinese in book().items():
        asked.append(english.replace("{}", "the worker" if "{1@}" in chinese else "7", 1))
        asked[-1] = asked[-1].replace("{}", "7")
        wanted.append(re.sub(r"\{\d#?\}", "7", chinese.replace("{1@}", "工作进程")))
    assert said(asked) == wanted
    assert said([*COMPOSED]) == [*COMPOSED.values()]
    studio.drop("rubbish.png", b"no picture")
    studio.until_settled("rubbish.png", "failed")
    page.until_said("而是别的文件")


@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "zh")])
def test_everybody_can_use_it(studio: Studio, page: Browser, theme: str, language: str) -> None:
    if not studio.jobs("look.png"):
        studio.drop("look.png", picture(33))
        settled(studio, "look.png")
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
    chosen = f"localStorage.theme = '{theme}'; localStorage.language = '{language}'"
    page.open("make", first=chosen)
    page.driver.execute_script(axe)
    page.find("summary").click()
    grounds = {"light": "rgb(246, 246, 243)", "dark": "rgb(19, 20, 18)"}
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == grounds[theme]
    for tab in TABS:
        page.turn_to(tab)
        page.until("document.querySelector('main > section:not([hidden])')")
        assert findings(page) == [], tab
    page.turn_to("clips")
    page.find(".clip").click()
    page.until("document.querySelector('dialog table')")
    assert findings(page) == [], "a clip"


def test_a_drained_host_is_told_and_works_again(studio: Studio, page: Browser) -> None:
    page.turn_to("health")
    page.until_said("All is well")
    assert "Hosts of this queue" not in page.text()
    studio.command("drain")
    page.until_said("drained")
    page.driver.execute_script(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    assert findings(page) == []
    page.button("Work again").click()
    page.until("document.querySelector('.hosts').hidden")
    studio.drop("worked.png", picture(50))
    settled(studio, "worked.png")


def findings(page: Browser) -> list[str]:
    """What axe finds in what is shown, by all its rules, whatever their weight."""
    found = page.driver.execute_async_script(
        "const [options, tell] = arguments;axe.run(options).then((told) => tell(told.violations));",
        {"resultTypes": ["violations"], "preload": False},
    )
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


def test_a_phone_shows_all_without_sideways_scrolling(page: Browser) -> None:
    page.be(width=375, height=700)
    for tab in TABS:
        page.turn_to(tab)
        page.until("document.querySelector('main > section:not([hidden]) *')")
        assert page.value("document.documentElement.scrollWidth") <= 375, tab


def test_its_files_are_few_and_checked_for_news(studio: Studio) -> None:
    assert sum(file.stat().st_size for file in FILES.iterdir()) < MOST
    url = f"http://127.0.0.1:{studio.port}"
    with httpx.Client(base_url=url, trust_env=False) as http:
        index = http.get("/")
        assert "default-src 'self'" in index.headers["content-security-policy"]
        for path in re.findall(r'(?:src|href)="(/[^"]+)"', index.text):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
            etag = {"If-None-Match": answer.headers["etag"]}
            assert http.get(path, headers=etag).status_code == 304
        for path in ("/page/", "/page/..%2fpage.py", "/page/%2e%2e/page.py", "/page/none.js"):
            assert http.get(path).status_code == 404


def test_every_text_exists_in_both_languages() -> None:
    texts = {name: (FILES / f"{name}.js").read_text() for name in ("en", "zh")}
    english, chinese = (re.findall(r'^  "([\w.-]+)":', text, re.M) for text in texts.values())
    assert english == chinese
    places = re.compile(r'^  "([\w.-]+)": ".*"', re.M)
    for key in english:
        lines = [next(m[0] for m in places.finditer(t) if m[1] == key) for t in texts.values()]
        assert len({frozenset(re.findall(r"\{\w+\}", line)) for line in lines}) == 1, key
    used = {
        key
        for file in FILES.glob("*.js")
        for key in re.findall(r'\bt\("([\w.-]+)"', file.read_text())
    }
    assert used - set(english) == set()
    assert len(used) > 50
