"""Outputs of a model for all samples of a split, computed between epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.distributed.ranks import same_buffers
from tl_lightning.errors import DataError
from tl_lightning.types import Stream
from tl_lightning.utils.probabilities import temperature

__all__ = ["of_each_batch", "passed", "source_temperature", "whole_outputs"]


def of_each_batch(
    module: Any, domain: Stream, kept: Callable[[Tensor, Tensor], Any], split: str = "train"
) -> list[Any]:
    """Return what is kept of the features and logits of each batch, in evaluation mode.

    Args:
        module: A :class:`.TransferModule` with a trainer.
        domain: Domain of the samples.
        kept: Maps features ``(B, D)`` and logits ``(B, K)`` to what is kept.
        split: Split of the samples.

    Raises:
        DataError: If the data module cannot pass through a whole split.
    """
    data: Any = getattr(module.trainer, "datamodule", None)
    if not hasattr(data, "whole_loader"):
        raise DataError(
            "the method needs the model's outputs on the whole target; pass a datamodule with "
            "whole_loader(domain), see docs/bring_your_own.md#lightningdatamodule"
        )
    same_buffers(module)
    # The loaders of other data modules have no splits.
    chosen = {} if split == "train" else {"split": split}
    return passed(module, domain, data.whole_loader(domain.domain, **chosen), kept)


def passed(
    module: Any,
    domain: Stream,
    batches: Iterable[Mapping[str, Tensor]],
    kept: Callable[[Tensor, Tensor], Any],
) -> list[Any]:
    """Return what is kept of each of some batches, see :func:`of_each_batch`."""
    training, outputs = module.training, []
    module.eval()
    with torch.no_grad(), module.trainer.precision_plugin.forward_context():
        for batch in batches:
            inputs = batch["inputs"]
            module.set_batch_domains({domain: len(inputs)}, {domain: batch.get("domain")})
            outputs.append(kept(*module.task(module.extract(inputs.to(module.device)))))
    module.train(training)
    return outputs


def whole_outputs(module: Any, domain: Stream, split: str = "train") -> tuple[Tensor, Tensor]:
    """Return features ``(N, D)`` and logits ``(N, K)`` in float32, see :func:`of_each_batch`."""
    outputs = of_each_batch(module, domain, lambda *found: found, split)
    features, logits = map(torch.cat, zip(*outputs, strict=True))
    return features.float(), logits.float()


def source_temperature(module: Any) -> float:
    """Return the temperature that calibrates the model on source validation; 1 without."""
    data: Any = getattr(module.trainer, "datamodule", None)
    val = data.found["source"].val if isinstance(data, TransferDataModule) else None
    if val is None or val.labels is None or not len(val):
        return 1.0
    logits = whole_outputs(module, Stream.SOURCE, "val")[1].double().cpu().numpy()
    return temperature(logits, val.labels) if np.isfinite(logits).all() else 1.0
