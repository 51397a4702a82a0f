"""Maps of what a prediction of a convolutional network depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["class_maps", "spatial_layer"]

#: Runs the network on a fixed batch; returns features ``(N, D)`` and logits ``(N, K)``.
Forward = Callable[[], tuple[Tensor, Tensor]]


def spatial_layer(network: nn.Module, forward: Forward) -> nn.Module | None:
    """Return the module with the last output that is a grid ``(N, C, H, W)`` with ``H = W > 1``.

    None if there is none, or if tokens ``(N, T, C)`` follow it: the grid of a transformer is that
    of its patches before any attention, which says nothing about the prediction.

    Args:
        network: The backbone.
        forward: Runs it on a small batch of square images.
    """
    last: list[nn.Module | None] = [None]

    def note(module: nn.Module, args: object, out: object) -> None:
        if not isinstance(out, Tensor):
            return
        if out.dim() == 4 and out.shape[-1] == out.shape[-2] > 1:
            last[0] = module
        elif out.dim() == 3:
            last[0] = None

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return last[0]


def class_maps(layer: nn.Module, forward: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, logits and Grad-CAM's map of the predicted class ``(N, H, W)`` in [0, 1].

    Selvaraju et al., "Grad-CAM", ICCV 2017: the layer's channels are added with the mean gradient
    of the class's logit as their weight, and negative sums count as 0. captum's ``LayerGradCam``
    computes the same, but cannot return the features of the same forward pass.

    Args:
        layer: Result of :func:`spatial_layer`.
        forward: Runs the network.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: object, out: Tensor) -> Tensor:
        # A frozen backbone runs without gradients; the layers after this one need them. The end of
        # that context restores the mode.
        torch.set_grad_enabled(True)
        kept.append(out.detach().requires_grad_())
        return kept[-1].clone()  # a following layer may work in place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            features, logits = forward()
            (gradient,) = torch.autograd.grad(logits.float().amax(dim=1).sum(), kept[-1])
    finally:
        handle.remove()
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept[-1].detach().float()).sum(dim=1).relu()
    top = maps.amax(dim=(1, 2), keepdim=True)
    return features.detach(), logits.detach(), maps / top.where(top > 0, torch.ones_like(top))
