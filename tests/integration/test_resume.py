"""A resumed run equals an uninterrupted run bit for bit."""

from __future__ import annotations

import pytest

from helpers import config, file_config, same, stopped_at, weights
from layouts import split_folders
from tl_lightning.training import fit as training

EXTRA = ("backbone.channel_dropout=0.2", "method.dann.dropout=0.3", "trainer.max_epochs=3")


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_resumed_run_equals_uninterrupted_run(place, tmp_path, monkeypatch) -> None:
    uninterrupted = training.fit(config(*EXTRA), tmp_path / "uninterrupted")
    with stopped_at(monkeypatch, *place):
        training.fit(config(*EXTRA), tmp_path / "interrupted")
    resumed = training.fit(config(*EXTRA, "resume=auto"), tmp_path / "interrupted")
    last = "checkpoints/last.ckpt"
    assert same(
        weights(tmp_path / "uninterrupted" / last), weights(tmp_path / "interrupted" / last)
    )
    assert resumed["metrics"] == uninterrupted["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["2", "0.67"])
def test_resume_with_limited_train_batches(limit, tmp_path, monkeypatch) -> None:
    """The data have three batches per epoch, of which the trainer uses two."""
    settings = ("model=source_only", f"trainer.limit_train_batches={limit}")
    training.fit(config(*settings), tmp_path / "uninterrupted")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(config(*settings), tmp_path / "interrupted")
    training.fit(config(*settings, "resume=auto"), tmp_path / "interrupted")
    last = "checkpoints/last.ckpt"
    assert same(
        weights(tmp_path / "uninterrupted" / last), weights(tmp_path / "interrupted" / last)
    )


@pytest.mark.slow
@pytest.mark.parametrize("images", ["off", "decoded"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_on_image_files(
    images, workers, tmp_path, monkeypatch
) -> None:
    root = split_folders(tmp_path / "dogs", train=20, test=8)
    settings = (
        f"cache.images={images}", f"data.num_workers={workers}", "data.augment=strong",
        "data.steps_per_epoch=3", "data.target.labelled_per_class=2",
    )  # fmt: skip
    uninterrupted = training.fit(file_config(root, *settings), tmp_path / "uninterrupted")
    with stopped_at(monkeypatch, 1, 0):
        training.fit(file_config(root, *settings), tmp_path / "interrupted")
    resumed = training.fit(file_config(root, *settings, "resume=auto"), tmp_path / "interrupted")
    last = "checkpoints/last.ckpt"
    assert same(
        weights(tmp_path / "uninterrupted" / last), weights(tmp_path / "interrupted" / last)
    )
    assert resumed["metrics"] == uninterrupted["metrics"]


def test_reruns_are_identical(tmp_path) -> None:
    for name in ("a", "b"):
        training.fit(config(*EXTRA), tmp_path / name)
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "a" / last), weights(tmp_path / "b" / last))


@pytest.mark.slow
def test_seed_zero_differs_from_seed_one(tmp_path) -> None:
    for seed in (0, 1):
        training.fit(config(f"seed={seed}"), tmp_path / str(seed))
    last = "checkpoints/last.ckpt"
    assert not same(weights(tmp_path / "0" / last), weights(tmp_path / "1" / last))


@pytest.mark.slow
def test_failed_start_leaves_the_checkpoint_unchanged(tmp_path, monkeypatch) -> None:
    training.fit(config(), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()

    def broken(self) -> None:
        raise RuntimeError("no")

    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector._CheckpointConnector"
    monkeypatch.setattr(f"{connector}.restore_loops", broken)
    with pytest.raises(RuntimeError, match="no"):
        training.fit(config("resume=auto", "trainer.max_epochs=4"), tmp_path)
    assert last.read_bytes() == before
