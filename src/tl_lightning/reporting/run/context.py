"""Template values of a run's page: sentences and tables as plain Python values."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from tl_lightning.config.schema import BASELINES, WITHOUT_CLASSES
from tl_lightning.errors import DataError
from tl_lightning.reporting.artifacts import Predictions
from tl_lightning.reporting.estimates import compared_names, estimated_accuracy
from tl_lightning.reporting.formatting import (
    duration,
    metric_value,
    percent,
    trained_on_target,
    uses_target_labels,
)
from tl_lightning.reporting.measure import ACCURACY, measure_of
from tl_lightning.reporting.run.class_changes import distance_sentence
from tl_lightning.reporting.run.class_sets import describe_class_sets
from tl_lightning.reporting.run.domains import domain_tables
from tl_lightning.reporting.run.figures import class_accuracy, confused_pairs
from tl_lightning.reporting.run.numbers import describe_numbers
from tl_lightning.reporting.run.start import candidate_rows, chosen_text
from tl_lightning.reporting.run.trust import describe_trust
from tl_lightning.reporting.run.unlabelled import describe_predicted
from tl_lightning.reporting.schema import fingerprint_of, read_report
from tl_lightning.reporting.statistics import wilson
from tl_lightning.reporting.sweep.compare import span_text
from tl_lightning.reporting.verdict import advice, paired_interval, run_verdict
from tl_lightning.selection.collapse import WORST
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.tasks.metrics import label_of
from tl_lightning.utils.files import read_json
from tl_lightning.utils.text import flatten

__all__ = ["describe", "read_baselines"]

PROJECTED = {
    "pca": "Principal components",
    "tsne": "A t-SNE map (distances between clusters are not meaningful)",
    "umap": "A UMAP map (distances between clusters are hardly meaningful)",
}
OPTIONAL = ("seed", "device", "forward", "status", "baseline_of", "notes", "warnings")


def describe(report: Mapping[str, Any], predictions: Predictions, run_dir: Path) -> dict[str, Any]:
    """Return all values of the page except the images.

    Args:
        report: Result of :func:`tl_lightning.reporting.schema.read_report`.
        predictions: The model's predictions.
        run_dir: The run's folder, for the runs under ``baselines/``.
    """
    baselines, failures = read_baselines(run_dir)
    return {
        "report": {**dict.fromkeys(OPTIONAL), "config": {}, **report},
        "title": f"{report.get('name')} on {report.get('data')}",
        "backbone": _backbone(report, run_dir),
        "folder": run_dir.resolve().name,
        "date": _finished(run_dir),
        "command": _command(run_dir),
        "headline": _headline(report, predictions),
        "baselines": _baseline_rows(report, baselines, run_dir),
        "baseline_failures": failures,
        "candidates": candidate_rows(report),
        "advice": advice(report, baselines),
        "verdict": run_verdict(report, baselines, run_dir),
        "distance": distance_sentence(report.get("metrics") or {}),
        "projected": PROJECTED.get(str(report.get("projection") or "pca"), "A projection"),
        "selection": _selection(report.get("selection") or {}),
        "trust": describe_trust(report),
        "class_sets": describe_class_sets(report),
        "numbers": describe_numbers(report),
        "metrics": _metrics(report.get("metrics") or {}),
        "domain_tables": domain_tables(report),
        "predicted": {
            domain: describe_predicted(found)
            for domain, found in (report.get("predicted") or {}).items()
        },
        "domains": {domain: _domain(predictions, domain) for domain in ("target", "source")},
        "classes": _classes(predictions),
        "config": [
            f"{key}={_scalar(value)}" for key, value in flatten(report.get("config")).items()
        ],
        "details": _details(report),
    }


def _backbone(report: Mapping[str, Any], run_dir: Path) -> str:
    """Return the name of a backbone: as typed, as configured, or that of its class."""
    typed = [item[9:] for item in read_overrides(run_dir) if item.startswith("backbone=")]
    if typed:
        return typed[-1]
    node = (report.get("config") or {}).get("backbone") or {}
    return str(node.get("name") or str(node.get("_target_", "?")).rpartition(".")[2])


def _finished(run_dir: Path) -> str:
    """Return when the report was written, in local time."""
    file = run_dir / "report.json"
    written = file.stat().st_mtime if file.is_file() else time.time()
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(written))


def _command(run_dir: Path) -> str | None:
    """Return the command of a run with the settings that Hydra saved; None for Python calls."""
    overrides = read_overrides(run_dir)
    return " ".join(["tl-train", *map(shlex.quote, overrides)]) if overrides else None


def read_overrides(run_dir: Path) -> list[str]:
    """Return the settings on the command line of a run, as far as Hydra saved them."""
    file = run_dir / ".hydra" / "overrides.yaml"
    if not file.is_file():
        return []
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
    except Exception:  # a file that was edited or cut off must not cost the page
        return []
    return [str(item) for item in found] if isinstance(found, list) else []


def read_baselines(run_dir: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the reports under ``baselines/`` in display order, and (name, error) of failures."""
    runs, failures = [], []
    own = fingerprint_of(read_report(run_dir)) if (run_dir / "report.json").is_file() else None
    folders = sorted(path for path in (run_dir / "baselines").glob("*") if path.is_dir())
    for folder in folders:
        try:
            if (folder / "failed.json").is_file() and not (folder / "report.json").is_file():
                failures.append((folder.name, str(read_json(folder / "failed.json").get("error"))))
                continue
            report = read_report(folder)
            if len({own, fingerprint_of(report)} - {None}) > 1:
                text = "was trained on other data than this run (their fingerprints differ)"
                failures.append((folder.name, text))
            else:
                runs.append(report)
        except DataError as error:
            failures.append((folder.name, str(error)))
    order = list(BASELINES)
    rank = {name: index for index, name in enumerate(order)}
    runs.sort(key=lambda run: (trained_on_target(run), rank.get(str(run.get("name")), len(order))))
    return runs, failures


