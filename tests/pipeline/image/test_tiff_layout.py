"""TIFFs of many layouts, as other programs write them: as ImageMagick shows them, or refused."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from pipeline.image.colour import apply_framing
from pipeline.image.decode import decode
from pipeline.image.errors import ImageRejected
from tests.fuzz.corpus import encoded, scene
from tests.pipeline import hostile
from tests.system.needs import needs

WHITE_IS_ZERO = "-negate -define quantum:polarity=min-is-white"
FLOATING_POINT = "-define quantum:format=floating-point"

DECODED = {
    "grey 16": "-depth 16 -colorspace Gray",
    "grey 16, packed": "-depth 16 -colorspace Gray -compress Zip -endian MSB",
    "grey 16, white is zero": f"-depth 16 -colorspace Gray {WHITE_IS_ZERO}",
    "grey 16, white is zero, MSB": f"-depth 16 -colorspace Gray -endian MSB {WHITE_IS_ZERO}",
    "grey 12": "-depth 12 -colorspace Gray",
    "grey 4, white is zero": "-depth 4 -colorspace Gray",
    "grey and alpha": "-alpha on -channel A -evaluate set 40% +channel -colorspace Gray",
    "grey and alpha 16": "-alpha on -channel A -evaluate set 40% +channel -colorspace Gray "
    "-depth 16",
    "grey and alpha 16, MSB": "-alpha on -channel A -evaluate set 40% +channel "
    "-colorspace Gray -depth 16 -endian MSB -compress LZW",
    "grey and alpha, associated": "-alpha on -channel A -evaluate set 40% +channel "
    "-colorspace Gray -define tiff:alpha=associated",
    "grey and alpha 16, associated": "-alpha on -channel A -evaluate set 40% +channel "
    "-colorspace Gray -depth 16 -define tiff:alpha=associated",
    "grey, floating-point": f"-colorspace Gray -depth 32 {FLOATING_POINT}",
    "grey, floating-point, packed": f"-colorspace Gray -depth 32 {FLOATING_POINT} -compress Zip",
    "grey, floating-point, MSB": f"-colorspace Gray -depth 32 {FLOATING_POINT} -endian MSB",
    "grey, floating-point, MSB, packed": f"-colorspace Gray -depth 32 {FLOATING_POINT} "
    "-endian MSB -compress Zip",
    "Lab": "-colorspace Lab",
    "Lab 16": "-colorspace Lab -depth 16",
    "Lab 16, MSB, packed": "-colorspace Lab -depth 16 -endian MSB -compress LZW",
    "CMYK 16": "-colorspace CMYK -depth 16",
    "YCbCr": "-colorspace YCbCr",
    "RGB 16": "-depth 16",
    "RGB and alpha 16": "-alpha on -channel A -evaluate set 40% +channel -depth 16",
}
"""Arguments of ImageMagick."""

REFUSED = {
    "-depth 32": "RGB, 32-bit",
    "-depth 12": "RGB, 12-bit",
    f"-depth 32 {FLOATING_POINT}": "RGB, 32-bit floating-point",
    f"-depth 16 {FLOATING_POINT}": "RGB, 16-bit floating-point",
    f"-depth 64 -colorspace Gray {FLOATING_POINT}": "grey, 64-bit floating-point",
    "-depth 32 -colorspace Gray": "grey, 32-bit",
    "-alpha on -colorspace CMYK": "CMYK with alpha, 8-bit",
}


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """Greys from black to white, and soft colours that each colour space has."""
    slope = Image.linear_gradient("L").resize((96, 64))
    colours = [slope.point(lambda v, k=k: 90 + v * k // 400) for k in (60, 90, 120)]
    image = Image.merge("RGB", colours)
    image.paste(Image.merge("RGB", (slope,) * 3).crop((0, 0, 48, 64)), (0, 0))
    image.save(tmp_path / "in.png")
    return tmp_path


def run(folder: Path, command: str, package: str) -> None:
    program, *arguments = command.split()
    done = subprocess.run([needs(program, package=package), *arguments], cwd=folder,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def is_as_imagemagick_shows_it(folder: Path, most: int = 3) -> bool:
    """Compare `out.tif` as it reaches the clip with ImageMagick's conversion to sRGB."""
    run(folder, "convert-im6.q16 out.tif -background white -alpha remove -alpha off "
                "-colorspace sRGB -depth 8 PNG24:srgb.png", "imagemagick")  # fmt: skip
    picture = decode((folder / "out.tif").read_bytes(), needed=9999, lenient=True)
    ours = apply_framing(picture.image, picture.profile, *picture.size, "crop").convert("RGB")
    with Image.open(folder / "srgb.png") as theirs:
        extrema = ImageChops.difference(ours, theirs.convert("RGB")).getextrema()
    return max(high for _, high in extrema) <= most


