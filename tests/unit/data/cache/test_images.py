"""Image cache: equal to the files, atomic, shared by processes, updated when files change."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layouts import image
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache import build_images as cache_module
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.images import CachedReader, ImageCache, estimate, worth_it
from tl_lightning.data.datasets import ImageDataset, SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.data.transforms.presets import augmentation
from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SPEC = InputSpec(32, (0.5,) * 3, (0.5,) * 3)
SHORTER = shorter_side(SPEC)
SHIFT = SyntheticShift(
    blur=0.02, brightness=0.6, saturation=0.5, tint=[1, 1, 0.8], noise=0.05, seed=0
)


@pytest.fixture
def settings(tmp_path):
    return CacheConfig(images="decoded", dir=str(tmp_path / "cache"))


@pytest.fixture
def split(tmp_path):
    sizes = [(60, 40), (40, 60), (37, 37), (20, 30), (300, 200), (90, 38)]
    paths = [image(tmp_path / "p" / f"{k}.jpg", k, size) for k, size in enumerate(sizes)]
    return Split(paths, np.arange(6), [path.name for path in paths])


def build(split, settings):
    return build_cache(split, "test", SHORTER, SPEC, settings)


def batch(split, read, geometry):
    data = ImageDataset(split, read, geometry, SPEC.size)
    return data.__getitems__([(k, 10 + k) for k in range(len(split))])["inputs"]


@pytest.mark.parametrize("change", [None, SHIFT])
def test_evaluation_images_from_the_cache_equal_those_from_the_files(
    split, settings, change
) -> None:
    split = Split(split.samples, split.labels, split.names, change)
    cached = CachedReader(build(split, settings), split.names)
    plain = SplitReader(split, SHORTER, SPEC)
    assert torch.equal(batch(split, cached, Centre(SPEC)), batch(split, plain, Centre(SPEC)))


def test_training_images_differ_slightly_and_only_if_downscaled(tmp_path, settings) -> None:
    """Smooth images agree to 3 of 255 levels on average; docs/data.md has figures for photos."""
    spec, paths = InputSpec(128, (0.5,) * 3, (0.5,) * 3), []
    for k, size in enumerate([(600, 400), (120, 144)]):
        rng = np.random.default_rng(k)
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{k}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    split = Split(paths, None, ["0", "1"])
    cache = build_cache(split, "test", shorter_side(spec), spec, settings)
    geometry = augmentation(spec, "light").geometry
    readers = CachedReader(cache, split.names), SplitReader(split, None, spec)
    keys = [(k, seed) for seed in range(5) for k in range(2)]
    cached, plain = (
        ImageDataset(split, read, geometry, spec.size).__getitems__(keys)["inputs"]
        for read in readers
    )
    difference = (cached.int() - plain.int()).abs().float().flatten(1).mean(dim=1)
    assert difference[::2].max() < 3
    assert difference[1::2].max() == 0


def test_images_are_downscaled_but_never_enlarged(split, settings) -> None:
    cache = build(split, settings)
    assert [tuple(cache[k].shape[1:]) for k in range(6)] == [
        (37, 55), (55, 37), (37, 37), (30, 20), (37, 55), (37, 87),
    ]  # fmt: skip


def test_second_build_uses_the_cache_without_opening_images(split, settings, monkeypatch) -> None:
    first = build(split, settings)
    monkeypatch.setattr(SplitReader, "__call__", lambda self, index: pytest.fail("opened"))
    second = build(split, settings)
    assert second.folder == first.folder
    assert torch.equal(second.pixels, first.pixels)


def test_only_changed_files_are_decoded_again(split, settings, monkeypatch) -> None:
    first = build(split, settings)
    image(split.samples[2], 99, (37, 37))
    os.utime(split.samples[2], ns=(1, 1))
    opened = []
    plain = SplitReader.__call__
    monkeypatch.setattr(
        SplitReader, "__call__", lambda self, index: opened.append(index) or plain(self, index)
    )
    second = build(split, settings)
    assert opened == [2]
    assert not torch.equal(second[2], first[2])
    assert torch.equal(second[4], SplitReader(split, SHORTER, SPEC)(4))
    assert not first.folder.exists(), "the superseded cache is removed"


def test_cache_of_a_subset_does_not_replace_the_full_cache(split, settings) -> None:
    full = build(split, settings)
    subset = build(split.subset([1, 3]), settings)
    assert torch.equal(subset[1], full[3])
    assert full.folder.exists()


@pytest.mark.parametrize("changed", ["shorter", "interpolation", "change"])
def test_other_settings_use_another_cache(split, settings, changed) -> None:
    first = build(split, settings)
    spec, shorter = SPEC, SHORTER
    if changed == "shorter":
        shorter = 20
    elif changed == "interpolation":
        spec = InputSpec(32, (0.5,) * 3, (0.5,) * 3, interpolation="bicubic")
    else:
        split = Split(split.samples, split.labels, split.names, SHIFT)
    other = build_cache(split, "test", shorter, spec, settings)
    assert other.folder.parent != first.folder.parent


def test_incomplete_cache_is_rebuilt(split, settings) -> None:
    first = build(split, settings)
    file = first.folder / "pixels.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is incomplete"):
        ImageCache(first.folder)
    assert build(split, settings).folder == first.folder
    assert file.read_bytes() == content


def test_corrupt_image_is_named_and_nothing_is_left_behind(split, settings) -> None:
    split.samples[3].write_bytes(split.samples[3].read_bytes()[:-100])
    split.samples[5].write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read image .*3\.jpg: .* \(and 1 more\)"):
        build(split, settings)
    remaining = [path.name for path in (settings.folder).rglob("*") if path.is_file()]
    assert remaining == [".build.lock"]


def test_missing_file_is_named(split, settings) -> None:
    split.samples[0].unlink()
    message = r"image .*0\.jpg has disappeared since it was listed"
    with pytest.raises(DataError, match=message):
        build(split, settings)


def test_too_small_disk_is_detected_before_decoding(split, settings, monkeypatch) -> None:
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: Free)
    message = (
        r"need about 0\.0 GB, but .* has 0\.0 GB free; set cache.dir=/a/larger/disk, a smaller"
    )
    with pytest.raises(DataError, match=message):
        build(split, settings)


class Free:
    free = 10


def test_full_disk_leaves_nothing_behind(split, settings, monkeypatch) -> None:
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "_sync", full)
    message = r"the disk of .* is full; free some disk space, or set cache.dir="
    with pytest.raises(DataError, match=message):
        build(split, settings)
    assert not list(settings.folder.rglob("*.tmp"))


def test_other_disk_errors_are_not_reported_as_a_full_disk(split, settings, monkeypatch) -> None:
    def failing(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache_module, "_sync", failing)
    with pytest.raises(OSError, match="Input/output"):
        build(split, settings)


def test_size_estimate_is_accurate_to_5_percent(split, settings) -> None:
    cache = build(split, settings)
    assert estimate(split.samples, SHORTER) == pytest.approx(len(cache.pixels), rel=0.05)
    assert estimate([split.samples[0].with_name("none.jpg")], SHORTER) == 0


def test_auto_caches_for_several_epochs_if_the_images_fit(split, tmp_path, capsys) -> None:
    def caches(images, epochs, limit=1.0):
        settings = CacheConfig(images=images, dir=str(tmp_path / "none"), limit_gb=limit)
        return worth_it(split.samples, SHORTER, settings, epochs)

    assert caches("decoded", 1)
    assert not caches("off", 100)
    assert not caches("auto", 1)
    assert caches("auto", 2)
    assert not caches("auto", 2, limit=1e-9)
    assert "set cache.images=decoded to build it anyway" in capsys.readouterr().err


def test_pickled_cache_does_not_contain_the_pixels(split, settings) -> None:
    cache = build(split, settings)
    pickled = pickle.dumps(CachedReader(cache, split.names))
    assert len(pickled) < 5000
    assert torch.equal(pickle.loads(pickled)(4), cache[4])


def test_empty_split_yields_an_empty_cache(settings) -> None:
    assert len(build(Split([], None, []), settings)) == 0


BUILD = """
import sys, numpy as np
from pathlib import Path
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.domain import Split
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.types import InputSpec
paths = sorted(Path(sys.argv[1]).glob("*.jpg"))
split = Split(paths, None, [path.name for path in paths])
print("start", flush=True)
cache = build_cache(split, "test", 37, InputSpec(32, (0.5,) * 3, (0.5,) * 3),
                    CacheConfig(images="decoded", dir=sys.argv[2]))
