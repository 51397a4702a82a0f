"""Decoding: turned, whole, of any mode; and hundreds of broken files."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tl_lightning.data.datasets import PictureDataset, SplitReader, collate
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import open_picture
from tl_lightning.data.io.unreadable import unreadable
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)


def soft(high, wide, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((wide, high), Image.Resampling.BICUBIC)


def test_a_picture_is_turned_as_its_exif_says(tmp_path) -> None:
    upright = soft(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    wanted = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(open_picture(tmp_path / "turned.png"), wanted)


def test_sixteen_bits_keep_their_upper_eight(tmp_path) -> None:
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = open_picture(tmp_path / "deep.png")
    assert torch.equal(found[0], torch.from_numpy((deep >> 8).astype(np.uint8)))
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "RGBA", "LA", "YCbCr", "F", "I"])
def test_every_mode_becomes_three_channels(tmp_path, mode) -> None:
    suffix = "tif" if mode in ("CMYK", "YCbCr", "F", "I") else "png"
    soft(20, 30).convert("L" if mode in "FI" else mode).convert(mode).save(tmp_path / f"x.{suffix}")
    found = open_picture(tmp_path / f"x.{suffix}")
    assert found.shape == (3, 20, 30)
    assert found.dtype == torch.uint8
    assert found.float().std() > 5


def test_of_an_animation_the_first_picture_is_taken(tmp_path) -> None:
    first, second = Image.new("RGB", (9, 9), (255, 0, 0)), Image.new("RGB", (9, 9), (0, 0, 255))
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], lossless=True)
    assert open_picture(tmp_path / "x.webp")[:, 4, 4].tolist() == [255, 0, 0]


def test_large_jpegs_are_decoded_small_but_twice_as_large_as_needed(tmp_path) -> None:
    soft(1200, 1600).save(tmp_path / "x.jpg", quality=95)
    assert open_picture(tmp_path / "x.jpg").shape == (3, 1200, 1600)
    small = open_picture(tmp_path / "x.jpg", shorter=128)
    assert small.shape == (3, 300, 400)
    whole = torch.nn.functional.interpolate(
        open_picture(tmp_path / "x.jpg")[None].float(), (300, 400), mode="area"
    )
    assert (small - whole[0]).abs().mean() < 1.5


def test_too_many_pixels_are_named(tmp_path) -> None:
    header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "huge.bmp").write_bytes(header)
    with pytest.raises(DataError, match=r"cannot read picture .*huge\.bmp: .*decompression bomb"):
        open_picture(tmp_path / "huge.bmp")


def mutated(number: int, seed: int) -> list[bytes]:
    """Return whole pictures of several kinds with bytes changed, cut, repeated or put in."""
    kinds = []
    for suffix, options in (
        ("JPEG", {"quality": 80}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}),
        ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("GIF", {}), ("PPM", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        soft(40, 50, seed).save(file, suffix, **options)
        kinds.append(file.getvalue())
    rng = np.random.default_rng(seed)
    found = []
    for k in range(number):
        data = bytearray(kinds[k % len(kinds)])
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(data))) if rng.random() < 0.6 else int(rng.integers(64))
            place = min(place, len(data) - 1)
            what = rng.integers(5)
            if what == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif what == 1:
                data[place : place + 4] = rng.bytes(4)
            elif what == 2:
                del data[place:]
            elif what == 3:
                data[place:place] = data[: int(rng.integers(1, 200))]
            else:
                data[place : place + 4] = b"\xff\xff\xff\xff"
            data = data or bytearray(b"\0")
        found.append(bytes(data))
    return found


@pytest.mark.slow
def test_five_hundred_mutated_files_never_crash_or_hang_the_loader(tmp_path) -> None:
    paths = []
    for k, data in enumerate(mutated(500, seed=1)):
        paths.append(tmp_path / f"{k:03d}.jpg")
        paths[-1].write_bytes(data)
    faults = unreadable(paths)
    assert 50 < len(faults) < 450
    for path in paths:
        if path in faults:
            with pytest.raises(DataError, match=path.name):
                open_picture(path)
        else:
            assert open_picture(path).shape[0] == 3
    good = [path for path in paths if path not in faults]
    split = Split(good, None, [path.name for path in good])
    geometry = augmentation(SPEC, "light").geometry
    data = PictureDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)
    order = [(k, k) for k in range(len(good))]
    loader = DataLoader(
        data, batch_size=16, sampler=order, num_workers=2, collate_fn=collate, timeout=60
    )
    assert sum(len(batch["index"]) for batch in loader) == len(good)


def test_a_broken_file_stops_the_workers_with_its_name(tmp_path) -> None:
    soft(20, 20).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    split = Split([tmp_path / "a.png", tmp_path / "b.png"], None, ["a", "b"])
    geometry = augmentation(SPEC, "light").geometry
    data = PictureDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)
    order = [(0, 0), (1, 0)]
    loader = DataLoader(data, batch_size=1, sampler=order, num_workers=1, collate_fn=collate)
    with pytest.raises(DataError, match=r"cannot read picture .*b\.png"):
        list(loader)
