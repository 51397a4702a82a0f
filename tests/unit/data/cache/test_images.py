"""The decoded cache: equal to the files, whole or not there, shared, renewed where files change."""

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

from layouts import picture
from tl_lightning.data.cache import build_images as decode
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.images import (
    CachedReader,
    CacheSettings,
    PictureCache,
    estimate,
    worth_it,
)
from tl_lightning.data.datasets import PictureDataset, SplitReader
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
    return CacheSettings(images="decoded", dir=str(tmp_path / "cache"))


@pytest.fixture
def split(tmp_path):
    sizes = [(60, 40), (40, 60), (37, 37), (20, 30), (300, 200), (90, 38)]
    paths = [picture(tmp_path / "p" / f"{k}.jpg", k, size) for k, size in enumerate(sizes)]
    return Split(paths, np.arange(6), [path.name for path in paths])


def build(split, settings):
    return build_cache(split, "test", SHORTER, SPEC, settings)


def batch(split, read, geometry):
    data = PictureDataset(split, read, geometry, SPEC.size)
    return data.__getitems__([(k, 10 + k) for k in range(len(split))])["inputs"]


@pytest.mark.parametrize("change", [None, SHIFT])
def test_evaluation_from_the_cache_is_evaluation_from_the_files(split, settings, change) -> None:
    split = Split(split.pictures, split.labels, split.names, change)
    cached = CachedReader(build(split, settings), split.names)
    plain = SplitReader(split, SHORTER, SPEC)
    assert torch.equal(batch(split, cached, Centre(SPEC)), batch(split, plain, Centre(SPEC)))


def test_training_differs_from_the_files_by_little_and_only_where_they_were_shrunk(
    tmp_path, settings
) -> None:
    """Soft pictures agree to 3 of 255 levels in the mean; docs/data.md has photographs."""
    spec, paths = InputSpec(128, (0.5,) * 3, (0.5,) * 3), []
    for k, size in enumerate([(600, 400), (120, 144)]):
        rng = np.random.default_rng(k)
        soft = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{k}.png")
        soft.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    split = Split(paths, None, ["0", "1"])
    cache = build_cache(split, "test", shorter_side(spec), spec, settings)
    geometry = augmentation(spec, "light").geometry
    readers = CachedReader(cache, split.names), SplitReader(split, None, spec)
    keys = [(k, seed) for seed in range(5) for k in range(2)]
    cached, plain = (
        PictureDataset(split, read, geometry, spec.size).__getitems__(keys)["inputs"]
        for read in readers
    )
    difference = (cached.int() - plain.int()).abs().float().flatten(1).mean(dim=1)
    assert difference[::2].max() < 3
    assert difference[1::2].max() == 0


def test_pictures_are_shrunk_never_enlarged(split, settings) -> None:
    cache = build(split, settings)
    assert [tuple(cache[k].shape[1:]) for k in range(6)] == [
        (37, 55), (55, 37), (37, 37), (30, 20), (37, 55), (37, 87),
    ]  # fmt: skip


def test_a_second_run_finds_it_and_opens_no_picture(split, settings, monkeypatch) -> None:
    first = build(split, settings)
    monkeypatch.setattr(SplitReader, "__call__", lambda self, place: pytest.fail("opened"))
    again = build(split, settings)
    assert again.folder == first.folder
    assert torch.equal(again.pixels, first.pixels)


def test_a_changed_file_is_decoded_anew_the_others_are_taken_over(
    split, settings, monkeypatch
) -> None:
    first = build(split, settings)
    picture(split.pictures[2], 99, (37, 37))
    os.utime(split.pictures[2], ns=(1, 1))
    opened = []
    plain = SplitReader.__call__
    monkeypatch.setattr(
        SplitReader, "__call__", lambda self, place: opened.append(place) or plain(self, place)
    )
    second = build(split, settings)
    assert opened == [2]
    assert not torch.equal(second[2], first[2])
    assert torch.equal(second[4], SplitReader(split, SHORTER, SPEC)(4))
    assert not first.folder.exists(), "nobody asks for the old one again"


def test_a_subset_keeps_the_whole(split, settings) -> None:
    whole = build(split, settings)
    part = build(split.subset([1, 3]), settings)
    assert torch.equal(part[1], whole[3])
    assert whole.folder.exists()


@pytest.mark.parametrize("what", ["shorter", "interpolation", "change"])
def test_other_settings_make_another_cache(split, settings, what) -> None:
    first = build(split, settings)
    spec, shorter = SPEC, SHORTER
    if what == "shorter":
        shorter = 20
    elif what == "interpolation":
        spec = InputSpec(32, (0.5,) * 3, (0.5,) * 3, interpolation="bicubic")
    else:
        split = Split(split.pictures, split.labels, split.names, SHIFT)
    other = build_cache(split, "test", shorter, spec, settings)
    assert other.folder.parent != first.folder.parent


