"""Pictures as other programs write them are whole: at the first look where the format packs."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from pipeline.image.caption import read_caption
from pipeline.image.decode import decode
from pipeline.image.errors import ImageRejected
from tests.fuzz.corpus import encoded
from tests.system.needs import needs

CAT = Path(__file__).parents[3] / "daemon" / "samples" / "cat.jpg"
PACKED = {
    "cjpeg -quality 90 -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -optimize -sample 1x1 -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -progressive -quality 60 -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -arithmetic -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -restart 1 -optimize -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -restart 7B -progressive -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "cjpeg -grayscale -dct float -outfile out.jpg in.bmp": "libjpeg-turbo-progs",
    "jpegtran -progressive -copy none -outfile out.jpg in.jpg": "libjpeg-turbo-progs",
    "jpegtran -optimize -rotate 90 -trim -outfile out.jpg in.jpg": "libjpeg-turbo-progs",
    "convert-im6.q16 in.png -colorspace CMYK out.jpg": "imagemagick",
    "convert-im6.q16 in.png -interlace Plane -sampling-factor 4:4:4 out.jpg": "imagemagick",
    "convert-im6.q16 in.png -interlace PNG out.png": "imagemagick",
    "convert-im6.q16 in.png -depth 16 PNG48:out.png": "imagemagick",
    "convert-im6.q16 in.png -colors 16 PNG8:out.png": "imagemagick",
    "convert-im6.q16 in.png -monochrome out.png": "imagemagick",
    "optipng -quiet -o1 -out out.png in.png": "optipng",
    "pngcrush -s in.png out.png": "pngcrush",
    "cwebp -quiet -q 60 in.png -o out.webp": "webp",
    "cwebp -quiet -q 95 -m 6 -segments 4 -partition_limit 50 in.png -o out.webp": "webp",
    "cwebp -quiet -lossless in.png -o out.webp": "webp",
    "cwebp -quiet -near_lossless 60 in.png -o out.webp": "webp",
    "convert-im6.q16 in.png out.gif": "imagemagick",
    "convert-im6.q16 in.png -interlace GIF out.gif": "imagemagick",
    "gifsicle -O3 in.gif -o out.gif": "gifsicle",
    "avifenc -s 9 in.png out.avif": "libavif-bin",
    "avifenc -s 9 --lossless in.png out.avif": "libavif-bin",
    "avifenc -s 9 -d 10 -y 420 in.png out.avif": "libavif-bin",
    "avifenc -s 9 --tilerowslog2 1 --tilecolslog2 1 in.png out.avif": "libavif-bin",
    "avifenc -s 9 --grid 2x2 in.png out.avif": "libavif-bin",
    "heif-enc -q 60 in.png -o out.heic": "libheif-examples",
    "heif-enc -L in.png -o out.heic": "libheif-examples",
    "convert-im6.q16 in.png -compress LZW out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress Zip out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress JPEG out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress RLE out.tif": "imagemagick",
    "convert-im6.q16 in.png -monochrome -compress Group4 out.tif": "imagemagick",
    "convert-im6.q16 in.png -monochrome -compress Fax out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress LZW -define tiff:tile-geometry=64x64 out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress Zip -define tiff:predictor=2 out.tif": "imagemagick",
    "convert-im6.q16 in.png -endian MSB -compress LZW -interlace Plane out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress Zip -depth 16 TIFF64:out.tif": "imagemagick",
    "tiffcp -c lzma in.tif out.tif": "libtiff-tools",
    "tiffcp -c zstd in.tif out.tif": "libtiff-tools",
    "tiffcp -c packbits -B in.tif out.tif": "libtiff-tools",
}
"""Commands that write a picture, by the Debian package of each program."""

PLAIN = {
    "convert-im6.q16 in.png out.bmp": "imagemagick",
    "convert-im6.q16 in.png BMP2:out.bmp": "imagemagick",
    "convert-im6.q16 in.png BMP3:out.bmp": "imagemagick",
    "convert-im6.q16 in.png -alpha on out.bmp": "imagemagick",
    "convert-im6.q16 in.png -colors 200 -compress RLE BMP3:out.bmp": "imagemagick",
    "convert-im6.q16 in.png -monochrome BMP3:out.bmp": "imagemagick",
    "convert-im6.q16 in.png -compress None out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress None -depth 16 out.tif": "imagemagick",
    "convert-im6.q16 in.png -compress None -define tiff:tile-geometry=64x64 out.tif": "imagemagick",
    "tiffcp -c none -p separate in.tif out.tif": "libtiff-tools",
}


def drawings() -> dict[str, Image.Image]:
    """A photograph, one with black and white around it, and black alone."""
    with Image.open(CAT) as opened:
        cat = opened.convert("RGB").resize((256, 192))
    framed = Image.new("RGB", (512, 384), "black")
    framed.paste((255, 255, 255), (0, 300, 512, 384))
    framed.paste(cat, (128, 96))
    return {
        "photo": cat,
        "framed": framed,
        "black": Image.new("RGB", (256, 256), "black"),
    }


def written(command: str, package: str, drawing: str, folder: Path) -> bytes:
    program, *arguments = command.split()
    image = drawings()[drawing]
    for name in ("in.png", "in.bmp", "in.jpg", "in.gif", "in.tif"):
        if name in arguments:
            image.save(folder / name)
    done = subprocess.run([needs(program, package=package), *arguments], cwd=folder,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    output = next(path for path in folder.iterdir() if path.stem.startswith("out"))
    return output.read_bytes()


@pytest.mark.parametrize("drawing", ["photo", "framed"])
@pytest.mark.parametrize("command", PACKED)
def test_what_is_packed_is_whole_at_the_first_look(
    tmp_path: Path, command: str, drawing: str
) -> None:
    data = written(command, PACKED[command], drawing, tmp_path)
    picture = decode(data, needed=1, lenient=True)
    assert picture.size in (drawings()[drawing].size, drawings()[drawing].size[::-1])
    if drawing == "photo":  # even areas may end in zeros in some, and wait for the second look
        assert decode(data, needed=1).size == picture.size


@pytest.mark.parametrize("drawing", drawings())
@pytest.mark.parametrize("command", PLAIN)
def test_what_is_not_packed_is_whole_at_the_second_look(
    tmp_path: Path, command: str, drawing: str
) -> None:
    data = written(command, PLAIN[command], drawing, tmp_path)
    assert decode(data, needed=1, lenient=True).size == drawings()[drawing].size


@pytest.mark.parametrize("command", [c for c in PACKED if "arithmetic" not in c])
def test_half_of_it_is_not(tmp_path: Path, command: str) -> None:
    data = written(command, PACKED[command], "photo", tmp_path)
    half = len(data) // 2
    for copy in (data[:half], data[:half] + bytes(len(data) - half)):
        with pytest.raises(ImageRejected) as caught:
            decode(copy, needed=1)
        assert caught.value.incomplete


# --- captions


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("Möwen über Łódź", ["-codedcharacterset=utf8"]),
        ("Möwen über Köln", []),
        ("“Möwen”, 5 €", []),
        ("漢字 и кириллица", ["-codedcharacterset=utf8"]),
    ],
)
def test_a_caption_of_the_press_is_read_in_its_characters(
    tmp_path: Path, text: str, arguments: list[str]
) -> None:
    exiftool = needs("exiftool", package="libimage-exiftool-perl")
    for ending, kind in (("jpg", "JPEG"), ("tif", "TIFF")):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(encoded(drawings()["black"], kind))
        command = [exiftool, "-q", "-overwrite_original", *arguments]
        command += [f"-IPTC:Caption-Abstract={text}", path.name]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert decode(path.read_bytes(), needed=1, lenient=True).caption == text


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("EXIF:ImageDescription", "海边的小船"),
        ("EXIF:ImageDescription", "A family: 👨‍👩‍👧"),
        ("EXIF:XPTitle", "Möwen"),
        ("EXIF:XPTitle", "海边的小船"),
        ("EXIF:XPTitle", "قایق‌ها"),  # noqa: RUF001
    ],
)
def test_a_caption_of_exif_is_read_in_its_characters(tmp_path: Path, tag: str, text: str) -> None:
    exiftool = needs("exiftool", package="libimage-exiftool-perl")
    (tmp_path / "a.jpg").write_bytes(encoded(drawings()["black"], "JPEG"))
    command = [exiftool, "-q", "-overwrite_original", f"-{tag}={text}", "a.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert decode((tmp_path / "a.jpg").read_bytes(), needed=1).caption == text


@pytest.mark.parametrize(
    ("charset", "text"),
    [(b"\x1b.A", "Möwen"), (b"\x1b-L", "Чайки"), (b"\x1b-F", "Γλάροι"), (b"\x1b-B", "Łódź"),
     (b"\x1b%G", "海鸥"), (b"", "Möwen"), (b"nonsense", "Möwen")],
)  # fmt: skip
def test_the_character_set_that_is_named_is_used(charset: bytes, text: str) -> None:
    names = {b"\x1b-L": "iso8859-5", b"\x1b-F": "iso8859-7", b"\x1b-B": "iso8859-2"}
    content = text.encode(names.get(charset, "utf-8" if charset == b"\x1b%G" else "latin-1"))
    records = b""
    for number, body in (((1, 90), charset), ((2, 120), content)):
        records += bytes((0x1C, *number)) + len(body).to_bytes(2, "big") + body
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records
    segment = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    data = encoded(drawings()["black"], "JPEG")
    found = decode(data[:2] + segment + data[2:], needed=1).caption
    assert found == text
    assert "\N{REPLACEMENT CHARACTER}" not in found


def test_no_bytes_become_replacement_characters() -> None:
    with Image.open(CAT) as image:
        for value in (bytes(range(128, 256)), bytes(range(256)), b"\xff\xfe", "\x80\x9f\xff"):
            caption = read_caption(image, {270: value, 0x9C9B: value})
            assert "\N{REPLACEMENT CHARACTER}" not in caption
