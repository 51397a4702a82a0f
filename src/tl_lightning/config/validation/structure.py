"""Whether the configuration has its form: the known settings, and numbers that can be meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_lightning.config.schema import PLAIN_NODES, known_keys
from tl_lightning.errors import nearest

__all__ = ["number_faults", "shape_faults"]

#: Nodes that may be null: there is then nothing of the kind.
_MAY_BE_NULL = {"adapter", "regularizer", "tasks", "callbacks", "logger", "phases", "scheduler"}
#: What studies keep for themselves.
_STUDY = {"study"}

#: The least value of a number: below it torch or Lightning stops later, or nothing is learned.
_LEAST = {
    "data.batch_size": 1, "data.eval_batch_size": 1, "data.steps_per_epoch": 1,
    "data.num_workers": 0, "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1, "trainer.log_every_n_steps": 0,
    "trainer.gradient_clip_val": 0, "optimizer.lr": 0, "optimizer.weight_decay": 0,
    "optimizer.momentum": 0,
}  # fmt: skip


def shape_faults(config: Mapping[str, Any]) -> list[str]:
    """Return which settings no part of the program reads, and which nodes are single values.

    Hydra adds whatever is typed with ``+``, and lets a value take a whole node's place. Names that
    begin with _ are the user's own, for interpolation in an experiment's file.

    Args:
        config: The resolved configuration as plain containers.
    """
    known, faults = known_keys(), []
    for name, value in config.items():
        if name not in known:
            if name not in _STUDY and not str(name).startswith("_"):
                faults.append(
                    f"{name} is no setting; {nearest(name, known)} (a value of your own for "
                    f"interpolation: _{name})"
                )
        elif not isinstance(known[name], dict) or (value is None and name in _MAY_BE_NULL):
            continue
        elif not isinstance(value, Mapping):
            faults.append(f"{name}={value} is one value for several settings; {_way(name, known)}")
        elif name in PLAIN_NODES:
            alien = [key for key in value if key not in known[name]]
            faults += [f"{name}.{key} is no setting; {nearest(key, known[name])}" for key in alien]
    return faults


def _way(name: str, known: Mapping[str, Any]) -> str:
    if name == "checkpoint":
        return "type resume=<run folder or .ckpt>, or checkpoint.<key>=<value>"
    if known[name]:
        return f"type {', '.join(f'{name}.{key}=<value>' for key in known[name])}"
    return f"type {name}=<name>, one of conf/{name}/, or {name}.<key>=<value>"


def number_faults(config: Mapping[str, Any]) -> list[str]:
    """Return the numbers that are too small for any run."""
    faults = []
    for path, least in _LEAST.items():
        node, _, key = path.partition(".")
        value: Any = (config.get(node) or {}).get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not value >= least:
            faults.append(f"{path}={value} is less than {least}; type {path}=<value>")
    epochs = config["trainer"].get("max_epochs")
    if isinstance(epochs, int) and epochs < 1 and epochs != -1:
        faults.append(f"trainer.max_epochs={epochs} trains nothing; type trainer.max_epochs=10")
    return faults
