"""The tasks beside the main one: their terms, their metrics, and how they share a network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.tasks.auxiliary.base import FurtherTask
from tl_lightning.tasks.loss_weighting import Balance, Uncertainty, projected
from tl_lightning.types import Terms, View

__all__ = ["Others", "SeveralTasks", "of_all_ranks"]

Others = Mapping[str, Mapping[str, Tensor]]


class SeveralTasks(nn.Module):
    """Further heads on the features that the main task's classifier sees.

    Args:
        tasks: By name.
        balance: ``fixed`` adds ``weight * loss``; ``uncertainty`` learns the weights, see
            :class:`Uncertainty`; ``pcgrad`` projects the tasks' gradients, see :func:`projected`.
        stages: Names such as ``source_val`` that metrics are kept for.
    """

    def __init__(
        self, *, tasks: Mapping[str, FurtherTask], balance: Balance, stages: Sequence[str]
    ) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict(tasks)
        self.learning = {name: task for name, task in tasks.items() if task.weight > 0}
        self.balance = balance
        self.uncertainty: Uncertainty | None = None
        if balance == "uncertainty" and self.learning:
            self.uncertainty = Uncertainty([1.0, *(task.share for task in self.learning.values())])
        for name in tasks.keys() - self.learning.keys():
            tasks[name].requires_grad_(False)
        self.scores = nn.ModuleDict({
            f"{stage}/{name}": task.metrics(prefix=f"{stage.replace('_', '/')}/{name}/")
            for stage in stages
            for name, task in tasks.items()
        })  # fmt: skip
        #: Stages and tasks whose batches held labels, on whichever rank.
        self.scored: set[str] = set()

    # -- the loss ----------------------------------------------------------------------------
    def terms(self, main: Terms, views: Mapping[str, View], others: Others) -> Terms:
        """Return the main task's terms, weighed, and those of the other tasks.

        Args:
            main: ``task`` for the source, ``task_labelled`` for labelled target samples.
            views: Of the domains that have labels, by role.
            others: Further labels by role.
        """
        if not self.learning:
            return main
        found = dict(main)
        if self.uncertainty is not None:
            found = {name: self._weighed(0, loss, name == "task") for name, loss in main.items()}
        for role, view in views.items():
            kind = "task" if role == "source" else "task_labelled"
            for number, (name, task) in enumerate(self.learning.items(), 1):
                assert view.labels is not None
                labels = task.labels_of(view.labels, others.get(role, {}), name)
                if labels is None:
                    continue
                loss = task.loss(task(view.features), labels)
                if self.uncertainty is not None:
                    # The logarithm once, however many views the task is learned from.
                    some = (rank_mean(task.known(labels).sum()) > 0) & (kind == "task")
                    loss = self._weighed(number, loss, some)
                found[f"{kind}/{name}"] = task.weight * loss
        return found

    def _weighed(self, number: int, loss: Tensor, labelled: Tensor | bool) -> Tensor:
        assert self.uncertainty is not None
        out: Tensor = self.uncertainty(number, loss, labelled)
        return out

    def weights(self) -> dict[str, Tensor]:
        """Return what the losses are multiplied by at present, where that is learned."""
        if self.uncertainty is None:
            return {}
        found = {"main": self.uncertainty.weight(0)}
        for number, (name, task) in enumerate(self.learning.items(), 1):
            found[name] = task.weight * self.uncertainty.weight(number)
        return {f"weight/{name}": value for name, value in found.items()}

    @property
    def projects(self) -> bool:
        """Whether gradients are to be projected."""
        return self.balance == "pcgrad" and bool(self.learning)

    def backward(
        self, terms: Terms, shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter], seed: int
    ) -> None:
        """Set gradients: of the shared parameters those of :func:`projected`, else the sum's.

        Args:
            terms: Of the step; ``task/<name>`` are another task's, all else is the main one's.
            shared: What all tasks pass through.
            own: All other parameters that learn.
            seed: Of the order in which the tasks give way.
        """
        parts: dict[str, list[Tensor]] = {}
        for name, term in terms.items():
            head, _, task = name.partition("/")
            key = task if head in ("task", "task_labelled") else ""
            parts.setdefault(key, []).append(term.float())
        every = [*shared, *own]
        found = [
            torch.autograd.grad(
                torch.stack(part).sum(), every, retain_graph=number < len(parts), allow_unused=True
            )
            for number, part in enumerate(parts.values(), 1)
        ]
        whole = [
            [torch.zeros_like(p) if g is None else g for p, g in zip(every, one, strict=True)]
            for one in found
        ]
        now = [torch.stack(same).sum(0) for same in zip(*whole, strict=True)]
        if shared:
            generator = torch.Generator().manual_seed(seed)
            now[: len(shared)] = projected([one[: len(shared)] for one in whole], generator)
        for number, (parameter, gradient) in enumerate(zip(every, now, strict=True)):
            # What nothing reaches has no gradient, so that the optimizer leaves it alone.
            reached = any(one[number] is not None for one in found)
            parameter.grad = gradient if reached else None

    # -- the metrics -------------------------------------------------------------------------
    def update(
        self, stage: str, features: Tensor, labels: Tensor, others: Mapping[str, Tensor]
    ) -> None:
        """Score a batch.

        Args:
            stage: Such as ``source_val``.
            features: ``(B, D)``, as the main task's classifier sees them.
            labels: The main task's class indices ``(B,)``.
            others: The further labels.
        """
        for name, task in self.tasks.items():
            assert isinstance(task, FurtherTask)
            own = task.labels_of(labels, others, name)
            if own is None:
                continue
            # Also where this rank has no sample: all ranks run the head and sum up together.
            outputs = task(features)
            self.scored.add(f"{stage}/{name}")
            if len(own):
                task.score(self._metrics(stage, name), outputs, own)

    def results(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of a stage by their full names, and start anew."""
        found: dict[str, Tensor] = {}
        for name in self.tasks:
            metrics = self._metrics(stage, name)
            if f"{stage}/{name}" in self.scored:
                found |= of_all_ranks(metrics)
            metrics.reset()
            self.scored.discard(f"{stage}/{name}")
        return found

    def _metrics(self, stage: str, name: str) -> MetricCollection:
        metrics = self.scores[f"{stage}/{name}"]
        assert isinstance(metrics, MetricCollection)
        return metrics


def of_all_ranks(metrics: MetricCollection) -> dict[str, Tensor]:
    """Return what all ranks have added, also where this one had nothing to add."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        found: dict[str, Tensor] = metrics.compute()
    return found
