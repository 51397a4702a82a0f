"""Check of the nodes of a configuration against the signatures of their classes."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tl_lightning.config.hints import describe, fits
from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.errors import nearest

__all__ = ["GIVEN", "TAKEN", "check_nodes"]

_PRIVATE = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check_nodes(
    config: Mapping[str, Any],
    given: Mapping[str, set[str]],
    allowed: Sequence[str] = ALLOWED,
    taken: Mapping[str, set[str]] | None = None,
) -> list[str]:
    """Bind every node that has a ``_target_`` to its class's signature; return all problems.

    Args:
        config: The resolved configuration as plain containers.
        given: Arguments that code passes by itself, by the node's path (``method.*`` matches
            every node directly below ``method``).
        allowed: Packages whose classes may be built.
        taken: Keys that code takes away before it builds the class, by the node's path.
    """
    problems: list[str] = []
    for path, node in _nodes(config, ""):
        cls, problem = find_class(str(node["_target_"]), path, allowed)
        if problem:
            problems.append(problem)
            continue
        parent = path.rpartition(".")[0]
        passed = given.get(path, given.get(f"{parent}.*", set()))
        kept = {key: v for key, v in node.items() if key not in (taken or {}).get(path, ())}
        problems += _check_node(path, kept, cls, passed)
    return problems


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _nodes(value, f"{path}.{key}" if path else str(key))


def _check_node(path: str, node: Mapping[str, Any], cls: Any, passed: set[str]) -> list[str]:
    parameters, open_ended = _parameters(cls)
    direct = inspect.signature(cls.__init__).parameters
    keys = {key for key in node if key not in _PRIVATE}
    problems = []
    if not open_ended:
        settable = set(parameters) - passed
        problems += [
            f"{path}.{key} is not a setting of {cls.__name__}; {nearest(key, settable)}"
            for key in sorted(keys - set(parameters))
        ]
    for name, (parameter, hint) in parameters.items():
        # A foreign class may fill in what its base requires; ours pass it on.
        own = cls.__module__.startswith("tl_lightning.") or name in direct
        required = own and parameter.default is inspect.Parameter.empty
        if name in node:
            if not fits(node[name], hint):
                problems.append(
                    f"{path}.{name}={node[name]} is not {describe(hint)}; set {path}.{name}=<value>"
                )
        elif required and name not in passed and not node.get("_partial_"):
            where = f"{path}.{name}"
            problems.append(
                f"{where} is missing, but {cls.__name__} requires it; set {where}=<value>"
            )
    return problems


def _parameters(cls: Any) -> tuple[dict[str, tuple[inspect.Parameter, Any]], bool]:
    """Return the constructor's parameters with their type hints, through ``**kwargs`` to bases."""
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        try:
            hints = typing.get_type_hints(init)
        except Exception:  # a foreign class may name types that exist for its type checker only
            hints = {}
        variadic = False
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                variadic = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, (parameter, hints.get(parameter.name, Any)))
        if not variadic:
            return found, False
    return found, True


#: What the code passes to a node besides its own keys.
GIVEN = {
    "model": {"backbone", "task", "optimizer", "lr", "schedule", "phases", "layer_decay", "seed",
              "channels_last", "saved", "methods", "regularizers", "aux_tasks", "task_weighting"},
    "head": {"in_features", "num_classes"},
    "loss": {"num_classes", "class_counts"},
    "method.*": {"in_features", "num_classes", "inputs"},
    "regularizer.*": {"backbone", "task"},
    "aux_tasks.*": {"in_features", "label_info"},
    "optimizer": {"params"},
    "logger.*": {"save_dir"},
}  # fmt: skip

#: What the code takes from a node before it builds the class.
TAKEN = {"backbone": {"checkpoint", "lora"}, "trainer": {"timeout_s"}}
