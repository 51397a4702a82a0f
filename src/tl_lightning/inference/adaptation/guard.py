"""Detection of collapsed adaptation, without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_lightning.inference.adaptation.tent import reliable_below
from tl_lightning.methods.entropy import entropies

__all__ = ["Guard", "class_perplexity"]

#: Number of the last samples that are compared, and the smallest number of them: over a stream, and
#: of a single batch that is judged alone.
WINDOW, FEWEST, FEWEST_OF_BATCH = 128, 64, 16
#: The adapted model has collapsed if less than this fraction of the trained model's classes beyond
#: the first is left, and at least so many of them are lost; or if it contradicts more than this
#: fraction of the trained model's reliable predictions.
KEPT, LOST, CONTRADICTED = 0.5, 0.5, 0.5


def class_perplexity(classes: Tensor) -> float:
    """Return the exponential of the entropy of the class frequencies.

    It is ``k`` for ``k`` classes of equal frequency.

    Args:
        classes: Class indices ``(n,)``.

    >>> round(class_perplexity(torch.tensor([0, 0, 3, 3])), 6)
    2.0
    """
    shares = torch.bincount(classes).double() / len(classes)
    return float(torch.special.entr(shares).sum().exp())


class Guard:
    """Compares the adapted model with the trained one on the last samples of the stream.

    Minimising the entropy of predictions has trivial solutions: the same class for all samples.
    The adapted model is taken for collapsed if

    - its outputs are not finite, or
    - the perplexity of its classes beyond 1, see :func:`class_perplexity`, is less than half of
      that of the trained model on the same samples, or
    - it contradicts more than half of the trained model's reliable predictions, those of low
      entropy, and predicts fewer classes.

    A trained model that fails on the samples has unreliable predictions, or few classes; then
    nothing here tells an improvement from a collapse, and the adaptation continues.

    Args:
        fewest: Smallest number of samples that the predictions are compared on; of fewer, only the
            outputs that are not finite are found.
    """

    def __init__(self, fewest: int = FEWEST) -> None:
        self.fewest = fewest
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        #: Trained class, adapted class and whether the former is reliable, ``(n, 3)``.
        self.rows = torch.empty((0, 3), dtype=torch.int64)

    def problem(self, trained: Tensor, adapted: Tensor) -> str:
        """Return why the adapted model has collapsed, or an empty string.

        Args:
            trained: Logits of the trained model for a batch ``(B, K)``.
            adapted: Those of the adapted model.
        """
        if (torch.isfinite(trained).all(1) & ~torch.isfinite(adapted).all(1)).any():
            return "its outputs are not finite"
        reliable = entropies(trained.float()) < reliable_below(trained.shape[1])
        rows = torch.stack([trained.argmax(1), adapted.argmax(1), reliable.long()], 1)
        self.rows = torch.cat([self.rows, rows.cpu()])[-WINDOW:]
        if len(self.rows) < self.fewest:
            return ""
        return _problem(self.rows, self.fewest)

    def state(self) -> dict[str, Any]:
        """Return the state, for :meth:`restore`."""
        return {"rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.rows = state["rows"]


def _problem(rows: Tensor, fewest: int) -> str:
    trained, adapted, reliable = rows.unbind(1)
    before, after = class_perplexity(trained), class_perplexity(adapted)
    samples = f"the last {len(trained)} samples"
    if after - 1 < KEPT * (before - 1) and before - after > LOST:
        return (
            f"on {samples} its predictions are as diverse as {after:.1f} classes, those of the "
            f"trained model as {before:.1f}"
        )
    sure = reliable.bool()
    contradicted = float((trained != adapted)[sure].double().mean()) if sure.any() else 0.0
    if int(sure.sum()) >= fewest // 2 and contradicted > CONTRADICTED and after < before:
        return (
            f"on {samples} it contradicts {contradicted:.0%} of the trained model's reliable "
            "predictions, with fewer classes"
        )
    return ""
