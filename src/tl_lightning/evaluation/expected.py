"""The accuracy to expect on the tested domains without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.errors import DataError
from tl_lightning.evaluation.outputs import Outputs
from tl_lightning.reliability.assessment import Record, assess, expected_accuracy

__all__ = ["expected_lines"]


def expected_lines(
    stored: StoredModel,
    outputs: Mapping[str, Outputs],
    other: StoredModel | None = None,
    other_outputs: Mapping[str, Outputs] | None = None,
    named: str = "",
) -> list[str]:
    """Return the accuracy to expect on every domain without labels, in lines.

    Args:
        stored: The tested model.
        outputs: Its outputs by domain.
        other: The model that it is compared with.
        other_outputs: Outputs of that one on the same samples.
        named: What it is called in messages.

    Raises:
        DataError: If the two models were tested on different samples.
    """
    record = Record.of(stored.reliability)
    lines = []
    for domain, found in outputs.items():
        if found.labels is not None:
            continue
        second = None if other is None or not other_outputs else other_outputs.get(domain)
        if second is not None and second.files != found.files:
            raise DataError(
                f"the two models were tested on different samples of the {domain} "
                f"({len(found.files):,} and {len(second.files):,}), so that their predictions "
                "cannot be compared; set data so that both can use it"
            )
        reason = "" if second is None or other is None else _alike(stored, other, found, second)
        logits = None if second is None or reason else second.logits.astype(float)
        assessed = assess(record, found.logits.astype(float), other_logits=logits)
        lines += expected_accuracy(assessed, f"the {domain}")
        if second is not None and assessed.estimate is not None:
            agreement = assessed.estimate.estimators.get("other", 0.0)
            lines.append(
                f"note: the estimate is not compared with {named}: {reason}"
                if reason
                else f"compared with {named}, which predicts the same class for "
                f"{100 * agreement:.0f} % of these samples"
            )
    return lines


def _alike(first: StoredModel, second: StoredModel, one: Outputs, two: Outputs) -> str:
    """Return why the agreement of two models says nothing, or an empty string."""
    if np.array_equal(one.logits, two.logits):
        return "both models have the same outputs"
    if _kind(first) == _kind(second):
        return (
            f"both are {_kind(first)[0]}, and models that were trained alike make the same errors; "
            "compare models of different methods, such as model=source_only"
        )
    return ""


def _kind(stored: StoredModel) -> tuple[Any, ...]:
    """Return the name of a model and its methods."""
    model = stored.section("model")
    return str(model.get("name", model.get("_target_"))), *(stored.config.get("method") or {})
