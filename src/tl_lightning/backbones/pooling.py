"""Which of a text's vectors can stand for all of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tl_lightning.backbones.groups import as_it_was
from tl_lightning.errors import ConfigError

__all__ = ["refuse_blind"]


def refuse_blind(net: nn.Module, name: str, ids: int) -> None:
    """Refuse a network whose first vector knows no other token: all texts would look alike.

    Tried out on two texts of three tokens, for no configuration says it of every network.

    Args:
        net: From token ids to ``last_hidden_state``.
        name: Names it in the error.
        ids: Number of ids that it knows.

    Raises:
        ConfigError: If it reads from left to right only.
    """
    texts = torch.tensor([[0, ids - 1, ids - 2], [0, ids - 2, ids - 1]])
    with as_it_was(net), torch.no_grad():
        try:
            found: Tensor = net.eval()(
                input_ids=texts, attention_mask=torch.ones_like(texts)
            ).last_hidden_state
        except Exception:  # networks refuse short texts in many ways, and no claim is made then
            return
    if torch.equal(found[0, 0], found[1, 0]):
        raise ConfigError(
            f"backbone {name} reads from left to right, so that a text's first vector is the same "
            "for all texts, and backbone.pooling=cls takes that one; type backbone.pooling=mean"
        )
