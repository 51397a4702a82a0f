"""Whether a text's vectors can stand for it: tried out, for no configuration says it of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.backbones.layer_groups import as_it_was
from tl_lightning.errors import ConfigError

__all__ = ["check_pooling"]

#: Of a vector's largest value: more than rounding, less than padding that is seen.
LEAK = 1e-3
PADDED = 4


def check_pooling(net: Any, name: str, pooling: str) -> None:
    """Refuse a network that sees padding, or whose first vector is to stand for what it cannot see.

    Args:
        net: From token ids to ``last_hidden_state``; with its ``config``.
        name: Names it in the error.
        pooling: ``cls`` or ``mean``.

    Raises:
        ConfigError: If it is such a network.
    """
    # It leaves its sparse attention for good once a text is short.
    if getattr(net.config, "attention_type", "") == "block_sparse":
        return
    ids = net.config.vocab_size
    texts = torch.tensor([[0, ids - 1, ids - 2], [0, ids - 2, ids - 1]])
    with as_it_was(net), torch.no_grad():
        try:
            plain, padded = _vectors(net.eval(), texts, 0), _vectors(net, texts, PADDED)
        except Exception:  # networks refuse short texts in many ways, and no claim is made then
            return
    if pooling == "cls" and torch.equal(plain[0, 0], plain[1, 0]):
        raise ConfigError(
            f"backbone {name} gives the same first vector to all texts, as what reads from left to "
            "right does, and backbone.pooling=cls takes that one; type backbone.pooling=mean"
        )
    if (plain - padded[:, : plain.shape[1]]).abs().max() > LEAK * plain.abs().max():
        raise ConfigError(
            f"backbone {name} ({net.config.model_type}) does not leave out padding, so that what "
            "it says of a text depends on the other texts of its batch; type backbone=bert_base, "
            "backbone=minilm or another backbone.name"
        )


def _vectors(net: nn.Module, texts: Tensor, padding: int) -> Tensor:
    more = nn.functional.pad(texts, (0, padding))
    mask = nn.functional.pad(torch.ones_like(texts), (0, padding))
    found: Tensor = net(input_ids=more, attention_mask=mask).last_hidden_state
    return found
