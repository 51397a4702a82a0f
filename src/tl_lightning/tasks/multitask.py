"""Multi-task learning: loss terms, gradients and metrics of the auxiliary tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.loss_weighting import TaskWeighting, Uncertainty, projected
from tl_lightning.types import Terms, View

__all__ = ["MultiTask", "Others", "of_all_ranks"]

Others = Mapping[str, Mapping[str, Tensor]]


class MultiTask(nn.Module):
    """Auxiliary tasks on the input features of the main task's classifier.

    Args:
        tasks: The auxiliary tasks by name.
        task_weighting: ``fixed`` adds ``weight * loss``; ``uncertainty`` learns the weights, see
            :class:`Uncertainty`; ``pcgrad`` projects the tasks' gradients, see :func:`projected`.
        stages: Stages to keep metrics for, such as ``source_val``.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, AuxiliaryTask],
        task_weighting: TaskWeighting,
        stages: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict(tasks)
        self.learning = {name: task for name, task in tasks.items() if task.weight > 0}
        self.task_weighting = task_weighting
        self.uncertainty: Uncertainty | None = None
        if task_weighting == "uncertainty" and self.learning:
            self.uncertainty = Uncertainty([1.0, *(task.share for task in self.learning.values())])
        for name in tasks.keys() - self.learning.keys():
            tasks[name].requires_grad_(False)
        self.scores = nn.ModuleDict({
            f"{stage}/{name}": task.metrics(prefix=f"{stage.replace('_', '/')}/{name}/")
            for stage in stages
            for name, task in tasks.items()
        })  # fmt: skip
        #: Stages and tasks whose batches had labels, on any rank.
        self.scored: set[str] = set()

    # -- loss and gradients ------------------------------------------------------------------
    def terms(self, main: Terms, views: Mapping[str, View], aux_labels: Others) -> Terms:
        """Return the weighted terms of the main task and of the auxiliary tasks.

        Args:
            main: ``task`` for the source, ``task_labelled`` for few-shot target samples.
            views: Labelled views by role.
            aux_labels: Auxiliary labels by role.
        """
        if not self.learning:
            return main
        terms = dict(main)
        if self.uncertainty is not None:
            terms = {name: self._weighted(0, loss, name == "task") for name, loss in main.items()}
        for role, view in views.items():
            kind = "task" if role == "source" else "task_labelled"
            for number, (name, task) in enumerate(self.learning.items(), 1):
                assert view.labels is not None
                labels = task.labels_of(view.labels, aux_labels.get(role, {}), name)
                if labels is None:
                    continue
                loss = task.loss(task(view.features), labels)
                if self.uncertainty is not None:
                    # Add the log term once, regardless of the number of views with labels.
                    labelled = (rank_mean(task.known(labels).sum()) > 0) & (kind == "task")
                    loss = self._weighted(number, loss, labelled)
                terms[f"{kind}/{name}"] = task.weight * loss
        return terms

    def _weighted(self, number: int, loss: Tensor, labelled: Tensor | bool) -> Tensor:
        assert self.uncertainty is not None
        out: Tensor = self.uncertainty(number, loss, labelled)
        return out

    def weights(self) -> dict[str, Tensor]:
        """Return the current learned loss weights; empty unless ``uncertainty`` is used."""
        if self.uncertainty is None:
            return {}
        weights = {"main": self.uncertainty.weight(0)}
        for number, (name, task) in enumerate(self.learning.items(), 1):
            weights[name] = task.weight * self.uncertainty.weight(number)
        return {f"weight/{name}": value for name, value in weights.items()}

    @property
    def projects(self) -> bool:
        """Whether the tasks' gradients are projected."""
        return self.task_weighting == "pcgrad" and bool(self.learning)

    def backward(
        self, terms: Terms, shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter], seed: int
    ) -> None:
        """Set the gradients: PCGrad for shared parameters, the plain sum for all others.

        Args:
            terms: Terms of the step; ``task/<name>`` belongs to an auxiliary task, anything else to
                the main task.
            shared: Parameters shared by all tasks.
            own: All other trainable parameters.
            seed: Seed of the random task order.
        """
        tasks: dict[str, list[Tensor]] = {}
        for name, term in terms.items():
            head, _, task = name.partition("/")
            key = task if head in ("task", "task_labelled") else ""
            tasks.setdefault(key, []).append(term.float())
        params = [*shared, *own]
        sparse = [
            torch.autograd.grad(
                torch.stack(part).sum(), params, retain_graph=number < len(tasks), allow_unused=True
            )
            for number, part in enumerate(tasks.values(), 1)
        ]
        dense = [
            [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]
            for grads in sparse
        ]
        total = [torch.stack(same).sum(0) for same in zip(*dense, strict=True)]
        if shared:
            generator = torch.Generator().manual_seed(seed)
            total[: len(shared)] = projected([grads[: len(shared)] for grads in dense], generator)
        for number, (parameter, gradient) in enumerate(zip(params, total, strict=True)):
            # Unused parameters keep a gradient of None, so that the optimizer skips them.
            used = any(grads[number] is not None for grads in sparse)
            parameter.grad = gradient if used else None

    # -- metrics -----------------------------------------------------------------------------
    def update(
        self, stage: str, features: Tensor, labels: Tensor, aux_labels: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with a batch.

        Args:
            stage: Stage, such as ``source_val``.
            features: Input features ``(B, D)`` of the main task's classifier.
            labels: Class indices ``(B,)`` of the main task.
            aux_labels: Auxiliary labels by task name.
        """
        for name, task in self.tasks.items():
            assert isinstance(task, AuxiliaryTask)
            own = task.labels_of(labels, aux_labels, name)
            if own is None:
                continue
            # Even if this rank has no sample, because all ranks run the head and reduce together.
            outputs = task(features)
            self.scored.add(f"{stage}/{name}")
            if len(own):
                task.score(self._metrics(stage, name), outputs, own)

    def results(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of a stage by full name, and reset them."""
        results: dict[str, Tensor] = {}
        for name in self.tasks:
            metrics = self._metrics(stage, name)
            if f"{stage}/{name}" in self.scored:
                results |= of_all_ranks(metrics)
            metrics.reset()
            self.scored.discard(f"{stage}/{name}")
        return results

    def _metrics(self, stage: str, name: str) -> MetricCollection:
        metrics = self.scores[f"{stage}/{name}"]
        assert isinstance(metrics, MetricCollection)
        return metrics


def of_all_ranks(metrics: MetricCollection) -> dict[str, Tensor]:
    """Compute the metrics over all ranks, even if this rank has had no update."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        values: dict[str, Tensor] = metrics.compute()
    return values
