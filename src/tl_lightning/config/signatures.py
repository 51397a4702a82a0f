"""Every fault of a configuration at once, in sentences, before any data is touched."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.errors import nearest

__all__ = ["GIVEN", "TAKEN", "check_nodes", "fits", "words"]

_PRIVATE = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check_nodes(
    config: Mapping[str, Any],
    given: Mapping[str, set[str]],
    allowed: Sequence[str] = ALLOWED,
    taken: Mapping[str, set[str]] | None = None,
) -> list[str]:
    """Bind every node that has a ``_target_`` to its class's signature; return all faults.

    Args:
        config: The resolved configuration as plain containers.
        given: Arguments that code passes by itself, by the node's path (``adapter.*`` matches
            every node directly below ``adapter``).
        allowed: Packages whose classes may be built.
        taken: Keys that code takes away before it builds the class, by the node's path.
    """
    faults: list[str] = []
    for path, node in _nodes(config, ""):
        cls, fault = find_class(str(node["_target_"]), path, allowed)
        if fault:
            faults.append(fault)
            continue
        parent = path.rpartition(".")[0]
        passed = given.get(path, given.get(f"{parent}.*", set()))
        kept = {key: v for key, v in node.items() if key not in (taken or {}).get(path, ())}
        faults += _check_node(path, kept, cls, passed)
    return faults


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
    faults = []
    if not open_ended:
        settable = set(parameters) - passed
        faults += [
            f"{path}.{key} is not a setting of {cls.__name__}; {nearest(key, settable)}"
            for key in sorted(keys - set(parameters))
        ]
    for name, (parameter, hint) in parameters.items():
        # A foreign class may fill in what its base requires; ours pass it on.
        own = cls.__module__.startswith("tl_lightning.") or name in direct
        required = own and parameter.default is inspect.Parameter.empty
        if name in node:
            if not fits(node[name], hint):
                faults.append(
                    f"{path}.{name}={node[name]} is not {words(hint)}; type {path}.{name}=<value>"
                )
        elif required and name not in passed and not node.get("_partial_"):
            faults.append(f"{path}.{name} is missing; {cls.__name__} needs it")
    return faults


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


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain YAML value may be passed where ``hint`` is declared.

    >>> fits("abc", float), fits(1, float), fits(True, int), fits(None, int | None)
    (False, True, False, True)
    >>> fits([1, 2], Sequence[int]), fits(["a"], Sequence[int])
    (True, False)
    """
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    base = origin or hint
    if not inspect.isclass(base):
        return True
    if issubclass(base, Mapping):
        return isinstance(value, Mapping)
    if base is not str and issubclass(base, Sequence | set | frozenset):
        inner = args[0] if args else Any
        return isinstance(value, list | tuple) and all(fits(item, inner) for item in value)
    return isinstance(value, base)


def words(hint: Any) -> str:
    """Say a type as a user would."""
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    if hint in names:
        return names[hint]
    if hint is None or hint is type(None):
        return "null"
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        plain = [a for a in args if a in names or a is type(None) or get_origin(a) is not None]
        return " or ".join(words(arg) for arg in plain or args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is not None and args:
        return f"a list of {words(args[0])}" if issubclass(origin, Sequence) else "a mapping"
    return getattr(hint, "__name__", str(hint))


#: What the code passes to a node besides its own keys.
GIVEN = {
    "model": {"backbone", "task", "optimizer", "lr", "schedule", "phases", "layer_decay", "seed",
              "channels_last", "saved", "adapters", "regularizers", "tasks", "balance"},
    "head": {"in_features", "num_classes"},
    "loss": {"num_classes", "class_counts"},
    "adapter.*": {"in_features", "num_classes", "inputs"},
    "regularizer.*": {"backbone", "task"},
    "tasks.*": {"in_features", "facts"},
    "optimizer": {"params"},
    "logger.*": {"save_dir"},
}  # fmt: skip

#: What the code takes from a node before it builds the class.
TAKEN = {"backbone": {"checkpoint", "lora"}, "trainer": {"timeout_s"}}
