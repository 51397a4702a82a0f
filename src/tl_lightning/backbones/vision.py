"""Pretrained image backbones from torchvision and timm, using their loaders and caches."""

from __future__ import annotations

import contextlib
import urllib.error
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tl_lightning.backbones.hub import hub_access
from tl_lightning.backbones.weights import load_weights
from tl_lightning.backbones.wrapper import FreezeBN, Network
from tl_lightning.errors import CheckpointError, ConfigError, nearest
from tl_lightning.types import InputSpec

__all__ = ["TimmBackbone", "TorchvisionBackbone", "pretrained_state"]


class TorchvisionBackbone(Network):
    """Any torchvision classification network without its last linear layer.

    Args:
        name: Name in torchvision, such as ``resnet18``.
        pretrained: Whether to load pretrained weights.
        tag: Name of torchvision's weights, such as ``IMAGENET1K_V1`` or ``DEFAULT``.
        weights: File with weights to use instead, or None.
        size: Height and width of the images in pixels, or None for the size that the weights were
            trained with.
        grad_checkpointing: Whether to use activation checkpointing.
        lr_factor: Learning-rate factor relative to new layers.
        freeze_bn: As in :meth:`.Network.take`.

    Raises:
        ConfigError: If torchvision has no such network or weights, or the size is not supported.
        CheckpointError: If the weights can be neither found nor downloaded, or do not fit.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: bool,
        tag: str,
        weights: str | None,
        size: int | None,
        grad_checkpointing: bool,
        lr_factor: float,
        freeze_bn: FreezeBN,
    ) -> None:
        super().__init__()
        from torchvision import models

        names = list(models.list_models(module=models))
        if name not in names:
            raise ConfigError(
                f"backbone.name={name} not found in torchvision; {nearest(name, names)}"
            )
        entries = models.get_model_weights(name)
        if tag not in [*entries.__members__, "DEFAULT"]:
            raise ConfigError(
                f"backbone.tag={tag} not found for {name}; {nearest(tag, entries.__members__)}"
            )
        entry = entries[tag] if tag in entries.__members__ else entries.DEFAULT
        self.lr_factor = lr_factor
        self.input_spec = _torchvision_spec(entry)
        if size not in (None, self.input_spec.size):
            if name.startswith(("vit_", "maxvit")):
                raise ConfigError(
                    f"backbone.size={size} is not supported with {name} of torchvision, which "
                    f"requires {self.input_spec.size} pixels; set backbone.size=null, or "
                    "backbone=timm backbone.name=<a vit of timm>"
                )
            self.input_spec = replace(self.input_spec, size=size)
        # The weights of Inception include the auxiliary classifier, which is removed below.
        extra = {"aux_logits": True, "init_weights": True} if name == "inception_v3" else {}
        net = models.get_model(name, weights=None, **extra)
        if pretrained and weights is None:
            net.load_state_dict(pretrained_state(entry, name))
        if name in ("inception_v3", "googlenet"):
            net.aux_logits = False
            net.transform_input = False
            for auxiliary in ("AuxLogits", "aux1", "aux2"):
                if hasattr(net, auxiliary):
                    setattr(net, auxiliary, None)
        classifier, self.out_features = _drop_classifier(net)
        if weights is not None:
            load_weights(net, weights, classifier)
        self.take(net, name, size, grad_checkpointing, freeze_bn)


def pretrained_state(entry: Any, name: str) -> Mapping[str, Any]:
    """Return the weights of torchvision, downloaded or from its cache.

    Args:
        entry: Entry of an enumeration of weights.
        name: Name of the network, for the error message.

    Raises:
        CheckpointError: If they can be neither found nor downloaded.
    """
    try:
        state: Mapping[str, Any] = entry.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise CheckpointError(
            f"pretrained weights of backbone {name} not found: the download failed ({error}); "
            f"download {entry.url} elsewhere and put it at {path}, or set backbone.weights=<file>, "
            "or backbone.pretrained=false to start from random weights"
        ) from error
    return state


def _torchvision_spec(entry: Any) -> InputSpec:
    preset = entry.transforms()
    size, shorter = preset.crop_size[0], preset.resize_size[0]
    return InputSpec(
        size=size,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop_pct=size / shorter,
    )


def _drop_classifier(net: nn.Module) -> tuple[str, int]:
    """Replace the last linear layer with an identity; return its name and input width."""
    last = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1:]
    if not last:
        raise ConfigError(
            f"{type(net).__name__} has no linear layer at the end; set another backbone.name"
        )
    path, layer = last[0]
    parent = net.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], nn.Identity())
    return path, layer.in_features


class TimmBackbone(Network):
    """Any timm network with pooling and without its classifier.

    Args:
        name: Name in timm, such as ``tf_efficientnet_lite0`` or ``vit_small_patch16_224``.
        pretrained: Whether to load pretrained weights.
        weights: File with weights to use instead, or None.
        size: Height and width of the images in pixels, or None for the size that the weights were
            trained with; position embeddings are interpolated.
        grad_checkpointing: Whether to use activation checkpointing.
        lr_factor: Learning-rate factor relative to new layers.
        freeze_bn: As in :meth:`.Network.take`.

    Raises:
        ConfigError: If timm has no such network.
        CheckpointError: If the weights can be neither found nor downloaded, or do not fit.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: bool,
        weights: str | None,
        size: int | None,
        grad_checkpointing: bool,
        lr_factor: float,
        freeze_bn: FreezeBN,
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name.split(".")[0]):
            raise ConfigError(
                f"backbone.name={name} not found in timm; {nearest_timm(name, timm.list_models())}"
            )
        self.lr_factor = lr_factor
        download = pretrained and weights is None
        try:
            with hub_access() if download else contextlib.nullcontext():
                net = timm.create_model(
                    name, pretrained=download, num_classes=0, **_timm_size(name, size)
                )
        except Exception as error:  # the hub client raises various exceptions
            raise CheckpointError(
                f"pretrained weights of backbone {name} not found: {type(error).__name__}: "
                f"{str(error).splitlines()[0]}; download them elsewhere and set "
                "backbone.weights=<file>, or backbone.pretrained=false to start from random weights"
            ) from error
        if weights is not None:
            load_weights(net, weights, net.default_cfg.get("classifier", "classifier"))
        expected = timm.data.resolve_model_data_config(net)
        self.input_spec = InputSpec(
            size=size or int(expected["input_size"][-1]),
            mean=tuple(expected["mean"]),
            std=tuple(expected["std"]),
            interpolation=str(expected["interpolation"]),
            crop_pct=float(expected["crop_pct"]),
        )
        self.out_features = int(getattr(net, "head_hidden_size", None) or net.num_features)
        self.take(net, name, size, grad_checkpointing, freeze_bn)


def _timm_size(name: str, size: int | None) -> dict[str, int]:
    """Return the size argument of networks with position embeddings."""
    import timm

    config = timm.models.get_pretrained_cfg(name)
    return {"img_size": size} if size and config and config.fixed_input_size else {}


def nearest_timm(name: str, names: list[str]) -> str:
    """Return a hint for a misspelt timm name, without listing all models."""
    hint = nearest(name, names)
    return hint if hint.startswith("did") else "see timm.list_models() for all names"
