"""Hashes of files: always those of their bytes, read once; no cache mixes two datasets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from layouts import mnistm_png
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache import contents as module
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.contents import common_folder, contents, split_contents
from tl_lightning.data.cache.features import split_digest
from tl_lightning.data.cache.tokens import texts_digest
from tl_lightning.data.datasets import SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.io import unreadable as unreadable_module
from tl_lightning.data.io.mnistm_files import fingerprint
from tl_lightning.data.io.unreadable import unreadable
from tl_lightning.errors import DataError
from tl_lightning.training.feature_plan import weights_digest
from tl_lightning.types import InputSpec

SPEC = InputSpec(8, (0.5,) * 3, (0.5,) * 3)
WHEN = 315_532_800_000_000_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of caches; files are trusted however young they are."""
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED", 0)
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read."""
    names = []
    plain = module._Folder._read
    monkeypatch.setattr(
        module._Folder, "_read", lambda self, name: names.append(name) or plain(self, name)
    )
    return names


def plain_hashes(paths):
    digests = [hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in paths]
    return np.array([np.frombuffer(digest, np.int64) for digest in digests]).reshape(-1, 2)


def planted(folder, shade, number=6):
    """Write images of equal names, sizes and times that depend on ``shade``; return their paths."""
    paths = []
    for k in range(number):
        path = folder / f"c{k % 2}" / f"{k:03d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 12, 3), (shade + 7 * k) % 256, np.uint8)).save(path)
        os.utime(path, ns=(WHEN, WHEN))
        paths.append(path)
    return paths


def rewritten(path, content):
    path.write_bytes(content)


def renamed_over(path, content):
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def removed_first(path, content):
    path.unlink()
    path.write_bytes(content)


#: How rsync --inplace, rsync and git checkout, and unzip replace a file.
REPLACEMENTS = [rewritten, renamed_over, removed_first]


def replaced(path, how, change=1):
    """Change the last byte of a file, and restore its time."""
    content = bytearray(path.read_bytes())
    content[-1] ^= change
    how(path, bytes(content))
    os.utime(path, ns=(WHEN, WHEN))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(content), WHEN)


# -- the hashes ------------------------------------------------------------------------------------
def test_hashes_are_those_of_the_bytes_and_every_file_is_read_once(tmp_path, cache, reads):
    paths = planted(tmp_path / "a", 1) + planted(tmp_path / "b", 90)
    paths = [*paths[::2], *paths[1::2]]
    assert np.array_equal(contents(paths), plain_hashes(paths))
    assert len(reads) == 12
    assert np.array_equal(contents(paths[3:]), plain_hashes(paths[3:]))
    assert len(reads) == 12
    added = planted(tmp_path / "a", 1, 9)
    assert np.array_equal(contents(added), plain_hashes(added))


def test_files_of_any_size_and_links_are_hashed_whole(tmp_path, cache, reads, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 1000)
    paths = [tmp_path / f"f{size}" for size in (0, 1, 999, 1000, 1001, 5000)]
    for path in paths:
        path.write_bytes(os.urandom(int(path.name[1:])))
    (tmp_path / "link").symlink_to(tmp_path)
    linked = [tmp_path / "link" / path.name for path in paths]
    assert np.array_equal(contents(paths), plain_hashes(paths))
    assert np.array_equal(contents(linked), plain_hashes(paths))
    assert len(reads) == len(paths), "a folder has one index, whatever link leads to it"
    odd = [tmp_path / os.fsdecode(b"\xff caf\xc3\xa9 \n"), tmp_path / "a'b,c=[d] $x"]
    for path in odd:
        path.write_bytes(b"x")
    for _ in range(2):
        assert np.array_equal(contents(odd), plain_hashes(odd))
    assert len(reads) == len(paths) + 2


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_a_replaced_file_of_the_same_size_and_time_is_read_again(tmp_path, cache, reads, how):
    paths = planted(tmp_path / "a", 1)
    contents(paths)
    reads.clear()
    replaced(paths[2], how)
    assert np.array_equal(contents(paths), plain_hashes(paths))
    assert reads == [paths[2].name]


@pytest.mark.slow
def test_any_sequence_of_changes_is_followed(tmp_path, cache):
    """Write, replace, move, copy with times, restore times, and remove files at random."""
    rng = np.random.default_rng(0)
    paths = planted(tmp_path / "a", 1, 8)
    for _ in range(150):
        path, other = (paths[int(k)] for k in rng.choice(8, 2, replace=False))
        action = int(rng.integers(6))
        if action < 3:
            replaced(path, REPLACEMENTS[action], int(rng.integers(1, 256)))
        elif action == 3:
            shutil.copy2(other, path)
        elif action == 4:
            moved = path.with_suffix(".moved")
            path.rename(moved)
            other.rename(path)
            moved.rename(other)
        else:
            path.unlink()
            shutil.copy2(other, path)
        assert np.array_equal(contents(paths), plain_hashes(paths))


def test_files_younger_than_the_clock_of_the_file_system_are_not_remembered(
    tmp_path, cache, reads, monkeypatch
):
    monkeypatch.setattr(module, "SETTLED", 3_600_000_000_000)
    paths = planted(tmp_path / "a", 1)
    for _ in range(2):
        assert np.array_equal(contents(paths), plain_hashes(paths))
    assert len(reads) == 12


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, cache, monkeypatch):
    path = planted(tmp_path / "a", 1)[0]
    stamps = iter([(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 5)])
    with monkeypatch.context() as patched:
        patched.setattr(module, "stamp_of", lambda stat: next(stamps))
        contents([path])
    assert module._Folder(str(path.parent), None)._load().rows == {}


def test_unreadable_files_are_zero_and_named(tmp_path, cache):
    paths = [*planted(tmp_path / "a", 1), tmp_path / "absent" / "x.bmp"]
    assert contents(paths).any(axis=1).tolist() == [True] * 6 + [False]
    with pytest.raises(DataError, match=r"image .*x\.bmp has disappeared since it was listed"):
        split_contents(Split(paths, None, [path.name for path in paths]))
    (tmp_path / "folder.bmp").mkdir()
    message = r"cannot read image .*folder\.bmp: Is a directory; fix or .*data\.on_error=skip"
    with pytest.raises(DataError, match=message):
        split_contents(Split([tmp_path / "folder.bmp"], None, ["folder.bmp"]))
    assert contents([]).shape == (0, 2)


def test_an_unstable_file_is_an_error(tmp_path, cache, monkeypatch):
    paths = planted(tmp_path / "a", 1)
    monkeypatch.setattr(module, "contents", lambda paths: np.zeros((len(paths), 2), np.int64))
    with pytest.raises(DataError, match=r"image .*000\.bmp changed while it was read; run again"):
        split_contents(Split(paths, None, [path.name for path in paths]))


@pytest.mark.parametrize("damage", ["bytes", "truncated", "empty", "shape", "folder"])
def test_a_damaged_index_is_written_again(tmp_path, cache, damage, reads):
    paths = planted(tmp_path / "a", 1)
    contents(paths)
    for index in (cache / "contents").glob("*.npz"):
        content = bytearray(index.read_bytes())
        if damage == "bytes":
            content[60] ^= 1
        if damage == "shape":
            np.savez(index, names=np.zeros(3, np.uint8), stamps=np.zeros(4), hashes=np.zeros(1))
        elif damage == "folder":
            index.unlink()
            index.mkdir()
        else:
            kept = {"bytes": len(content), "truncated": 50, "empty": 0}[damage]
            index.write_bytes(content[:kept])
    reads.clear()
    for _ in range(2):
        assert np.array_equal(contents(paths), plain_hashes(paths))
    assert len(reads) == (12 if damage == "folder" else 6)


def test_hashes_do_not_need_a_writable_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "file"))
    paths = planted(tmp_path / "a", 1)
    assert np.array_equal(contents(paths), plain_hashes(paths))


def test_removed_files_leave_the_index(tmp_path, cache):
    paths = planted(tmp_path / "a", 1)
    contents(paths)
    paths[0].unlink()
    replaced(paths[2], renamed_over)
    contents(paths[1:])
    folder = module._Folder(os.path.realpath(paths[0].parent), None)
    assert sorted(folder._load().rows) == [b"002.bmp", b"004.bmp"]


RUN = """
import sys, json
from pathlib import Path
from types import SimpleNamespace
from tl_lightning.data.cache import contents as module
read = []
plain = module._Folder._read
module._Folder._read = lambda self, name: read.append(name) or plain(self, name)
module.SETTLED = 0
paths = sorted(Path(sys.argv[1]).rglob("*.bmp"))
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([len(read), module.contents(paths).tolist(), len(read)]))
"""


@pytest.mark.slow
def test_two_processes_read_every_file_once(tmp_path, cache):
    paths = sorted(planted(tmp_path / "a", 1, 600))
    children = [
        subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "a")], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()

    results = [json.loads(child.communicate(timeout=100)[0]) for child in children]
    assert all(np.array_equal(found, plain_hashes(paths)) for _, found, _ in results)
    assert sum(total for *_, total in results) == 600


def test_common_folder_is_resolved(tmp_path):
    paths = planted(tmp_path / "a", 1)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    linked = [tmp_path / "link" / path.relative_to(tmp_path / "a") for path in paths]
    assert common_folder(paths) == common_folder(linked) == os.path.realpath(tmp_path / "a")
    assert common_folder([]) == ""


# -- equal names, sizes and times are never mixed ------------------------------------------------
def as_split(folder):
    paths = sorted(folder.rglob("*.bmp"))
    return Split(paths, None, [str(path.relative_to(folder)) for path in paths])


def decoded(folder):
    """Return the images from the cache."""
    settings = CacheConfig(images="decoded")
    split = as_split(folder)
    built = build_cache(split, "folder-images", 9, SPEC, settings)
    return torch.stack([built[place] for place in range(len(split))])


def undecoded(folder):
    """Return the images without a cache."""
    split = as_split(folder)
    return torch.stack([SplitReader(split, 9, SPEC)(place) for place in range(len(split))])


def folders(tmp_path):
    """Return two folders of equal names, sizes and times, and different pixels."""
    pair = tmp_path / "a" / "images", tmp_path / "b" / "images"
    for folder, shade in zip(pair, (1, 90), strict=True):
        planted(folder, shade)
    stats = [[(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in as_split(f).samples]
             for f in pair]  # fmt: skip
    assert stats[0] == stats[1]
    return pair


def test_decoded_images_of_two_folders_are_not_mixed(tmp_path, cache):
    for _ in range(2):
        for folder in folders(tmp_path):
            assert torch.equal(decoded(folder), undecoded(folder))


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_decoded_images_follow_files_of_the_same_size_and_time(tmp_path, cache, how):
    folder = folders(tmp_path)[0]
    before = decoded(folder)
    replaced(as_split(folder).samples[3], how)
    assert torch.equal(decoded(folder), undecoded(folder))
    assert not torch.equal(decoded(folder), before)


def test_decoded_images_of_folders_with_the_same_name_are_both_kept(tmp_path, cache, monkeypatch):
    """As amazon/images and dslr/images of Office-31."""
    pair = folders(tmp_path)
    for folder in pair:
        decoded(folder)
    with monkeypatch.context() as patched:
        patched.setattr(SplitReader, "__call__", lambda self, place: pytest.fail("decoded again"))
        for folder in (*pair, *pair):
            decoded(folder)
    replaced(as_split(pair[0]).samples[3], renamed_over)
    decoded(pair[0])
    kept = [path.parent for path in (cache / "images").rglob("pixels.bin")]
    assert len(kept) == 2, "only the former cache of the changed folder is removed"
    assert all(torch.equal(decoded(folder), undecoded(folder)) for folder in pair)


def test_a_dataset_in_another_place_shares_the_decoded_images(tmp_path, cache, monkeypatch):
    folder = folders(tmp_path)[0]
    decoded(folder)
    shutil.copytree(folder, tmp_path / "copy" / "images")
    monkeypatch.setattr(SplitReader, "__call__", lambda self, place: pytest.fail("decoded again"))
    decoded(tmp_path / "copy" / "images")


def test_files_that_change_while_they_are_decoded_are_not_cached(tmp_path, cache, monkeypatch):
    folder = folders(tmp_path)[0]
    plain = SplitReader.__call__

    def reading(self, place):
        if place == 3:
            replaced(Path(self.split.samples[0]), renamed_over)
        return plain(self, place)

    monkeypatch.setattr(SplitReader, "__call__", reading)
    with pytest.raises(DataError, match=r"files of .*images changed while they were decoded; run"):
        decoded(folder)
    assert not list((cache / "images").rglob("pixels.bin"))


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_features_follow_files_of_the_same_size_and_time(tmp_path, cache, how):
    first, second = folders(tmp_path)
    digests = [split_digest(as_split(folder)) for folder in (first, second)]
    assert digests[0] != digests[1]
    replaced(as_split(first).samples[3], how)
    assert split_digest(as_split(first)) not in digests
    replaced(as_split(first).samples[3], how)
    assert split_digest(as_split(first)) == digests[0]


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_a_copy_of_mnistm_follows_files_of_the_same_size_and_time(tmp_path, cache, how):
    mnistm_png(tmp_path / "m")
    for path in (tmp_path / "m").rglob("*.*"):
        os.utime(path, ns=(WHEN, WHEN))
    first = fingerprint(tmp_path / "m")
    assert fingerprint(tmp_path / "m") == first
    for name in ("mnist_m_test", "mnist_m_train"):
        before = fingerprint(tmp_path / "m")
        replaced(next((tmp_path / "m" / name).iterdir()), how)
        assert fingerprint(tmp_path / "m") != before
    replaced(tmp_path / "m" / "mnist_m_test_labels.txt", how)
    assert fingerprint(tmp_path / "m") != first


def test_readable_files_follow_files_of_the_same_size_and_time(tmp_path, cache):
    paths = planted(tmp_path / "a", 1)
    assert not unreadable(paths)
    content = paths[1].read_bytes()
    paths[1].write_bytes(b"no image" + bytes(len(content) - 8))
    os.utime(paths[1], ns=(WHEN, WHEN))
    assert list(unreadable(paths)) == [paths[1]]
    renamed_over(paths[1], content)
    os.utime(paths[1], ns=(WHEN, WHEN))
    assert not unreadable(paths)


def test_a_file_that_could_not_be_opened_is_tried_again(tmp_path, cache, monkeypatch):
    """A permission is not part of a file's content, and may be restored without a trace."""
    paths = planted(tmp_path / "a", 1)
    problem = "[Errno 13] Permission denied"
    with monkeypatch.context() as patched:
        seen = contents(paths) * (np.arange(len(paths)) != 2)[:, None]
        patched.setattr(unreadable_module, "contents", lambda paths: seen)
        found = {paths[2]: problem}
        patched.setattr(unreadable_module, "_problem", lambda path: found.get(path, ""))
        assert unreadable(paths) == {paths[2]: problem}
    assert not unreadable(paths)


def test_features_follow_every_weight():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module = SimpleNamespace(backbone=network)
    digests = [weights_digest(module, (), "source")]
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            value.view(-1)[-1] += 1
            digests.append(weights_digest(module, (), "source"))
    assert len(set(digests)) == len(digests) == 1 + 4 + 3


def test_tokens_follow_every_text():
    texts = ["the first", "the other"]
    assert len({texts_digest(t) for t in (texts, texts[::-1], ["the firsu", "the other"])}) == 3
