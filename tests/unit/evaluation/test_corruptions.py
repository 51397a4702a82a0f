"""Tests on corrupted images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import tl_lightning as tl
from helpers import command, config, file_config
from layouts import class_folders
from tl_lightning.cli import evaluate as commands
from tl_lightning.config.compose import compose
from tl_lightning.data.datasets import ArrayDataset, SplitReader
from tl_lightning.data.domain import Split
from tl_lightning.data.transforms.corruptions import CORRUPTIONS, corrupted
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.corruptions import VERSIONS, CorruptedDataset, summarised
from tl_lightning.reporting.statistics import student
from tl_lightning.training import fit as training


def test_each_version_of_an_image_has_its_place_in_the_batch() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    split = Split(pixels, np.arange(4), list("abcd"))
    batch = CorruptedDataset(ArrayDataset(split), [10, 11, 12, 13]).__getitems__([(2, 1), (0, 0)])
    assert batch["index"].tolist() == [*range(50, 75), *[-1] * 25]
    assert batch["labels"].tolist() == [2] * 25 + [0] * 25
    for version, (name, severity) in enumerate(VERSIONS):
        image = torch.from_numpy(pixels[2]).permute(2, 0, 1)
        expected = corrupted(image, name, severity, key=12)
        assert torch.equal(batch["inputs"][version], expected)


def test_the_error_is_the_mean_over_corruptions_and_severities() -> None:
    hits = np.random.default_rng(1).random((30, 25)) < np.linspace(0.9, 0.2, 25)
    found = summarised(hits, clean=0.95)
    assert list(found["accuracy"]) == list(CORRUPTIONS)
    assert found["accuracy"]["brightness"] == pytest.approx(hits[:, 10:15].mean(0).tolist())
    assert found["error"] == pytest.approx(1 - hits.mean())
    assert found["drop"] == pytest.approx(0.95 - hits.mean())
    expected = student((1 - hits.mean(1)).tolist())
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    perfect = summarised(np.ones((5, 25), dtype=bool), clean=1.0)
    assert (perfect["error"], perfect["low"], perfect["drop"]) == (0.0, None, 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on image files, decoded by worker processes."""
    root = class_folders(tmp_path_factory.mktemp("photos"), 12, size=(40, 32))
    folder = tmp_path_factory.mktemp("run")
    training.fit(file_config(root, "model=source_only", "data=folder"), folder)
    return folder


@pytest.mark.slow
def test_batches_workers_and_limits_change_no_corrupted_image(run) -> None:
    first = tl.evaluate(run, corruptions=True)
    expected = first["corruptions"]["source"]
    assert expected["clean"] == pytest.approx(first["metrics"]["source/test/acc"])
    for given in (["data.eval_batch_size=75"], ["data.num_workers=2", "data.eval_batch_size=1"]):
        assert tl.evaluate(run, given, corruptions=True)["corruptions"]["source"] == expected
    limited = ["data.eval_batch_size=2", "trainer.limit_test_batches=2"]
    part = tl.evaluate(run, limited, corruptions=True)
    assert part["counts"] == {"source": 4}
    # The model itself, on the same versions of the first four images.
    model, tested = tl.load(run), part["outputs"]["source"]
    spec = model.input_spec
    read = SplitReader(Split([Path(f) for f in tested.files], None, tested.files), None, spec)
    images = torch.empty(4, spec.size, spec.size, 3, dtype=torch.uint8)
    Centre(spec)([read(k) for k in range(4)], [0] * 4, images)
    for name, values in part["corruptions"]["source"]["accuracy"].items():
        for severity, accuracy in enumerate(values, 1):
            inputs = torch.stack([
                corrupted(image.permute(2, 0, 1), name, severity, int(key))
                for image, key in zip(images, tested.index, strict=True)
            ])  # fmt: skip
            with torch.inference_mode():
                own = model(inputs).argmax(1).numpy() == tested.labels
            assert accuracy == own.mean()


@pytest.mark.slow
def test_the_command_prints_and_writes_the_accuracies(trained, tmp_path, capsys) -> None:
    arguments = ["corruptions=true", f"out={tmp_path}", "trainer.limit_test_batches=1"]
    commands._evaluate([f"checkpoint={trained}", *arguments, "data.eval_batch_size=20"])
    text = capsys.readouterr().out
    for part in ("accuracy on corrupted images of the target", "gaussian noise", "jpeg"):
        assert part in text
    assert text.count("mean corruption error") == 2
    with (tmp_path / "corruptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(VERSIONS)
    summary = json.loads((tmp_path / "metrics.json").read_text())["corruptions"]
    assert float(rows[-1]["accuracy"]) == summary["target"]["accuracy"]["jpeg"][-1]


@pytest.mark.slow
def test_only_images_are_corrupted(trained, tmp_path) -> None:
    with pytest.raises(ConfigError, match="corruptions=yes is not true or false; set"):
        commands._evaluate([f"checkpoint={trained}", "corruptions=yes"])
    found: Any = OmegaConf.to_container(compose(["data=vectors"]), resolve=True)
    for role in ("source", "target"):
        labels = np.arange(60) % 2
        vectors = np.random.default_rng(0).normal(size=(60, 4)) + labels[:, None]
        np.savez(tmp_path / f"{role}.npz", x=vectors, y=labels)
        found["data"][role]["train"] = str(tmp_path / f"{role}.npz")
    plain = config("model=source_only", "trainer.max_epochs=1")
    plain |= {key: found[key] for key in ("data", "backbone")}
    training.fit(plain, tmp_path / "run")
    with pytest.raises(ConfigError, match="changes images, but data=vectors contains vectors"):
        tl.evaluate(tmp_path / "run", corruptions=True)


@pytest.mark.slow
def test_two_ranks_give_the_results_of_one(run, tmp_path) -> None:
    """Padding that gives both ranks the same number of images counts nowhere."""
    for name, trainer in (("one", ()), ("two", ("trainer.devices=2", "trainer.strategy=ddp"))):
        arguments = [f"checkpoint={run}", "corruptions=true", f"out={tmp_path / name}", *trainer]
        done = command("evaluate", [*arguments, "data.eval_batch_size=3"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test metrics with 95 % intervals") == 1
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(names) == 5
    for name in names:
        texts = [(tmp_path / folder / name).read_text() for folder in ("one", "two")]
        assert texts[0] == texts[1]
