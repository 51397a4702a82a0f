"""Accuracy study: agreement by hand, and nothing is fitted to the dataset that is left out."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tl_lightning.cli.studies import _accuracy_study
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.studies.accuracy_left_out import (
    METHODS,
    SENSITIVE,
    SETTINGS,
    best_mean,
    fit,
    left_out,
    mean_of,
    ridge,
)
from tl_lightning.reporting.studies.accuracy_pairs import Pair, read_pairs
from tl_lightning.reporting.studies.accuracy_report import write_accuracy

CLASSES = tuple("abcd")


def write_outputs(run: Path, signal: float, seed: int, samples: int = 300, **change) -> None:
    """Write the ``predictions.npz`` of a model whose target is harder than its source."""
    rng = np.random.default_rng(seed)

    def domain(strength: float, n: int):
        labels = np.arange(n) % 4
        logits = 2 * (rng.normal(size=(n, 4)) + strength * np.eye(4)[labels])
        return logits.astype(np.float16), labels

    logits, labels = domain(2.0, 200)
    target, true = domain(signal, samples)
    arrays = {"source_val_logits": logits, "source_val_true": labels, "target_logits": target,
              "target_true": true, "target_pred": target.argmax(1)} | change  # fmt: skip
    np.savez(run / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})


def data(target: str, *methods: str) -> dict:
    domains = {"source": {"domain": "photo"}, "target": {"domain": target}}
    return {"data": domains, "method": {method: {} for method in methods}}


@pytest.fixture
def study(tmp_path, make_run) -> Path:
    number = 0
    for name in ("dogs", "mnist_usps", "mnist_mnistm", "pacs"):
        for model, seed in (("probe", 0), ("probe", 1), ("mcc", 0)):
            methods = ["relative_bn"] if model == "probe" else ["relative_bn", "mcc"]
            run = make_run(f"{number:02}", name=model, data=name, seed=seed, classes=CLASSES,
                           config=data(name, *methods))  # fmt: skip
            write_outputs(run, 0.8 + 0.2 * (number % 4), number)
            number += 1
    return tmp_path


def pair(name: str, accuracy: float, **estimators: float) -> Pair:
    values = dict.fromkeys(SENSITIVE, accuracy + 0.3) | estimators
    empty = np.zeros((0, 1))
    return Pair(name, "a to b", "dann", 0, name, 500, 500, accuracy, False, values, 0.0, 0.0, {},
                empty, empty)  # fmt: skip


PAIRS = [
    pair(name, truth, doc=truth + error, cot=truth - error)
    for name, truths in {"a": (0.3, 0.5, 0.6), "b": (0.4, 0.8), "c": (0.2, 0.7)}.items()
    for truth, error in zip(truths, (0.05, 0.08, 0.02), strict=False)
]


def test_the_best_mean_of_two_cancels_opposite_errors() -> None:
    assert set(best_mean(PAIRS, 2).weights) == {"doc", "cot"}
    assert best_mean(PAIRS, 1).weights.keys() <= {"doc", "cot"}


def test_a_dataset_counts_once_however_many_pairs_it_has() -> None:
    one = [pair("a", 0.5, doc=0.5, cot=0.6)] * 9
    others = [pair(name, 0.5, doc=0.7, cot=0.5) for name in ("b", "c")]
    assert list(best_mean([*one, *others], 1).weights) == ["cot"]


def test_ridge_prefers_the_right_estimators() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        pair("abc"[i % 3], t, **{name: rng.random() for name in SENSITIVE} | {"doc": t, "cot": t})
        for i, t in enumerate(rng.random(60))
    ]
    weights = ridge(pairs).weights
    assert min(weights["doc"], weights["cot"]) > 3 * weights["atc"]
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_the_dataset_left_out_are_not_used(method: str) -> None:
    """Its estimates and intervals stay what they are if its true accuracies are changed."""

    def of(pairs, name: str):
        return [(p.value, p.low, p.high) for p in left_out(pairs, METHODS[method])
                if p.pair.data == name]  # fmt: skip

    changed = [replace(p, accuracy=p.accuracy / 3) if p.data == "a" else p for p in PAIRS]
    assert of(changed, "a") == of(PAIRS, "a")
    assert of(changed, "b") != of(PAIRS, "b")


def test_the_interval_covers_nine_of_ten_errors() -> None:
    rng = np.random.default_rng(0)
    pairs = [pair("abc"[i % 3], 0.5, doc=0.5 + rng.normal() / 10) for i in range(90)]
    found = fit(pairs, lambda _: mean_of("doc"))
    intervals = [found.interval(p.estimators, 500, 500) for p in pairs]
    assert np.mean([low <= 0.5 <= high for low, high in intervals]) == pytest.approx(0.9, abs=0.02)


def predicted(pair: Pair):
    return pair.logits.argmax(axis=1)


def test_the_agreement_limits_the_estimate() -> None:
    pairs = [pair(p.data, p.accuracy, other=0.25, **p.estimators) for p in PAIRS]
    for one in left_out(pairs, METHODS["best mean of two"], limit="other"):
        assert one.value == min(0.25, one.value)
        assert one.low <= one.value <= one.high
    assert max(one.value for one in left_out(pairs, METHODS["best mean of two"])) > 0.25


def test_agreement_is_counted_by_hand(study) -> None:
    pairs, notes = read_pairs([study])
    assert notes == []
    assert {p.data for p in pairs} == {"dogs", "mnist", "pacs"}
    adapted, first, second = (p for p in pairs if p.data == "dogs")
    equal = np.mean(predicted(first) == predicted(second))
    assert first.estimators["seeds"] == second.estimators["seeds"] == equal
    assert first.accuracy == np.mean(predicted(first) == np.arange(300) % 4)
    assert first.domains == "photo to dogs"
    assert [p.adapted for p in (adapted, first, second)] == [True, False, False]
    shares = [np.mean(predicted(adapted) == predicted(probe)) for probe in (first, second)]
    assert shares[0] != shares[1]
    assert adapted.estimators["other"] == np.median(shares)
    assert first.estimators["other"] == np.mean(predicted(first) == predicted(adapted))


def test_other_targets_and_models_do_not_agree(tmp_path, make_run) -> None:
    for number, (name, target) in enumerate((("dann", "a"), ("dann", "b"), ("mcc", "c"))):
        config = data(target, name)
        run = make_run(f"{number}", name=name, seed=number, classes=CLASSES, config=config)
        write_outputs(run, 1.0, number)
    pairs, _ = read_pairs([tmp_path])
    assert not any({"seeds", "other"} & p.estimators.keys() for p in pairs)


def test_rows_with_stored_logits_are_matched_with_their_labels(tmp_path, make_run) -> None:
    run = make_run("0", classes=CLASSES, config=data("a"))
    write_outputs(run, 9.0, 0)
    with np.load(run / "predictions.npz") as stored:
        arrays = dict(stored)
    rows = np.array([1, 2, 6])
    arrays |= {"target_logits": arrays["target_logits"][rows], "target_logits_row": rows}
    np.savez(run / "predictions.npz", **arrays)
    (one,) = read_pairs([tmp_path])[0]
    assert (one.samples, one.accuracy) == (3, 1.0)


def test_runs_without_outputs_and_copies_are_left_out(study, make_run) -> None:
    write_outputs(make_run("old", classes=CLASSES), 1.0, 0, target_logits=None)
    write_outputs(make_run("zcopy", data="dogs", classes=CLASSES, config=data("dogs")), 0.8, 0)
    oracle = make_run("oracle", classes=CLASSES, learned_from="target")
    write_outputs(oracle, 1.0, 77)
    pairs, notes = read_pairs([study])
    assert len(pairs) == 12
    assert notes == ["Excluded runs without stored outputs: 1.",
                     "Excluded runs trained on target labels: 1.",
                     "Repeated models counted once: 1."]  # fmt: skip


def test_a_folder_without_outputs_is_rejected(tmp_path, make_run) -> None:
    make_run("0")
    with pytest.raises(DataError, match=r"no run in .* stored its outputs .*without them: 1, tra"):
        read_pairs([tmp_path])


def test_two_datasets_are_too_few(tmp_path, make_run) -> None:
    for number, name in enumerate(("dogs", "pacs")):
        write_outputs(make_run(f"{number}", data=name, classes=CLASSES), 1.0, number)
    with pytest.raises(DataError, match=r"at least 3 datasets, so .* got dogs, pacs; pass more"):
        write_accuracy([tmp_path])


@pytest.mark.slow
def test_the_report_has_every_pair_and_combination(study, capsys) -> None:
    _accuracy_study([str(study)])
    text = (study / "accuracy.md").read_text()
    assert text in capsys.readouterr().out
    assert "12 pairs on dogs, mnist, pacs, seeds 0, 1." in text
    assert all(
        f"## {s.title}: {n} pairs" in text for s, n in zip(SETTINGS, (8, 4, 12), strict=True)
    )
    assert all(method in text for method in METHODS)
    with (study / "accuracy.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    assert all(float(r["low"]) <= float(r["estimate"]) <= float(r["high"]) for r in rows)
    assert (study / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_is_required() -> None:
    with pytest.raises(ConfigError, match="expected at least one sweep folder, got none"):
        _accuracy_study([])
