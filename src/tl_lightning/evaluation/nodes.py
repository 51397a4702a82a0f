"""Nodes of the configuration in a checkpoint, with overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tl_lightning.checkpoints.io import StoredModel, read_model
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.compose import compose
from tl_lightning.config.elsewhere import hint
from tl_lightning.config.overrides import override_problems, override_values, readable
from tl_lightning.errors import ConfigError

__all__ = ["allowed_classes", "metric_nodes", "stored_node", "stored_nodes", "stored_section"]

#: Values of settings of ``data`` that would write files.
_HARMLESS: dict[str, Any] = {"download": False}


def allowed_classes(overrides: Iterable[str]) -> list[str]:
    """Return the names in ``allow=[...]`` among the overrides."""
    own = [override for override in overrides if override.startswith("allow=")]
    names: Any = OmegaConf.from_dotlist(own).get("allow") or []
    return [names] if isinstance(names, str) else [str(name) for name in names]


def metric_nodes(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the nodes of ``+metrics.<name>._target_=...`` and their keys, by name.

    Raises:
        ConfigError: If an override cannot be read.

    >>> metric_nodes(["+metrics.f2._target_=my.FBeta", "metrics.f2.beta=2"])
    {'f2': {'_target_': 'my.FBeta', 'beta': 2}}
    """
    own = readable([one.lstrip("+") for one in overrides if one.lstrip("+").startswith("metrics")])
    if problems := override_problems(own):
        raise ConfigError(problems)
    nodes: Any = OmegaConf.create()
    for key, value in override_values(own).items():
        if key.count(".") < 2:
            raise ConfigError(
                f"{key} is not a setting; set +metrics.<name>._target_=<import path of a "
                "torchmetrics.Metric or a function>"
            )
        OmegaConf.update(nodes, key.partition(".")[2], value)
    found: Any = OmegaConf.to_container(nodes)
    return dict(found)


#: Settings of data that earlier versions did not have, and what they did.
_ADDED = {"test_split": "hold_out"}


def stored_section(model: StoredModel, name: str) -> dict[str, Any]:
    """Return a node of a stored configuration, without what may write or remove files.

    The checkpoint may come from somebody else. Where files are written, and whether data are
    downloaded, is therefore set on the command line.

    Raises:
        ConfigError: If it is that of the data, and the model was published without.
    """
    if name == "data" and "_target_" not in model.section(name):
        raise ConfigError(
            "the model was published without the settings of its data; set data=<name> and "
            "data.root=<folder>"
        )
    kept = {key: value for key, value in model.section(name).items() if key != "profiler"}
    kept = {key: _HARMLESS.get(key, value) for key, value in kept.items()}
    return _ADDED | kept if name == "data" and "transductive" in kept else kept


def stored_node(
    name: str, checkpoint: str, overrides: Sequence[str], whole: bool = False
) -> dict[str, Any] | None:
    """Return a config node of the checkpoint with overrides applied.

    Args:
        name: Name of the node.
        checkpoint: Path of the checkpoint.
        overrides: Command-line overrides; ``name=<choice>`` replaces the node of the checkpoint.
        whole: Without overrides for it, return the checkpoint's node instead of None.
    """
    if not whole and not _overrides_of(name, overrides):
        return None
    return stored_nodes([name], checkpoint, overrides)[name]


def stored_nodes(
    names: Iterable[str], checkpoint: str, overrides: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return several nodes of the checkpoint, with the overrides applied; it is read once."""
    model = cache(lambda: read_model(Path(checkpoint)))  # not at all if every node is replaced
    return {name: _node(name, checkpoint, overrides, model) for name in names}


def _overrides_of(name: str, overrides: Sequence[str]) -> list[str]:
    return [o for o in overrides if o.split("=")[0].split(".")[0] == name]


def _node(
    name: str, checkpoint: str, overrides: Sequence[str], model: Callable[[], StoredModel]
) -> dict[str, Any]:
    own = _overrides_of(name, overrides)
    node: Any
    if any(o.startswith(f"{name}=") for o in own):
        node = OmegaConf.to_container(compose(own)[name], resolve=True)
    else:
        stored = stored_section(model(), name)
        if problems := stored_problems({name: stored}, allowed_classes(overrides)):
            raise ConfigError([f"checkpoint {checkpoint}: {problem}" for problem in problems])
        base: Any = OmegaConf.create(dict(stored))
        own = readable(own)
        if problems := override_problems(own):
            raise ConfigError(problems)
        for key, value in override_values(own).items():
            part = key.split(".")[1]
            if part not in base:
                raise ConfigError(f"{name}.{part} is not a setting; {hint(part, base, f'{name}.')}")
            OmegaConf.update(base, key.partition(".")[2], value)
        node = OmegaConf.to_container(base)
    return dict(node)