def test_a_cache_that_is_not_whole_is_made_again(split, settings) -> None:
    first = build(split, settings)
    file = first.folder / "pixels.bin"
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    with pytest.raises(ValueError, match="is not whole"):
        PictureCache(first.folder)
    assert build(split, settings).folder == first.folder
    assert file.read_bytes() == good


def test_a_broken_picture_is_named_and_nothing_is_left(split, settings) -> None:
    split.pictures[3].write_bytes(split.pictures[3].read_bytes()[:-100])
    split.pictures[5].write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read picture .*3\.jpg: .* \(and 1 more like it\)"):
        build(split, settings)
    left = [path.name for path in (settings.folder).rglob("*") if path.is_file()]
    assert left == [".build.lock"]


def test_a_file_that_is_gone_is_named(split, settings) -> None:
    split.pictures[0].unlink()
    with pytest.raises(DataError, match=r"picture .*0\.jpg is gone: it was there a moment ago"):
        build(split, settings)


def test_a_disk_too_small_is_refused_before_work(split, settings, monkeypatch) -> None:
    monkeypatch.setattr(decode.shutil, "disk_usage", lambda path: Free)
    words = r"need about 0\.0 GB, but .* has 0\.0 GB free; type cache.dir=/a/larger/disk, a smaller"
    with pytest.raises(DataError, match=words):
        build(split, settings)


class Free:
    free = 10


def test_a_disk_that_fills_up_leaves_nothing(split, settings, monkeypatch) -> None:
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode, "_to_disk", full)
    with pytest.raises(DataError, match=r"the disk of .* is full; make room, or type cache.dir="):
        build(split, settings)
    assert not list(settings.folder.rglob("*.tmp"))


def test_other_faults_of_the_disk_are_not_called_full(split, settings, monkeypatch) -> None:
    def faulty(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(decode, "_to_disk", faulty)
    with pytest.raises(OSError, match="Input/output"):
        build(split, settings)


def test_the_estimate_is_about_right(split, settings) -> None:
    cache = build(split, settings)
    assert estimate(split.pictures, SHORTER) == pytest.approx(len(cache.pixels), rel=0.05)
    assert estimate([split.pictures[0].with_name("none.jpg")], SHORTER) == 0


def test_auto_caches_where_it_pays_and_fits(split, tmp_path, capsys) -> None:
    def asked(images, epochs, limit=1.0):
        settings = CacheSettings(images=images, dir=str(tmp_path / "none"), limit_gb=limit)
        return worth_it(split.pictures, SHORTER, settings, epochs)

    assert asked("decoded", 1)
    assert not asked("off", 100)
    assert not asked("auto", 1)
    assert asked("auto", 2)
    assert not asked("auto", 2, limit=1e-9)
    assert "cache.images=decoded makes it all the same" in capsys.readouterr().err


def test_it_travels_to_another_process_without_its_bytes(split, settings) -> None:
    cache = build(split, settings)
    packed = pickle.dumps(CachedReader(cache, split.names))
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed)(4), cache[4])


def test_no_pictures_at_all_make_an_empty_cache(settings) -> None:
    assert len(build(Split([], None, []), settings)) == 0


BUILD = """
import sys, numpy as np
from pathlib import Path
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.data.domain import Split
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.types import InputSpec
paths = sorted(Path(sys.argv[1]).glob("*.jpg"))
split = Split(paths, None, [path.name for path in paths])
print("start", flush=True)
cache = build_cache(split, "test", 37, InputSpec(32, (0.5,) * 3, (0.5,) * 3),
                    CacheSettings(images="decoded", dir=sys.argv[2]))
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
        picture(tmp_path / "many" / f"{k:03d}.jpg", k, (400, 300))
    return tmp_path / "many"


@pytest.mark.slow
def test_two_processes_at_once_make_one_cache(many, tmp_path) -> None:
    both = [building(many, tmp_path / "cache") for _ in range(2)]
    folders, logs = zip(*(process.communicate(timeout=100) for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0]
    assert folders[0] == folders[1]
    assert sum("decoding 120 pictures" in log for log in logs) == 1, "one of them builds"
    assert len(list((tmp_path / "cache").rglob("pixels.bin"))) == 1


@pytest.mark.slow
def test_killed_builds_leave_no_broken_cache(many, tmp_path) -> None:
    whole = building(many, tmp_path / "whole")
    folder = whole.communicate(timeout=100)[0].split()[-1]
    wanted = Path(folder, "pixels.bin").read_bytes()
    started = time.monotonic()
    for moment in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = building(many, tmp_path / "cache")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
        for found in (tmp_path / "cache").rglob("pixels.bin"):
            if not found.parent.name.endswith(".tmp"):
                assert found.read_bytes() == wanted
    last = building(many, tmp_path / "cache")
    folder = last.communicate(timeout=100)[0].split()[-1]
    assert Path(folder, "pixels.bin").read_bytes() == wanted
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert time.monotonic() - started < 100
