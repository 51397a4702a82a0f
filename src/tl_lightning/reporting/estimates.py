"""What a report says of the trust in its model, alone or compared with models of other runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.errors import DataError
from tl_lightning.reliability.accuracy import matching_predictions
from tl_lightning.reliability.assessment import Assessment, Record, assess, finite_temperature
from tl_lightning.reliability.calibration import aurc, calibration_error, confidences
from tl_lightning.reporting.artifacts import Array, Predictions, read_predictions
from tl_lightning.reporting.formatting import uses_target_labels
from tl_lightning.reporting.schema import fingerprint_of, read_report

__all__ = [
    "StoredRun", "another_model", "compared", "compared_names", "estimated_accuracy",
    "read_stored_run", "reliability_entries", "same_samples",
]  # fmt: skip

#: Settings of data that say where the samples of source and target are.
_PLACES = ("_target_", "root", "source", "target")
#: Beginnings of the names of the arrays that are kept; images are not.
_KEPT = (
    *(f"{domain}_{kind}" for domain in ("source", "target") for kind in ("logits", "true")),
    "source_val_",
    "target_name",
)
#: Keys of an estimate and its interval.
_RANGE = ("value", "low", "high")


def estimated_accuracy(report: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Return the estimated accuracy on the target and its interval; None if there is none.

    Raises:
        DataError: If the report was edited.
    """
    found = report.get("estimated_accuracy") or {}
    return _range(found, found) if "value" in found else None


def compared_names(report: Mapping[str, Any]) -> list[str]:
    """Return the names of the models that the estimated accuracy was compared with."""
    found = (report.get("estimated_accuracy") or {}).get("compared_with") or {}
    return [str(one["name"]) for one in found.get("models") or ()]


def _range(values: Any, shown: Any) -> tuple[float, float, float]:
    try:
        value, low, high = (float(values[name]) for name in _RANGE)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"estimated_accuracy={shown!r} of the report was edited by hand; restore report.json "
            "from a copy, or run again"
        ) from None
    return value, low, high


#: Warning of the estimate for a target with samples of unknown classes.
UNKNOWN_COUNT = (
    "The target may have objects of no class of the source (data.target.classes={kind}). The "
    "estimate is of all samples, and those of unknown classes count as wrong."
)


@dataclass(frozen=True)
class StoredRun:
    """A finished run with its outputs on source validation and on the target.

    Attributes:
        folder: The run's folder.
        report: Its report.
        predictions: The content of its ``predictions.npz``.
    """

    folder: Path
    report: Mapping[str, Any]
    predictions: Predictions

    @property
    def name(self) -> str:
        """Name of the model; of a run that has chosen one of several, that of the chosen one."""
        composite = (self.folder / "candidates").is_dir()
        chosen = (self.report.get("start") or {}).get("chosen") if composite else None
        return str(chosen or self.report.get("name"))

    @property
    def logits(self) -> Array:
        """Of the target, ``(m, K)``."""
        return self.predictions.arrays["target_logits"].astype(np.float64)

    @cached_property
    def samples(self) -> tuple[Any, ...]:
        """What is equal in runs that were tested on the same target samples."""
        arrays, data = self.predictions.arrays, (self.report.get("config") or {}).get("data") or {}
        rows = arrays.get("target_logits_row", np.zeros(0))
        return (
            arrays["target_logits"].shape,
            self.predictions.classes,
            {key: data.get(key) for key in _PLACES},
            arrays["target_name"].tolist(),
            rows.tolist(),
        )

    @property
    def alone(self) -> tuple[float, float, float] | None:
        """The estimated accuracy and its interval without comparison; None without."""
        given = self.report.get("estimated_accuracy") or {}
        kept = (given.get("compared_with") or {}).get("alone")
        return estimated_accuracy(self.report) if kept is None else _range(kept, given)

    def record(self) -> Record:
        """Return the outputs on source validation, without features."""
        arrays = self.predictions.arrays
        logits, labels = arrays["source_val_logits"].astype(np.float64), arrays["source_val_true"]
        return Record(logits, labels, np.zeros((0, 1)), finite_temperature(logits, labels))


def read_stored_run(folder: Path) -> StoredRun | None:
    """Return a finished run with its outputs; None if it has not stored them.

    Raises:
        DataError: If a file is damaged.
    """
    if not (folder / "report.json").is_file():
        return None
    report = read_report(folder)
    classes = [str(name) for name in (report.get("dataset") or {}).get("classes") or []]
    found = read_predictions(folder / "predictions.npz", classes)
    needed = {"source_val_logits", "source_val_true", "target_logits", "target_name"}
    if not needed <= found.arrays.keys():
        return None
    kept = {name: array for name, array in found.arrays.items() if name.startswith(_KEPT)}
    return StoredRun(folder, report, Predictions(kept, classes))


