"""Runs on targets with unknown and missing classes, from the settings to the report."""

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
from tl_lightning.checkpoints.io import read_model
from tl_lightning.config.compose import compose
from tl_lightning.evaluation.evaluate import evaluate
from tl_lightning.inference.formats import format_of
from tl_lightning.inference.options import Options
from tl_lightning.inference.predict import opened, to_file
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.sources import from_python
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training.fit import fit
from tl_lightning.training.outputs import prior_shift

pytestmark = pytest.mark.slow

#: Centres of the classes a, b, c of the source, and of an unknown one between them.
CENTRES = {"a": (4, 0, 0), "b": (0, 4, 0), "c": (0, 0, 4), "x": (1, 1, 1)}


def vectors(path: Path, counts: dict[str, int], shift: float, seed: int) -> str:
    rng = np.random.default_rng(seed)
    y = np.repeat(list(counts), list(counts.values()))
    centres = np.array([CENTRES[name] for name in y])
    x = centres + shift + rng.normal(size=centres.shape)
    np.savez(path, x=x.astype(np.float32), y=y)
    return str(path)


def settings(folder: Path, target: dict[str, int], *overrides: str) -> Any:
    source = vectors(folder / "source.npz", dict.fromkeys("abc", 600), 0.0, 0)
    other = vectors(folder / "target.npz", target, 0.3, 1)
    chosen = compose([
        "data=vectors", f"data.source.train={source}", f"data.target.train={other}",
        "model=source_only", "trainer.max_epochs=3", "data.steps_per_epoch=20", "report.samples=20",
        *overrides,
    ])  # fmt: skip
    return OmegaConf.to_container(chosen, resolve=True)


UNIVERSAL = {"a": 800, "b": 400, "x": 300}


@pytest.mark.parametrize(
    "method", [(), ("model=domain_adaptation", "method=[class_weights,ovanet]")]
)
def test_unknown_samples_are_rejected_and_reported(method, tmp_path) -> None:
    run, universal = tmp_path / "run", "data.target.classes=universal"
    report = fit(settings(tmp_path, UNIVERSAL, universal, *method), run)
    metrics, about = report["metrics"], report["class_sets"]
    assert about["classes"] == "universal"
    assert about["rejection"]["score"] == ("method" if method else "entropy")
    known, unknown = (metrics[f"target/test/{k}"] for k in ("known_class_acc", "unknown_recall"))
    if not method:  # the classifiers of the method need more than these few steps
        # Of the samples that are not rejected; many of the unknown ones would be taken for c.
        assert report["class_mix"]["target"][2] < 0.08
        assert metrics["target/test/acc"] > 0.95
        assert known + unknown > 1.3  # 1 if samples were rejected at random
        assert metrics["target/test/h_score"] == pytest.approx(2 / (1 / known + 1 / unknown))
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    rejected = np.mean([row["unknown"] == "true" for row in rows])
    assert rejected == pytest.approx(about["rejection"]["rejected"])
    of_unknown = [row["unknown"] == "true" for row in rows if row["label"] == "unknown"]
    assert np.mean(of_unknown) == pytest.approx(unknown)

    x = np.load(tmp_path / "target.npz")["x"]
    predicted = tl.predict(run, x)
    said = [predicted[int(row["file"].rpartition("/")[2])].unknown for row in rows]
    # Not all, since the test of the run may compute in bfloat16.
    listed = [row["unknown"] == "true" for row in rows]
    assert np.mean(np.array(listed) == said) > 0.97
    assert {True, False} == set(said)
    out = tmp_path / "predictions.jsonl"
    work = opened(run, Options())
    to_file(work, from_python(x, "vectors").samples, out, format_of(out, 1, False), lambda _: None)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["unknown"] for line in lines] == [one.unknown for one in predicted]

    page = write_page(run).read_text()
    assert "Classes of the target" in page
    assert "believes absent from the target, by the class frequencies estimated" in page
    checkpoint = run / report["selection"]["checkpoint"]
    result = evaluate(checkpoint, out=tmp_path / "out")
    assert {k: v for k, v in metrics.items() if "/test/" in k} == result["metrics"]
    assert result["absent"] == about["absent"]
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["domains"]["target"]["notes"][-1].startswith(
        f"{len(of_unknown)} samples of unknown classes are left out here"
    )
    predictor = Predictor.open(run)
    x = torch.from_numpy(np.load(tmp_path / "target.npz")["x"])
    outputs = predictor.outputs(x)
    alone = predictor.module.task.rejects(*map(torch.from_numpy, outputs))
    assert alone is not None
    assert alone.float().mean().item() == pytest.approx(rejected, abs=0.1)


