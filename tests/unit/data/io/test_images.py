"""Image decoding: EXIF orientation, colour modes, draft sizes and hundreds of corrupt files."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tl_lightning.data.datasets import ImageDataset, SplitReader, collate
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import open_image
from tl_lightning.data.io.unreadable import unreadable
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)


def smooth_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def test_exif_orientation_is_applied(tmp_path) -> None:
    upright = smooth_image(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # must be rotated by 90 degrees clockwise to be upright
    upright.rotate(90, expand=True).save(tmp_path / "rotated.png", exif=exif)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(open_image(tmp_path / "rotated.png"), expected)


def test_16_bit_images_keep_their_upper_8_bits(tmp_path) -> None:
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = open_image(tmp_path / "deep.png")
    assert torch.equal(found[0], torch.from_numpy((deep >> 8).astype(np.uint8)))
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "RGBA", "LA", "YCbCr", "F", "I"])
def test_all_modes_are_converted_to_rgb(tmp_path, mode) -> None:
    suffix = "tif" if mode in ("CMYK", "YCbCr", "F", "I") else "png"
    smooth_image(20, 30).convert("L" if mode in "FI" else mode).convert(mode).save(
        tmp_path / f"x.{suffix}"
    )
    found = open_image(tmp_path / f"x.{suffix}")
    assert found.shape == (3, 20, 30)
    assert found.dtype == torch.uint8
    assert found.float().std() > 5


def test_first_frame_of_an_animation_is_used(tmp_path) -> None:
    first, second = Image.new("RGB", (9, 9), (255, 0, 0)), Image.new("RGB", (9, 9), (0, 0, 255))
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], lossless=True)
    assert open_image(tmp_path / "x.webp")[:, 4, 4].tolist() == [255, 0, 0]


def test_large_jpegs_are_decoded_at_no_less_than_twice_the_needed_size(tmp_path) -> None:
    smooth_image(1200, 1600).save(tmp_path / "x.jpg", quality=95)
    assert open_image(tmp_path / "x.jpg").shape == (3, 1200, 1600)
    small = open_image(tmp_path / "x.jpg", shorter=128)
    assert small.shape == (3, 300, 400)
    whole = torch.nn.functional.interpolate(
        open_image(tmp_path / "x.jpg")[None].float(), (300, 400), mode="area"
    )
    assert (small - whole[0]).abs().mean() < 1.5


def test_decompression_bomb_is_refused(tmp_path) -> None:
    header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "huge.bmp").write_bytes(header)
    with pytest.raises(DataError, match=r"cannot read image .*huge\.bmp: .*decompression bomb"):
        open_image(tmp_path / "huge.bmp")


def mutated(number: int, seed: int) -> list[bytes]:
    """Return images in several formats with bytes changed, removed, repeated or inserted."""
    originals = []
    for suffix, options in (
        ("JPEG", {"quality": 80}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}),
        ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("GIF", {}), ("PPM", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        smooth_image(40, 50, seed).save(file, suffix, **options)
        originals.append(file.getvalue())
    rng = np.random.default_rng(seed)
    files = []
    for k in range(number):
        data = bytearray(originals[k % len(originals)])
        for _ in range(int(rng.integers(1, 6))):
            offset = int(rng.integers(len(data))) if rng.random() < 0.6 else int(rng.integers(64))
            offset = min(offset, len(data) - 1)
            mutation = rng.integers(5)
            if mutation == 0:
                data[offset] ^= 1 << int(rng.integers(8))
            elif mutation == 1:
                data[offset : offset + 4] = rng.bytes(4)
            elif mutation == 2:
                del data[offset:]
            elif mutation == 3:
                data[offset:offset] = data[: int(rng.integers(1, 200))]
            else:
                data[offset : offset + 4] = b"\xff\xff\xff\xff"
            data = data or bytearray(b"\0")
        files.append(bytes(data))
    return files


@pytest.mark.slow
def test_500_mutated_files_never_crash_or_hang_the_loader(tmp_path) -> None:
    paths = []
    for k, data in enumerate(mutated(500, seed=1)):
        paths.append(tmp_path / f"{k:03d}.jpg")
        paths[-1].write_bytes(data)
    problems = unreadable(paths)
    assert 50 < len(problems) < 450
    for path in paths:
        if path in problems:
            with pytest.raises(DataError, match=path.name):
                open_image(path)
        else:
            assert open_image(path).shape[0] == 3
    good = [path for path in paths if path not in problems]
    split = Split(good, None, [path.name for path in good])
    geometry = augmentation(SPEC, "light").geometry
    data = ImageDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)
    order = [(k, k) for k in range(len(good))]
    loader = DataLoader(
        data, batch_size=16, sampler=order, num_workers=2, collate_fn=collate, timeout=60
    )
    assert sum(len(batch["index"]) for batch in loader) == len(good)


def test_error_from_a_worker_names_the_corrupt_file(tmp_path) -> None:
    smooth_image(20, 20).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    split = Split([tmp_path / "a.png", tmp_path / "b.png"], None, ["a", "b"])
    geometry = augmentation(SPEC, "light").geometry
    data = ImageDataset(split, SplitReader(split, None, SPEC), geometry, SPEC.size)
    order = [(0, 0), (1, 0)]
    loader = DataLoader(data, batch_size=1, sampler=order, num_workers=1, collate_fn=collate)
    with pytest.raises(DataError, match=r"cannot read image .*b\.png"):
        list(loader)
