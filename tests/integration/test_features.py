"""Feature cache: training on stored features equals training through the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from helpers import REPO, command, config, evaluated, file_config, same, weights
from layouts import split_folders
from tl_lightning.config.validation import check as validation
from tl_lightning.data.cache.features import Features, view_seed
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.models.supervised import FineTuning
from tl_lightning.training import build as building
from tl_lightning.training import feature_extraction
from tl_lightning.training import fit as training
from tl_lightning.types import SplitKey
from tl_lightning.utils.process import quiet

FROZEN = ("model=feature_extraction", "data.augment=none")
LAST = "checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))


def frozen(*more: str) -> dict[str, Any]:
    return config(*FROZEN, *more)


def computed(report: dict[str, Any]) -> int:
    return sum(part["computed"] for part in report["dataset"]["features"].values())


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> bool:
    return all(torch.allclose(a[k].float(), b[k].float(), atol=tolerance) for k in a)


def test_stored_features_train_the_same_head(tmp_path) -> None:
    """To 1e-6, not bit for bit, as features are computed with another batch size."""
    reports = [
        training.fit(frozen(f"cache.features={mode}", "trainer.max_epochs=3"), tmp_path / mode)
        for mode in ("off", "full")
    ]
    off, full = (weights(tmp_path / mode / LAST) for mode in ("off", "full"))
    assert close(off, full, 1e-6)
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-6)
    assert computed(reports[0]) == 0
    note = "the frozen backbone has random weights, so its features are not pretrained"
    assert all(note in report["notes"] for report in reports)
    stored = reports[1]["dataset"]["features"]
    counts = reports[1]["dataset"]["counts"]
    assert {key: part["computed"] for key, part in stored.items()} == {
        key: number for key, number in counts.items() if key != "target/train"
    }
    for name in ("off", "full"):  # the gallery needs the images in both modes
        assert (tmp_path / name / "predictions.npz").is_file()


@pytest.mark.slow
def test_bfloat16_features_train_nearly_the_same_head(tmp_path) -> None:
    """The head's weights agree to 2e-3 after three epochs at learning rate 1e-3."""
    for mode in ("off", "full"):
        settings = ("trainer.precision=bf16-mixed", "trainer.max_epochs=3")
        training.fit(frozen(f"cache.features={mode}", *settings), tmp_path / mode)
    off, full = (weights(tmp_path / mode / LAST) for mode in ("off", "full"))
    assert close(off, full, 2e-3)
    files = (tmp_path / "cache" / "features").rglob("manifest.json")
    assert all('"precision": "bf16-mixed"' in file.read_text() for file in files)


@pytest.mark.slow
def test_only_the_first_job_of_a_sweep_runs_the_network(tmp_path, monkeypatch) -> None:
    calls = []
    original = L.Trainer.predict
    monkeypatch.setattr(
        L.Trainer, "predict", lambda self, *a, **k: calls.append(1) or original(self, *a, **k)
    )
    pretrained = f"backbone.channel_dropout={0.0}"
    first = training.fit(frozen(pretrained), tmp_path / "0")
    heads = [("head.activation=tanh", "head.width=8"), ("optimizer.lr=0.1",), ("head.dropout=0.5",)]
    for number, head in enumerate(heads, 1):
        report = training.fit(frozen(pretrained, *head), tmp_path / str(number))
        assert computed(report) == 0
        assert all(part["cached"] for part in report["dataset"]["features"].values())
    assert calls == [1]
    assert computed(first) > 0


