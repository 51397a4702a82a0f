"""Feature cache: exact rows, atomic writes, and keys that cover everything features depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layouts import image
from tl_lightning.data.cache import features as cache_module
from tl_lightning.data.cache.features import (
    FeatureLoader,
    Features,
    FeatureSet,
    ShardWriter,
    ViewSampler,
    split_digest,
    view_seed,
)
from tl_lightning.data.domain import Split
from tl_lightning.data.samplers.domain import DomainSampler, EvalSampler
from tl_lightning.data.transforms.shift import SyntheticShift
from tl_lightning.errors import DataError
from tl_lightning.utils.owned import MARK, own


def stored(root, values: torch.Tensor, views: int = 1, limit: int = 1 << 20, ranks: int = 1):
    feature_set = FeatureSet(root, "tiny", len(values) // views, views, {"weights": "x"})
    root.mkdir(exist_ok=True)
    temporary = feature_set.begin()
    bounds = [rank * len(values) // ranks for rank in range(ranks + 1)]
    for rank in range(ranks):
        writer = ShardWriter(temporary, rank, limit)
        for part in values[bounds[rank] : bounds[rank + 1]].split(3):
            writer.add(part)
        writer.flush()
    feature_set.finish(temporary)
    return feature_set


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("limit", "ranks"), [(1 << 20, 1), (50, 1), (50, 3), (1 << 20, 2)])
def test_stored_rows_equal_the_written_rows(tmp_path, dtype, limit, ranks) -> None:
    values = torch.randn(17, 4).to(dtype)
    features = stored(tmp_path / "f", values, limit=limit, ranks=ranks).found()
    assert features is not None
    assert (len(features.parts) == 1) == (limit > 50 and ranks == 1)
    index = torch.tensor([16, 0, 5, 5, 9, 3])
    assert torch.equal(features.rows(index), values[index])
    assert torch.equal(features.rows(torch.arange(17)), values)


def test_incomplete_set_is_not_found(tmp_path) -> None:
    feature_set = stored(tmp_path / "f", torch.randn(12, 4), limit=50)
    file = sorted(feature_set.folder.glob("*.safetensors"))[-1]
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    assert feature_set.found() is None
    with pytest.raises(ValueError, match="is incomplete"):
        Features(feature_set.folder)
    file.unlink()
    assert feature_set.found() is None


def test_leftovers_of_a_killed_build_are_removed(tmp_path) -> None:
    feature_set = stored(tmp_path / "f", torch.randn(4, 4))
    stale = tmp_path / "f" / f"{feature_set.folder.name}.abc.tmp"
    own(stale)
    (stale / "0000-00000.safetensors").write_bytes(b"half")
    temporary = feature_set.begin()
    assert not stale.exists()
    assert [path.name for path in temporary.iterdir()] == [MARK]


def test_training_batches_follow_the_sampler(tmp_path) -> None:
    """Vectorised loading uses the same indices and views that iterating the sampler yields."""
    views, number = 3, 7
    values = torch.arange(views * number, dtype=torch.float32)[:, None]
    features = stored(tmp_path / "f", values, views=views).found()
    assert features is not None
    base = {"size": number, "batch_size": 4, "num_batches": 5, "seed": 3, "domain": 1, "epoch": 2}
    for more in ({}, {"rank": 1, "world": 2}, {"start": 2}):
        sampler = DomainSampler(**base, **more)
        labels = np.arange(number) * 10
        batches = list(FeatureLoader(features, labels, 4, sampler))
        pairs = list(sampler)
        index = torch.tensor([i for i, _ in pairs])
        rows = torch.tensor([i + number * (seed % views) for i, seed in pairs])
        assert torch.equal(torch.cat([b["index"] for b in batches]), index)
        assert torch.equal(torch.cat([b["labels"] for b in batches]), index * 10)
        assert torch.equal(torch.cat([b["inputs"] for b in batches])[:, 0], rows.float())
    assert len(set(rows.div(number, rounding_mode="floor").tolist())) == views


@pytest.mark.parametrize("rank", [0, 1])
def test_evaluation_batches_are_in_order_and_mark_padding(tmp_path, rank) -> None:
    features = stored(tmp_path / "f", torch.arange(5.0)[:, None]).found()
    assert features is not None
    sampler = EvalSampler(size=5, rank=rank, world=2)
    batches = list(FeatureLoader(features, None, 2, sampler))
    assert len(batches) == len(FeatureLoader(features, None, 2, sampler)) == 2
    index = [i if valid else -1 for i, valid in sampler]
    assert torch.cat([b["index"] for b in batches]).tolist() == index
    assert torch.cat([b["inputs"] for b in batches])[:, 0].tolist() == [i for i, _ in sampler]
    assert "labels" not in batches[0]


def test_views_are_divided_among_ranks() -> None:
    names = [f"{k}.jpg" for k in range(5)]
    parts = [list(ViewSampler(names=names, views=2, rank=r, world=3)) for r in range(3)]
    expected = [(i, view_seed(names[i], v)) for v in range(2) for i in range(5)]
    assert [pair for part in parts for pair in part] == expected
    assert len({seed for _, seed in expected}) == 10


def test_split_digest_depends_on_files_and_change(tmp_path) -> None:
    paths = [image(tmp_path / f"{k}.jpg", k) for k in range(3)]
    names = [path.name for path in paths]
    split = Split(paths, np.arange(3), names)
    first = split_digest(split)
    assert split_digest(split.without_labels()) == first
    shift = SyntheticShift(
        blur=0.0, brightness=0.5, saturation=1.0, tint=[1, 1, 1], noise=0.0, seed=0
    )
    assert split_digest(Split(paths, None, names, shift)) != first
    assert split_digest(split.subset([0, 2])) != first
    paths[1].write_bytes(paths[1].read_bytes() + b"\0")
    assert split_digest(split) != first
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    other = pixels.copy()
    other[1, 2, 2, 0] = 1
    assert split_digest(Split(pixels, None, ["a", "b"])) != split_digest(
        Split(other, None, ["a", "b"])
    )


def test_only_a_full_disk_is_reported_as_such(tmp_path, monkeypatch) -> None:
    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "save_file", full)
    writer = ShardWriter(tmp_path, 0)
    writer.add(torch.zeros(2, 2))
    message = (
        r"the disk of .* is full; free some disk space, or set cache.dir=/a/larger/disk or "
        r"cache.features"
    )
    with pytest.raises(DataError, match=message):
        writer.flush()

    def failing(*args) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache_module, "save_file", failing)
    with pytest.raises(OSError, match="Input/output"):
        writer.flush()
