"""Configuration nodes with their classes, and how they are built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from tl_lightning.config.signatures import (
    CONSUMED,
    PROVIDED,
    SPECIAL,
    for_path,
    node_problems,
    signature_of,
)
from tl_lightning.errors import nearest

__all__ = ["ALLOWED", "Node", "find_class", "find_nodes", "node_of", "nodes_of"]

#: Packages whose classes a configuration from the command line may build. One read from a
#: checkpoint is restricted further, see ``config/allowlist.py``.
ALLOWED = ("tl_lightning", "torch", "torchvision", "lightning", "timm", "torchmetrics")


@dataclass(frozen=True)
class Node:
    """A class named by a configuration, with its settings.

    Hydra's ``instantiate`` is not used: it would wrap our exceptions in its own, also build the
    nodes that a checkpoint stores as plain values, and also call functions.

    Attributes:
        path: Where it is set, such as ``method.dann``.
        cls: The class.
        params: Its keyword arguments; nested nodes, also in lists and mappings, are nodes.
        args: Its positional arguments (``_args_``).
        partial: Whether a factory is built in place of an instance (``_partial_``).
        consumed: Keys that are read by the code and not passed to the class.
    """

    path: str
    cls: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    partial: bool = False
    consumed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The full name of the class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    def build(self, **provided: Any) -> Any:
        """Build the class from its settings and what the code provides.

        A class of another package gets only those of the provided arguments that it accepts: a
        ``torch.nn.CrossEntropyLoss`` asks for no number of classes.
        """
        own = self.cls.__module__.startswith("tl_lightning.")
        if not own:
            signature = signature_of(self.cls)
            optional = for_path(PROVIDED, self.path) or set()
            provided = {
                key: value
                for key, value in provided.items()
                if key not in optional or signature.accepts(key)
            }
        positional = [_built(one) for one in self.args]
        keywords = {key: _built(one) for key, one in self.params.items()}
        if self.partial:
            return functools.partial(self.cls, *positional, **keywords, **provided)
        return self.cls(*positional, **keywords, **provided)


def _built(value: Any) -> Any:
    if isinstance(value, Node):
        return value.build()
    if isinstance(value, Mapping):
        return {key: _built(one) for key, one in value.items()}
    return [_built(one) for one in value] if isinstance(value, list | tuple) else value


def find_class(target: str, where: str, allowed: Sequence[str] = ALLOWED) -> tuple[Any, str]:
    """Return the class named ``target`` and an empty string, or None and an error message."""
    package = target.split(".")[0]
    if package not in allowed and target not in allowed:
        return None, (
            f"{where}._target_={target} is outside the allowed packages "
            f"({', '.join(allowed)}); set allow=[{target}] if you trust it"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        return None, f"{where}._target_={target} cannot be imported: {error}"
    if inspect.isroutine(found):
        return None, (
            f"{where}._target_={target} is not a class but a function; write a class that calls "
            "it, see docs/bring_your_own.md"
        )
    if not inspect.isclass(found):
        names = [n for n, m in vars(import_module(module)).items() if inspect.isclass(m)]
        return None, f"{where}._target_={target} is not a class; {nearest(name, names)}"
    return found, ""


def find_nodes(value: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the path and the plain keys of every node, nested ones in mappings and lists too."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, value
        for key, inner in value.items():
            yield from find_nodes(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from find_nodes(inner, f"{path}.{number}")


def nodes_of(
    config: Mapping[str, Any], allowed: Sequence[str] = ALLOWED
) -> tuple[dict[str, Node], list[str]]:
    """Return every node of a plain configuration by its path, and what is wrong with them.

    Args:
        config: The resolved configuration as plain containers.
        allowed: Packages and full names of classes that may be built.
    """
    found: dict[str, Node] = {}
    problems = []
    # Inner nodes first: the outer ones hold them.
    for path, node in sorted(find_nodes(config), key=lambda item: -item[0].count(".")):
        cls, problem = find_class(str(node["_target_"]), path, allowed)
        if problem:
            problems.append(problem)
            continue
        replaced = not cls.__module__.startswith("tl_lightning.")
        problems += node_problems(path, node, signature_of(cls), replaced)
        found[path] = node_of(path, cls, node, found)
    order = [path for path, _ in find_nodes(config) if path in found]
    return {path: found[path] for path in order}, problems[::-1]


def node_of(path: str, cls: Any, node: Mapping[str, Any], found: Mapping[str, Node]) -> Node:
    """Return a node with the nodes below it.

    Args:
        path: Where it is set.
        cls: Its class.
        node: Its plain keys.
        found: The nodes below it by path.
    """

    def convert(value: Any, place: str) -> Any:
        if place in found:
            return found[place]
        if isinstance(value, Mapping):
            return {key: convert(one, f"{place}.{key}") for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [convert(one, f"{place}.{number}") for number, one in enumerate(value)]
        return value

    keys = {k: convert(v, f"{path}.{k}") for k, v in node.items() if k not in SPECIAL}
    consumed = for_path(CONSUMED, path) or {}
    args = convert(list(node.get("_args_") or ()), f"{path}._args_")
    return Node(
        path,
        cls,
        {key: value for key, value in keys.items() if key not in consumed},
        tuple(args),
        bool(node.get("_partial_")),
        {key: value for key, value in keys.items() if key in consumed},
    )
