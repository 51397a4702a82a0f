"""Checks of the structure of the configuration and of numeric ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.schema import PLAIN_NODES, known_keys
from tl_lightning.errors import nearest

__all__ = ["number_problems", "structure_problems"]

#: Nodes that may be null.
_MAY_BE_NULL = {"method", "regularizer", "aux_tasks", "callbacks", "logger", "phases", "scheduler"}
#: Keys reserved for studies.
_STUDY = {"study"}

#: Minimum values: anything less fails later in torch or Lightning, or trains nothing.
_MINIMUM = {
    "data.batch_size": 1, "data.eval_batch_size": 1, "data.steps_per_epoch": 1,
    "data.num_workers": 0, "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1, "trainer.log_every_n_steps": 0,
    "trainer.gradient_clip_val": 0, "optimizer.lr": 0, "optimizer.weight_decay": 0,
    "optimizer.momentum": 0,
}  # fmt: skip


def structure_problems(config: Mapping[str, Any]) -> list[str]:
    """Return unknown settings, and nodes that were replaced by a single value.

    Hydra accepts any key added with ``+``, and lets a single value replace a whole node. Names that
    start with _ are reserved for custom values, used for interpolation in experiment files.

    Args:
        config: The resolved configuration as plain containers.
    """
    known, problems = known_keys(), []
    for name, value in config.items():
        if name not in known:
            if name not in _STUDY and not str(name).startswith("_"):
                problems.append(
                    f"{name} is not a setting; {nearest(name, known)} (a custom value for "
                    f"interpolation must start with an underscore: _{name})"
                )
        elif not isinstance(known[name], dict) or (value is None and name in _MAY_BE_NULL):
            continue
        elif not isinstance(value, Mapping):
            problems.append(
                f"{name}={value} is a single value for a group of settings; {_hint(name, known)}"
            )
        elif name in PLAIN_NODES:
            unknown = [key for key in value if key not in known[name]]
            problems += [
                f"{name}.{key} is not a setting; {nearest(key, known[name])}" for key in unknown
            ]
    return problems


def _hint(name: str, known: Mapping[str, Any]) -> str:
    if name == "checkpointing":
        return "set resume=<run folder or .ckpt>, or checkpointing.<key>=<value>"
    if known[name]:
        return f"set {', '.join(f'{name}.{key}=<value>' for key in known[name])}"
    return f"set {name}=<name>, one of conf/{name}/, or {name}.<key>=<value>"


def number_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the numbers that are below their minimum."""
    problems = []
    for path, least in _MINIMUM.items():
        node, _, key = path.partition(".")
        value: Any = (config.get(node) or {}).get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not value >= least:
            problems.append(f"{path}={value} must be at least {least}; set {path}=<number>")
    epochs = config["trainer"].get("max_epochs")
    if isinstance(epochs, int) and epochs < 1 and epochs != -1:
        where = "trainer.max_epochs"
        problems.append(f"{where}={epochs} must be at least 1, or -1 for no limit; set {where}=10")
    return problems
