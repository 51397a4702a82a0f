"""Single-label classification, also of ordered levels: head, loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection

from tl_lightning.config.schema import RunConfig, TaskKind
from tl_lightning.errors import ConfigError
from tl_lightning.tasks.metrics import METRICS
from tl_lightning.tasks.ordinal import LevelError
from tl_lightning.tasks.target_outputs import PriorCorrection, Rejection

__all__ = ["Classification", "prepare_outputs"]


class Classification(nn.Module):
    """Classification with one label per sample.

    Args:
        head: Maps features to bottleneck features and logits, see :class:`.head.Head`.
        num_classes: ``K``.
        loss: Maps logits and labels (class indices or soft labels) to a scalar.
        metrics: Metrics by name in addition to those of :data:`METRICS`, updated with logits and
            labels.
        kind: ``ordinal`` if the classes have an order, with the error in levels as a metric.
    """

    def __init__(
        self,
        *,
        head: Any,
        num_classes: int,
        loss: nn.Module,
        metrics: Mapping[str, Metric] | None = None,
        kind: TaskKind = "classification",
    ) -> None:
        super().__init__()
        self.kind = kind
        if taken := [name for name in metrics or () if name in METRICS]:
            raise ConfigError(
                f"metrics.{taken[0]} is computed already ({', '.join(METRICS)}); use another name"
            )
        self.head = head
        self.num_classes = num_classes
        self.loss_fn = loss
        self.extra_metrics = dict(metrics or {})
        if kind == "ordinal":
            self.extra_metrics.setdefault("mae", LevelError())
        #: Corrects the logits of the target for other class frequencies, if that is wanted.
        self.prior: nn.Module = nn.Identity()
        #: Recognises target samples of no class, if that is wanted.
        self.rejection: Rejection | None = None
        #: The method that can recognise them, if there is one; a tuple hides its parameters.
        self.recogniser: tuple[Any, ...] = ()
        #: Whether the target may have other classes than the source, so that the test measures it.
        self.class_sets = False

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's ``(features (B, D'), logits (B, K))``."""
        used, logits = self.head(features)
        return used, self.prior(logits)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of logits ``(B, K)``, with sample weights ``(B,)``, in float32."""
        given = () if weights is None else (weights,)
        out: Tensor = self.loss_fn(logits, labels, *given)
        return out

    def sample_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropies ``(B,)`` of logits ``(B, K)`` and labels ``(B,)``."""
        return functional.cross_entropy(logits, labels, reduction="none")

    def unknown_scores(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return how little each target sample ``(B,)`` looks like a class; None if not wanted."""
        if self.rejection is None:
            return None
        by_method = self.rejection.score == "method"
        scores: Tensor = (
            self.recogniser[0].unknown_scores(features, logits)
            if by_method
            else self.rejection(logits)
        )
        return scores

    def rejects(self, features: Tensor, logits: Tensor) -> Tensor | None:
        """Return which target samples ``(B,)`` are of no class, or None if none can be."""
        scores = self.unknown_scores(features, logits)
        if self.rejection is None or scores is None:
            return None
        return self.rejection.rejects(scores)

    def metrics(self, prefix: str) -> MetricCollection:
        """Return the metrics of :data:`METRICS` and the additional ones.

        Classes that neither occur in the evaluated samples nor are predicted are ignored in macro
        averages; classes that are only predicted count as 0.
        """
        found = {name: info.build(self.num_classes) for name, info in METRICS.items()}
        extra = {name: metric.clone() for name, metric in self.extra_metrics.items()}
        return MetricCollection({**found, **extra}, prefix=prefix)

    def score(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Update the metrics with a batch."""
        metrics.update(outputs, labels)


def prepare_outputs(run: RunConfig, task: Classification) -> None:
    """Add what a run does with the outputs on its target, see :mod:`.target_outputs`."""
    target = run.plain["data"].get("target") or {}  # of a loaded model, the data are not built
    task.class_sets = (target.get("classes") or "same") != "same"
    if run.label_shift == "prior":
        task.prior = PriorCorrection(task.num_classes)
    if run.rejection in ("entropy", "energy", "method"):
        task.rejection = Rejection(run.rejection)
