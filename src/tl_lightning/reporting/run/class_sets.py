"""What a run's page says of a target with other classes or class frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.reporting.formatting import percent
from tl_lightning.utils.text import shorten

__all__ = ["describe_class_sets"]

#: Metrics of the table: label and meaning by name.
_ROWS = {
    "h_score": ("H-score", "harmonic mean of the next two"),
    "known_class_acc": (
        "known-class accuracy, mean over classes", "as in papers; a rejected sample is wrong",
    ),
    "unknown_recall": ("unknown recall", "unknown samples that are rejected"),
    "known_acc": ("known-class accuracy, all samples", "a rejected sample is wrong"),
    "acc": ("accuracy without rejection", "of all samples of known classes"),
}  # fmt: skip
_KINDS = {
    "subset": "some of the source's classes",
    "open": "the source's classes, and unknown ones",
    "universal": "some of the source's classes, and unknown ones",
}
_SCORES = {
    "entropy": "the entropy of the calibrated prediction",
    "energy": "the energy of the calibrated outputs",
    "method": "the method's own classifiers",
}


def describe_class_sets(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section's warning, rows and sentences; None if there is nothing to say."""
    found = report.get("class_sets")
    if not isinstance(found, Mapping):
        return None
    kind = str(found.get("classes"))
    different = kind in _KINDS or "label_shift" in found or "rejection" in found
    if not different and not found.get("proportions"):
        return None
    metrics = report.get("metrics") or {}
    rows = [
        {"label": label, "meaning": meaning, "value": percent(value).removesuffix(" %")}
        for name, (label, meaning) in _ROWS.items()
        if kind in _KINDS and (value := metrics.get(f"target/test/{name}")) is not None
    ]
    return {
        "warning": found.get("proportions"),
        "rows": rows if len(rows) > 1 else [],
        "sentences": list(_sentences(found, kind)) if different else [],
    }


def _sentences(found: Mapping[str, Any], kind: str) -> list[str]:
    sentences = []
    if kind in _KINDS:
        sentences.append(f"data.target.classes={kind}: the target may have {_KINDS[kind]}.")
    absent = [str(name) for name in found.get("absent") or ()]
    if kind in _KINDS or absent:
        names = f"{len(absent)} of them: {shorten(absent, 20)}" if absent else "none of them"
        sentences.append(
            "Classes of the source that the model believes absent from the target, by the class "
            f"frequencies estimated without labels: {names}."
        )
    rejection = found.get("rejection")
    if isinstance(rejection, Mapping):
        score = _SCORES.get(str(rejection.get("score")), str(rejection.get("score")))
        share = rejection.get("rejected")
        limit = rejection.get("threshold")
        at = f" above {limit:.3g}" if isinstance(limit, int | float) else ""
        rule = f", a threshold found by {rejection['rule']!r}" if rejection.get("rule") else ""
        count = "" if share is None else f"; {percent(share)} of the test samples were rejected"
        sentences.append(f"Samples are taken for unknown by {score}{at}{rule}{count}.")
    if "label_shift" in found:
        share = found.get("explained")
        part = "" if share is None else (
            f", which explain {percent(share)} of the difference between the outputs on both "
            "domains; the correction is reduced to that fraction"
        )  # fmt: skip
        sentences.append(
            "The predictions for the target are corrected by its estimated class frequencies "
            f"(label_shift=prior){part}."
        )
    return sentences
