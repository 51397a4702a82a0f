"""One file, everything that is wrong or odd with it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from layouts import picture, planted_faults, png_chunk
from tl_lightning.data.checks.files import examine, quiet_decoders
from tl_lightning.data.checks.ignored import passed_over
from tl_lightning.data.checks.issues import BROKEN, KINDS
from tl_lightning.data.io.images import open_picture
from tl_lightning.errors import DataError


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_faults(tmp_path_factory.mktemp("planted"))


OF_ONE_FILE = sorted(
    KINDS.keys() - {"unreadable", "no_file", "ignored_format", "outside", "unlisted"}
)


@pytest.mark.parametrize("kind", OF_ONE_FILE)
def test_every_kind_is_found_and_no_other(planted, kind):
    finding = examine(planted[kind])
    assert list(finding.kinds) == [kind]
    decoded = kind not in BROKEN
    assert (finding.size is not None) == (finding.phash is not None) == decoded
    assert len(finding.thumbnail) == 256 * decoded
    assert len(finding.digest) == 32


@pytest.mark.parametrize("kind", OF_ONE_FILE)
def test_broken_is_what_training_cannot_read(planted, kind):
    if kind in BROKEN:
        with pytest.raises(DataError, match="cannot read picture"):
            open_picture(planted[kind])
    else:
        assert open_picture(planted[kind]).shape[0] == 3


def test_details_say_what_was_got(planted):
    details = {kind: examine(planted[kind]).kinds[kind] for kind in OF_ONE_FILE}
    assert details["not_a_picture"] == "begins with b'<html>404 no'"
    assert "truncated" in details["truncated"]
    assert "360000000 pixels" in details["enormous"]
    assert details["animated"] == "2 frames"
    assert details["tiny"] == "16 x 16"
    assert details["suffix_lies"] == "PNG"


def test_what_cannot_be_opened_is_unreadable_not_corrupt(tmp_path):
    for path, words in ((tmp_path / "gone.jpg", "No such file"), (tmp_path, "directory")):
        finding = examine(path)
        assert list(finding.kinds) == ["unreadable"]
        assert words in finding.kinds["unreadable"]
        assert finding.size is None


def test_a_sound_picture_has_no_kind(tmp_path):
    for suffix in ("jpg", "jpeg", "png", "bmp", "webp", "tif", "ppm", "JPG"):
        finding = examine(picture(tmp_path / f"a.{suffix}", 1, (48, 40)))
        assert not finding.kinds, suffix
        assert finding.size == (48, 40)


def test_a_picture_on_its_side_is_measured_and_hashed_upright(tmp_path):
    upright = picture(tmp_path / "a.png", 1, (64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(upright) as opened:
        opened.rotate(90, expand=True).save(tmp_path / "b.png", exif=exif)
    one, other = examine(upright), examine(tmp_path / "b.png")
    assert one.size == other.size == (64, 48)
    assert one.phash == other.phash
    assert one.thumbnail == other.thumbnail


def test_a_large_jpeg_cut_anywhere_is_truncated_though_it_is_decoded_small(tmp_path):
    """Decoding at an eighth must read to the end as well."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for progressive in (False, True):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", progressive=progressive)
        content = buffer.getvalue()
        for share in (0.3, 0.9, 0.99):
            path = tmp_path / "cut.jpg"
            path.write_bytes(content[: int(share * len(content))])
            assert "truncated" in examine(path).kinds, (progressive, share)


def test_a_header_alone_is_corrupt_in_plain_words(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"BM rubbish")
    words = "begins like a picture, but no decoder can read on"
    assert examine(path).kinds["truncated"] == words


def test_every_kind_of_odd_bytes_is_survived(tmp_path):
    """Flips bytes all over pictures of every format: a finding each, never an exception."""
    rng = np.random.default_rng(0)
    path = tmp_path / "odd"
    with quiet_decoders():
        for suffix in ("jpg", "png", "bmp", "webp", "tif", "ppm", "gif"):
            whole = picture(tmp_path / f"a.{suffix}", 1, (48, 40)).read_bytes()
            for _ in range(40):
                content = np.frombuffer(whole, np.uint8).copy()
                places = rng.integers(0, min(len(content), 400), 5)
                content[places] = rng.integers(0, 256, 5)
                path.write_bytes(content.tobytes()[: rng.integers(1, len(content) + 1)])
                finding = examine(path)
                assert (finding.size is None) == bool(set(BROKEN) & set(finding.kinds))


def test_opaque_alpha_is_no_transparency(tmp_path):
    with Image.open(picture(tmp_path / "a.png", 1, (48, 40))) as opened:
        opened.convert("RGBA").save(tmp_path / "b.png")
    assert not examine(tmp_path / "b.png").kinds


def test_sixteen_bit_color_is_seen_behind_eight(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (40, 1 + 40 * 6), dtype=np.uint8)
    rows[:, 0] = 0
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + png_chunk(b"IEND", b"")
    )
    assert list(examine(path).kinds) == ["sixteen_bit"]


def test_what_loaders_pass_over_is_named(planted):
    train = planted["empty"].parent
    known = [p for p in train.iterdir() if p.suffix in (".jpg", ".png") and p.is_file()]
    found = {path: (kind, detail) for kind, path, detail in passed_over(known)}
    assert found.pop(planted["animated"]) == ("unlisted", "")  # left out of known above
    details = {
        "no_file": "a folder",
        "no_file/link": f"a link to {train.parents[2] / 'gone.jpg'}, which is not there",
        "ignored_format": ".heic",
        "ignored_format/gif": ".gif",
        "outside": "beside the class folders",
        "outside/deeper": "deeper than a class folder",
    }
    for key, detail in details.items():
        assert found.pop(planted[key]) == (key.split("/")[0], detail)
    assert not found


def test_a_picture_without_a_suffix_is_named_and_other_files_are_not(tmp_path):
    known = picture(tmp_path / "train" / "cat" / "a.jpg", 0)
    bare = known.with_suffix("")
    bare.write_bytes(known.read_bytes())
    for name in ("notes", "labels.csv", "._a.jpg", ".hidden.jpg"):
        (known.parent / name).write_text("text")
    (known.parent / "pipe").symlink_to("nowhere")
    assert list(passed_over([known])) == [("ignored_format", bare, "no suffix")]


def test_a_class_of_unread_formats_alone_is_named_and_one_not_asked_for_is_not(tmp_path):
    known = picture(tmp_path / "train" / "cat" / "a.jpg", 0)
    picture(tmp_path / "train" / "dog" / "a.jpg", 1)
    phone = tmp_path / "train" / "fox" / "a.heic"
    phone.parent.mkdir()
    phone.touch()
    assert list(passed_over([known])) == [("ignored_format", phone, ".heic")]
