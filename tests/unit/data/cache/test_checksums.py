"""A flipped bit anywhere in a cache is noticed on first use, and the cache is built again."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from layouts import image
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache import checksums as module
from tl_lightning.data.cache import features as features_module
from tl_lightning.data.cache import images as images_module
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.checksums import Checked, checksums
from tl_lightning.data.cache.features import FeatureSet, ShardWriter
from tl_lightning.data.cache.tokens import tokenised
from tl_lightning.data.domain import Split
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec, TextSpec

SPEC = InputSpec(8, (0.5,) * 3, (0.5,) * 3)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 40])
def test_every_flipped_byte_is_found_in_its_block(size):
    data = np.arange(size, dtype=np.uint8)
    sums = checksums(data, 10)
    assert Checked(data, sums, 10).intact(range(-(-size // 10)))
    for place in range(size):
        changed = data.copy()
        changed[place] ^= 1
        checked = Checked(changed, sums, 10)
        assert not checked.intact([place // 10])
        assert checked.intact(set(range(-(-size // 10))) - {place // 10})
    with pytest.raises(ValueError, match="checksums for"):
        Checked(data, [*sums, 1], 10)


def test_a_block_is_read_once(monkeypatch):
    data = np.zeros(30, dtype=np.uint8)
    checked = Checked(data, checksums(data, 10), 10)
    assert checked.intact([0, 1])
    monkeypatch.setattr(module, "_crc", lambda part: pytest.fail("read again"))
    assert checked.intact([0, 1])


@pytest.fixture
def small_blocks(monkeypatch):
    for each in (module, features_module, images_module):
        monkeypatch.setattr(each, "BLOCK", 64)
    monkeypatch.setattr(checksums, "__defaults__", (64,))
    monkeypatch.setattr(Checked.__init__, "__defaults__", (64,))


def test_flipped_pixels_are_noticed_and_decoded_again(tmp_path, small_blocks):
    settings = CacheConfig(images="decoded", dir=str(tmp_path / "cache"))
    paths = [image(tmp_path / "p" / f"{k}.png", k) for k in range(4)]
    split = Split(paths, None, [path.name for path in paths])

    def built():
        return build_cache(split, "x", 9, SPEC, settings)

    good = [built()[k].clone() for k in range(4)]
    size = (built().folder / "pixels.bin").stat().st_size
    for place in (0, size // 2, size - 1):
        flip(built().folder / "pixels.bin", place)
        for cache in (built(), pickle.loads(pickle.dumps(built()))):
            message = r"decoded images in .* have changed since they were written.*resume=auto"
            with pytest.raises(DataError, match=message):
                [cache[k] for k in range(4)]
        assert not (cache.folder / "pixels.bin").exists()
        assert all(torch.equal(built()[k], good[k]) for k in range(4))


def test_images_of_a_damaged_older_cache_are_not_used(tmp_path, small_blocks):
    settings = CacheConfig(images="decoded", dir=str(tmp_path / "cache"))
    paths = [image(tmp_path / "p" / f"{k}.png", k) for k in range(4)]
    split = Split(paths, None, [path.name for path in paths])
    first = build_cache(split, "x", 9, SPEC, settings)
    good = [first[k].clone() for k in range(4)]
    flip(first.folder / "pixels.bin", 5)
    second = build_cache(split.subset([0, 1]), "x", 9, SPEC, settings)
    assert all(torch.equal(second[k], good[k]) for k in range(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flipped_features_are_noticed_and_computed_again(tmp_path, dtype, small_blocks):
    each = FeatureSet(tmp_path, "x", 40, 1, {"weights": "x"})
    values = torch.randn(40, 6).to(dtype)

    def write():
        draft = each.begin()
        writer = ShardWriter(draft, 0, 500)
        for part in values.split(8):
            writer.add(part)
        writer.flush()
        each.finish(draft)

    write()
    shards = sorted(each.folder.glob("*.safetensors"))
    assert len(shards) > 1 or dtype == torch.bfloat16
    for shard in shards:
        for place in (-1, -40):
            flip(shard, place)
            found = each.found()
            message = r"features in .* have changed since they were written.*resume=auto"
            with pytest.raises(DataError, match=message):
                found.rows(torch.arange(40))
            assert each.found() is None
            write()
            assert torch.equal(each.found().rows(torch.arange(40)), values)


class Tokenizer:
    digest = "letters"

    def encode(self, texts, limit):
        return [([ord(c) for c in text], False) for text in texts]

    def length(self, text):
        return len(text)


@pytest.mark.parametrize("name", ["ids.bin", "ends.bin", "cut.bin", "manifest.json"])
def test_any_damage_of_tokens_is_noticed_and_written_again(tmp_path, name):
    def tokens():
        return tokenised(["ab", "cde"], TextSpec(9, Tokenizer()), "x", tmp_path)

    good, path = tokens().ids.tolist(), tokens().folder / name
    content = path.read_bytes()
    for place in range(len(content)):
        flip(path, place)
        assert (tokens().ids.tolist(), tokens().lengths.tolist()) == (good, [2, 3])
    for damaged in (b"", content[:-1], b"[]", b"null", b'{"texts": []}', b"PK\x03\x04"):
        path.write_bytes(damaged)
        assert (tokens().ids.tolist(), tokens().lengths.tolist()) == (good, [2, 3])


@pytest.mark.parametrize("damaged", [b"", b"[]", b"null", b'{"number": []}', b"PK\x03\x04", b"{"])
def test_a_damaged_index_or_manifest_is_written_again(tmp_path, damaged):
    each = FeatureSet(tmp_path, "x", 2, 1, {"weights": "x"})
    draft = each.begin()
    writer = ShardWriter(draft, 0)
    writer.add(torch.zeros(2, 3))
    writer.flush()
    each.finish(draft)
    (each.folder / "manifest.json").write_bytes(damaged)
    assert each.found() is None
    settings = CacheConfig(images="decoded", dir=str(tmp_path / "cache"))
    paths = [image(tmp_path / "p" / f"{k}.png", k) for k in range(2)]
    split = Split(paths, None, ["0", "1"])
    first = build_cache(split, "x", 9, SPEC, settings)
    content = (first.folder / "index.npz").read_bytes()
    for bad in (damaged, content[: len(content) // 2], content[:60] + b"\xff" + content[61:]):
        (first.folder / "index.npz").write_bytes(bad)
        assert len(build_cache(split, "x", 9, SPEC, settings)) == 2
