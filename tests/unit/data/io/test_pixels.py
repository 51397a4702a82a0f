"""Images of more than 8 bits, transparent images and constant ones."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import file_config
from layouts import file_settings, png_chunk
from tl_lightning.api.run import predict
from tl_lightning.data.checks.files import examine
from tl_lightning.data.checks.survey import survey
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.io.depth import deep_images, white_of
from tl_lightning.data.io.images import open_image
from tl_lightning.data.io.metadata import PNG
from tl_lightning.data.io.pixels import FLAT, is_flat
from tl_lightning.data.streaming.writer import write_streams
from tl_lightning.errors import DataError
from tl_lightning.training import fit as training


def gray(seed=0, shape=(40, 48), high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint16)


def decoded(path, others=()):
    return open_image(path, white=white_of([path, *others])).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_image_with_some_of_16_bits_is_its_8_bit_original(tmp_path, bits, suffix):
    original = gray()
    original[0, 0] = 255
    path = tmp_path / f"a.{suffix}"
    Image.fromarray((original << (bits - 8)) + gray(1, high=1 << (bits - 8))).save(path)
    assert white_of([path]) == 2.0**bits - 1
    assert np.array_equal(decoded(path), original[..., None].repeat(3, axis=2))


def test_16_bit_colours_keep_their_upper_8_bits_and_are_named_if_they_are_flat(tmp_path):
    values = gray(shape=(40, 48, 3), high=4096)
    rows = values.astype(">u2").reshape(40, -1).view(np.uint8)
    rows = np.concatenate([np.zeros((40, 1), np.uint8), rows], axis=1)
    head = struct.pack(">IIBBBBB", 48, 40, 16, 2, 0, 0, 0)
    content = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows.tobytes()))
    path = tmp_path / "a.png"
    path.write_bytes(PNG + content + png_chunk(b"IEND", b""))
    assert deep_images([path]) == []
    assert np.array_equal(decoded(path), values >> 8)
    assert list(examine(path).kinds) == ["sixteen_bit", "flat"]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_images_of_0_to_1_are_not_black(tmp_path, scale):
    original = gray()
    original[0, 0] = 255
    values = (original / 255 * scale).astype(np.float32)
    values[1, :3] = np.nan, -1, -np.inf
    original[1, :3] = 0
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(decoded(tmp_path / "a.tif")[..., 0], original)


def test_integers_of_32_bits(tmp_path):
    values = gray(high=256).astype(np.int32) * 1000
    values[0, 0] = 255_000
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = decoded(tmp_path / "a.tif")[..., 0]  # white is 262143
    assert np.array_equal(found, values // 1024)


def test_all_images_have_the_scale_of_the_largest_value(tmp_path):
    dark, bright = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(gray() // 4).save(dark)
    Image.fromarray(gray() * 16 + 15).save(bright)
    assert white_of([dark]) == 255
    assert np.array_equal(decoded(dark, [bright])[..., 0], gray() // 64)


def test_scale_of_a_file_that_is_replaced_by_one_of_the_same_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tif"
    found = []
    for values in (gray() // 4, gray() * 16 + 15):
        Image.fromarray(values).save(path)
        os.utime(path, (0, 0))
        found.append((white_of([path]), path.stat().st_size))
    assert found == [(255, found[0][1]), (4095, found[0][1])]


def test_files_of_8_bits_have_no_scale(tmp_path):
    paths = [tmp_path / f"a.{suffix}" for suffix in ("png", "jpg", "tif", "bmp", "webp", "ppm")]
    for path in paths:
        Image.fromarray(gray().astype(np.uint8)).convert("RGB").save(path)
    (tmp_path / "gone.png").write_bytes(b"")
    assert deep_images([*paths, tmp_path / "gone.png", tmp_path / "absent.png"]) == []
    assert white_of(paths) is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB"])
def test_transparent_pixels_are_white(tmp_path, mode):
    alpha = gray().astype(np.uint8)
    black = Image.new("RGBA", (48, 40), (0, 0, 0, 0))
    black.putalpha(Image.fromarray(alpha))
    if mode == "PA":
        image = Image.merge("LA", (Image.new("L", (48, 40)), Image.fromarray(alpha)))
        image.save(tmp_path / "a.png")
        expected = 255 - alpha.astype(int)
    elif mode in ("P", "RGB"):  # one colour is transparent
        shown = np.where(alpha > 99, 255, 0).astype(np.uint8)
        image = Image.fromarray(np.where(alpha > 99, 7, 0).astype(np.uint8)).convert(mode)
        image.save(tmp_path / "a.png", transparency=7 if mode == "P" else (7, 7, 7))
        expected = shown.astype(int)
    else:
        black.convert(mode).save(tmp_path / "a.png")
        expected = 255 - alpha.astype(int)
    found = open_image(tmp_path / "a.png").numpy()
    assert np.abs(found - expected).max() <= 1
    assert "transparent" in examine(tmp_path / "a.png").kinds


def test_flat_images_are_those_without_contrast():
    page = np.full((64, 64, 3), 250, np.uint8)
    assert is_flat(page)
    page[3, 5] = 250 - FLAT
    assert is_flat(page)
    page[3, 5, 1] = 249 - FLAT  # a single pixel, which a coarse grid does not meet
    assert not is_flat(page)


def folder(root, save, splits=("",)):
    for start, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(8):
                seed = 100 * label + 10 * start + index
                save(gray(seed), root / split / name / f"{index}.png")
    return root


def white_on_white(values, path):
    image = Image.new("RGBA", (48, 40), "white")
    image.putalpha(Image.fromarray(values.astype(np.uint8)))
    image.save(path)


@pytest.mark.parametrize("cache", ["decoded", "off"])
def test_check_and_run_name_the_same_constant_images(tmp_path, capsys, cache):
    def save(values, path):
        Image.fromarray(values.astype(np.uint8)).save(path)

    root = folder(tmp_path / "photos", save, ("train", "test"))
    for index in (1, 4):
        white_on_white(gray(), root / "train" / "dog" / f"{index}.png")
    report = survey(ClassFoldersDataModule(**file_settings(root)))
    listed = {item["path"][-9:] for item in report["files"]["flat"]}
    assert listed == {"dog/1.png", "dog/4.png"}
    assert report["warnings"] >= 2
    overrides = ("model=source_only", "data.target=null", f"cache.images={cache}")
    result = training.fit(file_config(root, *overrides), tmp_path / "run")
    start = capsys.readouterr().err.split("warning: 2 of 32 images of the source are constant")[1]
    assert all(name in start.split(";")[0] for name in listed)
    assert sum("2 of 32 images of the source are constant" in n for n in result["notes"]) == 1


def test_checkpoint_stores_the_scale_and_prediction_uses_it(tmp_path, capsys):
    def save(values, path):
        values[0, 0] = 255
        Image.fromarray(values * 16).save(path)

    root = folder(tmp_path / "scans", save, ("train", "test"))
    config = file_config(root, "model=source_only", "data.target=null")
    report = training.fit(config, tmp_path / "run")
    assert any("4095 is shown as white" in note for note in report["notes"])
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        assert torch.load(file, weights_only=True)["input_state"] == {"max_value": 4095.0}
    # Alone, this image would be taken for one of 8 bits.
    dim, same = tmp_path / "dim.png", tmp_path / "same.png"
    Image.fromarray(gray(5) // 4).save(dim)
    Image.fromarray((gray(5) // 64).astype(np.uint8)).save(same)
    first, second = predict(tmp_path / "run", [dim, same])
    assert first[1:] == second[1:]


def test_scale_of_each_domain_is_compared_and_may_be_set(tmp_path):
    def domains(**changed):
        settings = file_settings(
            tmp_path / "source", target={"root": str(tmp_path / "target")}, **changed
        )
        data = ClassFoldersDataModule(**settings)
        data.discover()
        return data

    folder(tmp_path / "source", lambda v, p: Image.fromarray(v).save(p))
    folder(tmp_path / "target", lambda v, p: Image.fromarray(v * 16).save(p))
    data = domains()
    assert {domain.train.white for domain in data.found.values()} == {4095.0}
    (note,) = data.pixel_notes
    assert "different ranges (source 255, target 4095)" in note
    data = domains(max_value=1000)
    assert {split.white for d in data.found.values() for split in d.splits().values()} == {1000}
    assert data.input_state == {"max_value": 1000.0}
    assert data.found["source"].whole().white == 1000
    with pytest.raises(DataError, match=r"streams do not store data.max_value; convert the images"):
        write_streams(data, tmp_path / "shards", 1 << 20)
