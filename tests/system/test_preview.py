"""A look at a clip while it is made: from the real worker's latents to the API and the page."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.children.protocol import PREVIEW_FRAMES
from tests.system.browser import browser
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

LONG = 'prompt = "camera panning right"\npreset = "high"\nsteps = 100\n'


def test_a_running_clip_is_seen_in_the_api_and_on_the_page(shared: Studio) -> None:
    (shared.inbox / "seen.png.toml").write_text(LONG)
    content = picture(50)
    shared.drop("seen.png", content)
    shared.until_denoising("seen.png")
    job = shared.job("seen.png")["id"]
    path = f"/api/jobs/{job}/preview"

    def shown(least: int) -> bytes:
        shared.until(lambda: shared.slot()["preview_version"] >= least, f"{least} previews came")
        answer = shared.request("GET", path)
        assert answer.headers["content-type"] == "image/jpeg"
        return answer.content

    strip = Image.open(BytesIO(shown(1)))
    assert strip.width == PREVIEW_FRAMES * strip.height
    wanted = np.asarray(Image.open(BytesIO(content)).convert("RGB").resize((strip.height,) * 2))
    first = np.asarray(strip.convert("RGB").crop((0, 0, strip.height, strip.height)))
    assert np.abs(first.mean((0, 1)) - wanted.mean((0, 1))).max() < 40, "the picture's colours"
    assert shown(shared.slot()["preview_version"] + 1), "it goes on"
    with browser(f"http://127.0.0.1:{shared.port}") as page:
        page.open("queue")
        page.until(f"document.querySelector('.live img')?.naturalWidth === {strip.width}")
        source = page.value("document.querySelector('.live img').src")
        assert path in source
        page.until(f"document.querySelector('.live img').src !== '{source}'")
    assert shared.post(f"/api/jobs/{job}/cancel").is_success
    shared.until_settled("seen.png", "cancelled")
    shared.until(lambda: shared.request("GET", path).status_code == 404, "it is over")
