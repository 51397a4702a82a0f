"""Outputs of the selected model: those in the files equal those of the checkpoint, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import config
from layouts import table
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.callbacks import selected_outputs
from tl_lightning.checkpoints.io import AtomicCheckpointIO, amend, read_checkpoint, read_model
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError
from tl_lightning.evaluation.load import load
from tl_lightning.training import fit as training
from tl_lightning.utils.probabilities import temperature

EMA = ("callbacks=ema", "callbacks.weight_averaging.decay=0.5")


def vectors(root: Path) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        y = np.arange(90) % 3
        np.savez(root / f"{name}.npz", x=rng.normal(size=(90, 6)) + y[:, None], y=y)
    files = (f"data.source.train={root}/a.npz", f"data.target.train={root}/b.npz")
    return ("data=vectors", "data.batch_size=16", "model=dann", *files)


def settings(kind: str, root: Path, trained: str) -> dict[str, Any]:
    if kind == "texts":
        tiny_bert(root / "bert")
        reviews(root / "short", 14, most=6)
        return text_config(
            root / "bert", "data=text_folder", f"data.root={root / 'short'}", "model=source_only"
        )
    if kind == "vectors":
        return config_of_vectors(root)
    started = (f"backbone.checkpoint={trained}", "head_init=probe", "callbacks.rollback=null")
    groups = [["class", "label"], *([k, "odd" if k % 2 else "even"] for k in range(10))]
    more = {
        "dann": ("model=dann", "selection=bnm"),
        "source only": ("model=source_only", "data.target=null"),
        "average": ("model=dann", *EMA),
        "mixture": ("model=fine_tuning", *started, "interpolation=0.5", "selection=source_val"),
        "auto": ("model=auto", *started, "selection=cbnm", "model.steps=6", "model.bottleneck=8"),
        "tasks": ("aux_task=[coarse]", f"aux_tasks.coarse.groups={table(root / 'g.csv', groups)}"),
        "features": ("model=feature_extraction", "data.augment=none", "cache.features=full"),
    }[kind]
    return config("baselines=[]", *more)


def config_of_vectors(root: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from tl_lightning.config.compose import compose

    plain: Any = OmegaConf.to_container(
        compose([*vectors(root), "trainer=cpu", "trainer.max_epochs=2", "baselines=[]"]),
        resolve=True,
    )
    return plain


KINDS = (
    "dann", "source only", "average", "mixture", "auto", "tasks", "features", "texts", "vectors",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_the_selected_checkpoint(kind, tmp_path, trained) -> None:
    plain = settings(kind, tmp_path, trained)
    report = training.fit(plain, tmp_path / "run")
    checkpoint = tmp_path / "run" / report["selection"]["checkpoint"]
    module = load(checkpoint)
    data = validation.check({**plain, "resume": None}).data.build()
    data.discover(input_state=module.input_state)
    data.prepare(module.needs())
    record = read_model(checkpoint).reliability
    with torch.no_grad(), np.load(tmp_path / "run" / "predictions.npz") as arrays:
        batches = [module.validation_step(batch, 0) for batch in data.val_dataloader()[0]]
        found = {name: torch.cat([one[name] for one in batches]) for name in batches[0]}
        found = {name: values[found["index"].argsort()] for name, values in found.items()}
        assert np.array_equal(arrays["source_val_true"], data.found["source"].val.labels)
        for rows in (arrays["source_val_logits"], record["logits"].numpy()):
            assert rows.dtype == np.float16
            np.testing.assert_allclose(rows, found["logits"], atol=0.02)
        for domain in data.domain_names:
            logits = arrays[f"{domain}_logits"]
            picked = np.take_along_axis(logits, arrays[f"{domain}_pred"][:, None], 1)[:, 0]
            np.testing.assert_allclose(picked, logits.max(1), atol=0.01)
    np.testing.assert_allclose(record["features"], found["features"], atol=0.02)
    assert torch.equal(record["labels"], found["labels"])
    assert torch.equal(record["feature_labels"], found["labels"])
    expected = temperature(record["logits"].float().numpy(), record["labels"].numpy())
    assert record["temperature"] == pytest.approx(expected)


@pytest.mark.slow
def test_large_splits_keep_rows_spread_evenly(tmp_path, monkeypatch) -> None:
    plain = config("model=dann", "baselines=[]")
    training.fit(plain, tmp_path / "all")
    monkeypatch.setattr(selected_outputs, "LARGEST", 600)
    monkeypatch.setattr(selected_outputs, "FEATURES", 20)
    report = training.fit(plain, tmp_path / "few")
    whole, few = (np.load(tmp_path / name / "predictions.npz") for name in ("all", "few"))
    assert "target_logits_row" not in whole
    rows = few["target_logits_row"]
    assert (len(rows), rows[0], rows[-1]) == (60, 0, len(few["target_true"]) - 1)
    assert np.array_equal(whole["target_logits"][rows], few["target_logits"])
    assert len(few["source_val_logits"]) == len(few["source_val_true"]) == 60
    record = read_model(tmp_path / "few" / report["selection"]["checkpoint"]).reliability
    assert [len(record[name]) for name in ("logits", "features", "feature_labels")] == [60, 20, 20]


def test_features_are_kept_of_the_stored_samples_only() -> None:
    """Of a large split, those of all samples would not fit into memory."""
    outputs = selected_outputs.SelectedOutputs(validation=True)
    outputs.wanted = {"source_val_features": torch.tensor([1, 6])}
    outputs.parts = {"source_val_features": []}
    for start in (0, 4):
        index = torch.arange(start, start + 4)
        outputs._add("source_val_features", index, torch.rand(4, 9), index)
    parts = outputs.parts["source_val_features"]
    assert [part[0].tolist() for part in parts] == [[1], [6]]
    assert [part[1].shape for part in parts] == [(1, 9), (1, 9)]
    assert sum(part[1].untyped_storage().size() for part in parts) == 2 * 9 * 2  # float16


@pytest.mark.slow
def test_run_killed_before_its_report_is_the_same_when_resumed(tmp_path) -> None:
    """The outputs are in the checkpoint before the report is written."""
    first = training.fit(config("model=dann", "baselines=[]"), tmp_path)
    path = tmp_path / first["selection"]["checkpoint"]
    before = path.read_bytes()
    for name in ("report.json", "predictions.npz", "predictions.csv"):
        (tmp_path / name).unlink()
    second = training.fit(config("model=dann", "baselines=[]", "resume=auto"), tmp_path)
    for name in ("metrics", "estimated_accuracy", "calibration", "class_mix"):
        assert first[name] == second[name]
    assert path.read_bytes() == before
    # Or before the outputs were in the checkpoint.
    amend(path, reliability={})
    (tmp_path / "report.json").unlink()
    training.fit(config("model=dann", "baselines=[]", "resume=auto"), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_model_that_starts_from_an_adapted_one_counts_as_adapted(tmp_path) -> None:
    small = ("baselines=[]", "trainer.max_epochs=1")
    for name in ("source_only", "dann"):
        training.fit(config(f"model={name}", *small), tmp_path / name)
    for key, name in (("init", "source_only"), ("init", "dann"), ("backbone.checkpoint", "dann")):
        folder, adapted = tmp_path / f"{key} {name}", name == "dann"
        start = ("model=source_only", f"{key}={tmp_path / name}", *small)
        report = training.fit(config(*start), folder)
        path = folder / report["selection"]["checkpoint"]
        assert read_model(path).reliability["adapted"] is adapted
        warned = any("trained on target" in w for w in report["estimated_accuracy"]["warnings"])
        assert warned is adapted
        (folder / "report.json").unlink()  # nothing is left to train when it is resumed
        training.fit(config(*start, "resume=auto"), folder)
        assert read_model(path).reliability["adapted"] is adapted


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["trainer.limit_val_batches=0", "test=false"])
def test_without_validation_or_test_nothing_is_stored(setting, tmp_path) -> None:
    report = training.fit(config("model=source_only", "baselines=[]", setting), tmp_path)
    assert not read_model(tmp_path / report["selection"]["checkpoint"]).reliability


@pytest.mark.slow
def test_limit_of_validation_batches_holds(tmp_path) -> None:
    small = ("model=source_only", "data.eval_batch_size=16", "baselines=[]")
    report = training.fit(config(*small, "trainer.limit_val_batches=2"), tmp_path)
    record = read_model(tmp_path / report["selection"]["checkpoint"]).reliability
    assert len(record["logits"]) == 32


@pytest.mark.slow
def test_finished_run_that_is_resumed_stores_the_same(tmp_path) -> None:
    first = training.fit(config("model=dann", "baselines=[]"), tmp_path)
    path = tmp_path / first["selection"]["checkpoint"]
    before = path.read_bytes()
    second = training.fit(config("model=dann", "baselines=[]", "resume=auto"), tmp_path)
    assert first["metrics"] == second["metrics"]
    assert path.read_bytes() == before


def test_values_beyond_float16_stay_finite_and_others_are_kept() -> None:
    values = torch.tensor([1e6, -1e6, float("inf"), float("nan"), 0.5])
    half = selected_outputs._half(values)
    assert half[:2].tolist() == [65504.0, -65504.0]
    assert half[2].isinf()
    assert half[3].isnan()
    assert half[4] == 0.5


def test_amended_checkpoint_keeps_everything_else(tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"hyper_parameters": {"config": {}}, "x": torch.arange(5)}
    AtomicCheckpointIO(keep_last=2).save_checkpoint(content, path)
    amend(path, reliability={"temperature": 2.0})
    amend(path, reliability={"temperature": 3.0})
    stored = read_checkpoint(path)
    assert torch.equal(stored["x"], content["x"])
    assert stored["reliability"] == {"temperature": 3.0}
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]  # no rotation, no draft


def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    content = {"hyper_parameters": {"config": {}}, "x": torch.arange(5)}
    AtomicCheckpointIO(keep_last=2).save_checkpoint(content, path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*No space left on device"):
        amend(path, reliability={})
    assert path.read_bytes() == before