print(cache.folder, flush=True)
"""


def building(source, target) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BUILD, str(source), str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def many(tmp_path):
    for k in range(120):
        image(tmp_path / "many" / f"{k:03d}.jpg", k, (400, 300))
    return tmp_path / "many"


@pytest.mark.slow
def test_concurrent_processes_build_one_cache(many, tmp_path) -> None:
    both = [building(many, tmp_path / "cache") for _ in range(2)]
    folders, logs = zip(*(process.communicate(timeout=100) for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0]
    assert folders[0] == folders[1]
    assert sum("decoding 120 images" in log for log in logs) == 1, "only one process builds"
    assert len(list((tmp_path / "cache").rglob("pixels.bin"))) == 1


@pytest.mark.slow
def test_killed_builds_leave_no_corrupt_cache(many, tmp_path) -> None:
    uninterrupted = building(many, tmp_path / "uninterrupted")
    folder = uninterrupted.communicate(timeout=100)[0].split()[-1]
    expected = Path(folder, "pixels.bin").read_bytes()
    started = time.monotonic()
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = building(many, tmp_path / "cache")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
        for file in (tmp_path / "cache").rglob("pixels.bin"):
            if not file.parent.name.endswith(".tmp"):
                assert file.read_bytes() == expected
    last = building(many, tmp_path / "cache")
    folder = last.communicate(timeout=100)[0].split()[-1]
    assert Path(folder, "pixels.bin").read_bytes() == expected
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert time.monotonic() - started < 100
