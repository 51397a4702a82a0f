"""Checks that need no class of the configuration: known keys, plain types, numeric ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Annotated, Any, get_args

from tl_lightning.config.elsewhere import hint
from tl_lightning.config.hints import at_least, describe, fits
from tl_lightning.config.instantiate import find_nodes
from tl_lightning.config.paths import CONF, REQUIRED
from tl_lightning.config.schema import (
    CacheConfig,
    CheckpointConfig,
    ReportConfig,
    TaskConfig,
    TaskWeighting,
    known_keys,
)
from tl_lightning.config.signatures import for_path, node_problems
from tl_lightning.config.static import static_bases, static_signature
from tl_lightning.errors import nearest
from tl_lightning.selection.rules import SELECTIONS, rules_of
from tl_lightning.utils.text import printable

__all__ = ["of_another_kind", "signature_problems", "structure_problems"]

#: Sections without a class to build, whose keys must be known.
_SECTIONS = {
    "cache": CacheConfig, "checkpointing": CheckpointConfig, "report": ReportConfig,
    "task": TaskConfig,
}  # fmt: skip
#: Selection rules of all kinds of tasks.
_RULES = (*dict.fromkeys((*SELECTIONS, *rules_of("regression"))), "auto")
#: Nodes that may be null.
_MAY_BE_NULL = {
    "method", "regularizer", "aux_tasks", "metrics", "callbacks", "logger", "phases", "scheduler",
}  # fmt: skip
#: What the classes of the package must be derived from.
_KINDS = {
    "model": "TransferModule", "data": "TransferDataModule", "scheduler": "Schedule",
    "method.*": "Method", "regularizer.*": "Regularizer", "aux_tasks.*": "AuxiliaryTask",
}  # fmt: skip
#: Settings of any optimizer, whose classes are not of this package.
_RATES, _RATE = ("lr", "weight_decay", "momentum"), Annotated[float, at_least(0)]
#: Sections with one part per entry.
_ENTRIES = ("method", "regularizer", "metrics", "callbacks", "logger")
#: Loggers of Lightning that need an optional package: the module to import, and our extra.
_LOGGER_PACKAGES = {
    "WandbLogger": ("wandb", "wandb"), "TensorBoardLogger": ("tensorboard", "tensorboard"),
    "MLFlowLogger": ("mlflow", "mlflow"),
}  # fmt: skip
#: Keys reserved for studies.
_STUDY = {"study"}


def structure_problems(config: Mapping[str, Any]) -> list[str]:
    """Return unknown settings, and groups of settings that were replaced by a single value.

    Hydra accepts any key added with ``+``, and lets a single value replace a whole group. Names
    that start with _ are reserved for custom values, used for interpolation in experiment files.

    Args:
        config: The resolved configuration as plain containers.
    """
    known, problems = known_keys(), []
    for name, value in config.items():
        if name not in known:
            if name not in _STUDY and not str(name).startswith("_"):
                problems.append(
                    f"{name} is not a setting; {hint(name, known)} (a custom value for "
                    f"interpolation must start with an underscore: _{name})"
                )
        elif not isinstance(known[name], dict) or (value is None and name in _MAY_BE_NULL):
            continue
        elif not isinstance(value, Mapping):
            problems.append(
                f"{name}={value} is a single value for a group of settings; {_hint(name, known)}"
            )
        elif name in REQUIRED and "_target_" not in value:
            problems.append(
                f"{name}={dict(value)} has no _target_; set {name}=<name>, one of conf/{name}/"
            )
        elif name in _SECTIONS:
            keys = [one.name for one in fields(_SECTIONS[name])]
            unknown = [key for key in value if key not in keys]
            problems += [f"{name}.{key} is not a setting; {nearest(key, keys)}" for key in unknown]
    problems += _name_problems(config)
    missing = [name for name in known if name not in config]
    problems += [f"{name} is missing; set it as in conf/train.yaml" for name in missing]
    return problems


def _name_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the names of model and data that cannot be part of a folder's name."""
    names = {key: config[key].get("name") for key in ("data", "model")
             if isinstance(config.get(key), Mapping)}  # fmt: skip
    return [
        f"{key}.name={name} is not a valid name, as folders are named after it: it must not be "
        f"empty or contain / or \\ or control characters; set {key}.name=<name>"
        for key, name in names.items()
        if isinstance(name, str)
        and (
            not name.strip()
            or re.search(r"[/\\]|^\.+$", name)
            or printable(name) != name
            or "\n" in name
            or "\t" in name
        )
    ]


