"""Images whose metadata are damaged have the pixels that viewers show."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from layouts import png_chunk, with_broken_text
from tl_lightning.data.checks.files import examine
from tl_lightning.data.io import images
from tl_lightning.data.io.images import open_image


def picture(height=40, width=60):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind, **options):
    file = io.BytesIO()
    picture().save(file, kind, **options)
    return file.getvalue()


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def jpeg_with(*segments):
    """Return a JPEG file with ``(marker, content)`` segments at its start."""
    content = encoded("JPEG", quality=90)
    blocks = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(block) + 2) + block
        for marker, block in segments
    )
    return content[:2] + blocks + content[2:]


def exif(*entries):
    """Return an EXIF block of ``(tag, type, count, value)`` entries, 4 bytes of value each."""
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHII", tag, kind, count, value)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + struct.pack("<III", 0, 32, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_does(tmp_path, kind, orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    path = tmp_path / f"a.{kind.lower()}"
    picture().save(path, kind, exif=block)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(open_image(path).permute(1, 2, 0).numpy(), expected)
    assert examine(path).size == expected.shape[1::-1]


#: An image width as a ratio, which Pillow cannot write back.
ODD_WIDTH = (0x0100, 5, 1, 38)
SIX = (0x0112, 3, 1, 6)

CASES = {
    "a tag of the wrong type": (jpeg_with((0xE1, exif(ODD_WIDTH, SIX))), 6),
    "an orientation that is text": (jpeg_with((0xE1, exif((0x0112, 2, 4, 0x41)))), 1),
    "an orientation of 99": (jpeg_with((0xE1, exif((0x0112, 3, 1, 99)))), 1),
    "a cut EXIF block": (jpeg_with((0xE1, exif(ODD_WIDTH, SIX)[:20])), 1),
    "EXIF without TIFF header": (jpeg_with((0xE1, b"Exif\0\0garbage")), 1),
    "an ICC profile cut off": (jpeg_with((0xE2, b"ICC_PROFILE\0\1\3abc")), 1),
    "a multi-picture index": (jpeg_with((0xE2, b"MPF\0II*\0\xff\xff\xff\x7f")), 1),
    "an MPF index with odd entries": (
        jpeg_with((0xE2, b"MPF\0" + exif((0xB001, 4, 1, 9), (0xB002, 7, 4, 0))[6:])), 1),
    "XMP that is not XML": (jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:<<")), 1),
    "a photoshop block": (jpeg_with((0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff\xff\0")), 1),
    "a PNG text with a wrong checksum": (with_broken_text(picture()), 1),
}  # fmt: skip


def png_with(name, content):
    whole = encoded("PNG")
    return whole[:33] + png_chunk(name, content) + whole[33:]


CASES |= {
    "a PNG text that expands to 80 MB": (
        png_with(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))), 1),
    "a PNG profile that is no zlib data": (png_with(b"iCCP", b"icc\0\0garbage"), 1),
    "a PNG profile of another compression": (png_with(b"iCCP", b"icc\0\7garbage"), 1),
    "PNG resolution of 3 bytes": (png_with(b"pHYs", b"abc"), 1),
    "PNG gamma of 1 byte": (png_with(b"gAMA", b"a"), 1),
    "PNG chromaticities cut off": (png_with(b"cHRM", b"abc"), 1),
    "PNG EXIF that is garbage": (png_with(b"eXIf", b"garbage"), 1),
    "a PNG text with a profile that is not hexadecimal": (
        png_with(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nzz"), 1),
    "PNG animation control cut off": (png_with(b"acTL", b"abc"), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_damaged_metadata_leave_the_pixels(tmp_path, name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/tl-train"])
    images._told().clear()
    content, orientation = CASES[name]
    plain = pixels_of(encoded("JPEG", quality=90) if content[:1] == b"\xff" else encoded("PNG"))
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    expected = plain if orientation == 1 else plain.transpose(1, 2).flip(2)
    assert torch.equal(open_image(path), expected)
    finding = examine(path)
    assert finding.size == expected.shape[:0:-1]
    assert "truncated" not in finding.kinds
    # A run says so once, if and only if the check lists the file.
    open_image(path)
    said = capsys.readouterr().err
    assert said.count("cannot be read") == ("metadata" in finding.kinds)
    assert said.count("tl-check-data lists all such files") == said.count("cannot be read")


def test_orientation_is_kept_where_other_metadata_stop_the_decoder(tmp_path):
    rotated = png_with(b"eXIf", exif(SIX)[6:])
    bad = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x"))[:-4] + bytes(4)
    (tmp_path / "a.png").write_bytes(rotated[:33] + bad + rotated[33:])
    assert open_image(tmp_path / "a.png").shape == (3, 60, 40)


def test_damage_of_the_pixels_is_not_hidden_by_damaged_metadata(tmp_path):
    content = with_broken_text(picture())
    path = tmp_path / "a.png"
    path.write_bytes(content[: len(content) - 300])
    assert "truncated" in examine(path).kinds
