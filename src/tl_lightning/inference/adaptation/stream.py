"""A trained model that adapts to the batches it predicts, one after another."""

from __future__ import annotations

import copy
import io
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.adaptation.eata import EATA, fisher_information, highest_lr
from tl_lightning.inference.adaptation.guard import FEWEST, FEWEST_OF_BATCH, Guard
from tl_lightning.inference.adaptation.options import AdaptOptions
from tl_lightning.inference.adaptation.sar import SAR, adapted_by_sar
from tl_lightning.inference.adaptation.statistics import adapt_statistics, has_statistics
from tl_lightning.inference.adaptation.tent import Tent
from tl_lightning.inference.predictor import Outputs, Predictor
from tl_lightning.methods.components.norm_layers import scales_and_shifts, target_norms
from tl_lightning.models.base import TransferModule
from tl_lightning.types import Stream
from tl_lightning.utils.console import say

__all__ = ["StreamAdaptation"]


class StreamAdaptation:
    """A copy of a model that adapts; its outputs depend on the order of the batches.

    Args:
        predictor: The trained model, which is not changed.
        options: How it adapts.
        batch_size: Number of samples per batch, which the learning rate depends on.

    Raises:
        ConfigError: If the network has no layers that can be adapted.
    """

    def __init__(self, predictor: Predictor, options: AdaptOptions, batch_size: int) -> None:
        self.trained = predictor
        self.options = options
        self.module: TransferModule = copy.deepcopy(predictor.module).requires_grad_(False)
        norms = target_norms(self.module.backbone, self.module.task)
        _check(norms, options, self.module)
        adapt_statistics(norms, options.prior)
        if options.method == "sar":
            norms = adapted_by_sar(norms)
        self.parameters = [] if options.method == "bn" else scales_and_shifts(norms)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.start = [one.detach().clone() for one in self.parameters]
        self.rule = _rule(options, self.parameters, options.learning_rate(batch_size))
        self.guard = Guard(FEWEST if options.mode == "online" else FEWEST_OF_BATCH)
        #: Number of samples so far, and since the model was last the trained one.
        self.seen = self.since = 0
        #: Whether the guard returned to the trained model, which lasts until the next reset.
        self.returned = False
        #: Samples predicted by the trained model, steps, and how often it was restored and why.
        self.counts: Counter[str] = Counter()

    def regularise(self, batches: Iterable[Tensor]) -> None:
        """Compute the Fisher information that EATA keeps the model near the trained one by.

        Args:
            batches: Network inputs of samples of the source.

        Raises:
            ConfigError: If steps on the regulariser would diverge at the learning rate.
            DataError: If the Fisher information is not finite.
        """
        assert isinstance(self.rule, EATA)
        with torch.enable_grad():
            fisher = fisher_information(
                batches, lambda inputs: self._forward(inputs)[1], self.parameters
            )
        if not all(torch.isfinite(one).all() for one in fisher):
            raise DataError(
                "the Fisher information of adapt.fisher is not finite, as the model's outputs for "
                "some samples are not; set adapt.fisher=<other samples of the source>"
            )
        highest = highest_lr(fisher)
        if self.rule.lr > highest:
            raise ConfigError(
                f"adapt.lr={self.rule.lr:g} is too high for the regulariser of eata, whose steps "
                f"diverge above {_rounded_down(highest)}; set adapt.lr={_rounded_down(highest)} or "
                "lower, or adapt.fisher=none to adapt without the regulariser"
            )
        self.rule.fisher = fisher

    # -- one batch -----------------------------------------------------------------------------
    def outputs(self, inputs: Tensor) -> Outputs:
        """Adapt to a batch of network inputs and return their features and logits.

        Raises:
            DataError: If they are not finite, without a guard.
        """
        every = self.options.reset_every
        if self.options.mode == "episodic" or (every is not None and self.since >= every):
            self.reset()
        if self.returned:
            found, adapted = self.trained.outputs(inputs), 0
        else:
            found, adapted = self._adapted(inputs)
        if adapted < len(inputs):
            self.counts["by_trained_model"] += len(inputs) - adapted
        self.seen += len(inputs)
        self.since += len(inputs)
        return found

    def reset(self) -> None:
        """Continue from the trained model.

        Online, the guard keeps the samples that it has seen, as it would never have enough of them
        if the resets are frequent. A batch of the episodic mode is judged alone.
        """
        self._restore_parameters()
        if self.options.mode == "episodic":
            self.guard.reset()
        self.since, self.returned = 0, False

    def _copy_start(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.start, strict=True):
                parameter.copy_(value)

    def _restore_parameters(self) -> None:
        self._copy_start()
        if self.rule is not None:
            self.rule.reset()

    def _adapted(self, inputs: Tensor) -> tuple[Outputs, int]:
        """Predict a batch, and let the model adapt to it; also return how many samples it predicts.

        Online, a batch is predicted by the forward pass of the last step, before it, as in the
        papers. What is returned is what the guard has checked.
        """
        online = self.options.mode == "online"
        steps = 0 if self.rule is None else self.options.steps
        with torch.set_grad_enabled(steps > 0):
            found = self._forward(inputs)
            if not torch.isfinite(found[1]).all():
                trained = self.trained.outputs(inputs)
                sound = np.asarray(np.isfinite(trained.logits).all(1))
                if not sound.all():
                    return self._without(inputs, trained, sound)
            for step in range(steps):
                if step:
                    found = self._forward(inputs)
                if online and step == steps - 1:
                    break
                self._update(found[1], inputs)
            if not online:
                with torch.no_grad():
                    found = self._forward(inputs)
            replaced = self._collapsed(inputs, found)
            if replaced is not None:
                return replaced, 0
            if online and steps:
                self._update(found[1], inputs)
        return _plain(found), len(inputs)

    def _without(
        self, inputs: Tensor, trained: Outputs, sound: NDArray[np.bool_]
    ) -> tuple[Outputs, int]:
        """Predict and adapt to a part of a batch, whose other samples the trained model predicts.

        A sample whose outputs are not finite would make the statistics of batch norm, and with
        them the outputs of all samples of the batch, and the gradient, not finite.
        """
        self.counts["not_finite"] += len(sound) - int(sound.sum())
        if not sound.any():
            return trained, 0
        part, number = self._adapted(inputs[torch.from_numpy(sound).to(inputs.device)])
        features, logits = trained.features.copy(), trained.logits.copy()
        features[sound], logits[sound] = part.features, part.logits
        return Outputs(features, logits), number

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        module = self.module
        module.set_batch_domains({Stream.TARGET: len(inputs)})
        features, logits = module.task(module.extract(inputs.to(module.device)))
        return features.float(), logits.float()

    def _update(self, logits: Tensor, inputs: Tensor) -> None:
        assert self.rule is not None
        before = self.rule.taken
        restore = self.rule.update(logits, lambda: self._forward(inputs)[1])
        self.counts["steps"] += self.rule.taken - before
        if restore:
            self._copy_start()
            self.rule.restart()
            self.counts["recoveries"] += 1

    def _collapsed(self, inputs: Tensor, found: tuple[Tensor, Tensor]) -> Outputs | None:
        """Return the trained model's outputs if the adapted one has collapsed; None if not."""
        logits = found[1].detach()
        if not self.options.guard:
            if not torch.isfinite(logits).all():
                other = "adapt.prior=16" if self.rule is None else "a lower adapt.lr"
                raise DataError(
                    f"the adapted model's outputs are not finite after {self.seen:,} samples; set "
                    f"{other}, or adapt.guard=true to return to the trained model"
                )
            return None
        trained = self.trained.outputs(inputs)
        problem = self.guard.problem(torch.from_numpy(trained.logits), logits.cpu())
        if not problem:
            return None
        self._restore_parameters()
        self.guard.reset()
        self.returned = True
        self.counts["returns"] += 1
        if self.options.mode == "online":
            say(
                f"note: the adapted model collapsed after {self.seen:,} samples: {problem}; the "
                f"trained model predicts {self._until}"
            )
        return trained

    @property
    def _until(self) -> str:
        every = self.options.reset_every
        if every is None:
            return "all samples from there on"
        return f"the samples up to the next reset (adapt.reset_every={every})"

    # -- interruptions -------------------------------------------------------------------------
    def state(self) -> bytes:
        """Return everything that the outputs of the next batches depend on, for :meth:`restore`."""
        state = {
            "parameters": [one.detach() for one in self.parameters],
            "rule": {} if self.rule is None else self.rule.state(),
            "guard": self.guard.state(),
            "position": [self.seen, self.since, self.returned],
            "counts": dict(self.counts),
        }
        torch.save(state, file := io.BytesIO())
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        """Take up a state."""
        # The guard compares on the CPU; parameters and optimizer copy to their device.
        found: dict[str, Any] = torch.load(io.BytesIO(state), "cpu", weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, found["parameters"], strict=True):
                parameter.copy_(value)
        if self.rule is not None:
            self.rule.restore(found["rule"])
        self.guard.restore(found["guard"])
        self.seen, self.since, self.returned = found["position"]
        self.counts = Counter(found["counts"])


