"""SWAD: the mean of the weights over a window of steps chosen by the validation loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import lightning as L
from torch import Tensor

from tl_lightning.callbacks.weight_averaging import Averaging, move_towards
from tl_lightning.config.hints import at_least
from tl_lightning.config.schema import RunConfig

__all__ = ["SWAD", "Segment", "Window"]


@dataclass
class Segment:
    """Mean of the weights over the steps between two validations.

    Attributes:
        loss: Its validation loss.
        steps: Number of steps.
        values: Parameters and buffers.
    """

    loss: float
    steps: int
    values: list[Tensor]


@dataclass
class Window:
    """Choice of the window, algorithm 1 of the paper with validations in place of steps.

    It begins with the first segment whose loss is the lowest of ``converged`` consecutive ones, and
    ends before the first of ``tolerated`` consecutive ones that are all above the threshold:
    ``ratio`` times the mean loss of the first ``converged`` segments of the window.

    Attributes:
        converged: Number of segments that decide on the beginning.
        tolerated: Number of segments that decide on the end.
        ratio: Factor of the threshold.
        threshold: Largest loss within the window; None before it begins.
        closed: Whether it has ended.
        mean: Mean over the segments that are certainly in the window.
        pending: The latest segments, which may still be left out.
    """

    converged: int
    tolerated: int
    ratio: float
    threshold: float | None = None
    closed: bool = False
    mean: Segment | None = None
    pending: list[Segment] = field(default_factory=list)

    def push(self, segment: Segment) -> None:
        """Add the segment of a validation."""
        if self.closed:
            return
        self.pending.append(segment)
        if self.threshold is None:
            self.pending = self.pending[-self.converged :]
            losses = [one.loss for one in self.pending]
            if len(losses) == self.converged and min(losses) == losses[0]:
                self.threshold = self.ratio * sum(losses) / len(losses)
        while self.threshold is not None and len(self.pending) >= self.tolerated:
            if all(one.loss > self.threshold for one in self.pending[: self.tolerated]):
                self.closed, self.pending = True, []
            else:
                self.mean = _merged(self.mean, self.pending.pop(0))

    def result(self) -> Segment | None:
        """Return the mean over the window if training ended now; the last segment without one."""
        if self.threshold is None:
            return self.pending[-1] if self.pending else None
        within = [k for k, one in enumerate(self.pending) if one.loss <= self.threshold]
        found = self.mean
        for one in self.pending[: within[-1] + 1 if within else 0]:
            found = _merged(found, one)
        return found

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        parts = [*([] if self.mean is None else [self.mean]), *self.pending]
        return {
            "threshold": self.threshold, "closed": self.closed, "has_mean": self.mean is not None,
            "parts": [[one.loss, one.steps, one.values] for one in parts],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        parts = [Segment(*one) for one in state["parts"]]
        self.threshold, self.closed = state["threshold"], state["closed"]
        self.mean = parts.pop(0) if state["has_mean"] else None
        self.pending = parts


def _merged(mean: Segment | None, other: Segment) -> Segment:
    """Return the mean of both, weighted by their steps."""
    if mean is None:
        return other
    steps = mean.steps + other.steps
    values = [one.clone() for one in mean.values]
    for one, now in zip(values, other.values, strict=True):
        move_towards([one], [now.to(one.device)], other.steps / steps)
    return Segment(other.loss, steps, values)


class SWAD(Averaging):
    """Stochastic weight averaging, densely and aware of overfitting.

    Cha, Chun, Lee, Cho, Park, Lee, Park (2021): SWAD: Domain Generalization by Seeking Flat Minima.
    NeurIPS, arXiv:2102.08604. The weights are averaged after every step. At each validation, the
    mean over the steps since the last one is validated; the model that is saved is the mean over
    the window that the losses of these means determine. The paper validates every 50 to 300 steps:
    set ``trainer.val_check_interval`` or ``data.steps_per_epoch`` to about that. Batch norm
    statistics are averaged as well; the paper freezes them.

    Up to ``tolerated + 1`` copies of the model are kept in memory and in checkpoints.

    Args:
        converged: ``N_s``: the window begins at the lowest loss of this many validations.
        tolerated: ``N_e``: it ends when this many losses are above the threshold.
        ratio: ``r``: factor of the threshold.
    """

    #: It determines the model itself, so that no selection rule is needed.
    chooses_epochs = True

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield a selection rule, which would score other weights than those that are kept."""
        yield from super().check_run(where, params, run)
        if run.selection != "last":
            yield (
                f"{where} chooses the steps itself, but selection={run.selection} chooses an "
                "epoch; set selection=last"
            )

    def __init__(
        self,
        *,
        converged: Annotated[int, at_least(1)],
        tolerated: Annotated[int, at_least(1)],
        ratio: Annotated[float, at_least(1)],
    ) -> None:
        super().__init__(0, lambda mean, now, n: move_towards(mean, now, 1 / (int(n) + 1)))
        self.window = Window(converged, tolerated, ratio)

    def due(self, trainer: L.Trainer) -> bool:
        """Return True: the mean since the last validation is updated after every step."""
        return True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the mean since the last validation, and put the mean over the window in its place."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._average_model is None:
            return
        loss = float(trainer.callback_metrics["source/val/loss"])
        steps = int(self._average_model.n_averaged)
        if steps:
            self.window.push(Segment(loss, steps, [one.clone() for one in self._values()]))
        found = self.window.result()
        for one, now in zip(self._values(), found.values if found else (), strict=False):
            one.copy_(now)
        self._average_model.n_averaged.zero_()  # the next update is a copy

    def _values(self) -> list[Tensor]:
        assert self._average_model is not None
        module = self._average_model.module
        return [one.data for one in (*module.parameters(), *module.buffers())]

    def state_dict(self) -> dict[str, Any]:
        """Add the window."""
        return {**super().state_dict(), "window": self.window.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the window."""
        super().load_state_dict(state_dict)
        self.window.restore(state_dict["window"])
