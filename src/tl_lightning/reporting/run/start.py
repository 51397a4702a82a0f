"""The models that a run started from, compared with the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.reporting.formatting import percent
from tl_lightning.selection.collapse import WORST

__all__ = ["candidate_rows", "chosen_text", "shown_epoch"]


def candidate_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each model of :func:`.results.write_run`'s ``start``, and the trained one.

    Args:
        report: Result of :func:`tl_lightning.reporting.schema.read_report`.
    """
    start, selection = report.get("start") or {}, report.get("selection") or {}
    candidates = start.get("candidates") or []
    if not candidates:
        return []
    monitor = str(selection.get("monitor"))
    mixtures = start.get("interpolated") or []
    mixed = any(one["chosen"] for one in mixtures)
    kept = start.get("complete") or selection.get("epoch") == -1
    rows = [
        _row(one["name"], one["metrics"], one["scores"].get(monitor),
             kept and one["name"] == start.get("chosen"))
        for one in candidates
    ]  # fmt: skip
    tested = report.get("metrics") or {}
    if not kept:
        trained = f"trained, epoch {shown_epoch(selection.get('epoch'))}"
        score = start.get("selected") if mixed else selection.get("value")
        rows.append(_row(trained, {} if mixed else tested, score, not mixed))
    rows += [
        _row(f"interpolated, alpha {one['alpha']:g}", tested if one["chosen"] else {},
             one["score"], one["chosen"])
        for one in mixtures
    ]  # fmt: skip
    return rows


def _row(
    name: str, metrics: Mapping[str, float], score: float | None, chosen: bool
) -> dict[str, Any]:
    return {
        "name": name,
        "chosen": chosen,
        "score": _score(score),
        **{name: percent(metrics.get(f"{name}/test/acc")) for name in ("source", "target")},
    }


def _score(value: float | None) -> str:
    """Return a score; the collapse filter gives models that have collapsed one below all others.

    >>> _score(0.7), _score(None), _score(-9999.1)
    ('0.700', '–', 'collapsed')
    """
    if value is None:
        return "–"
    return "collapsed" if value <= WORST + 1 else f"{value:.3f}"


def chosen_text(selection: Mapping[str, Any]) -> str:
    """Return which epoch was selected, counted from 1; reports store it counted from 0.

    >>> chosen_text({"epoch": -1}), chosen_text({"epoch": 3})
    ('before training', 'epoch 4')
    >>> chosen_text({"epoch": 3, "alpha": 0.5})
    'alpha 0.5 between the start and epoch 4'
    """
    epoch, alpha = selection.get("epoch"), selection.get("alpha")
    if alpha is not None:
        return f"alpha {alpha:g} between the start and epoch {shown_epoch(epoch)}"
    return "before training" if epoch == -1 else f"epoch {shown_epoch(epoch)}"


def shown_epoch(epoch: Any) -> Any:
    """Return an epoch counted from 1, or what is not a number unchanged."""
    return epoch + 1 if isinstance(epoch, int) else epoch
