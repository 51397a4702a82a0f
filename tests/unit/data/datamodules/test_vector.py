"""Vectors from files: formats, splits, feature selection, scaling and errors."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.io import savemat
from sklearn.datasets import dump_svmlight_file

from tl_lightning.backbones.mlp import MLP
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.data.io.vectors import read_vectors
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import VectorSpec

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = np.arange(30) % 3


def saved(path: Path, x: Any = X, y: Any = Y) -> str:
    """Write an npz file and return its path."""
    np.savez(path, x=x) if y is None else np.savez(path, x=x, y=y)
    return str(path)


def module(source: Any, target: Any = None, **changes: Any) -> VectorDataModule:
    """Return a data module with these files."""
    keys = {
        "name": "vectors", "val_fraction": 0.2, "test_fraction": 0.2, "max_features": None,
        "scale": "none", "batch_size": 4, "eval_batch_size": 64, "steps_per_epoch": None,
        "sampling": "uniform", "target_sampling": "uniform", "num_workers": 0, "seed": 0,
        "pin_memory": False,
    }  # fmt: skip
    sides = [{"train": s, "test": None} if isinstance(s, str) else s for s in (source, target)]
    return VectorDataModule(source=sides[0], target=sides[1], **{**keys, **changes})


def pixels(data: VectorDataModule, domain: str, split: str) -> Any:
    return np.asarray(getattr(data.found[domain], split).samples)


@pytest.mark.parametrize("kind", ["npz", "mat", "svmlight", "svmlight.gz"])
def test_all_file_formats_give_the_same_vectors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, Features=X, Labels=Y)
    elif kind == "mat":
        savemat(path, {"fts": X, "labels": Y[:, None]})
    else:
        dump_svmlight_file(X, Y, str(tmp_path / "a.svmlight"))
        if kind.endswith("gz"):
            packed = gzip.compress((tmp_path / "a.svmlight").read_bytes())
            path.write_bytes(packed)
    found = read_vectors(path, "data.source.train")
    x = found.x.toarray() if sparse.issparse(found.x) else found.x
    np.testing.assert_allclose(x, X, rtol=1e-6)
    assert found.y is not None
    assert found.y.tolist() == [str(label) for label in Y]


def test_splits_are_a_stratified_partition(tmp_path: Path) -> None:
    data = module(saved(tmp_path / "a.npz"))
    data.discover()
    parts = [pixels(data, "source", split) for split in ("train", "val", "test")]
    joined = np.concatenate(parts)
    assert sorted(map(tuple, joined.tolist())) == sorted(map(tuple, X.tolist()))
    for split in ("train", "val", "test"):
        assert set(getattr(data.found["source"], split).labels) == {0, 1, 2}


def test_labels_match_their_vectors(tmp_path: Path) -> None:
    data = module(saved(tmp_path / "a.npz", y=np.array(["b", "a", "c"])[Y]))
    data.discover()
    assert data.classes == ("a", "b", "c")
    truth = {tuple(x): "bac"[y] for x, y in zip(X.tolist(), Y, strict=True)}
    train = data.found["source"].train
    assert train.labels is not None
    for x, label in zip(pixels(data, "source", "train").tolist(), train.labels, strict=True):
        assert truth[tuple(x)] == data.classes[label]


def test_unlabelled_target_with_labelled_test_file(tmp_path: Path) -> None:
    target = {
        "train": saved(tmp_path / "t.npz", y=None),
        "test": saved(tmp_path / "u.npz", X[:6], Y[:6]),
    }
    data = module(saved(tmp_path / "s.npz"), target)
    data.discover()
    assert data.found["target"].train.labels is None
    assert data.found["target"].val.labels is None
    assert len(data.found["target"].test) == 6
    assert len(data.found["target"].train) + len(data.found["target"].val) == 30


def test_most_frequent_features_of_both_domains_are_kept(tmp_path: Path) -> None:
    source, target = np.zeros((30, 5)), np.zeros((30, 5))
    source[:20, 0] = source[:5, 1] = source[:9, 3] = 1
    target[:20, 1] = target[:25, 4] = 1
    files = [saved(tmp_path / f"{n}.npz", x) for n, x in (("s", source), ("t", target))]
    data = module(*files, max_features=3)
    data.discover()
    assert data.width == 3  # columns 0 (20), 1 (25) and 4 (25), in this order
    whole = np.concatenate([pixels(data, "source", s) for s in ("train", "val", "test")])
    assert whole.sum(axis=0).tolist() == [20, 5, 0]


@pytest.mark.parametrize("zero_based", [True, False])
def test_sparse_files_of_different_width_are_aligned(tmp_path: Path, zero_based: bool) -> None:
    files = []
    for name, width in (("s", 4), ("t", 7)):
        x = np.zeros((30, width))
        x[:, width - 1] = 1 + np.arange(30)
        x[0, 0] = float(name == "t")
        path = tmp_path / f"{name}.svmlight"
        dump_svmlight_file(x, Y, str(path), zero_based=zero_based)
        files.append(str(path))
    data = module(*files)
    data.discover()
    assert data.width == 7
    assert (pixels(data, "source", "train")[:, 3] > 0).all()
    assert (pixels(data, "source", "train")[:, 6] == 0).all()
    assert (pixels(data, "target", "train")[:, 6] > 0).all()


def test_standard_scaling_uses_only_the_source(tmp_path: Path) -> None:
    shifted = X + 5
    data = module(
        saved(tmp_path / "s.npz", 3 * X + 1), saved(tmp_path / "t.npz", shifted), scale="standard"
    )
    data.discover()
    learned = pixels(data, "source", "train")
    assert learned.dtype == np.float32
    np.testing.assert_allclose(learned.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(learned.std(axis=0), 1, atol=1e-5)
    plain = module(saved(tmp_path / "s.npz", 3 * X + 1), saved(tmp_path / "t.npz", shifted))
    plain.discover()
    own = pixels(plain, "source", "train")
    expected = (pixels(plain, "target", "test") - own.mean(axis=0)) / own.std(axis=0)
    np.testing.assert_allclose(pixels(data, "target", "test"), expected, rtol=1e-4, atol=1e-5)


def test_l2_scaling_gives_unit_vectors_and_keeps_zeros(tmp_path: Path) -> None:
    x = X.copy()
    x[0] = 0
    data = module(saved(tmp_path / "s.npz", x), scale="l2")
    data.discover()
    whole = np.concatenate([pixels(data, "source", s) for s in ("train", "val", "test")])
    lengths = np.sort(np.linalg.norm(whole, axis=1))
    assert lengths[0] == 0
    np.testing.assert_allclose(lengths[1:], 1, rtol=1e-5)


def test_validation_batches_of_the_target_have_no_labels(tmp_path: Path) -> None:
    data = module(saved(tmp_path / "s.npz"), saved(tmp_path / "t.npz", X + 1))
    data.discover()
    data.prepare(ModelNeeds(VectorSpec(width=4)))
    source, target = data.val_dataloader()
    assert "labels" in next(iter(source))
    batch = next(iter(target))
    assert "labels" not in batch
    assert batch["inputs"].dtype == torch.float32
    rows = pixels(data, "target", "val")[batch["index"].numpy()]
    np.testing.assert_array_equal(batch["inputs"].numpy(), rows)


def test_mlp_computes_its_layers() -> None:
    net = MLP(in_features=4, widths=[3], activation="sigmoid", dropout=0.0, lr_factor=1.0)
    linear = net.layers[0][0]  # type: ignore[index]
    x = torch.from_numpy(X)
    assert torch.equal(net(x), torch.sigmoid(x @ linear.weight.T + linear.bias)) or torch.allclose(
        net(x), torch.sigmoid(x @ linear.weight.T + linear.bias), atol=1e-6
    )
    plain = MLP(in_features=4, widths=[], activation="relu", dropout=0.0, lr_factor=1.0)
    assert plain.out_features == 4
    assert torch.equal(plain(x), x)
    assert plain.layer_groups() == []


@pytest.mark.parametrize(
    ("instantiate", "message"),
    [
        (
            lambda p: module({"train": None}),
            "needs a file, but data.source.train=null; set data.source.train=",
        ),
        (lambda p: module(str(p / "no.npz")), "no.npz is not a file; set data.source.train="),
        (
            lambda p: module(_written(p / "a.parquet", b"x")),
            "has the suffix .parquet, which is not supported",
        ),
        (lambda p: module(_written(p / "a.npz", b"x")), "cannot be read as .npz"),
        (lambda p: module(_written(p / "a.npz", b"")), "cannot be read as .npz: No data left"),
        (lambda p: module(_written(p / "a.mat", b"")), "cannot be read as .mat: .*truncated"),
        (
            lambda p: module(_written(p / "a.svm.gz", b"\x1f\x8b\x08\x00")),
            "cannot be read as .svm: Compressed file ended",
        ),
        (lambda p: module(_npy(p / "a.npz")), "cannot be read as .npz"),
        (
            lambda p: module(_arrays(p, x=X, y=np.where(Y == 1, np.nan, Y))),
            "10 labels are neither names nor integers, the first is .nan. in row 1 ",
        ),
        (lambda p: module(saved(p / "a.npz", y=0 * Y)), "has only the class '0'; a classifier"),
        (
            lambda p: module(saved(p / "a.npz"), str(p / "a.npz")),
            "data.source.train and data.target.train are the same file",
        ),
        (
            lambda p: module(
                {"train": saved(p / "a.npz"), "test": str(p / ".." / p.name / "a.npz")}
            ),
            "data.source.train and data.source.test are the same file",
        ),
        (lambda p: module(_arrays(p, z=X)), "contains z, but no vectors named x, features"),
        (lambda p: module(_arrays(p, x=X[0], y=Y)), r"\(samples, features\), got shape \(4,\)"),
        (lambda p: module(_arrays(p, x=_nan(), y=Y)), "1 vectors contain NaN or infinity, the fir"),
        (lambda p: module(_arrays(p, x=X, y=Y[:5])), "contains 30 vectors but 5 labels"),
        (lambda p: module(_arrays(p, x=X)), "has no labels; a source needs them: add labels"),
        (
            lambda p: module(saved(p / "a.npz"), saved(p / "t.npz", X[:, :2])),
            "data.target.train has 2 features, but data.source.train has 4; use files",
        ),
        (
            lambda p: module(saved(p / "a.npz"), saved(p / "t.npz", y=Y + 1)),
            "contains the class '3', which is not in data.source.train; valid classes: 0, 1, 2",
        ),
        (
            lambda p: module(
                saved(p / "a.npz"),
                {"train": saved(p / "t.npz"), "test": saved(p / "u.npz", y=None)},
            ),
            "has no labels; testing needs them: add labels, or set another data.target.test",
        ),
        (lambda p: module({"trian": "a"}), "data.source has no key 'trian'; .*train"),
    ],
)
def test_invalid_files_and_settings_are_errors(
    tmp_path: Path, instantiate: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        instantiate(tmp_path).discover()


def test_number_of_features_must_be_positive() -> None:
    message = "data.max_features=0 is not an integer of at least 1 or null; set data.max_features="
    with pytest.raises(ConfigError, match=message):
        validation.check(compose(["data=vectors", "data.max_features=0"]))


def test_too_many_features_are_an_error_before_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tl_lightning.data.datamodules.vector.LIMIT", 100)
    with pytest.raises(DataError, match=r"4 features and would take .* set data.max_features"):
        module(saved(tmp_path / "a.npz")).discover()


def test_model_with_another_number_of_features_is_an_error(tmp_path: Path) -> None:
    data = module(saved(tmp_path / "a.npz"))
    data.discover()
    with pytest.raises(
        DataError, match=r"have 4 features, but the model has backbone.in_features=9; use"
    ):
        data.prepare(ModelNeeds(VectorSpec(width=9), train_on=("source",)))


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _npy(path: Path) -> str:
    with path.open("wb") as file:
        np.save(file, X)
    return str(path)


def _arrays(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "b.npz", **arrays)
    return str(folder / "b.npz")


def _nan() -> Any:
    x = X.copy()
    x[3, 1] = np.nan
    return x
