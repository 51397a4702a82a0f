"""A checkpoint is whole or it is not taken; the one before it is."""

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

OURS = {"hyper_parameters": {"config": {}}, "epoch": 0}


def write(folder, name: str, number: float, keep: int = 2):
    tensor = torch.full((1000,), number)
    AtomicCheckpointIO(keep_last=keep).save_checkpoint({**OURS, "x": tensor}, folder / name)
    return folder / name


def flip(path, place: int = 1500) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_stays_a_file_that_torch_and_zip_read(tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(1000))
    assert torch.equal(torch.load(path, weights_only=True, mmap=True)["x"], torch.ones(1000))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"tl_lightning sha256 ")


def test_a_single_bit_is_noticed_wherever_it_is(tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    whole = path.read_bytes()
    place = whole.find(torch.ones(4).numpy().tobytes()) + 7
    flip(path, place)
    assert not torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(1000)), (
        "torch itself does not notice"
    )
    with pytest.raises(CheckpointError, match=r"is broken: its bytes are not those that were wri"):
        read_checkpoint(path)
    for place in (len(whole) - 1, len(whole) - 70, len(whole) - 90, 100):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(CheckpointError, match=r"is broken"):
            read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_file_is_broken(share, tmp_path) -> None:
    path = write(tmp_path, "last.ckpt", 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"is broken"):
        read_checkpoint(path)


def test_a_checkpoint_without_a_sum_still_loads(tmp_path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save(OURS, path)
    assert read_checkpoint(path)["epoch"] == 0


def test_the_newest_stay_and_no_more(tmp_path) -> None:
    for number in range(5):
        write(tmp_path, "last.ckpt", float(number), keep=3)
        write(tmp_path, "best.ckpt", float(number), keep=3)
    names = {p.name: float(torch.load(p, weights_only=True)["x"][0]) for p in tmp_path.iterdir()}
    assert names == {"last.ckpt": 4.0, "earlier-1.ckpt": 3.0, "earlier-2.ckpt": 2.0, "best.ckpt": 4}


def test_a_broken_last_falls_back_and_is_put_aside(tmp_path) -> None:
    write(tmp_path, "last.ckpt", 1.0)
    flip(write(tmp_path, "last.ckpt", 2.0))
    with pytest.warns(UserWarning, match=r"last\.ckpt is broken.*going on from .*earlier-1\.ckpt"):
        found = last_good(tmp_path)
    assert found == tmp_path / "earlier-1.ckpt"
    write(tmp_path, "last.ckpt", 3.0)  # the broken one must not push out the good one
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"last.ckpt", "earlier-1.ckpt", "last.ckpt.broken"}
    assert read_checkpoint(tmp_path / "earlier-1.ckpt")["x"][0] == 1.0


def test_a_kill_between_two_renames_leaves_the_one_before(tmp_path) -> None:
    write(tmp_path, "last.ckpt", 1.0)
    os.replace(tmp_path / "last.ckpt", tmp_path / "earlier-1.ckpt")
    assert last_good(tmp_path) == tmp_path / "earlier-1.ckpt"


def test_nothing_whole_is_one_error_and_nothing_at_all_is_none(tmp_path) -> None:
    assert last_good(tmp_path) is None
    flip(write(tmp_path, "last.ckpt", 1.0))
    with pytest.raises(CheckpointError, match=r"nothing to resume in .*last\.ckpt is broken.*type"):
        last_good(tmp_path)
    flip(write(tmp_path, "oracle-epoch003.ckpt", 1.0))
    with pytest.raises(CheckpointError, match=r"nor is any of the 1 others whole"):
        last_good(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_run_goes_on_from_the_one_before_and_ends_the_same(harm, tmp_path) -> None:
    long, extra = "trainer.max_epochs=3", ("selection=bnm",)
    whole = training.fit(config(long, *extra), tmp_path / "whole")
    training.fit(config(long, *extra), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    if harm == "gone":
        last.unlink()
        resumed = training.fit(config(long, *extra, "resume=auto"), tmp_path / "run")
    else:
        content = last.read_bytes()
        last.write_bytes(content[:3000])
        if harm == "flipped":
            last.write_bytes(content)
            flip(last, 3000)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            resumed = training.fit(config(long, *extra, "resume=auto"), tmp_path / "run")
        assert any("going on from" in words for words in resumed["warnings"])
    assert same(weights(tmp_path / "whole" / "checkpoints" / "last.ckpt"), weights(last))
    assert resumed["metrics"] == whole["metrics"]
    rows = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "run")]
    assert rows[0] == rows[1]


def test_checkpoints_within_an_epoch(tmp_path, monkeypatch) -> None:
    from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint

    seen = []
    honest = SelectionCheckpoint._save_checkpoint

    def note(self, trainer, filepath):
        seen.append((trainer.global_step, os.path.basename(filepath)))
        honest(self, trainer, filepath)

    monkeypatch.setattr(SelectionCheckpoint, "_save_checkpoint", note)
    steps = ("data.steps_per_epoch=5", "trainer.max_epochs=1", "checkpoint.every_minutes=null")
    training.fit(config(*steps, "checkpoint.every_n_steps=2"), tmp_path / "steps")
    assert [step for step, name in seen if name == "last.ckpt"] == [2, 4, 5]
    seen.clear()
    training.fit(config(*steps[:2], "checkpoint.every_minutes=0"), tmp_path / "minutes")
    assert [step for step, name in seen if name == "last.ckpt"] == [1, 2, 3, 4, 5]
    seen.clear()
    training.fit(config(*steps), tmp_path / "none")
    assert [step for step, name in seen if name == "last.ckpt"] == [5]


def test_settings_of_checkpoints_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"every_n_epochs=3 keeps no model of a run of trainer"):
        validation.check(config("checkpoint.every_n_epochs=3"))
    wrong = ("checkpoint.keep_last=0", "checkpoint.every_minutes=-1", "checkpoint.every_n_steps=x")
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*wrong))
    words = str(caught.value)
    assert "checkpoint.keep_last=0 is not a whole number of at least 1; type checkpoint" in words
    assert "checkpoint.every_minutes=-1 is not a number of at least 0 or null" in words
    assert "checkpoint.every_n_steps=x is not a whole number" in words


def test_what_a_killed_write_left_is_removed(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    draft = tmp_path / "checkpoints" / ".last.ckpt.123.tmp"
    draft.write_bytes(b"half")
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
        pytest.skip("no file system of a given size can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_is_a_sentence_and_leaves_whole_checkpoints(tmp_path) -> None:
    disk = tmp_path / "disk"
    training.fit(config("trainer.max_epochs=1"), tmp_path / "try")
    used = sum(p.stat().st_size for p in (tmp_path / "try").rglob("*") if p.is_file()) // 1024
    with small_disk(disk, used // 2 + 40):
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*earlier checkpoints"):
            training.fit(config("trainer.max_epochs=40"), disk / "run")
        kept = list((disk / "run" / "checkpoints").iterdir())
        assert kept
        for path in kept:
            read_checkpoint(path)
        assert not [path for path in kept if path.suffix == ".tmp"]
