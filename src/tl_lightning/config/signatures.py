"""Constructor signatures of classes, and check of a configuration node against one."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tl_lightning.config.hints import describe, fits
from tl_lightning.errors import nearest

__all__ = ["CONSUMED", "PROVIDED", "Parameter", "Signature", "node_problems", "signature_of"]

T = TypeVar("T")

#: Keys of a node that say how to build it, see :class:`tl_lightning.config.instantiate.Node`.
SPECIAL = ("_target_", "_args_", "_partial_")
#: Arguments that the code passes to a node's class in addition to the node's keys.
PROVIDED = {
    "model": {"backbone", "task", "optimizer", "lr", "schedule", "phases", "layer_decay", "seed",
              "channels_last", "saved", "methods", "regularizers", "aux_tasks", "task_weighting"},
    "head": {"in_features", "num_classes"},
    "loss": {"num_classes", "class_counts"},
    "method.*": {"in_features", "num_classes", "inputs"},
    "regularizer.*": {"backbone", "task"},
    "aux_tasks.*": {"in_features", "label_info"},
    "metrics.*": {"num_classes"},
    "optimizer": {"params"},
    "scheduler": {"optimizer"},
    "logger.*": {"save_dir"},
}  # fmt: skip
#: Keys that the code reads itself and does not pass to the node's class, with their types.
CONSUMED: dict[str, dict[str, Any]] = {
    "backbone": {"checkpoint": str | None, "lora": Mapping[str, Any] | None},
    "model": {"relative_bn": Literal["auto"] | bool},
    "scheduler": {"interval": Literal["epoch", "step"]},
    "trainer": {"timeout_s": Any, "overfit_batches": Any},  # see TrainerConfig
}
#: Keys that may be ``auto``, which is resolved before the class is built.
RESOLVED = {
    "trainer": {"precision"}, "optimizer": {"fused"}, "data": {"pin_memory"},
    "backbone": {"freeze_bn"},
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """An argument of a constructor.

    Attributes:
        hint: Its type hint, or ``Any``.
        required: Whether it has no default.
    """

    hint: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a constructor.

    Attributes:
        name: Name of the class.
        parameters: By name, including those of base classes that ``**kwargs`` reaches.
        open_ended: Whether any other keyword is accepted, too.
    """

    name: str
    parameters: dict[str, Parameter]
    open_ended: bool

    def accepts(self, name: str) -> bool:
        """Return whether a keyword may be passed."""
        return self.open_ended or name in self.parameters


def signature_of(cls: Any) -> Signature:
    """Return the signature of a class."""
    found: dict[str, Parameter] = {}
    # A third-party class may itself supply what its base class requires; ours never do.
    own = cls.__module__.startswith("tl_lightning.")
    if cls.__init__ is getattr(sys.modules.get("torch.nn"), "Module", type).__init__:
        # It is declared with **kwargs, but takes none.
        return Signature(cls.__name__, found, open_ended=False)
    direct = inspect.signature(cls.__init__).parameters
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        try:
            types = typing.get_type_hints(init, include_extras=True)
        except Exception:  # a third-party class may name types that only its type checker can see
            types = {}
        variadic = False
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                variadic = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                required = parameter.default is inspect.Parameter.empty and (own or name in direct)
                found.setdefault(name, Parameter(types.get(name, Any), required))
        if not variadic:
            return Signature(cls.__name__, found, open_ended=False)
    return Signature(cls.__name__, found, open_ended=True)


def node_problems(
    path: str, node: Mapping[str, Any], signature: Signature, replaced: bool = False
) -> list[str]:
    """Return the keys of a node that do not fit a signature.

    Args:
        path: Of the node, such as ``optimizer``.
        node: Its plain keys.
        signature: Of its class.
        replaced: Whether the class is not one of this package: keys of the preset whose
            ``_target_`` was overridden may be left then, and the message says how to remove them.
    """
    provided = for_path(PROVIDED, path) or set()
    optional = set(signature.parameters) if node.get("_partial_") else set()
    consumed = for_path(CONSUMED, path) or {}
    keys = [k for k in node if k not in SPECIAL and k not in consumed]
    positional = list(signature.parameters)[: len(node.get("_args_") or [])]
    unknown = sorted(key for key in keys if not signature.accepts(key))
    settable = set(signature.parameters) - provided
    resolved = for_path(RESOLVED, path) or set()
    problems = [
        f"{path}.{key} is not a setting of {signature.name}; {nearest(key, settable)}"
        for key in unknown
    ]
    if unknown and replaced and path in ("data", "model"):
        problems.append(
            f"to replace the whole node instead of only {path}._target_, set {path}=custom "
            f"{path}._target_=<class>, its keys as +{path}.<key>=<value>, and ~{path}.<key> for "
            "keys that it does not take"
        )
    elif unknown and replaced:
        problems.append(
            f"to replace the whole node instead of only {path}._target_, set "
            f"'~{path}' '+{path}._target_=<class>' and its keys as +{path}.<key>=<value>"
        )
    problems += [
        _wrong(f"{path}.{key}", node[key], hint)
        for key, hint in consumed.items()
        if key in node and not fits(node[key], hint)
    ]
    for name, parameter in signature.parameters.items():
        if name in node:
            auto = node[name] == "auto" and name in resolved
            if not auto and not fits(node[name], parameter.hint):
                problems.append(_wrong(f"{path}.{name}", node[name], parameter.hint))
        elif parameter.required and name not in {*provided, *positional, *optional}:
            where = f"{path}.{name}"
            problems.append(
                f"{where} is missing, but {signature.name} requires it; set {where}=<value>"
            )
    return problems


def _wrong(key: str, value: Any, hint: Any) -> str:
    expected, texts = describe(hint), "<value>"
    if "list of strings" in expected and isinstance(value, list):
        texts = f"{list(map(str, value))}, with the quotes"  # YAML has read names as numbers
    return f"{key}={value} is not {expected}; set {key}={texts}"


def for_path(table: Mapping[str, T], path: str) -> T | None:
    """Return the entry of a node; ``method.*`` matches ``method.dann``."""
    return table.get(path, table.get(f"{path.rpartition('.')[0]}.*"))
