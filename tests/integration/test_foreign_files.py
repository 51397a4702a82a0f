"""Files that this project has not written survive every cache, run, sweep and output folder."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TINY
from helpers import command, config
from layouts import image
from tl_lightning.cli.common import remove_untouched
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.cache.features import FeatureSet, ShardWriter
from tl_lightning.data.cache.tokens import tokenised
from tl_lightning.data.domain import Split
from tl_lightning.evaluation import evaluate as module
from tl_lightning.evaluation.evaluate import evaluate
from tl_lightning.evaluation.nodes import stored_section
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec, TextSpec

#: Names that clean-ups look for, or that look as if nobody needed them.
NAMES = (
    "thesis.txt", "old.bin", "chunk-0-0.bin", "x.tmp", "x.lock", "x.part", "x.npz", "x.safetensors",
    "old-9.tmp/data.bin", "backup.tmp/index.npz", "backup.tmp/manifest.json", "mine/pixels.bin",
    ".notes.ckpt.bak.tmp", "model.ckpt.tmp", "my.log", "notes.broken",
)  # fmt: skip
AGED = time.time() - 7 * 24 * 3600


def plant(*folders: Path) -> dict[Path, bytes]:
    """Write old files of others to these folders, and return their contents."""
    planted = {}
    for folder in folders:
        for name in NAMES:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(100))
            planted[path] = path.read_bytes()
        for path in [*folder.rglob("*")]:
            os.utime(path, (AGED, AGED))
    return planted


def survived(planted: dict[Path, bytes]) -> bool:
    lost = [str(path) for path, content in planted.items()
            if not path.is_file() or path.read_bytes() != content]  # fmt: skip
    assert lost == []
    return True


SPEC = InputSpec(8, (0.5,) * 3, (0.5,) * 3)


def test_cache_of_images(tmp_path) -> None:
    settings = CacheConfig(images="decoded", dir=str(tmp_path / "cache"))
    paths = [image(tmp_path / "p" / f"{k}.png", k) for k in range(3)]
    split = Split(paths, None, [path.name for path in paths])
    first = build_cache(split, "x", 9, SPEC, settings).folder
    planted = plant(settings.root, settings.folder, first.parent, first)
    image(paths[0], 9)
    build_cache(split, "x", 9, SPEC, settings)
    assert not (first / "pixels.bin").exists(), "superseded"
    image(paths[0], 0)
    second = build_cache(split, "x", 9, SPEC, settings).folder
    assert second == first, "its folder was kept for the files of others"
    (first / "pixels.bin").write_bytes(b"damaged")
    assert len(build_cache(split, "x", 9, SPEC, settings)) == 3
    assert survived(planted)


def test_cache_of_features(tmp_path) -> None:
    each = FeatureSet(tmp_path, "x", 2, 1, {"weights": "x"})
    for _ in range(2):
        planted = plant(tmp_path, each.folder) if each.folder.exists() else {}
        draft = each.begin()
        writer = ShardWriter(draft, 0)
        writer.add(torch.zeros(2, 3))
        writer.flush()
        each.finish(draft)
        found = each.found()
        assert found is not None
        assert len(found.parts) == 1
    # A shard beside those in the manifest is not read, and one that is not ours is not removed.
    planted.pop(each.folder / "x.safetensors")
    assert survived(planted)


class Tokenizer:
    digest = "letters"

    def encode(self, texts, limit):
        return [([ord(c) for c in text], False) for text in texts]

    def length(self, text):
        return len(text)


def test_cache_of_tokens(tmp_path) -> None:
    folder = tokenised(["a", "b"], TextSpec(9, Tokenizer()), "x", tmp_path).folder
    planted = plant(tmp_path, folder)
    (folder / "ids.bin").write_bytes(b"damaged")
    assert tokenised(["a", "b"], TextSpec(9, Tokenizer()), "x", tmp_path).ids.tolist() == [97, 98]
    assert survived(planted)


@pytest.mark.slow
def test_run_folder(tmp_path) -> None:
    run = tmp_path / "run"
    planted = plant(run, run / "checkpoints", run / ".hydra")
    training.fit(config("model=source_only"), run)
    training.fit(config("model=source_only", "trainer.max_epochs=3", "resume=auto"), run)
    assert survived(planted)


@pytest.mark.parametrize("kept", ["my.log", ".hydra/mine.yaml", "data/x", None])
def test_folder_of_a_rejected_command(tmp_path, kept) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    for name in ("config", "hydra", "overrides"):
        (run / ".hydra" / f"{name}.yaml").write_text("x")
    (run / "train.log").write_text("")
    if kept:
        (run / kept).parent.mkdir(exist_ok=True)
        (run / kept).write_text("mine")
    remove_untouched(run)
    assert run.is_dir() == bool(kept)
    assert not kept or (run / kept).read_text() == "mine"


@pytest.mark.slow
def test_sweep_folder(tmp_path) -> None:
    planted = plant(tmp_path / "s", tmp_path / "s" / "checkpoints")
    arguments = ["-m", *TINY, "model=source_only,joint_bn", f"hydra.sweep.dir={tmp_path / 's'}"]
    for _ in range(2):
        done = command("train", arguments, tmp_path)
        assert done.returncode == 0, done.stderr
        for job in (tmp_path / "s").glob("*/job.json"):
            planted |= plant(job.parent)
    assert len(list((tmp_path / "s").glob("*/report.json"))) == 2
    assert survived(planted)


@pytest.mark.slow
def test_a_stored_configuration_chooses_no_folder(tmp_path, trained, monkeypatch) -> None:
    """Neither where caches are written, nor whether data are downloaded to its ``data.root``."""
    victim = str(tmp_path / "victim")
    checked = []
    plain = module.check
    monkeypatch.setattr(module, "check", lambda cfg: checked.append(cfg) or plain(cfg))
    stored = module.read_model(Path(trained) / "checkpoints" / "last.ckpt")
    changed = {**stored.config, "cache": {**stored.config["cache"], "dir": victim}}
    monkeypatch.setattr(module, "read_model", lambda path: replace(stored, config=changed))
    evaluate(Path(trained) / "checkpoints" / "last.ckpt")
    assert victim not in str(checked)
    assert not Path(victim).exists()


def test_stored_data_are_not_downloaded() -> None:
    class Stored:
        def section(self, name):
            return {"_target_": "a.B", "root": "/x", "download": True, "profiler": "simple"}

    found = stored_section(Stored(), "data")
    assert found == {"_target_": "a.B", "root": "/x", "download": False}