def _accuracy(report: Mapping[str, Any], domain: str) -> float | None:
    """Return the test accuracy, or what stands for it, see :func:`.measure_of`."""
    value = (report.get("metrics") or {}).get(f"{domain}/test/{measure_of(report).metric}")
    return float(value) if isinstance(value, (int, float)) else None


def _headline(report: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    target, source = _accuracy(report, "target"), _accuracy(report, "source")
    measure, figures = measure_of(report), []
    predicted = report.get("predicted") or {}
    for domain, value in (("target", target), ("source", source)):
        if value is not None:
            note = _interval_note(predictions, domain, value)
            if measure.lower_is_better:
                note = _error_note(report, domain)
            figures.append({
                "label": f"{domain} test {measure.label}", "value": measure.number(value),
                "unit": measure.unit.strip(), "note": note,
            })  # fmt: skip
        elif domain in predicted:
            if domain == "target" and (estimated := estimated_accuracy(report)) is not None:
                value, low, high = (100 * number for number in estimated)
                figures.append({
                    "label": "target accuracy, estimated without labels",
                    "value": f"{value:.0f}",
                    "unit": "%",
                    "note": f"{low:.0f} to {high:.0f} %, as such estimates erred on other data"
                    f"{_compared_with(report)}",
                })  # fmt: skip
            found = predicted[domain]
            classes = list(found["classes"].values())
            figures.append({
                "label": f"{domain} predictions, without labels",
                "value": f"{found['samples']:,}",
                "unit": "samples",
                "note": f"mean confidence {percent(found['confidence'])}; "
                f"{sum(map(bool, classes))} of {len(classes)} classes predicted",
            })  # fmt: skip
    gap = None
    if target is not None and source is not None:
        side = "below" if target < source else "above"
        gap = f"Target accuracy is {100 * abs(target - source):.1f} points {side} source accuracy."
        if measure is not ACCURACY:
            unit = "" if measure.lower_is_better else " points"
            gap = (
                f"The {measure.label} of the target is "
                f"{measure.difference(abs(target - source)).lstrip('+')}{unit} {side} that of the "
                "source."
            )
    usage = {"oracle": _oracle(report), "trained_on_target": trained_on_target(report)}
    ranges = any("test samples" in str(figure["note"]) for figure in figures)
    return {"figures": figures, "gap": gap, "ranges": ranges, **usage}


def _error_note(report: Mapping[str, Any], domain: str) -> str:
    """Return the interval of the error of a single number, or what it is the mean of."""
    found = (report.get("numbers") or {}).get(domain) or {}
    outputs = list((found.get("metrics") or {}).values())
    if len(outputs) != 1:
        names = (report.get("numbers") or {}).get("names") or []
        return f"in the unit of the labels; mean over {len(names)} outputs"
    _, low, high = outputs[0]["mae"]
    if low is None:
        return "in the unit of the labels"
    return f"{low:.4g} to {high:.4g} (95 % interval), in the unit of the labels"


def _compared_with(report: Mapping[str, Any]) -> str:
    names = compared_names(report)
    return f"; compared with {', '.join(names)}" if names else ""


def _oracle(report: Mapping[str, Any]) -> bool:
    return uses_target_labels(report)


def _interval_note(predictions: Predictions, domain: str, accuracy: float) -> str | None:
    """Return Wilson's interval as text, or None if the predictions do not match the accuracy."""
    pair = predictions.pair(domain)
    if pair is None or abs(float(np.mean(pair[0] == pair[1])) - accuracy) > 1e-3:
        return None
    low, high = wilson(int(np.sum(pair[0] == pair[1])), len(pair[0]))
    return f"{100 * low:.1f} to {100 * high:.1f} from {len(pair[0])} test samples"


def _baseline_rows(
    report: Mapping[str, Any], baselines: list[dict[str, Any]], run_dir: Path
) -> list[dict[str, Any]]:
    """Return rows for baselines, this run and upper bounds, with this run's gain over each."""
    accuracy, measure = _accuracy(report, "target"), measure_of(report)
    rows = []
    bounds = [run for run in baselines if trained_on_target(run)]
    others = [run for run in baselines if not trained_on_target(run)]
    for run in [*others, report, *bounds] if baselines else []:
        target = _accuracy(run, "target")
        gain = None if run is report or accuracy is None or target is None else accuracy - target
        alone = run is report or measure is not ACCURACY
        named = None if alone else paired_interval(report, run_dir, str(run.get("name")))
        low, high = (named.low or 0.0, named.high or 0.0) if named else (gain or 0.0, gain or 0.0)
        if measure.lower_is_better:
            low, high = -high, -low
        rows.append({
            "name": BASELINES.get(str(run.get("name")), run.get("name")),
            "this_run": run is report,
            "target": measure.text(target),
            "source": measure.text(_accuracy(run, "source")),
            "gain": None if gain is None else measure.difference(gain),
            "unit": "" if measure.lower_is_better else " points",
            "interval": None if named is None else span_text(named),
            "sign": "" if gain is None else "up" if low > 0 else "down" if high < 0 else "",
            "rule": (run.get("selection") or {}).get("rule", "–"),
            "oracle": _oracle(run),
            "trained_on_target": trained_on_target(run),
        })  # fmt: skip
    return rows


def _selection(selection: Mapping[str, Any]) -> dict[str, Any]:
    rule = str(selection.get("rule", "unknown"))
    value, monitor = selection.get("value"), str(selection.get("monitor"))
    epoch = selection.get("epoch")
    if value is not None and monitor.startswith("validator/floored/") and value <= WORST + 1:
        shown: str | None = "none: every epoch counted as collapsed"
    else:
        shown = None if value is None else metric_value(monitor, value)
    details = {
        "rule": rule,
        "monitor": selection.get("monitor"),
        "value": shown,
        "epoch": None if epoch is None else chosen_text({"epoch": epoch}),
        "checkpoint": selection.get("checkpoint"),
    }
    return {
        "oracle": uses_target_labels({"selection": selection}),
        "rule": rule,
        "text": selection.get("description") or _described(rule),
        "details": {key: value for key, value in details.items() if value is not None},
    }


def _described(rule: str) -> str:
    return SELECTIONS[rule].description if rule in SELECTIONS else "a custom rule"


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of test metrics, one column per domain, and the other metrics as pairs."""
    domains = [
        name for name in ("target", "source") if any(k.startswith(f"{name}/") for k in metrics)
    ]
    rows: dict[str, dict[str, str]] = {}
    others = []
    for key, value in metrics.items():
        domain, _, rest = key.partition("/test/")
        if rest.startswith("acc_"):
            continue  # in the table of the domains
        if rest and domain in domains:
            rows.setdefault(rest, {})[domain] = metric_value(rest, value)
        else:
            others.append((key, metric_value(key, value)))
    table = [(label_of(name), cells) for name, cells in rows.items()]
    return {"domains": domains, "rows": table, "others": others}


def _domain(predictions: Predictions, domain: str) -> dict[str, Any] | None:
    counts = predictions.confusion(domain)
    if counts is None:
        return None
    pairs = [
        {"true": predictions.name(t), "pred": predictions.name(p), "count": n, "rate": percent(r)}
        for t, p, n, r in confused_pairs(counts)
    ]
    return {"pairs": pairs, "samples": int(counts.sum())}


def _classes(predictions: Predictions) -> dict[str, Any] | None:
    """Return one row per class: number of samples and accuracy in each domain."""
    counts = {domain: predictions.confusion(domain) for domain in ("target", "source")}
    present = {domain: matrix for domain, matrix in counts.items() if matrix is not None}
    if not present:
        return None
    accuracies = {domain: class_accuracy(matrix) for domain, matrix in present.items()}
    rows = []
    for index in range(predictions.num_classes):
        cells = []
        for domain, matrix in present.items():
            acc = accuracies[domain][index]
            cells.append((int(matrix[index].sum()), None if np.isnan(acc) else float(acc)))
        shown = [(count, percent(acc), round(100 * (acc or 0), 1)) for count, acc in cells]
        rows.append({"name": predictions.name(index), "cells": shown})
    return {"domains": list(present), "rows": rows}


def _scalar(value: Any) -> str:
    """Return a config value in the syntax of a Hydra override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_scalar, value))}]"
    return str(value)


