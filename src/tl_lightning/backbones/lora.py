"""LoRA: a frozen backbone with small learning matrices beside its own, through ``peft``.

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
    """``W x + alpha / rank * B A x`` in the chosen linear layers; only ``A`` and ``B`` learn.

    ``B`` starts at 0, so the network starts as it was. Everything else of it is frozen.

    Args:
        rank: Of ``A`` ``(rank, in)`` and ``B`` ``(out, rank)``; 0 leaves the backbone as it is.
        alpha: Scale of the learned change.
        dropout: Before ``A``.
        targets: Ends of the names of the layers that get them.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    def __init__(self, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
        knobs = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets}
        faults = self.faults("backbone.lora", knobs)
        if faults:
            raise ConfigError(faults)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = list(targets)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        found = []
        if knobs["rank"] < 0:
            found.append(f"{where}.rank={knobs['rank']} is below 0; type {where}.rank=0 for none")
        if knobs["alpha"] <= 0:
            found.append(f"{where}.alpha={knobs['alpha']} is not above 0; type {where}.alpha=16")
        if not 0 <= knobs["dropout"] < 1:
            found.append(
                f"{where}.dropout={knobs['dropout']} is not in [0, 1); type {where}.dropout=0.1"
            )
        if not knobs["targets"]:
            found.append(f"{where}.targets=[] names no layer; type {where}.targets=[qkv,proj]")
        return found

    def apply(self, backbone: nn.Module) -> None:
        """Put the matrices into ``backbone`` in place and freeze the rest of it.

        Raises:
            ConfigError: If ``peft`` is missing, no layer matches or the network has batch norm.
        """
        if not self.rank:
            return
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError(
                f"backbone.lora.rank={self.rank} needs the package peft ({error}); type "
                "pip install 'tl_lightning[lora]', or backbone.lora.rank=0"
            ) from error
        if any(isinstance(module, _BatchNorm) for module in backbone.modules()):
            raise ConfigError(
                f"backbone.lora.rank={self.rank} freezes the network, but its batch norm would "
                "move on; LoRA is for transformers: type backbone=timm "
                "backbone.name=vit_tiny_patch16_224, or backbone.lora.rank=0"
            )
        linear = [name for name, m in backbone.named_modules() if isinstance(m, nn.Linear)]
        matched = [n for n in linear if any(f".{n}".endswith(f".{t}") for t in self.targets)]
        if not matched:
            last = sorted({name.rpartition(".")[2] for name in linear})
            raise ConfigError(
                f"backbone.lora.targets={self.targets} are no linear layers of this backbone, "
                f"which has {', '.join(last) or 'none'}; type backbone.lora.targets=[<names>]"
            )
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=matched,
        )
        inject_adapter_in_model(settings, backbone)