def _hint(name: str, known: Mapping[str, Any]) -> str:
    if name == "checkpointing":
        return "set resume=<run folder or .ckpt>, or checkpointing.<key>=<value>"
    if known[name]:
        return f"set {', '.join(f'{name}.{key}=<value>' for key in known[name])}"
    return f"set {name}=<name>, one of conf/{name}/, or {name}.<key>=<value>"


def signature_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the settings that the package's own classes do not take, without importing them."""
    problems = []
    for path, node in find_nodes(config):
        signature = static_signature(str(node["_target_"]))
        # A class of another kind is reported as such once it is imported, not by its keys.
        if signature is not None and not of_another_kind(path, node):
            problems += node_problems(path, node, signature)
    for name, kind, valid in (
        (
            "selection",
            "selection rule",
            (*dict.fromkeys((*SELECTIONS, *rules_of("regression"))), "auto"),
        ),
        ("task_weighting", "task weighting", get_args(TaskWeighting)),
    ):
        if config[name] not in valid:
            hint = nearest(str(config[name]), valid)
            problems.append(f"{name}={config[name]} is not a {kind}; {hint}")
    problems += _aux_task_problems(config["aux_tasks"] or {})
    problems += _entry_problems(config)
    problems += _package_problems(config)
    if config["trainer"].get("max_epochs") == 0:
        problems.append(
            "trainer.max_epochs=0 must be at least 1, or -1 for no limit; set trainer.max_epochs=10"
        )
    optimizer = {"lr": None, **config["optimizer"]}
    problems += [
        f"optimizer.{key}={optimizer[key]} is not {describe(_RATE)}; set optimizer.{key}=<value>"
        for key in _RATES
        if key in optimizer and not fits(optimizer[key], _RATE)
    ]
    return problems


def of_another_kind(path: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node names a class of this package that does not belong in its place."""
    kind, bases = for_path(_KINDS, path), static_bases(str(node["_target_"]))
    return kind is not None and bool(bases) and kind not in bases


def _entry_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the entries of named parts that are neither a part nor null."""
    return [
        f"{section}.{name}={value} does not define a part; set +{section}.{name}._target_=<class>"
        + (f", or {section}={name}" if (CONF / section / f"{name}.yaml").is_file() else "")
        for section in _ENTRIES
        for name, value in (config[section] or {}).items()
        if value is not None and not (isinstance(value, Mapping) and "_target_" in value)
    ]


def _package_problems(config: Mapping[str, Any]) -> list[str]:
    """Return the optional packages that are set but not installed."""
    problems = []
    for name, node in (config["logger"] or {}).items():
        target = str(node.get("_target_", "")) if isinstance(node, Mapping) else ""
        package, extra = _LOGGER_PACKAGES.get(target.rpartition(".")[2], ("", ""))
        if package and find_spec(package) is None:
            problems.append(
                f"logger.{name} needs the package {package}; run pip install "
                f"'tl_lightning[{extra}]', or set logger=csv"
            )
    if config["report"].get("projection") == "umap" and find_spec("umap") is None:
        problems.append(
            "report.projection=umap needs the package umap-learn; run pip install "
            "'tl_lightning[umap]', or set report.projection=tsne"
        )
    return problems


def _aux_task_problems(tasks: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, node in tasks.items():
        where = f"aux_tasks.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            plain = re.sub(r"[^A-Za-z0-9]", "", str(name))
            problems.append(
                f"{where} is not a valid task name (letters, digits and _); rename it, e.g. "
                f"aux_tasks.{plain}_1"
            )
        if not isinstance(node, Mapping) or "_target_" not in node:
            problems.append(
                f"{where} does not define a task; set aux_task=[{name}] if conf/aux_task/ has it, "
                f"or +aux_task@{where}=classification (regression, multi_label, ordinal)"
            )
    return problems
