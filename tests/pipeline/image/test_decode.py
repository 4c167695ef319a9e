"""The picture child's work, called directly: formats, modes, turns, damage, framing."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageStat
from PIL.PngImagePlugin import PngInfo

from pipeline.children.protocol import Inspected, Prepare, Prepared, Rejected
from pipeline.image import decode
from pipeline.image.colour import UnsupportedColours, apply_framing
from tests.pipeline.image.direct import inspect, prepare

pillow_heif.register_heif_opener()

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF"]
SAMPLES = Path(__file__).parents[3] / "daemon" / "samples"


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Four quarters of plain colour: red, green / blue, white."""
    image = Image.new("RGB", (width, height), (220, 30, 30))
    image.paste((30, 180, 30), (width // 2, 0, width, height // 2))
    image.paste((30, 30, 220), (0, height // 2, width // 2, height))
    image.paste((250, 250, 250), (width // 2, height // 2, width, height))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def inspect_bytes(folder: Path, data: bytes, name: str = "a.jpg") -> Inspected | Rejected:
    path = folder / name
    path.write_bytes(data)
    return inspect(path)


def reason(reply: object) -> str:
    assert isinstance(reply, Rejected), reply
    assert len(reply.reason) < 200
    assert "Error" not in reply.reason
    return reply.reason


def prepared(
    folder: Path, data: bytes, size: tuple[int, int] = (64, 64), framing: str = "crop"
) -> Image.Image:
    path, output = folder / "in.bin", folder / "out.png"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    request = Prepare(sha256=sha256, width=size[0], height=size[1], framing=framing)
    assert prepare(request, path, output) == Prepared()
    image = Image.open(output)
    image.load()
    assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", size, {})
    assert sorted(p.name for p in folder.iterdir()) == ["in.bin", "out.png"]
    return image


def close(a: Image.Image, b: Image.Image, most: float = 12.0) -> bool:
    return max(ImageStat.Stat(ImageChops.difference(a, b)).rms) <= most


# --- formats and modes


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_recognised_by_content_and_prepared(tmp_path, kind):
    data = encoded(scene(), kind, **({"quality": 95} if kind in ("JPEG", "HEIF", "AVIF") else {}))
    reply = inspect_bytes(tmp_path, data, "named.wrong")
    assert isinstance(reply, Inspected), reply
    assert (reply.width, reply.height, reply.size) == (96, 64, len(data))
    assert reply.sha256 == hashlib.sha256(data).hexdigest()
    assert reply.format == {"HEIF": "HEIC", "WEBP": "WebP"}.get(kind, kind)
    (tmp_path / "named.wrong").unlink()
    assert close(prepared(tmp_path, data, (96, 64)), scene())


MODES = {
    "TIFF": ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "PNG": ["1", "L", "P", "RGB", "I;16"],
    "JPEG": ["L", "RGB", "CMYK", "YCbCr"],
}


@pytest.mark.parametrize(("kind", "mode"), [(k, mode) for k in MODES for mode in MODES[k]])
def test_every_mode_keeps_its_greys(tmp_path, kind, mode):
    grey = Image.linear_gradient("L").resize((96, 96))
    if mode in ("I;16", "I"):
        image = grey.convert("I").point(lambda v: v * 257).convert(mode)
    elif mode == "F":
        image = grey.convert("F").point(lambda v: v * (1 / 255) + 0)
    elif mode == "LAB":
        to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(grey.convert("RGB"), *to_lab, outputMode="LAB")
    else:
        image = grey.convert(mode)
    clean = prepared(tmp_path, encoded(image, kind), (96, 96))
    if mode == "1":
        clean, grey = clean.resize((12, 12)), grey.resize((12, 12))
    assert close(clean, grey.convert("RGB"), 16.0 if mode == "1" else 6.0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = Image.new("I;16", (32, 32), 0x8000)
    assert prepared(tmp_path, encoded(deep), (32, 32)).getpixel((5, 5)) == (128, 128, 128)


def test_sixteen_bit_colours_are_scaled(tmp_path):
    row = b"\0" + struct.pack(">3H", 0x8000, 0xFFFF, 0x0100) * 32
    chunks = (
        (b"IHDR", struct.pack(">2I5B", 32, 32, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 32)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    assert prepared(tmp_path, data, (32, 32)).getpixel((5, 5)) == (128, 255, 1)


TRANSPARENT = {
    "PNG": ["RGBA", "LA", "P"],
    "TIFF": ["RGBA", "LA"],
    "WEBP": ["RGBA"],
    "GIF": ["RGBA"],
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(k, mode) for k in TRANSPARENT for mode in TRANSPARENT[k]]
)
def test_what_is_transparent_becomes_white(tmp_path, kind, mode):
    image = Image.new("RGBA", (64, 64), (10, 20, 30, 255))
    image.paste((200, 0, 0, 0), (32, 0, 64, 64))
    if mode == "P":
        image = image.quantize()
    elif mode == "LA":
        image = image.convert("LA")
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    clean = prepared(tmp_path, encoded(image, kind, **lossless))
    assert clean.getpixel((60, 30)) == (255, 255, 255)
    assert max(clean.getpixel((5, 30))) < 40


def test_half_transparency_is_mixed_with_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    assert prepared(tmp_path, encoded(image)).getpixel((9, 9)) == (127, 127, 127)


def test_a_transparent_colour_key_counts_as_transparency(tmp_path):
    image = Image.new("RGB", (64, 64), (1, 2, 3))
    data = encoded(image, "PNG", transparency=(1, 2, 3))
    assert prepared(tmp_path, data).getpixel((9, 9)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (64, 64), c) for c in ("red", "blue", "green")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, green, blue = prepared(tmp_path, data).getpixel((9, 9))
        assert red > 240
        assert max(green, blue) < 15


def test_the_colour_profile_is_applied(tmp_path):
    """The same numbers mean another colour in another space: a swapped profile shows it."""
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    plain = prepared(tmp_path, encoded(image)).getpixel((9, 9))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert prepared(tmp_path, encoded(image, icc_profile=srgb)).getpixel((9, 9)) == plain
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    red, green, _ = prepared(tmp_path, encoded(image, icc_profile=swapped)).getpixel((9, 9))
    assert green > red


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 128, b"x" * 5000])
def test_a_broken_profile_is_passed_over(tmp_path, profile):
    data = encoded(scene(), icc_profile=profile)
    assert close(prepared(tmp_path, data, (96, 64)), scene())


def test_a_profile_for_other_colours_is_passed_over(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = encoded(scene(), icc_profile=lab)
    assert close(prepared(tmp_path, data, (96, 64)), scene())


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_picture_stands_upright(tmp_path, kind, orientation):
    undo = {v: k for k, v in {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.items()}
    turns = {int(k): o for k, o in undo.items()}
    stored = scene()
    for turn, number in turns.items():
        if number == orientation:  # store it turned, so that undoing the turn gives the scene
            back = {2: 4, 4: 2}.get(turn, turn)
            stored = stored.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif)
    reply = inspect_bytes(tmp_path, data)
    (tmp_path / "a.jpg").unlink()
    assert isinstance(reply, Inspected)
    assert (reply.width, reply.height) == (96, 64)
    assert close(prepared(tmp_path, data, (96, 64)), scene())


def test_an_orientation_that_is_none_is_passed_over(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 77
    assert isinstance(inspect_bytes(tmp_path, encoded(scene(), "JPEG", exif=exif)), Inspected)


def test_a_large_jpeg_is_shrunk_by_the_decoder_and_still_told_in_full(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(scene(1001, 777), "JPEG", exif=exif)
    reply = inspect_bytes(tmp_path, data)
    assert (reply.width, reply.height) == (777, 1001)
    assert decode.decode(data, needed=1).image.size[0] < 200
    assert min(decode.decode(data, needed=400).image.size) >= 388
    (tmp_path / "a.jpg").unlink()
    clean = prepared(tmp_path, data, (64, 64))
    assert close(clean, scene().rotate(270, expand=True).resize((64, 64)), 25)


# --- caption


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("A red kite over the bay", "A red kite over the bay"),
        ("  two\nlines\t and \x07 bells ", "two lines and bells"),
        ("OLYMPUS DIGITAL CAMERA         ", ""),
        ("SONY DSC", ""),
        ("DCIM\\100MEDIA\\DJI_0042.JPG", ""),
        ("default", ""),
        ("x" * 900, "x" * 500),
        ("Möwen am Strand", "Möwen am Strand"),
    ],
)
def test_the_caption_is_cleaned(tmp_path, said, caption):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = said.encode() if not said.isascii() else said
    reply = inspect_bytes(tmp_path, encoded(scene(), "JPEG", exif=exif.tobytes()))
    assert isinstance(reply, Inspected)
    assert reply.caption == caption


def test_the_caption_of_windows_and_of_the_press(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.XPTitle] = "Ein Segelboot".encode("utf-16-le") + b"\0\0"
    assert inspect_bytes(tmp_path, encoded(scene(), "JPEG", exif=exif)).caption == "Ein Segelboot"
    words = b"Sails off the coast"
    record = b"\x1c\x02\x78" + struct.pack(">H", len(words)) + words
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    block += b"\0" * (len(record) % 2)
    plain = encoded(scene(), "JPEG")
    data = plain[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert inspect_bytes(tmp_path, data).caption == "Sails off the coast"


def test_a_huge_or_broken_exif_takes_nothing_from_the_picture(tmp_path):
    for exif in (
        b"Exif\0\0" + os.urandom(60_000),
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"\0" * 65_000,
    ):
        reply = inspect_bytes(tmp_path, encoded(scene(), "JPEG", exif=exif))
        assert isinstance(reply, Inspected), reply
        assert (reply.width, reply.caption) == (96, "")


# --- what is refused


def test_a_file_that_is_gone_is_told_apart(tmp_path):
    reply = inspect(tmp_path / "nothing.jpg")
    assert reply == Rejected(reason="the file is gone", gone=True)
    (tmp_path / "file").touch()
    assert inspect(tmp_path / "file" / "inside.jpg") == reply


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "real.png").write_bytes(encoded(scene()))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert reason(inspect(tmp_path / "link.png")) == "it is a symbolic link"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(inspect(tmp_path / "pipe.png")) == "it is not a regular file"
    (tmp_path / "folder.png").mkdir()
    assert reason(inspect(tmp_path / "folder.png")) == "it is not a regular file"
    assert reason(inspect(Path("/dev/zero"))) == "it is not a regular file"


def test_no_folder_on_the_way_may_be_a_link(tmp_path):
    """The inbox itself may be one; what lies in it others have made."""
    real, inbox = tmp_path / "real", tmp_path / "inbox"
    (real / "pets").mkdir(parents=True)
    (real / "pets" / "cat.png").write_bytes(encoded(scene()))
    inbox.symlink_to(real)
    (real / "friends").symlink_to(real / "pets")

    def asked(path: str) -> Inspected | Rejected:
        return inspect(inbox / path, inbox)

    assert isinstance(asked("pets/cat.png"), Inspected)
    assert asked("friends/cat.png") == Rejected(reason="the file is gone", gone=True)
    assert asked("nowhere/cat.png") == Rejected(reason="the file is gone", gone=True)
    assert isinstance(inspect(inbox / "friends" / "cat.png"), Inspected)
    (real / "cat.png").symlink_to(real / "pets" / "cat.png")
    assert reason(asked("cat.png")) == "it is a symbolic link"
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("pets/cat.png", "friends/cat.png", "nowhere/cat.png", "cat.png"):
        asked(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "but a web page"),
        (b"\n  <HTML lang=en>", "but a web page"),
        (b'<?xml version="1.0"?><svg/>', "but an SVG or XML file"),
        (b"%PDF-1.7\n", "but a PDF"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 50, "but a video"),
        (b"PK\x03\x04" + b"\0" * 50, "but an archive"),
        (b"hello, world", "but something else"),
        (b"\0" * 4096, "only zeros"),
        (b"\0" * 4096 + b"content", "only zeros"),
        (b"\xff\xd8\xff\xe0", "the end of the picture is missing"),
        (b"P6\n64 64\n255\n" + b"\0" * 64 * 64 * 3, "but a Netpbm picture; export it as"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "but a PostScript file"),
    ],
)
def test_what_is_no_picture_is_called_by_what_it_is(tmp_path, content, words):
    assert words in reason(inspect_bytes(tmp_path, content))


def test_a_picture_of_too_many_pixels_is_refused_unseen(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    for side in (1001, 5000):  # Pillow warns up to twice the limit and raises above
        data = encoded(Image.new("1", (side, side)))
        assert reason(inspect_bytes(tmp_path, data)) == (
            "the picture has too many pixels; allowed: up to 1 million"
        )


def test_a_tiny_picture_is_refused(tmp_path):
    assert reason(inspect_bytes(tmp_path, encoded(scene(15, 400)))) == (
        "the picture is tiny (15x400); allowed: from 16 pixels a side"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(600 * 2**20)
    assert reason(inspect(tmp_path / "big.jpg")) == "the file has 600 MiB; allowed: up to 512"


def test_a_text_bomb_in_a_png_is_left_out_unread(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * 100_000_000, zip=True)
    assert isinstance(inspect_bytes(tmp_path, encoded(scene(), pnginfo=info)), Inspected)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_never_escapes_as_anything_but_a_sentence(data):
    kind = data.draw(st.sampled_from(FORMATS))
    content = bytearray(_ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode.decode(bytes(content), needed=64)
        apply_framing(found.image, found.profile, 64, 64, "crop")
    except (decode.ImageRejected, UnsupportedColours):
        pass


_ENCODED = {kind: encoded(scene(48, 32), kind) for kind in FORMATS}


# --- prepare


def test_a_file_that_changed_since_is_not_prepared(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(scene()))
    request = Prepare(sha256="0" * 64, width=64, height=64, framing="crop")
    reply = prepare(request, path, tmp_path / "out.png")
    assert isinstance(reply, Rejected)
    assert reply.gone
    assert not (tmp_path / "out.png").exists()


def test_a_place_that_cannot_be_written_is_not_the_pictures_fault(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(scene()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    request = Prepare(sha256=sha256, width=64, height=64, framing="crop")
    with pytest.raises(FileNotFoundError):
        prepare(request, path, tmp_path / "nowhere" / "out.png")


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(st.integers(16, 300), st.integers(16, 300)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(["crop", "fit", "blur"]),
    st.sampled_from(["L", "RGB", "CMYK"]),
)
def test_the_size_is_exact_and_white_stays_white_to_the_edge(source, target, framing, mode):
    """The reference pipeline's fault: a black row or column at about 40 % of all sizes."""
    width, height = target[0] * 8, target[1] * 8
    white = Image.new("RGB", source, "white").convert(mode)
    image = apply_framing(white, b"", width, height, framing)
    assert image.size == (width, height)
    if framing == "fit":
        assert {color for _, color in image.getcolors()} <= {(255,) * 3, (128,) * 3}
        assert image.getpixel(((width - 1) // 2, (height - 1) // 2)) == (255, 255, 255)
    else:
        assert image.getextrema() == ((255, 255),) * 3


def test_a_crop_takes_the_middle():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    middle = apply_framing(image, b"", 64, 64, "crop").crop((3, 0, 61, 64))
    assert close(middle, Image.new("RGB", middle.size, "blue"), 1.0)


def test_a_fit_shows_all_between_bars():
    image = apply_framing(scene(128, 64), b"", 64, 64, "fit")
    assert image.getpixel((32, 4)) == (128, 128, 128)
    assert image.getpixel((32, 60)) == (128, 128, 128)
    assert image.getpixel((4, 20)) == (220, 30, 30)
    assert image.getpixel((60, 44)) == (250, 250, 250)


def test_a_blur_shows_all_over_a_blurred_copy():
    image = apply_framing(scene(128, 64), b"", 64, 64, "blur")
    assert image.getpixel((4, 20)) == (220, 30, 30)
    red, green, _ = image.getpixel((2, 2))
    assert red > green


def test_the_same_bytes_give_the_same_png(tmp_path):
    data = (SAMPLES / "cat.jpg").read_bytes()
    prepared(tmp_path, data, (128, 128))
    first = (tmp_path / "out.png").read_bytes()
    prepared(tmp_path, data, (128, 128))
    assert (tmp_path / "out.png").read_bytes() == first


@pytest.mark.parametrize("name", ["person.jpg", "landscape.jpg", "cat.jpg"])
def test_the_samples_are_sound_small_and_bare(name):
    data = (SAMPLES / name).read_bytes()
    assert len(data) < 150_000
    found = decode.decode(data, needed=9999)
    assert (found.format, found.profile, found.caption) == ("JPEG", b"", "")
    assert min(found.size) >= 300
