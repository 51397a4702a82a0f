"""Which part of a key that was typed is not there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.errors import nearest
from tl_lightning.places import CONF

__all__ = ["unknown_key"]


def unknown_key(override: str, node: Any, others: Iterable[str] = ()) -> str:
    """Return which part of an override's key is no setting, in a sentence; empty if all are.

    Args:
        override: As typed: ``data.batch_size=8``.
        node: The composed configuration.
        others: Further keys that the command takes.

    >>> unknown_key("optimizer.lrat=1", OmegaConf.create({"optimizer": {"lr": 0.1}}))
    "optimizer.lrat is no setting; did you mean 'lr'?"
    """
    key = override.split("=")[0].lstrip("~").split("@")[0].replace("/", ".")
    parts = key.split(".")
    # A group may bring settings to other places, as experiment= does.
    if key.startswith("+") or parts[0] == "hydra" or (len(parts) == 1 and (CONF / key).is_dir()):
        return ""
    done = ""
    for part in parts:
        if not OmegaConf.is_dict(node):
            return ""
        if part not in node:
            known = [*map(str, node), *([] if done else others)]
            return f"{done}{part} is no setting; {nearest(part, known)}"
        node, done = node[part], f"{done}{part}."
    return ""
