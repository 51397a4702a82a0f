"""Checks of text encoders by trial: whether padding is ignored and the pooling is suitable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tl_lightning.backbones.layer_groups import as_it_was
from tl_lightning.errors import ConfigError

__all__ = ["check_pooling"]

#: Relative difference that is larger than rounding errors and smaller than the effect of padding.
TOLERANCE = 1e-3
PADDING = 4


def check_pooling(net: Any, name: str, pooling: str) -> None:
    """Check that a text encoder ignores padding and that its pooling makes sense.

    Args:
        net: Network from token ids to ``last_hidden_state``, with a ``config``.
        name: Name of the network for error messages.
        pooling: ``cls`` or ``mean``.

    Raises:
        ConfigError: If padding changes the vectors, or ``cls`` gives the same vector for all texts.
    """
    # Sparse attention cannot be tried: a short text switches it off permanently.
    if getattr(net.config, "attention_type", "") == "block_sparse":
        return
    ids = net.config.vocab_size
    texts = torch.tensor([[0, ids - 1, ids - 2], [0, ids - 2, ids - 1]])
    with as_it_was(net), torch.no_grad():
        try:
            plain, padded = _vectors(net.eval(), texts, 0), _vectors(net, texts, PADDING)
        except Exception:  # some networks do not support short texts; they are not checked
            return
    if pooling == "cls" and torch.equal(plain[0, 0], plain[1, 0]):
        raise ConfigError(
            f"backbone.pooling=cls is not supported with backbone {name}, whose first vector is "
            "the same for all texts, as in causal language models; set backbone.pooling=mean"
        )
    if (plain - padded[:, : plain.shape[1]]).abs().max() > TOLERANCE * plain.abs().max():
        raise ConfigError(
            f"backbone {name} ({net.config.model_type}) does not ignore padding, so the features "
            "of a text would depend on the other texts of its batch; set backbone=bert_base, "
            "backbone=minilm or another backbone.name"
        )


def _vectors(net: nn.Module, texts: Tensor, padding: int) -> Tensor:
    ids = nn.functional.pad(texts, (0, padding))
    mask = nn.functional.pad(torch.ones_like(texts), (0, padding))
    vectors: Tensor = net(input_ids=ids, attention_mask=mask).last_hidden_state
    return vectors
