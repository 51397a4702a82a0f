"""How far to trust the predictions, on a run's page: expected accuracy, calibration, abstention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.errors import DataError
from tl_lightning.reliability.calibration import (
    confidences,
    reliability_bins,
    risk_coverage,
)
from tl_lightning.reporting.artifacts import Array, Predictions
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.formatting import percent
from tl_lightning.utils.plotting import INK, MUTED, SOURCE, TARGET, figure_png

__all__ = ["compared_text", "describe_trust", "estimate_text", "trust_figures"]

COLOURS = {"source": SOURCE, "target": TARGET}
#: The first points of a risk-coverage curve are left out: the error of a few samples is noise.
FEWEST = 10


def estimate_text(found: tuple[float, float, float] | None) -> str:
    """Return an estimated accuracy and its interval as text.

    >>> estimate_text((0.61, 0.52, 0.7)), estimate_text(None)
    ('61 % (52 to 70 %)', '–')
    """
    if found is None:
        return "–"
    value, low, high = (100 * number for number in found)
    return f"{value:.0f} % ({low:.0f} to {high:.0f} %)"


def describe_trust(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section's sentences and the rows of its table; None without anything to say."""
    given = report.get("estimated_accuracy") or {}
    calibration = report.get("calibration") or {}
    if not given and not calibration:
        return None
    mix = (report.get("class_mix") or {}).get("warning")
    scales = calibration.get("temperature") or {}
    rows = [
        {
            "domain": domain,
            **{name: percent(found["ece"][name]) for name in ("before", "source", "after")},
            "temperature": f"{scales[domain]:.2f}",
            "aurc": percent(found["aurc"]),
        }
        for domain, found in (calibration.get("domains") or {}).items()
        if found
    ]
    return {
        "estimate": None if (found := estimated_accuracy(report)) is None else estimate_text(found),
        "problem": given.get("problem"),
        "compared": compared_text(report),
        "truth": _truth(report),
        "warnings": [*(given.get("warnings") or ()), *((mix,) if mix else ())],
        "estimators": {
            name: percent(value) for name, value in (given.get("estimators") or {}).items()
        },
        "rows": rows,
    }


def compared_text(report: Mapping[str, Any]) -> str | None:
    """Return which model the estimated accuracy was compared with, and what it would be without.

    >>> alone = {"value": 0.8, "low": 0.5, "high": 1.0}
    >>> models = [{"name": "mcc", "folder": "runs/1", "agreement": 0.6}]
    >>> found = {"models": models, "agreement": 0.6, "alone": alone}
    >>> compared_text({"estimated_accuracy": {"compared_with": found}}).partition(":")[0]
    'Compared with mcc (runs/1), which predicts the same class for 60 % of the target samples'
    """
    found = (report.get("estimated_accuracy") or {}).get("compared_with")
    if not found:
        return None
    try:
        alone = estimate_text(tuple(found["alone"][key] for key in ("value", "low", "high")))
        agreement = f"{100 * found['agreement']:.0f} %"
        models = [
            (f"{one['name']} ({one['folder']})", f"{100 * one['agreement']:.0f} %")
            for one in found["models"]
        ]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"estimated_accuracy.compared_with={found!r} of the report was edited by hand; restore "
            "report.json from a copy, or run again"
        ) from None
    reason = "where two models differ, one is wrong"
    names = " and ".join(filter(None, (", ".join(n for n, _ in models[:-1]), models[-1][0])))
    if len(models) == 1:
        text = (
            f"Compared with {names}, which predicts the same class for {agreement} of the target "
            f"samples: {reason}, so the estimate is not higher than that."
        )
    else:
        text = (
            f"Compared with {names}, which predict the same class for "
            f"{' and '.join(share for _, share in models)} of the target samples: {reason}, so the "
            f"estimate is not higher than the median, {agreement}."
        )
    return f"{text} Without the comparison it is {alone}."


def _truth(report: Mapping[str, Any]) -> str | None:
    value = (report.get("metrics") or {}).get("target/test/acc")
    return None if value is None else percent(value)


def trust_figures(predictions: Predictions, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a reliability diagram of each domain with labels, and the risk-coverage curves."""
    scales = (report.get("calibration") or {}).get("temperature") or {}
    images, curves = {}, {}
    for domain in ("source", "target"):
        found = predictions.outcomes(domain)
        if found is None or domain not in scales or len(found[0]) < FEWEST:
            continue
        logits, correct = found
        images[f"calibration_{domain}"] = _reliability(
            domain, confidences(logits), confidences(logits, scales[domain]), correct
        )
        curves[domain] = risk_coverage(confidences(logits, scales[domain]), correct)
    if curves:
        images["risk_coverage"] = _risk(curves)
    return images


def _reliability(domain: str, before: Array, after: Array, correct: Array) -> bytes:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=":")
        for values, colour, style, label in (
            (before, MUTED, "--o", "before"),
            (after, COLOURS[domain], "-o", "after temperature"),
        ):
            bins = reliability_bins(values, correct)
            axes.plot(100 * bins.confidence, 100 * bins.accuracy, style, color=colour,
                      markersize=3.5, linewidth=1.4, label=label)  # fmt: skip
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set(xlabel="confidence", ylabel="accuracy")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g} %")
        axes.set_title(f"Reliability, {domain}", pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handlelength=1.6)  # fmt: skip

    return figure_png(3.9, 3.9, draw)


def _risk(curves: Mapping[str, tuple[Array, Array]]) -> bytes:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for domain, (coverage, risk) in curves.items():
            axes.plot(100 * coverage[FEWEST - 1 :], 100 * risk[FEWEST - 1 :],
                      color=COLOURS[domain], linewidth=1.5, label=domain)  # fmt: skip
        axes.set(xlim=(0, 100), xlabel="predictions kept, the most certain first")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("wrong among those kept", color=INK)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g} %")
        axes.set_title("Risk and coverage", pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handlelength=1.2)  # fmt: skip

    return figure_png(3.9, 3.9, draw)
