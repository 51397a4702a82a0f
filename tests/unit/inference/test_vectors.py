"""Vectors that were never in a data module become the same inputs of the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.data.datamodules.vector import VectorDataModule
from tl_lightning.data.io.vectors import read_vectors
from tl_lightning.errors import DataError
from tl_lightning.inference.predictor import Predictor
from tl_lightning.models.base import TransferModule

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(40, 6)) * (RNG.random((40, 6)) < 0.7)).astype(np.float32)
Y = np.arange(40) % 2


def prepared(path: Path, scale: str, kept: int | None) -> VectorDataModule:
    settings: dict[str, Any] = {
        "name": "vectors", "val_fraction": 0.2, "test_fraction": 0.2, "max_features": kept,
        "scale": scale, "batch_size": 4, "eval_batch_size": 64, "steps_per_epoch": None,
        "sampling": "uniform", "target_sampling": "uniform", "num_workers": 0, "seed": 0,
        "pin_memory": False,
    }  # fmt: skip
    source = {"train": str(path), "test": None}
    data = VectorDataModule(source=source, target=None, **settings)
    data.discover()
    return data


def predictor_of(data: VectorDataModule) -> Predictor:
    module = SimpleNamespace(backbone=SimpleNamespace(input_spec=data.default_spec()))
    stored = StoredModel({}, ("0", "1"), {}, data.input_state, {}, {})
    return Predictor(Path("a.ckpt"), stored, cast(TransferModule, module))


@pytest.mark.parametrize("kept", [None, 3])
@pytest.mark.parametrize("scale", ["none", "standard", "l2"])
@pytest.mark.parametrize("kind", ["npz", "from 0", "from 1"])
def test_vectors_are_prepared_as_in_training(
    tmp_path: Path, kind: str, scale: str, kept: int | None
) -> None:
    path = tmp_path / ("a.npz" if kind == "npz" else "a.svmlight")
    if kind == "npz":
        np.savez(path, x=X, y=Y)
    else:
        dump_svmlight_file(X, Y, str(path), zero_based=kind == "from 0")
    data = prepared(path, scale, kept)
    expected = np.asarray(data.found["source"].test.samples)
    numbers = [int(name.rpartition("/")[2]) for name in data.found["source"].test.names]
    rows = read_vectors(path, "input").x[numbers]
    predictor = predictor_of(data)
    assert np.array_equal(predictor.vectors(rows).numpy(), expected)
    # One row alone, and its dense form, give the same.
    assert np.array_equal(predictor.vectors(rows[[1]]).numpy(), expected[[1]])
    assert np.array_equal(predictor.vectors(X[numbers]).numpy(), expected)
    if sparse.issparse(rows):  # the last features may be missing from a file
        narrow = sparse.csr_matrix(X[:2, :4] * np.float32(1))
        padded = np.pad(X[:2, :4], ((0, 0), (0, 2)))
        shifted = sparse.hstack([np.zeros((2, int(kind == "from 1"))), narrow])
        assert np.array_equal(predictor.vectors(shifted), predictor.vectors(padded))


def test_other_vectors_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    predictor = predictor_of(prepared(tmp_path / "a.npz", "standard", 3))
    with pytest.raises(DataError, match="have 5 features, but the model was trained on 6; use"):
        predictor.vectors(X[:, :5])
    with pytest.raises(DataError, match=r"shape \(samples, features\), got shape \(6,\)"):
        predictor.vectors(X[0])
    broken = X.copy()
    broken[2] = np.nan
    with pytest.raises(DataError, match=r"vector 2 \(counted from 0\) contains NaN or infinity"):
        predictor.vectors(broken)