def test_unknown_labels_change_neither_weights_nor_threshold(tmp_path) -> None:
    """Their labels are one class for testing, so that the model cannot depend on them."""
    states = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        plain = settings(
            folder, UNIVERSAL, "data.target.classes=universal", "model=dann", "label_shift=prior"
        )
        if name == "other":  # the same samples in the same splits, with other labels
            plain["data"]["target"]["train"] = relabelled(folder)
        report = fit(plain, folder / "run")
        states.append(read_model(folder / "run" / report["selection"]["checkpoint"]).state_dict)
    assert {"task.rejection.threshold", "task.prior.shift"} <= states[0].keys()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def relabelled(folder: Path) -> str:
    found = np.load(folder / "target.npz")
    np.savez(folder / "other.npz", x=found["x"], y=np.where(found["y"] == "x", "y", found["y"]))
    return str(folder / "other.npz")


def test_prior_correction_restores_the_proportions(tmp_path) -> None:
    """Overlapping classes, of which the target has 20 times as many of one as of another."""
    counts = {"a": 400, "b": 20, "c": 20}
    accuracy = {}
    for shift in ("none", "prior"):
        folder = tmp_path / shift
        folder.mkdir()
        plain = settings(folder, counts, f"label_shift={shift}", "data.scale=none")
        for name in ("source", "target"):  # noise of twice the distance of the classes
            place = folder / f"{name}.npz"
            found = np.load(place)
            noise = np.random.default_rng(3).normal(size=found["x"].shape) * 3
            np.savez(place, x=(found["x"] + noise).astype(np.float32), y=found["y"])
        report = fit(plain, folder / "run")
        accuracy[shift] = report["metrics"]["target/test/acc"]
        assert ("label_shift" in report["class_sets"]) == (shift == "prior")
    assert accuracy["prior"] > accuracy["none"] + 0.05
    stored = read_model(tmp_path / "prior" / "run" / report["selection"]["checkpoint"])
    shifts = stored.state_dict["task.prior.shift"]
    assert shifts[0] > 0 > max(shifts[1], shifts[2])
    assert report["class_sets"]["label_shift"] == pytest.approx(shifts.tolist())


def test_methods_that_assume_equal_proportions_say_so(tmp_path) -> None:
    counts = {"a": 200, "b": 10, "c": 10}
    for overrides, expected in (
        (("model=dann",), r"dann assumes that the classes are as frequent in the target as in"),
        (("model=domain_adaptation", "method=[class_weights,dann]"), None),
        (("model=source_only",), None),
    ):
        report = fit(settings(tmp_path, counts, *overrides), tmp_path / overrides[-1][-12:])
        assert report["class_mix"]["warning"] is not None
        found = report["class_sets"]["proportions"]
        assert (found is None) == (expected is None)
        if expected:
            assert found.startswith(expected)
            assert "set method=[class_weights,dann], or" in found
            assert expected in write_page(tmp_path / overrides[-1][-12:]).read_text()


def drawn(mix, n, signal=4.0, preferred=0.0):
    """Logits and labels; calibrated, with two classes as frequent as ``mix``, by default."""
    rng = np.random.default_rng(5)
    labels = rng.choice(len(mix), n, p=mix)
    logits = signal * np.eye(len(mix))[labels] + 2 * rng.normal(size=(n, len(mix)))
    return logits + preferred * np.arange(len(mix)), labels


def test_a_correction_is_complete_if_only_the_proportions_differ() -> None:
    mix = [0.7, 0.2, 0.1]
    (source, labels), (target, true) = drawn([1 / 3] * 3, 4000), drawn(mix, 4000)
    shift, fraction = prior_shift(np.full(3, 300), source, labels, target, 1.0)
    assert fraction > 0.9
    assert shift == pytest.approx(np.log(np.array(mix) * 3), abs=0.2)
    plain, corrected = (np.mean((target + one).argmax(1) == true) for one in (0, shift))
    assert corrected > plain + 0.01


def test_a_correction_is_reduced_if_the_classes_look_different() -> None:
    """A model that is often wrong and prefers some classes seems to see other proportions."""
    source, labels = drawn([1 / 3] * 3, 4000)
    target, true = drawn([1 / 3] * 3, 4000, 1.5, 1.0)
    shift, fraction = prior_shift(np.full(3, 300), source, labels, target, 1.0)
    assert 0 < fraction < 0.7
    reduced, complete = (
        np.mean((target + one).argmax(1) == true) for one in (shift, shift / fraction)
    )
    assert reduced > complete + 0.01


def test_nothing_is_added_for_classes_without_samples() -> None:
    target = np.log([[0.8, 0.1, 0.1]] * 5)
    source, labels = np.log([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]] * 40), np.array([0, 2] * 40)
    shift, _ = prior_shift(np.array([2, 0, 2]), source, labels, target, 2.0)
    assert shift[1] == 0.0
    assert shift[0] > 0 > shift[2]
    untested, _ = prior_shift(np.array([2, 2, 2]), source, labels, target, 2.0)
    assert untested[1] == 0.0  # no validation sample tells how often it is predicted
    for few in (source[:1], source[:0]):
        assert prior_shift(np.array([2, 0, 2]), few, labels[: len(few)], target, 2.0)[1] == 0.0