def sets(*overrides: str, settings: dict[str, Any] | None = None) -> dict[str, Path]:
    parts = training.build(validation.check(settings or frozen(*overrides)), Path("unused"))
    assert parts.features.sets is not None
    return {str(key): each.folder for key, each in parts.features.sets.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "reused"),
    [
        ("seed=1", True),  # the backbone's weights are kept the same below
        ("head.width=8", True),
        ("data.batch_size=8", True),
        ("backbone.lr_factor=0.5", True),
        ("trainer.precision=bf16-mixed", False),
        ("backbone.mean=[0.1,0.5,0.5]", False),
        ("backbone.activation=tanh", False),
        ("channels_last=true", False),
        ("data.sharpness=3.0", False),
    ],
)
def test_features_are_reused_if_the_setting_does_not_affect_them(
    override, reused, monkeypatch
) -> None:
    monkeypatch.setattr("tl_lightning.training.build.mix", lambda *parts: sum(parts[1:]))
    before, after = sets(), sets(override)
    assert (before == after) is reused


def test_changed_weight_or_buffer_invalidates_features(monkeypatch) -> None:
    before = sets()
    original = building.build_module

    def changed(name: str):
        def build(*args, **kwargs):
            module = original(*args, **kwargs)
            module.backbone.state_dict()[name].view(-1)[0] += 1
            return module

        return build

    names = ["blocks.0.0.weight", "blocks.0.1.running_mean", "neck.0.bias"]
    for name in names:
        monkeypatch.setattr("tl_lightning.training.build.build_module", changed(name))
        assert not set(before.values()) & set(sets().values()), name


def test_changed_file_invalidates_the_features_of_its_split(tmp_path) -> None:
    root = split_folders(tmp_path / "dogs", train=20, test=8)
    settings = (*FROZEN, "data.target=null")
    before = sets(settings=file_config(root, *settings))
    file = next((root / "test").rglob("*.jpg"))
    file.write_bytes(file.read_bytes() + b"\0")
    after = sets(settings=file_config(root, *settings))
    assert {key for key in before if before[key] != after[key]} == {"source/test"}