def same_samples(run: StoredRun, other: StoredRun) -> bool:
    """Return whether two models were tested on the same target samples, with the same classes."""
    # With another seed, the source may be split otherwise.
    same_seed = run.report.get("seed") == other.report.get("seed")
    if same_seed and fingerprint_of(run.report) != fingerprint_of(other.report):
        return False
    return run.samples == other.samples


def another_model(run: StoredRun, other: StoredRun) -> bool:
    """Return whether a model may serve for comparison with that of a run.

    Models that target labels were used for may not, so that labels change no estimate; neither may
    models of the same name, which make the same errors, copies of the run's model, and models
    without a finite prediction.
    """
    if run.name == other.name or uses_target_labels(other.report):
        return False
    one, two = (found.predictions.arrays["target_logits"] for found in (run, other))
    finite = bool(np.isfinite(two).all(axis=1).any())
    return finite and not np.array_equal(one, two, equal_nan=True)


def compared(run: StoredRun, others: Iterable[StoredRun], root: Path) -> dict[str, Any]:
    """Return the entries of a report, with the estimate compared with all models of other names.

    Args:
        run: The run.
        others: Other runs, of which those on the :func:`same_samples` with
            :func:`another_model` count.
        root: What the folders of the other models are relative to.

    Returns:
        Entries as of :func:`reliability_entries`, where ``estimated_accuracy`` has an entry
        ``compared_with``: the ``name``, ``folder`` and ``agreement`` of the other ``models``, the
        median ``agreement`` and the estimate ``alone``; empty without another model.
    """
    alone = run.alone
    models = [other for other in others if another_model(run, other) and same_samples(run, other)]
    if alone is None or not models:
        return {}
    record, logits = run.record(), [other.logits for other in models]
    found = assess(record, run.logits, reuse=False, other_logits=logits)
    if found.estimate is None:  # such as no sample with finite predictions of both
        return {}
    entries = reliability_entries(record, found, run.predictions)
    entries["estimated_accuracy"]["compared_with"] = {
        "models": [
            {
                "name": other.name,
                "folder": other.folder.relative_to(root).as_posix(),
                "agreement": matching_predictions(run.logits, other.logits),
            }
            for other in models
        ],
        "agreement": found.estimate.estimators["other"],
        "alone": dict(zip(_RANGE, alone, strict=True)),
    }
    about = run.report.get("class_sets") or {}
    if about.get("label_shift") or about.get("rejection"):
        entries.pop("class_mix", None)  # that of the report is of uncorrected logits
    if about.get("classes") in ("open", "universal"):
        entries["estimated_accuracy"]["warnings"].append(
            UNKNOWN_COUNT.format(kind=about["classes"])
        )
    return entries


def reliability_entries(
    record: Record | None, found: Assessment | None, predictions: Predictions
) -> dict[str, Any]:
    """Return ``estimated_accuracy``, ``class_mix`` and ``calibration`` of a report.

    Args:
        record: The outputs on source validation; None without.
        found: What they say of the target; None without a tested target.
        predictions: Of the test samples.
    """
    entries: dict[str, Any] = {}
    if found is not None:
        given = found.estimate
        entries["estimated_accuracy"] = (
            {"problem": found.problem}
            if given is None
            else {**asdict(given), "warnings": list(given.warnings)}
        )
        if found.mix is not None:
            entries["class_mix"] = {
                "source": found.mix.source.tolist(),
                "target": found.mix.target.tolist(),
                "distance": found.mix.distance,
                "warning": found.mix.warning,
                "likely": found.mix.likely.tolist(),
            }
    if record is not None and np.isfinite(record.temperature):
        scales = {"source": record.temperature}
        if found is not None and found.calibrated:
            scales["target"] = found.temperature
        outcomes = {domain: predictions.outcomes(domain) for domain in scales}
        entries["calibration"] = {
            "temperature": scales,
            "domains": {
                domain: _errors(
                    *outcome,
                    {"before": 1.0, "source": scales["source"], "after": scales[domain]},
                )
                for domain, outcome in outcomes.items()
                if outcome is not None
            },
        }
    return entries


def _errors(logits: Array, correct: Array, scales: Mapping[str, float]) -> dict[str, Any]:
    """Return the calibration error at each temperature, and the area under risk and coverage."""
    confidence = {name: confidences(logits, scale) for name, scale in scales.items()}
    errors = {name: calibration_error(values, correct) for name, values in confidence.items()}
    return {"ece": errors, "aurc": aurc(confidence["after"], correct)}
