"""Selection rules: the metric by which the best model of a run is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tl_lightning.selection.loss_scores import LOSS_SCORES
from tl_lightning.selection.scores import SCORES
from tl_lightning.tasks.domain_accuracy import MEAN, WORST

__all__ = ["SELECTIONS", "Selection", "rule_of", "rules_of"]


@dataclass(frozen=True)
class Selection:
    """Rule that chooses the epoch whose model is saved and tested.

    Attributes:
        monitor: Name of the logged metric, or None for the last epoch.
        mode: Whether higher (``max``) or lower (``min``) values are better.
        needs_target: Whether the rule needs target images (never labels).
        uses_target_labels: Whether the rule uses target labels; only ``oracle`` does.
        description: Description in the report.
    """

    monitor: str | None
    mode: Literal["min", "max"]
    needs_target: bool
    uses_target_labels: bool
    description: str


SELECTIONS = {
    "source_val": Selection(
        "source/val/acc", "max", False, False, "highest accuracy on labelled source validation"
    ),
    "mean_domain": Selection(
        f"source/val/{MEAN}", "max", False, False,
        "highest mean over the source's domains of the accuracy on labelled validation",
    ),
    "worst_domain": Selection(
        f"source/val/{WORST}", "max", False, False,
        "highest accuracy on labelled validation of the source domain where it is lowest",
    ),
    **{
        name: Selection(
            f"validator/floored/{name}", "max", True, False,
            f"{score.criterion} among models that have not collapsed, target unlabelled",
        )
        for name, score in SCORES.items()
    },
    "last": Selection(None, "max", False, False, "the last epoch"),
    "oracle": Selection(
        "target/val/acc", "max", True, True, "highest accuracy on target validation: USES LABELS"
    ),
}  # fmt: skip
#: Rules for labels that are not classes.
_BY_LOSS = {
    "source_val": Selection(
        "source/val/loss", "min", False, False, "lowest loss on labelled source validation"
    ),
    **{
        name: Selection(
            f"validator/floored/{name}", "max", True, False,
            f"{score.criterion} among models that have not collapsed, target unlabelled",
        )
        for name, score in LOSS_SCORES.items()
    },
    "last": SELECTIONS["last"],
    "oracle": Selection(
        "target/val/loss", "min", True, True, "lowest loss on target validation: USES LABELS"
    ),
}  # fmt: skip


def rules_of(task: str) -> dict[str, Selection]:
    """Return the selection rules for a kind of main task, by name.

    >>> sorted(rules_of("regression"))
    ['dev', 'distance', 'iwcv', 'last', 'oracle', 'source_val']
    """
    return _BY_LOSS if task in ("regression", "multi_label") else SELECTIONS


def rule_of(name: str, task: str) -> Selection:
    """Return a selection rule for a kind of main task; without classes, losses are compared.

    >>> rule_of("source_val", "regression").mode, rule_of("source_val", "classification").mode
    ('min', 'max')
    """
    # Those of other kinds are known as well, so that all problems of a configuration are found.
    return ({**_BY_LOSS, **SELECTIONS} | rules_of(task))[name]