def test_stored_views_are_features_of_augmented_images(tmp_path) -> None:
    """Each of the K views of a training image equals the network's output, and they differ."""
    augment = "data.augment={shift: 1, zoom: 0.1, shear: 0.0, contrast: 0.5, invert: 0.5}"
    cfg = config("model=feature_extraction", augment, "cache.views=3", "data.target=null")
    parts = training.build(validation.check(cfg), tmp_path)
    quiet()
    feature_extraction.fill(parts.features, parts.module, parts.data, parts.trainer)
    found = parts.data.features[SplitKey("source", "train")]
    assert found.views == 3
    assert parts.data.features[SplitKey("source", "val")].views == 1
    split = parts.data.found["source"].train
    data = parts.data.dataset("source", split, train=True)
    rows = []
    for view in range(3):
        seeds = [view_seed(split.names[k], view) for k in range(8)]
        batch = data.__getitems__(list(zip(range(8), seeds, strict=True)))
        images = parts.data.augmentation.finish(batch["inputs"], seeds)
        rows.append(found.rows(torch.arange(8) + view * found.number))
        assert torch.allclose(parts.module.extract(images), rows[-1], atol=1e-6)
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    assert not torch.allclose(rows[1], rows[2], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("views", [(), ("cache.views=2", "data.augment=light")])
def test_resume_in_the_middle_of_an_epoch_on_features(views, tmp_path, monkeypatch) -> None:
    class Stop(Exception):
        pass

    class StopAt(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            if (trainer.current_epoch, batch_idx) == (1, 0):
                trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
                raise Stop

    settings = ("head.dropout=0.3", "head.width=8", "trainer.max_epochs=3", *views)
    uninterrupted = training.fit(frozen(*settings), tmp_path / "uninterrupted")
    assert computed(uninterrupted)
    original: Any = training.build

    def build(*arguments):
        parts = original(*arguments)
        parts.trainer.callbacks.append(StopAt())
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(frozen(*settings), tmp_path / "interrupted")
    monkeypatch.setattr(training, "build", original)
    resumed = training.fit(frozen(*settings, "resume=auto"), tmp_path / "interrupted")
    assert same(
        weights(tmp_path / "uninterrupted" / LAST), weights(tmp_path / "interrupted" / LAST)
    )
    assert resumed["metrics"] == uninterrupted["metrics"]
    losses = []
    for name in ("uninterrupted", "interrupted"):
        lines = (tmp_path / name / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("train/loss")
        losses.append([loss for line in lines[1:] if (loss := line.split(",")[column])])
    assert len(losses[0]) == 3
    assert losses[0][-2:] == losses[1][-2:], "the interrupted epoch must have the same mean loss"


@pytest.mark.slow
def test_checkpoint_trained_on_features_is_tested_on_images(tmp_path) -> None:
    report = training.fit(frozen("cache.features=full"), tmp_path)
    found = evaluation.evaluate(tmp_path / LAST, None, None)
    assert found["metrics"] == pytest.approx(evaluated(report), abs=1e-6)


@pytest.fixture
def first_block_frozen(monkeypatch) -> None:
    original = FineTuning.__init__

    def build(self, **kwargs) -> None:
        original(self, **kwargs)
        self.backbone.blocks[0].requires_grad_(False)

    def train(self, mode: bool = True):
        torch.nn.Module.train(self, mode)
        self.backbone.blocks[0].eval()
        return self

    monkeypatch.setattr(FineTuning, "__init__", build)
    monkeypatch.setattr(FineTuning, "train", train, raising=False)
    monkeypatch.setattr(FineTuning, "frozen_depth", lambda self: 1)


PREFIX = ("model=fine_tuning", "data.augment=none", "cache.features=prefix")


@pytest.mark.slow
@pytest.mark.usefixtures("first_block_frozen")
def test_training_on_a_stored_prefix_gives_the_same_network(tmp_path) -> None:
    """To 1e-5, after two epochs through batch norm and convolutions."""
    report = training.fit(config(*PREFIX), tmp_path / "prefix")
    training.fit(config(*PREFIX[:2]), tmp_path / "off")
    off, prefix = (weights(tmp_path / mode / LAST) for mode in ("off", "prefix"))
    assert close(off, prefix, 1e-5)
    before = building.build_module(
        validation.check(config(*PREFIX)), tuple("0123456789")
    ).state_dict()
    frozen_weight, trained_weight = "backbone.blocks.0.0.weight", "backbone.blocks.1.0.weight"
    assert torch.equal(before[frozen_weight], prefix[frozen_weight])
    assert not torch.allclose(before[trained_weight], prefix[trained_weight], atol=1e-4)
    assert computed(report)
    found = evaluation.evaluate(tmp_path / "prefix" / LAST, None, None)
    assert found["metrics"] == pytest.approx(evaluated(report), abs=1e-5)


@pytest.mark.usefixtures("first_block_frozen")
def test_prefix_larger_than_the_limit_is_refused(tmp_path) -> None:
    message = (
        r"cache.features=prefix: the cache would need .* GB, 0.00\d* MB per image "
        r"\(cache.limit_gb=1e-06, .* GB free in .*\); set cache.features=off, a larger"
    )
    with pytest.raises(ConfigError, match=message):
        training.build(validation.check(config(*PREFIX, "cache.limit_gb=1e-6")), tmp_path)


@pytest.mark.usefixtures("first_block_frozen")
def test_prefix_needs_a_chain_of_layer_groups(tmp_path, monkeypatch) -> None:
    from dataclasses import replace

    from tl_lightning.backbones.small import ConvNet

    original = ConvNet.layer_groups

    def without_chain(self, chain=False):
        return [replace(group, run=None) for group in original(self)]

    monkeypatch.setattr(ConvNet, "layer_groups", without_chain)
    with pytest.raises(ConfigError, match=r"layer groups form a chain, but those of ConvNet do no"):
        training.build(validation.check(config(*PREFIX)), tmp_path)


def test_auto_is_off_above_the_size_limit(tmp_path, capsys) -> None:
    parts = training.build(validation.check(frozen("cache.limit_gb=1e-6")), tmp_path)
    assert parts.features.mode == "off"
    message = "features are recomputed in every epoch: the cache would need"
    assert message in capsys.readouterr().err


def test_auto_explains_why_features_are_recomputed(tmp_path, capsys) -> None:
    cfg = config("model=feature_extraction", "data.augment=light")
    assert training.build(validation.check(cfg), tmp_path).features.mode == "off"
    assert capsys.readouterr().err.strip() == (
        "features are recomputed in every epoch because data.augment=light; set "
        "data.augment=none, or cache.views=8, to compute them only once"
    )
    assert training.build(validation.check(config()), tmp_path).features.mode == "off"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("cache.features=full", "model=source_only", "data.augment=none"),
            "cache.features=full needs a backbone that is frozen for the whole run, but "
            "model=source_only trains block0, block1, neck; set model=feature_extraction, or "
            "cache.features=off",
        ),
        (
            ("cache.features=prefix", "model=source_only", "data.augment=none"),
            "cache.features=prefix needs first layers that stay frozen, but model=source_only "
            "trains block0, block1, neck; set cache.features=off, or freeze the first layers",
        ),
        (
            ("cache.features=full", "model=feature_extraction", "data.augment=light"),
            "cache.features=full stores features of the images without augmentation, but "
            "data.augment=light; set data.augment=none, or cache.views=8",
        ),
        (
            ("cache.features=full", *FROZEN, "data.mixup_alpha=0.2"),
            "data.mixup_alpha=0.2 mixes images, but model=feature_extraction with "
            "cache.features=full loads no images in training; set data.mixup_alpha=0, or "
            "cache.features=off",
        ),
        (
            (*FROZEN, "cache.views=2"),
            "cache.views=2 stores augmented views, but data.augment=none; set "
            "cache.views=null, or data.augment=light",
        ),
        (
            ("model=feature_extraction", "data.augment=light", "cache.views=0"),
            "cache.views=0 is not an integer of at least 1 or null; set cache.views=<value>",
        ),
    ],
)
def test_settings_that_prevent_caching_are_refused(overrides, message, tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        training.build(validation.check(config(*overrides)), tmp_path)
    assert caught.value.problems == [message]


@pytest.mark.slow
def test_error_removes_drafts_and_releases_locks(tmp_path, monkeypatch) -> None:
    def broken(self, features) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(feature_extraction.ShardWriter, "add", broken)
        with pytest.raises(RuntimeError, match="no"):
            training.fit(frozen(), tmp_path / "a")
    left = [path for path in (tmp_path / "cache" / "features").iterdir() if path.is_dir()]
    assert left == []
    assert computed(training.fit(frozen(), tmp_path / "b"))


def arguments(*more: str) -> list[str]:
    from conftest import TINY

    return [*TINY, *FROZEN, *more]


@pytest.mark.slow
def test_two_concurrent_processes_compute_features_once(tmp_path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, str(REPO / "scripts" / "train.py"), *arguments(f"hydra.run.dir={n}")],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for n in ("a", "b")
    ]  # fmt: skip
    outputs = [process.communicate(timeout=150) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("features of" in err for _, err in outputs) == 1
    assert same(weights(tmp_path / "a" / LAST), weights(tmp_path / "b" / LAST))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.slow
def test_two_ranks_compute_the_same_features_as_one(tmp_path) -> None:
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8")
    for name, more in (("one", ("data.batch_size=16",)), ("two", ddp)):
        cache = f"cache.dir={tmp_path / f'cache-{name}'}"
        settings = arguments(*more, cache, "optimizer=sgd", f"hydra.run.dir={name}")
        done = command("train", settings, tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (
        {f.parent.name: f for f in (tmp_path / f"cache-{n}").rglob("manifest.json")}
        for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, file in one.items():
        a, b = (Features(f.parent) for f in (file, two[name]))
        assert len(b.parts) == 2
        rows = torch.arange(a.number)
        assert torch.allclose(a.rows(rows), b.rows(rows), atol=1e-6)
    assert close(weights(tmp_path / "one" / LAST), weights(tmp_path / "two" / LAST), 1e-5)
