"""The page in a real browser: languages, themes, access, a phone, weight."""

import re
from pathlib import Path

import httpx2
import pytest

from daemon.web.static import FILES
from tests.daemon.web.test_sentences import read_catalog
from tests.system.browser import Browser
from tests.system.page.acts import findings, pick, settled
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

TABS = ("make", "queue", "clips", "failures", "rules", "health")
MOST = 130_000
GROUNDS = {"light": "rgb(246, 246, 243)", "dark": "rgb(19, 20, 18)"}


def test_it_speaks_english_and_chinese(page: Browser, tmp_path: Path) -> None:
    pick(page, tmp_path, stays=7, too=8)
    page.find("#prompt").send_keys("a cat")
    page.click("label:has([value='high'])")
    page.turn_to("queue")
    assert page.value("document.documentElement.lang") == "en"
    page.click("#language")
    page.until("document.documentElement.lang === 'zh-Hans'")
    page.until_text("空闲")
    assert page.value("location.hash") == "#queue"
    page.turn_to("make")
    page.until_text("too.png")
    page.until_text("96 \N{MULTIPLICATION SIGN} 96")
    assert page.find("#prompt").get_attribute("value") == "a cat"
    assert page.value("document.querySelector('[name=preset]:checked').value") == "high"
    assert page.value("document.querySelectorAll('.thumbs li').length") == 2
    page.turn_to("health")
    page.until_text("一切正常")
    page.click("#language")
    page.until("document.documentElement.lang === 'en'")
    page.until_text("All is well")


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
    "out of memory at 48x48, 8 frames, resident, the last rung (needs 3.0 GB, 1.0 GB may be used); "
    "the preset draft would fit (1.0 GB); or choose a smaller preset, or buy a card":
    "在最后一级（48×48，8 帧，resident）仍内存不足（需要 3.0 GB，可用 1.0 GB）；"
    "预设 draft 放得下（1.0 GB）；或者选更小的预设，或者buy a card",
    "what nobody knows; road to nowhere": "what nobody knows; road to nowhere",
}  # fmt: skip


def test_the_daemons_sentences_are_said_in_chinese(studio: Studio, page: Browser) -> None:
    def said(texts: list[str]) -> list[str]:
        return page.driver.execute_async_script(
            "const [texts, done] = arguments;"
            "import('/page/messages.js').then(({translate}) => done(texts.map(translate)));",
            texts,
        )

    assert said(["an archive"]) == ["an archive"], "the page is in English"
    page.open("failures", first="localStorage.language = 'zh'")
    asked, wanted = [], []
    for english, chinese in read_catalog().items():
        asked.append(english.replace("{}", "the worker" if "{1@}" in chinese else "7", 1))
        asked[-1] = asked[-1].replace("{}", "7")
        wanted.append(re.sub(r"\{\d#?\}", "7", chinese.replace("{1@}", "工作进程")))
    assert said(asked) == wanted
    assert said([*COMPOSED]) == [*COMPOSED.values()]
    studio.drop("rubbish.png", b"<!doctype html><html></html>")
    studio.until_settled("rubbish.png", "failed")
    page.until_text("而是")


def test_language_and_theme_are_those_of_the_browser(page: Browser) -> None:
    agent = page.value("navigator.userAgent")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    command = page.driver.execute_cdp_cmd
    command("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "zh-CN"})
    command("Emulation.setEmulatedMedia", {"features": dark})
    try:
        page.open("make")
        assert page.value("document.documentElement.lang") == "zh-Hans"
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        assert ground == GROUNDS["dark"]
    finally:
        command("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-US"})
        command("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("theme", "language"), [("light", "en"), ("dark", "zh")])
def test_everybody_can_use_it(studio: Studio, page: Browser, theme: str, language: str) -> None:
    if not studio.jobs("look.png"):
        studio.drop("look.png", picture(33))
        settled(studio, "look.png")
    chosen = f"localStorage.theme = '{theme}'; localStorage.language = '{language}'"
    page.open("make", first=chosen)
    page.click("summary")
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == GROUNDS[theme]
    for tab in TABS:
        page.turn_to(tab)
        page.until("document.querySelector('main > section:not([hidden])')")
        assert findings(page) == [], tab
    page.turn_to("clips")
    page.click(".clip")
    page.until("document.querySelector('dialog table')")
    assert findings(page) == [], "a clip"


def test_a_phone_shows_all_without_sideways_scrolling(page: Browser) -> None:
    page.resize(width=375, height=700)
    for tab in TABS:
        page.turn_to(tab)
        page.until("document.querySelector('main > section:not([hidden]) *')")
        assert page.value("document.documentElement.scrollWidth") <= 375, tab


def test_its_files_are_few_and_checked_for_news(studio: Studio) -> None:
    for_all = [file for file in FILES.iterdir() if file.name != "sentences.js"]
    assert sum(file.stat().st_size for file in for_all) < MOST
    url = f"http://127.0.0.1:{studio.port}"
    with httpx2.Client(base_url=url, trust_env=False) as http:
        index = http.get("/")
        assert "default-src 'self'" in index.headers["content-security-policy"]
        for path in re.findall(r'(?:src|href)="([^"#]+)"', index.text):
            assert not path.startswith("/"), "a proxy may add a prefix"
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
