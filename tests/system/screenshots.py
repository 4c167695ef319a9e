"""Screenshots of the page for the README: `python -m tests.system.screenshots`.

The real daemon with the demo model makes clips of the samples.
"""

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from daemon.cli.demo import SAMPLES
from tests.system.browser import Browser, browser
from tests.system.studio import ROOT, Studio

TARGET = ROOT / "daemon" / "web"
MOTIONS = ("panning right", "zooming in slowly")
MAX_BYTES = 200_000
FLAT = 64
SLOW = 900.0
"""Limit in seconds for all clips on a busy machine."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="i2vd-screenshots-") as folder:
        studio = Studio(Path(folder) / "studio")
        try:
            photograph(studio)
        finally:
            studio.close()


def photograph(studio: Studio) -> None:
    """Make the clips, then take the screenshots."""
    for number, motion in enumerate(MOTIONS, start=1):
        studio.rule(
            f"{number}0-{motion.split()[0]}",
            f'[match]\nfolder = "{motion}"\n\n[make]\nprompt = "camera {motion}"\n',
        )
    studio.start()
    names = [f"{m}/{sample.name}" for sample in SAMPLES.glob("*.jpg") for m in MOTIONS]
    for name in names:
        studio.drop(name, (SAMPLES / Path(name).name).read_bytes())
    made = len(names)
    studio.until(lambda: len(studio.clips()) == made, "the clips are made", SLOW)
    with browser(f"http://127.0.0.1:{studio.port}") as page:
        page.resize(height=1020)
        page.open("make", first="localStorage.theme = 'light'")
        page.driver.find_element("id", "files").send_keys(str(SAMPLES / "landscape.jpg"))
        page.find("#prompt").send_keys(
            "dandelions swaying in the wind, camera panning right slowly"
        )
        page.until("document.querySelector('.dry-run .facts div')")
        page.until("document.querySelector('.preview img').naturalWidth")
        page.click("label:has([value='standard'])")
        page.until_text("16 frames (2.0 s)")
        page.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        save(page, "make.png")
        page.resize(height=640)
        page.open("clips", first="localStorage.theme = 'dark'")
        posters = "[...document.querySelectorAll('.grid img')]"
        page.until(f"{posters}.length === {made} && {posters}.every((i) => i.naturalWidth)")
        save(page, "clips.png")


def save(page: Browser, name: str) -> None:
    """Save a screenshot with few colours, to keep it small."""
    page.driver.execute_async_script("setTimeout(arguments[0], 700)")  # wait for transitions
    shot = Image.open(BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    small = BytesIO()
    shot.quantize(palette=palette(shot), dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    assert len(small.getvalue()) < MAX_BYTES, name
    (TARGET / name).write_bytes(small.getvalue())
    print(f"{name}: {shot.width}x{shot.height}, {len(small.getvalue()):,} bytes")


def palette(shot: Image.Image) -> Image.Image:
    """Return a palette: the page's few flat colours exactly, the rest for photographs."""
    flat = sorted(shot.getcolors(1 << 24) or [], reverse=True)[:FLAT]
    rest = shot.quantize(256 - FLAT).getpalette() or []
    found = Image.new("P", (1, 1))
    found.putpalette([part for _, colour in flat for part in colour] + rest)
    return found


if __name__ == "__main__":
    main()