def _rule(options: AdaptOptions, parameters: list[Any], lr: float) -> Tent | None:
    if options.method == "bn":
        return None
    if options.method == "eata":
        return EATA(parameters, lr, None)
    return SAR(parameters, lr) if options.method == "sar" else Tent(parameters, lr)


def _rounded_down(number: float) -> str:
    """Return a number with two digits, which is not larger.

    >>> _rounded_down(0.00199), _rounded_down(0.475)
    ('0.0019', '0.47')
    """
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.floor(number / unit) * unit:.2g}"


def _plain(found: tuple[Tensor, Tensor]) -> Outputs:
    return Outputs(*(part.detach().cpu().numpy() for part in found))


def _check(norms: list[Any], options: AdaptOptions, module: TransferModule) -> None:
    network = type(module.backbone).__name__
    name = getattr(module.backbone, "name", "")
    network = f"{network} {name}".strip()
    if options.method == "bn" and not any(map(has_statistics, norms)):
        other = "set adapt=tent or adapt=sar, which adapt other layers" if scales_and_shifts(
            norms
        ) else "remove adapt"  # fmt: skip
        raise ConfigError(
            f"adapt=bn adapts the statistics of batch norm, but {network} and the head have no "
            f"batch norm; {other}"
        )
    if options.method != "bn" and not scales_and_shifts(norms):
        raise ConfigError(
            f"adapt={options.method} trains the scales and shifts of normalisation layers, but "
            f"{network} and the head have none; remove adapt"
        )
