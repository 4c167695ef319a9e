"""Colours that a file names otherwise than by an ICC profile, held against other programs."""

import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms

from pipeline.image import icc, transfer
from pipeline.image.colour import apply_framing
from pipeline.image.decode import decode
from tests.fuzz.corpus import encoded, scene
from tests.pipeline import hostile
from tests.system.needs import missing, needs

PROFILES = Path("/usr/share/color/icc/colord")
PQ, HLG, P3_PRIMARIES, WIDE = 16, 18, 12, 9


def converted(data: bytes) -> Image.Image:
    """The picture as it reaches the clip."""
    picture = decode(data, needed=9999)
    return apply_framing(picture.image, picture.profile, *picture.size, "crop")


def profile(name: str) -> Path:
    """A colour profile that another project made."""
    path = PROFILES / name
    if not path.is_file():
        missing(f"{path} is missing; to run this test: apt-get install colord-data")
    return path


def farthest(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two pictures, of 255."""
    extrema = ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getextrema()
    return max(high for _, high in extrema)


def colours(most: int = 255) -> Image.Image:
    """Greys, and mixtures of all colours up to a code, in areas that no coder blurs."""
    image = Image.new("RGB", (256, 128))
    for row in range(8):
        for column in range(16):
            n = row * 16 + column
            code = (
                (n * most // 127,) * 3
                if row < 2
                else tuple(n * k % 128 * most // 127 for k in (1, 5, 11))
            )
            image.paste(code, (column * 16, row * 16, column * 16 + 16, row * 16 + 16))
    return image


def by_ffmpeg(image: Image.Image, folder: Path, primaries: str, curve: str) -> Image.Image:
    """The codes converted to sRGB by zimg; 203 cd/m² are white."""
    ffmpeg = needs("ffmpeg", package="ffmpeg")
    image.save(folder / "codes.png")
    filters = (
        f"setparams=color_primaries={primaries}:color_trc={curve}:colorspace=gbr:range=pc,"
        "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=709,zscale=t=iec61966-2-1,format=gbrp"
    )
    command = [ffmpeg, "-v", "error", "-y", "-i", "codes.png", "-vf", filters, "srgb.png"]
    subprocess.run(command, cwd=folder, check=True)
    with Image.open(folder / "srgb.png") as opened:
        return opened.convert("RGB")


def by_imagemagick(image: Image.Image, folder: Path, source: Path) -> Image.Image:
    """The codes converted to sRGB by ImageMagick from another project's profile."""
    convert = needs("convert-im6.q16", package="imagemagick")
    image.save(folder / "codes.png")
    command = [convert, "codes.png", "-intent", "relative", "-profile", str(source)]
    command += ["-profile", str(profile("sRGB.icc")), "srgb.png"]
    subprocess.run(command, cwd=folder, check=True)
    with Image.open(folder / "srgb.png") as opened:
        return opened.convert("RGB")


# --- how a file says it


def png(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    extra = (hostile.chunk(name, body) for name, body in chunks)
    return hostile.with_chunk(encoded(image, "PNG"), *extra)


def cicp(primaries: int, curve: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes((primaries, curve, 0, 1))


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(primaries: icc.Primaries) -> tuple[bytes, bytes]:
    red, green, blue, white = primaries
    values = (*white, *red, *green, *blue)
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


def iccp(content: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(content)


def heic(image: Image.Image, primaries: int, curve: int) -> bytes:
    return encoded(
        image,
        "HEIF",
        quality=100,
        chroma=444,
        color_primaries=primaries,
        transfer_characteristics=curve,
        matrix_coefficients=0,
        full_range_flag=1,
    )


def avif(image: Image.Image, primaries: int, curve: int, folder: Path) -> bytes:
    avifenc = needs("avifenc", package="libavif-bin")
    image.save(folder / "in.png")
    command = [avifenc, "--cicp", f"{primaries}/{curve}/0", "--lossless", "in.png", "out.avif"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return (folder / "out.avif").read_bytes()


Say = Callable[[Image.Image, int, int, Path], bytes]
WAYS: dict[str, Say] = {
    "cICP": lambda image, p, t, _: png(image, cicp(p, t)),
    "HEIC": lambda image, p, t, _: heic(image, p, t),
    "AVIF": avif,
}


# --- against other programs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("primaries", "theirs"), [(P3_PRIMARIES, "smpte432"), (WIDE, "bt2020"), (11, "smpte431")]
)
def test_wide_colours_are_converted(tmp_path: Path, way: str, primaries: int, theirs: str) -> None:
    image = colours()
    ours = converted(WAYS[way](image, primaries, 13, tmp_path))
    assert farthest(ours, image) > 40, "it changes something"
    expected = by_ffmpeg(image, tmp_path, theirs, "iec61966-2-1")
    if primaries == 11:  # another white, which zimg leaves as it is
        ours, expected = ours.crop((0, 0, 1, 1)), expected.crop((0, 0, 1, 1))
    assert farthest(ours, expected) <= 3


@pytest.mark.parametrize("way", WAYS)
def test_hdr_below_the_knee_is_what_it_is_on_any_display(tmp_path: Path, way: str) -> None:
    """Up to a code of 125, some 85 cd/m², nothing is mapped."""
    image = colours(125)
    ours = converted(WAYS[way](image, WIDE, PQ, tmp_path))
    assert farthest(ours, by_ffmpeg(image, tmp_path, "bt2020", "smpte2084")) <= 4


def test_adobe_rgb_by_what_cameras_write(tmp_path: Path) -> None:
    image = colours()
    expected = by_imagemagick(image, tmp_path, profile("AdobeRGB1998.icc"))
    exiftool = needs("exiftool", package="libimage-exiftool-perl")
    for name, options, tags in (
        ("a.jpg", {"quality": 100, "subsampling": 0}, ["-ColorSpace#=65535", "-InteropIndex=R03"]),
        ("b.jpg", {"quality": 100, "subsampling": 0}, ["-ColorSpace#=2"]),
        ("c.webp", {"lossless": True}, ["-ColorSpace#=65535", "-InteropIndex=R03"]),
        ("d.png", {}, ["-ColorSpace#=65535", "-InteropIndex=R03"]),
        ("e.tif", {}, ["-ColorSpace#=65535", "-InteropIndex=R03"]),
    ):
        image.save(tmp_path / name, **options)
        command = [exiftool, "-q", "-overwrite_original", *tags, name]
        subprocess.run(command, cwd=tmp_path, check=True)
        data = (tmp_path / name).read_bytes()
        picture = decode(data, needed=9999, lenient=True)
        ours = apply_framing(picture.image, picture.profile, *picture.size, "crop")
        assert farthest(ours, expected) <= 5, name


def test_adobe_rgb_by_gamma_and_primaries(tmp_path: Path) -> None:
    image = colours()
    expected = by_imagemagick(image, tmp_path, profile("AdobeRGB1998.icc"))
    ours = converted(png(image, gama(256 / 563), chrm(icc.ADOBE)))
    assert farthest(ours, expected) <= 4


def test_a_profile_inside_a_bmp(tmp_path: Path) -> None:
    image, content = colours(), profile("AdobeRGB1998.icc").read_bytes()
    pixels = encoded(image, "BMP")[54:]
    header = struct.pack("<IiiHHIIiiII", 124, 256, 128, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    header += bytes(16) + b"DEBM" + bytes(36 + 12) + struct.pack("<4I", 4, 124 + len(pixels),
                                                                len(content), 0)  # fmt: skip
    body = header + pixels + content
    data = b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + len(header)) + body
    picture = decode(data, needed=9999, lenient=True)
    ours = apply_framing(picture.image, picture.profile, 256, 128, "crop")
    assert farthest(ours, by_imagemagick(image, tmp_path, profile("AdobeRGB1998.icc"))) <= 2


# --- tones


def test_the_anchors_of_the_recommendation() -> None:
    """ITU-R BT.2408, table 1: a grey card is 26 cd/m², 38 % in both; paper 203, 58 and 75 %."""
    for grey, paper in ((transfer.pq(0.38), transfer.pq(0.58)),
                        (transfer.hlg(0.38), transfer.hlg(0.75))):  # fmt: skip
        assert grey == pytest.approx(26 / 203, abs=0.01)
        assert 0.6 < paper < 0.8, "room is left for what is brighter"


@pytest.mark.parametrize("curve", [transfer.pq, transfer.hlg, transfer.srgb, transfer.power(2.2)])
def test_a_curve_rises_from_black_to_white(curve: transfer.Curve) -> None:
    light = [curve(code / 1000) for code in range(1001)]
    assert light[0] == pytest.approx(0, abs=1e-6)
    assert light[-1] == pytest.approx(1, abs=1e-3)
    assert light == sorted(light)


@pytest.mark.parametrize("curve", [PQ, HLG])
@pytest.mark.parametrize("way", WAYS)
def test_hdr_has_contrast(tmp_path: Path, way: str, curve: int) -> None:
    """Shown as it is, PQ is flat and grey."""
    low, high = (60, 140) if curve == PQ else (40, 200)
    grey = Image.linear_gradient("L").resize((64, 64)).point(lambda v: low + v * (high - low) / 255)
    ours = converted(WAYS[way](grey.convert("RGB"), WIDE, curve, tmp_path)).convert("L")
    before, after = grey.getextrema(), ours.getextrema()
    assert after[1] - after[0] > 1.25 * (before[1] - before[0])


def test_a_gamma_is_applied_to_greys_too() -> None:
    """Light of a half, linear, is a code of 188 in sRGB."""
    for mode in ("RGB", "L"):
        image = Image.new("RGB", (32, 32), (128, 128, 128)).convert(mode)
        assert converted(png(image, gama(1.0))).getpixel((9, 9)) == pytest.approx((188,) * 3, abs=1)


# --- who is asked first


SWAPPED = icc.build(icc.BT709._replace(red=icc.BT709.green, green=icc.BT709.red), transfer.srgb)
"""A profile that shows what is red in green."""


def is_green(data: bytes) -> bool:
    red, green, _ = converted(data).getpixel((9, 9))
    return green > red


def test_the_precedence_of_png() -> None:
    image = Image.new("RGB", (32, 32), (200, 60, 30))
    swapped = chrm(icc.BT709._replace(red=icc.BT709.green, green=icc.BT709.red))
    srgb = (b"sRGB", b"\0")
    assert is_green(png(image, gama(1 / 2.2), swapped))
    assert not is_green(png(image, gama(1 / 2.2), swapped, srgb))
    assert is_green(png(image, srgb, iccp(SWAPPED)))
    assert not is_green(png(image, iccp(SWAPPED), cicp(1, 13)))


def test_a_profile_goes_before_code_points_and_exif() -> None:
    image = Image.new("RGB", (64, 64), (200, 60, 30))
    exif = Image.Exif()
    exif[ExifTags.Base.ColorSpace] = 1
    for kind in ("HEIF", "AVIF", "JPEG", "WEBP"):
        assert is_green(encoded(image, kind, icc_profile=SWAPPED, exif=exif.tobytes())), kind


# --- what is broken decides nothing


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"iTXt", b"zTXt"]),
    st.binary(max_size=64),
)
def test_any_chunk_beside_the_pixels_takes_nothing_from_them(name: bytes, body: bytes) -> None:
    picture = decode(png(scene(), (name, body)), needed=1)
    assert picture.size == (48, 40)
    apply_framing(picture.image, picture.profile, 64, 64, "crop")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
@pytest.mark.parametrize("size", [0, 1, 100, 60_000])
def test_broken_exif_and_profiles_take_nothing(kind: str, size: int) -> None:
    noise = os.urandom(size)
    plain = apply_framing(scene(), b"", 48, 40, "crop")
    for options in ({"exif": b"Exif\0\0" + noise}, {"icc_profile": noise}):
        if kind in ("TIFF", "AVIF") and "exif" in options:
            continue  # Pillow does not write such
        lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
        picture = decode(encoded(scene(), kind, **options, **lossless), needed=1, lenient=True)
        assert picture.size == (48, 40)
        found = apply_framing(picture.image, picture.profile, 48, 40, "crop")
        assert farthest(found, plain) < 60


def test_primaries_that_span_nothing_are_passed_over() -> None:
    line = icc.Primaries((0.3, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3, 0.3))
    black = icc.Primaries((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    for primaries in (line, black):
        data = png(scene(), gama(1 / 2.2), chrm(primaries))
        assert decode(data, needed=1).profile == b""


def test_a_profile_made_here_is_what_littlecms_makes() -> None:
    ours = ImageCms.getOpenProfile(io.BytesIO(icc.build(icc.BT709, transfer.srgb)))
    theirs = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image = colours()
    assert farthest(image, ImageCms.profileToProfile(image, ours, theirs)) <= 1
