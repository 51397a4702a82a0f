"""Checks of single image files and of files that loaders ignore."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from layouts import image, planted_problems, png_chunk
from tl_lightning.data.checks.files import examine, quiet_decoders
from tl_lightning.data.checks.ignored import passed_over
from tl_lightning.data.checks.issues import BROKEN, KINDS
from tl_lightning.data.io.images import open_image
from tl_lightning.errors import DataError


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_problems(tmp_path_factory.mktemp("planted"))


EXAMINED_KINDS = sorted(
    KINDS.keys() - {"unreadable", "no_file", "ignored_format", "outside", "unlisted"}
)


@pytest.mark.parametrize("kind", EXAMINED_KINDS)
def test_each_problem_is_detected_alone(planted, kind):
    finding = examine(planted[kind])
    assert list(finding.kinds) == [kind]
    decoded = kind not in BROKEN
    assert (finding.size is not None) == (finding.phash is not None) == decoded
    assert len(finding.thumbnail) == 256 * decoded
    assert len(finding.digest) == 32


@pytest.mark.parametrize("kind", EXAMINED_KINDS)
def test_training_cannot_read_exactly_the_broken_files(planted, kind):
    if kind in BROKEN:
        with pytest.raises(DataError, match="cannot read image"):
            open_image(planted[kind])
    else:
        assert open_image(planted[kind]).shape[0] == 3


def test_details(planted):
    details = {kind: examine(planted[kind]).kinds[kind] for kind in EXAMINED_KINDS}
    assert details["not_an_image"] == "begins with b'<html>404 no'"
    assert "truncated" in details["truncated"]
    assert "360000000 pixels" in details["enormous"]
    assert details["animated"] == "2 frames"
    assert details["tiny"] == "16 x 16"
    assert details["suffix_lies"] == "PNG"


def test_files_that_cannot_be_opened_are_unreadable_rather_than_truncated(tmp_path):
    for path, message in ((tmp_path / "gone.jpg", "No such file"), (tmp_path, "directory")):
        finding = examine(path)
        assert list(finding.kinds) == ["unreadable"]
        assert message in finding.kinds["unreadable"]
        assert finding.size is None


def test_valid_images_have_no_problems(tmp_path):
    for suffix in ("jpg", "jpeg", "png", "bmp", "webp", "tif", "ppm", "JPG"):
        finding = examine(image(tmp_path / f"a.{suffix}", 1, (48, 40)))
        assert not finding.kinds, suffix
        assert finding.size == (48, 40)


def test_size_and_hash_are_those_of_the_upright_image(tmp_path):
    upright = image(tmp_path / "a.png", 1, (64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(upright) as opened:
        opened.rotate(90, expand=True).save(tmp_path / "b.png", exif=exif)
    original, rotated = examine(upright), examine(tmp_path / "b.png")
    assert original.size == rotated.size == (64, 48)
    assert original.phash == rotated.phash
    assert original.thumbnail == rotated.thumbnail


def test_truncation_is_detected_although_large_jpegs_are_decoded_at_reduced_size(tmp_path):
    """Decoding at an eighth of the size must read the whole file as well."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for progressive in (False, True):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", progressive=progressive)
        content = buffer.getvalue()
        for fraction in (0.3, 0.9, 0.99):
            path = tmp_path / "truncated.jpg"
            path.write_bytes(content[: int(fraction * len(content))])
            assert "truncated" in examine(path).kinds, (progressive, fraction)


def test_signature_without_image(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"BM rubbish")
    message = "has the signature of an image, but no decoder can read it"
    assert examine(path).kinds["truncated"] == message


def test_corrupt_bytes_never_raise(tmp_path):
    """Replace bytes and truncate images of every format; each yields a finding."""
    rng = np.random.default_rng(0)
    path = tmp_path / "corrupt"
    with quiet_decoders():
        for suffix in ("jpg", "png", "bmp", "webp", "tif", "ppm", "gif"):
            original = image(tmp_path / f"a.{suffix}", 1, (48, 40)).read_bytes()
            for _ in range(40):
                content = np.frombuffer(original, np.uint8).copy()
                offsets = rng.integers(0, min(len(content), 400), 5)
                content[offsets] = rng.integers(0, 256, 5)
                path.write_bytes(content.tobytes()[: rng.integers(1, len(content) + 1)])
                finding = examine(path)
                assert (finding.size is None) == bool(set(BROKEN) & set(finding.kinds))


def test_opaque_alpha_channel_is_not_transparency(tmp_path):
    with Image.open(image(tmp_path / "a.png", 1, (48, 40))) as opened:
        opened.convert("RGBA").save(tmp_path / "b.png")
    assert not examine(tmp_path / "b.png").kinds


def test_16_bit_colour_is_detected_although_pillow_opens_it_as_8_bit(tmp_path):
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


def test_ignored_files_are_reported(planted):
    train = planted["empty"].parent
    known = [p for p in train.iterdir() if p.suffix in (".jpg", ".png") and p.is_file()]
    found = {path: (kind, detail) for kind, path, detail in passed_over(known)}
    assert found.pop(planted["animated"]) == ("unlisted", "")  # a webp file, not in ``known``
    details = {
        "no_file": "a folder",
        "no_file/link": f"a link to {train.parents[2] / 'gone.jpg'}, which does not exist",
        "ignored_format": ".heic",
        "ignored_format/gif": ".gif",
        "outside": "next to the class folders",
        "outside/deeper": "in a subfolder of a class folder",
    }
    for key, detail in details.items():
        assert found.pop(planted[key]) == (key.split("/")[0], detail)
    beside = {
        detail for path, (_, detail) in found.items() if path.is_relative_to(train.parents[1])
    }
    assert beside == {"in a folder next to the splits"}  # those of test/, not in ``known``


def test_images_without_a_suffix_are_reported_but_other_files_are_not(tmp_path):
    known = image(tmp_path / "train" / "cat" / "a.jpg", 0)
    without_suffix = known.with_suffix("")
    without_suffix.write_bytes(known.read_bytes())
    for name in ("notes", "labels.csv", "._a.jpg", ".hidden.jpg"):
        (known.parent / name).write_text("text")
    (known.parent / "pipe").symlink_to("nowhere")
    assert list(passed_over([known])) == [("ignored_format", without_suffix, "no suffix")]


def test_unused_classes_are_reported_only_if_their_formats_are_unsupported(tmp_path):
    known = image(tmp_path / "train" / "cat" / "a.jpg", 0)
    image(tmp_path / "train" / "dog" / "a.jpg", 1)
    unsupported = tmp_path / "train" / "fox" / "a.heic"
    unsupported.parent.mkdir()
    unsupported.touch()
    assert list(passed_over([known])) == [("ignored_format", unsupported, ".heic")]


def test_nested_images_without_labels_are_not_outside_of_class_folders(tmp_path):
    known = [image(tmp_path / "1.jpg", 1), image(tmp_path / "deep" / "2.jpg", 2)]
    unsupported = tmp_path / "deep" / "phone.heic"
    unsupported.touch()
    assert list(passed_over([], known)) == [("ignored_format", unsupported, ".heic")]
