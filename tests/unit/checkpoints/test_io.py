"""Checkpoint I/O: corrupt checkpoints are detected, and the previous one is used."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch

from helpers import config, same, weights
from tl_lightning.checkpoints.io import AtomicCheckpointIO, last_good, read_checkpoint
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.training import fit as training

CONTENT = {"hyper_parameters": {"config": {}}, "epoch": 0}


def write(folder, name: str, number: float, keep: int = 2):
    tensor = torch.full((1000,), number)
    AtomicCheckpointIO(keep_last=keep).save_checkpoint({**CONTENT, "x": tensor}, folder / name)
    return folder / name


def flip(path, place: int = 1500) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_checkpoint_is_readable_by_torch_and_zipfile(tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(1000))
    assert torch.equal(torch.load(path, weights_only=True, mmap=True)["x"], torch.ones(1000))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"tl_lightning sha256 ")


def test_single_bit_flip_is_detected_anywhere(tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    whole = path.read_bytes()
    place = whole.find(torch.ones(4).numpy().tobytes()) + 7
    flip(path, place)
    assert not torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(1000)), (
        "torch itself does not detect it"
    )
    with pytest.raises(CheckpointError, match=r"is corrupt: its content does not match its chec"):
        read_checkpoint(path)
    for place in (len(whole) - 1, len(whole) - 70, len(whole) - 90, 100):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(CheckpointError, match=r"is corrupt"):
            read_checkpoint(path)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_file_is_corrupt(fraction, tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(CheckpointError, match=r"is corrupt"):
        read_checkpoint(path)


def test_checkpoint_without_checksum_is_loaded(tmp_path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save(CONTENT, path)
    assert read_checkpoint(path)["epoch"] == 0


def test_only_the_newest_checkpoints_are_kept(tmp_path) -> None:
    for number in range(5):
        write(tmp_path, "last.ckpt", float(number), keep=3)
        write(tmp_path, "best.ckpt", float(number), keep=3)
    names = {p.name: float(torch.load(p, weights_only=True)["x"][0]) for p in tmp_path.iterdir()}
    assert names == {"last.ckpt": 4.0, "earlier-1.ckpt": 3.0, "earlier-2.ckpt": 2.0, "best.ckpt": 4}


def test_corrupt_last_checkpoint_is_renamed_and_previous_one_used(tmp_path) -> None:
    write(tmp_path, "last.ckpt", 1.0)
    flip(write(tmp_path, "last.ckpt", 2.0))
    with pytest.warns(UserWarning, match=r"last\.ckpt is corrupt.*resuming from .*earlier-1\.ckpt"):
        path = last_good(tmp_path)
    assert path == tmp_path / "earlier-1.ckpt"
    write(tmp_path, "last.ckpt", 3.0)  # must not rotate the corrupt one over the valid one
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"last.ckpt", "earlier-1.ckpt", "last.ckpt.broken"}
    assert read_checkpoint(tmp_path / "earlier-1.ckpt")["x"][0] == 1.0


def test_previous_checkpoint_is_used_after_kill_between_renames(tmp_path) -> None:
    write(tmp_path, "last.ckpt", 1.0)
    os.replace(tmp_path / "last.ckpt", tmp_path / "earlier-1.ckpt")
    assert last_good(tmp_path) == tmp_path / "earlier-1.ckpt"


def test_error_if_all_checkpoints_are_corrupt_and_none_without_checkpoints(
    tmp_path,
) -> None:
    assert last_good(tmp_path) is None
    flip(write(tmp_path, "last.ckpt", 1.0))
    with pytest.raises(CheckpointError, match=r"nothing to resume in .*last\.ckpt is corrupt.*set"):
        last_good(tmp_path)
    flip(write(tmp_path, "oracle-epoch003.ckpt", 1.0))
    with pytest.raises(CheckpointError, match=r"\(1 more corrupt checkpoint\(s\)\); set resume"):
        last_good(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_run_resumed_from_previous_checkpoint_equals_uninterrupted_run(damage, tmp_path) -> None:
    long, extra = "trainer.max_epochs=3", ("selection=bnm",)
    whole = training.fit(config(long, *extra), tmp_path / "whole")
    training.fit(config(long, *extra), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    if damage == "missing":
        last.unlink()
        resumed = training.fit(config(long, *extra, "resume=auto"), tmp_path / "run")
    else:
        content = last.read_bytes()
        last.write_bytes(content[:3000])
        if damage == "flipped":
            last.write_bytes(content)
            flip(last, 3000)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            resumed = training.fit(config(long, *extra, "resume=auto"), tmp_path / "run")
        assert any("resuming from" in warning for warning in resumed["warnings"])
    assert same(weights(tmp_path / "whole" / "checkpoints" / "last.ckpt"), weights(last))
    assert resumed["metrics"] == whole["metrics"]
    rows = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "run")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_checkpoint_intervals_within_an_epoch(tmp_path, monkeypatch) -> None:
    from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint

    saved = []
    original = SelectionCheckpoint._save_checkpoint

    def record(self, trainer, filepath):
        saved.append((trainer.global_step, os.path.basename(filepath)))
        original(self, trainer, filepath)

    monkeypatch.setattr(SelectionCheckpoint, "_save_checkpoint", record)
    steps = ("data.steps_per_epoch=5", "trainer.max_epochs=1", "checkpointing.every_minutes=null")
    training.fit(config(*steps, "checkpointing.every_n_steps=2"), tmp_path / "steps")
    assert [step for step, name in saved if name == "last.ckpt"] == [2, 4, 5]
    saved.clear()
    training.fit(config(*steps[:2], "checkpointing.every_minutes=0"), tmp_path / "minutes")
    assert [step for step, name in saved if name == "last.ckpt"] == [1, 2, 3, 4, 5]
    saved.clear()
    training.fit(config(*steps), tmp_path / "none")
    assert [step for step, name in saved if name == "last.ckpt"] == [5]


def test_invalid_settings_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"every_n_epochs=3 saves no model within trainer.max_ep"):
        validation.check(config("checkpointing.every_n_epochs=3"))
    wrong = (
        "checkpointing.keep_last=0",
        "checkpointing.every_minutes=-1",
        "checkpointing.every_n_steps=x",
    )
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*wrong))
    message = str(caught.value)
    assert "checkpointing.keep_last=0 is not an integer of at least 1; set checkpoin" in message
    assert "checkpointing.every_minutes=-1 is not a number of at least 0 or null" in message
    assert "checkpointing.every_n_steps=x is not an integer" in message


@pytest.mark.slow
def test_draft_of_a_killed_write_is_removed(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    draft = tmp_path / "checkpoints" / ".last.ckpt.123.tmp"
    draft.write_bytes(b"partial")
    training.fit(config("trainer.max_epochs=1"), tmp_path)
    assert not draft.exists()


@contextlib.contextmanager
def small_disk(folder, kilobytes: int):
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs of limited size")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is available on Linux only")
def test_full_disk_is_reported_and_earlier_checkpoints_stay_valid(tmp_path) -> None:
    disk = tmp_path / "disk"
    training.fit(config("trainer.max_epochs=1"), tmp_path / "run")
    used = sum(p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file()) // 1024
    with small_disk(disk, used // 2 + 40):
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*earlier checkpoints"):
            training.fit(config("trainer.max_epochs=40"), disk / "run")
        kept = list((disk / "run" / "checkpoints").iterdir())
        assert kept
        for path in kept:
            read_checkpoint(path)
        assert not [path for path in kept if path.suffix == ".tmp"]
