"""The PNG that the parent writes of the child's pixels, read by two other programs."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.children.clean_picture import encode_png, pixel_memory, read_as_png, write_png
from tests.system.needs import needs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.randoms(use_true_random=False))
def test_every_pixel_comes_back(tmp_path_factory, width, height, rng):
    pixels = rng.randbytes(width * height * 3)
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(encode_png(pixels, width, height))
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size, image.info) == (
            "PNG",
            "RGB",
            (width, height),
            {},
        )
        assert image.tobytes() == pixels


@pytest.mark.parametrize("size", [(1, 1), (64, 33), (640, 1)])
def test_pngcheck_finds_no_fault(tmp_path: Path, size: tuple[int, int]) -> None:
    pngcheck = needs("pngcheck", package="pngcheck")
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(os.urandom(size[0] * size[1] * 3), *size))
    told = subprocess.run([pngcheck, path], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("OK:")
    assert f"{size[0]}x{size[1]}, 24-bit RGB" in told.stdout


def test_memory_for_pixels_neither_grows_nor_shrinks() -> None:
    with pixel_memory(10, 10) as pixels:
        for size in (0, 299, 301, 10**9):
            with pytest.raises(PermissionError):
                os.ftruncate(pixels, size)
        with pytest.raises(PermissionError):
            os.pwrite(pixels, b"more", 299)
        assert os.fstat(pixels).st_size == 300


def test_the_file_is_new_and_private(tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    with pixel_memory(4, 4) as pixels:
        write_png(read_as_png(pixels, 4, 4), output)
        assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
        assert output.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileNotFoundError):
            write_png(read_as_png(pixels, 4, 4), tmp_path / "nowhere" / "picture.png")
        for precious in (output, tmp_path / "elsewhere" / "picture.png"):
            precious.parent.mkdir(exist_ok=True)
            precious.write_text("precious")
            (tmp_path / "link.png").unlink(missing_ok=True)
            (tmp_path / "link.png").symlink_to(precious)
            for taken in (precious, tmp_path / "link.png"):
                with pytest.raises(FileExistsError):
                    write_png(read_as_png(pixels, 4, 4), taken)
            assert precious.read_text() == "precious"