@pytest.mark.parametrize("layout", DECODED)
def test_a_tiff_is_as_imagemagick_shows_it(drawing: Path, layout: str) -> None:
    run(drawing, f"convert-im6.q16 in.png {DECODED[layout]} out.tif", "imagemagick")
    assert is_as_imagemagick_shows_it(drawing)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("options", ["", "-colorspace CMYK", "-alpha on"])
@pytest.mark.parametrize("packing", ["None", "LZW"])
def test_planes_are_joined(drawing: Path, depth: int, options: str, packing: str) -> None:
    options += f" -depth {depth} -interlace Plane -compress {packing}"
    run(drawing, f"convert-im6.q16 in.png {options} out.tif", "imagemagick")
    assert is_as_imagemagick_shows_it(drawing)


@pytest.mark.parametrize("most", [1.3, 40.0, 900.0])
@pytest.mark.parametrize("frame", [0, 20])
def test_highlights_over_one_do_not_darken_a_floating_point_picture(
    drawing: Path, most: float, frame: int
) -> None:
    grey = Image.linear_gradient("L").resize((96, 64))
    grey.paste(0, (0, 0, 96, frame))
    deep = grey.convert("F").point(lambda value: value * (1 / 255) + 0.0)
    deep.paste(most, (90, 50, 96, 60))
    deep.save(drawing / "out.tif")
    assert is_as_imagemagick_shows_it(drawing)


@pytest.mark.parametrize("frame", [0, 40])
def test_floating_point_from_0_to_255_is_taken_as_such(drawing: Path, frame: int) -> None:
    grey = Image.linear_gradient("L").resize((96, 64))
    grey.paste(0, (0, 0, 96, frame))
    picture = decode(encoded(grey.convert("F"), "TIFF"), needed=1, lenient=True)
    ours = apply_framing(picture.image, b"", 96, 64, "crop").convert("L")
    assert max(ImageChops.difference(ours, grey).getextrema()) <= 1


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    deep = Image.linear_gradient("L").resize((96, 64)).convert("I").point(lambda v: v * 250 + 7)
    key = deep.getpixel((0, 20))
    assert isinstance(key, int)
    chunk = hostile.chunk(b"tRNS", key.to_bytes(2, "big"))
    data = hostile.with_chunk(encoded(deep.convert("I;16"), "PNG"), chunk)
    picture = decode(data, needed=1)
    ours = apply_framing(picture.image, picture.profile, 96, 64, "crop")
    assert ours.getpixel((50, 20)) == (255, 255, 255)
    assert ours.getpixel((50, 21)) < (110, 110, 110)
    assert ours.getpixel((50, 19)) < (110, 110, 110)


def reason(data: bytes) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode(data, needed=1, lenient=True)
    return str(caught.value)


@pytest.mark.parametrize("options", REFUSED)
def test_another_layout_is_refused_by_its_name(drawing: Path, options: str) -> None:
    run(drawing, f"convert-im6.q16 in.png {options} out.tif", "imagemagick")
    assert reason((drawing / "out.tif").read_bytes()) == (
        f"it is a TIFF of a rare kind ({REFUSED[options]}), which is not supported; "
        "export it as JPEG or PNG"
    )


def test_planes_that_cannot_be_joined_are_refused_by_name(drawing: Path) -> None:
    run(drawing, "convert-im6.q16 in.png -colorspace Lab a.tif", "imagemagick")
    run(drawing, "tiffcp -p separate a.tif out.tif", "libtiff-tools")
    assert "(Lab, 8-bit, in planes)" in reason((drawing / "out.tif").read_bytes())


def test_an_unknown_compression_is_refused_by_its_name() -> None:
    sound = encoded(scene(), "TIFF", compression="tiff_lzw")
    assert "(compressed by LERC)" in reason(hostile.with_tag(sound, 259, 3, 1, 34887))


def test_an_unknown_bmp_is_refused_by_its_name(drawing: Path) -> None:
    options = "-alpha on -define bmp:subtype=ARGB4444"
    run(drawing, f"convert-im6.q16 in.png {options} out.bmp", "imagemagick")
    found = reason((drawing / "out.bmp").read_bytes())
    assert found.startswith("it is a BMP of a rare kind (bitfields layout), which is not supported")