def _details(report: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return details on data, time, scale and versions."""
    dataset, timing = report.get("dataset") or {}, report.get("timing") or {}
    times = {key: timing.get(f"{key}_s") for key in ("total", "fit", "test")}
    named = "outputs" if report.get("task") in WITHOUT_CLASSES else "classes"
    data = {named: str(len(dataset.get("classes") or []))}
    data |= {key: f"{count}" for key, count in (dataset.get("counts") or {}).items()}
    data["fingerprint"] = str(dataset.get("fingerprint", "–"))
    time = {key: duration(value) for key, value in times.items() if value is not None}
    time |= {
        label: f"{timing[key]:,g}"
        for key, label in (("steps", "steps"), ("steps_per_s", "steps per second"))
        if isinstance(timing.get(key), (int, float))
    }
    if timing.get("from_step"):
        time["resumed"] = f"from step {timing['from_step']:,}; times exclude earlier steps"
    versions = {key: str(value) for key, value in (report.get("versions") or {}).items()}
    return {"Data": data, "Time": time, "Scale": _scale(report), "Versions": versions}


def _scale(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the number of processes, batch sizes and learning rate."""
    scale = report.get("scale")
    if not scale:
        return {}
    details = {"processes": str(scale.get("processes"))}
    parts = [f"{scale.get('batch_size')} per process"]
    if scale.get("accumulated") != 1:
        parts.append(f"{scale.get('accumulated')} batches per step")
    details["batch per domain"] = f"{scale.get('global_batch')} ({', '.join(parts)})"
    if isinstance(scale.get("lr"), (int, float)):
        details["learning rate"] = f"{scale['lr']:g}"
    return details
