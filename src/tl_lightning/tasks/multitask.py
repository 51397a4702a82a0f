"""Multi-task learning: loss terms and gradients of the auxiliary tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tl_lightning.distributed.ranks import rank_mean
from tl_lightning.tasks.auxiliary.base import AuxiliaryTask
from tl_lightning.tasks.loss_weighting import TaskWeighting, Uncertainty, projected
from tl_lightning.types import Stream, Terms, View

__all__ = ["MultiTask"]


class MultiTask(nn.Module):
    """Auxiliary tasks on the input features of the main task's classifier.

    Args:
        tasks: The auxiliary tasks by name.
        task_weighting: ``fixed`` adds ``weight * loss``; ``uncertainty`` learns the weights, see
            :class:`Uncertainty`; ``pcgrad`` projects the tasks' gradients, see :func:`projected`.
    """

    def __init__(self, tasks: Mapping[str, AuxiliaryTask], task_weighting: TaskWeighting) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict(tasks)
        self.learning = {name: task for name, task in tasks.items() if task.weight > 0}
        self.task_weighting = task_weighting
        self.uncertainty: Uncertainty | None = None
        if task_weighting == "uncertainty" and self.learning:
            self.uncertainty = Uncertainty([1.0, *(task.share for task in self.learning.values())])
        for name in tasks.keys() - self.learning.keys():
            tasks[name].requires_grad_(False)
        #: Auxiliary task of each of their loss terms.
        self.task_of_term = {
            f"{kind}/{name}": name for kind in ("task", "task_labelled") for name in self.learning
        }
        #: Loss terms on the source, the main task's first.
        self.source_terms = ("task", *(f"task/{name}" for name in self.learning))

    # -- loss and gradients ------------------------------------------------------------------
    def terms(
        self,
        main: Terms,
        views: Mapping[str, View],
        aux_labels: Mapping[Stream, Mapping[str, Tensor]],
    ) -> Terms:
        """Return the weighted terms of the main task and of the auxiliary tasks.

        Args:
            main: ``task`` for the source, ``task_labelled`` for few-shot target samples.
            views: Labelled views by stream.
            aux_labels: Auxiliary labels by stream.
        """
        if not self.learning:
            return main
        terms = dict(main)
        if self.uncertainty is not None:
            terms = {name: self._weighted(0, loss, name == "task") for name, loss in main.items()}
        for stream, view in views.items():
            kind = "task" if stream == "source" else "task_labelled"
            for number, (name, task) in enumerate(self.learning.items(), 1):
                assert view.labels is not None
                labels = task.labels_of(view.labels, aux_labels.get(Stream(stream), {}), name)
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
        self,
        terms: Terms,
        shared: Sequence[nn.Module],
        parameters: Iterable[nn.Parameter],
        seed: int,
    ) -> None:
        """Set the gradients: PCGrad for shared parameters, the plain sum for all others.

        Args:
            terms: Terms of the step; those that do not belong to an auxiliary task belong to the
                main task.
            shared: Modules shared by all tasks.
            parameters: All parameters.
            seed: Seed of the random task order.
        """
        tasks: dict[str, list[Tensor]] = {}
        for name, term in terms.items():
            tasks.setdefault(self.task_of_term.get(name, ""), []).append(term.float())
        common = [p for module in shared for p in module.parameters() if p.requires_grad]
        ids = {id(p) for p in common}
        own = [p for p in parameters if p.requires_grad and id(p) not in ids]
        params = [*common, *own]
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
        if common:
            generator = torch.Generator().manual_seed(seed)
            total[: len(common)] = projected([grads[: len(common)] for grads in dense], generator)
        for number, (parameter, gradient) in enumerate(zip(params, total, strict=True)):
            # Unused parameters keep a gradient of None, so that the optimizer skips them.
            used = any(grads[number] is not None for grads in sparse)
            parameter.grad = gradient if used else None
