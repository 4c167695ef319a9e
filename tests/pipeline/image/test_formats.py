"""The list of formats, held against what the decoder's libraries know."""

import pillow_heif
import pytest
from PIL import Image

from daemon.intake.scanner import is_picture
from pipeline.image import formats

pillow_heif.register_heif_opener()


def test_every_ending_that_a_decoder_registers_is_a_picture() -> None:
    Image.init()
    registered = {
        ending
        for ending, plugin in Image.registered_extensions().items()
        if plugin in {each.plugin for each in formats.DECODED} | {"MPO"}
    }
    assert registered <= set(formats.PICTURE_SUFFIXES)
    assert all(is_picture(f"IMG_1{ending.upper()}") for ending in registered)


def test_no_ending_means_two_formats() -> None:
    all_endings = [
        ending for each in (*formats.DECODED, *formats.RECOGNISED) for ending in each.endings
    ]
    assert len(all_endings) == len(set(all_endings))
    assert all(ending == ending.lower() and ending[0] == "." for ending in all_endings)


@pytest.mark.parametrize("each", formats.DECODED, ids=lambda each: each.name)
def test_the_list_in_words_is_complete(each: formats.Format) -> None:
    assert each.name in formats.KNOWN


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("IMG_0001.DNG", "a raw file of a camera; develop it and export it as JPEG or PNG"),
        ("real.jxl", "a JPEG XL picture; export it as JPEG or PNG"),
        ("logo.ai", "a document of a drawing program; export it as JPEG or PNG"),
        ("clip.MOV", "a video; save one frame of it as JPEG or PNG"),
        ("a.jpg", None),
        ("jxl", None),
        ("notes", None),
    ],
)
def test_a_format_that_is_not_decoded_is_named(name: str, what: str | None) -> None:
    found = formats.find_by_name(name)
    assert (str(found) if found else None) == what


@pytest.mark.parametrize(
    "head",
    [
        b"II*\0\x10\0\0\0CR\x02\0",
        b"\0\0\0\x18ftypcrx ",
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0",
        b"IIU\0\x18\0",
    ],
)
def test_a_raw_file_is_known_by_its_first_bytes(head: bytes) -> None:
    found = formats.find_by_content(head)
    assert found is not None
    assert str(found).startswith("a raw file of a camera;")
