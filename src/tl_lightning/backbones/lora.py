"""LoRA for backbones: low-rank adaptation of linear layers with ``peft``.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen (2022): LoRA: Low-Rank Adaptation of Large
Language Models. ICLR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_lightning.errors import ConfigError

__all__ = ["LoRA"]


class LoRA:
    """Replaces ``W x`` by ``W x + alpha / rank * B A x`` in selected linear layers.

    Only ``A`` and ``B`` are trained. ``B`` starts at 0, so outputs are initially unchanged.

    Args:
        rank: Rank of ``A`` ``(rank, in)`` and ``B`` ``(out, rank)``; 0 disables LoRA.
        alpha: Scale of the update.
        dropout: Dropout probability before ``A``.
        targets: Suffixes of the names of the layers to adapt.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(self, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
        params = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets}
        problems = self.check_config("backbone.lora", params)
        if problems:
            raise ConfigError(problems)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = list(targets)

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        problems = []
        if params["rank"] < 0:
            problems.append(f"{where}.rank={params['rank']} must be at least 0; set {where}.rank=0")
        if params["alpha"] <= 0:
            problems.append(
                f"{where}.alpha={params['alpha']} must be positive; set {where}.alpha=16"
            )
        if not 0 <= params["dropout"] < 1:
            problems.append(
                f"{where}.dropout={params['dropout']} must be in [0, 1); set {where}.dropout=0.1"
            )
        if not params["targets"]:
            problems.append(f"{where}.targets=[] must not be empty; set {where}.targets=[qkv,proj]")
        return problems

    def apply(self, backbone: nn.Module) -> None:
        """Add LoRA matrices to ``backbone`` in place and freeze all other parameters.

        Raises:
            ConfigError: If ``peft`` is missing, no layer matches or the network has batch norm.
        """
        if not self.rank:
            return
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError(
                f"backbone.lora.rank={self.rank} requires the package peft ({error}); run "
                "pip install 'tl_lightning[lora]', or set backbone.lora.rank=0"
            ) from error
        if any(isinstance(module, _BatchNorm) for module in backbone.modules()):
            raise ConfigError(
                f"backbone.lora.rank={self.rank} is not supported with batch norm, whose "
                "statistics would still change; use a transformer, such as backbone=timm "
                "backbone.name=vit_tiny_patch16_224, or set backbone.lora.rank=0"
            )
        linear = [name for name, m in backbone.named_modules() if isinstance(m, nn.Linear)]
        matched = [n for n in linear if any(f".{n}".endswith(f".{t}") for t in self.targets)]
        if not matched:
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(
                f"backbone.lora.targets={self.targets} does not match any linear layer of this "
                f"backbone ({', '.join(names) or 'it has none'}); set backbone.lora.targets=[...]"
            )
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=matched,
        )
        inject_adapter_in_model(settings, backbone)
