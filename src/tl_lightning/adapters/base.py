"""What every adaptation method is: a module that turns views of the domains into loss terms."""

from __future__ import annotations

from torch import Tensor, nn

from tl_lightning.types import Context, Terms, Views

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """Base of the methods; knows no Lightning, no optimizer, no loader.

    A method implements :meth:`forward` and takes its knobs as required keyword arguments (the
    defaults live in its yaml). It is built as ``Foo(in_features=D, num_classes=K, **knobs)``.

    Args:
        in_features: Width ``D`` of the features in the views.
        num_classes: Width ``K`` of the logits in the views.
    """

    def __init__(self, *, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes

    def forward(self, views: Views, ctx: Context) -> Terms:
        """Return the named loss terms of one step; they are added to the task's loss."""
        raise NotImplementedError

    def strength(self, progress: float) -> float:
        """Return how hard the method pulls on the features at ``progress`` (0: not at all)."""
        return 1.0

    def domain_logits(self, features: Tensor) -> Tensor | None:
        """Return the method's own domain scores ``(B,)`` (above 0: source), or None."""
        return None
