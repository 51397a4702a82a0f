"""Allowlist of the classes that a stored configuration may build.

The configuration inside a checkpoint is as untrusted as its weights. Allowing whole packages would
not be safe: ``torch`` alone contains classes and functions that download, compile and run code.
A stored configuration may therefore build only the classes named in ``conf/``, each in its own
group, the optimizers of ``torch.optim``, and classes that the user allows by their full name.
Nothing else is even imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from tl_lightning.config.instantiate import find_nodes
from tl_lightning.config.paths import CONF

__all__ = ["named", "stored_problems"]

_TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)\s*(?:#.*)?$", re.MULTILINE)
#: Where any class of a library may be built: its names, and its base class.
_LIBRARY = {
    r"optimizer": (r"torch\.optim\.(?:\w+\.)?[A-Z]\w*", "torch.optim.Optimizer"),
    r"scheduler": (
        r"torch\.optim\.lr_scheduler\.[A-Z]\w*", "torch.optim.lr_scheduler.LRScheduler",
    ),
    r"metrics\.\w+": (r"torchmetrics\.(?:classification\.)?[A-Z]\w*", "torchmetrics.Metric"),
}  # fmt: skip
#: Config groups whose folder has another name than the key they fill.
_FOLDERS = {"aux_tasks": "aux_task"}
#: Classes named in no yaml file, but by a resolver.
_UNNAMED = {
    "callbacks": {
        "lightning.pytorch.callbacks.RichProgressBar",
        "tl_lightning.callbacks.console_log.ProgressBar",
    }
}


@lru_cache
def named(group: str) -> frozenset[str]:
    """Return the classes named in the files of ``conf/<group>/``.

    >>> sorted(named("head")), sorted(named("os"))
    (['tl_lightning.tasks.head.Head'], [])
    """
    if not re.fullmatch(r"[a-z_]+", group):
        return frozenset()
    texts = [path.read_text(encoding="utf-8") for path in (CONF / group).glob("*.yaml")]
    return frozenset(_UNNAMED.get(group, set()).union(*map(_TARGET.findall, texts)))


def stored_problems(config: Mapping[str, Any], allow: Sequence[str] = ()) -> list[str]:
    """Return an error message for every class that a stored configuration must not build.

    Args:
        config: A whole configuration, or some of its groups.
        allow: Full names of additional classes that the user trusts.
    """
    problems = []
    for path, node in find_nodes(config):
        key, target = path.split(".")[0], str(node["_target_"])
        group = _FOLDERS.get(key, key)
        if target in named(group) or target in allow:
            continue
        if _of_library(path, target):
            continue
        problems.append(
            f"{path}._target_={target} is not a class named in conf/{group}/, and a stored "
            f"configuration may build no others; set allow=[{target}] if you trust it"
        )
    return problems


def _of_library(path: str, target: str) -> bool:
    """Return whether a class may be built at a path because of its library and base class."""
    for where, (names, base) in _LIBRARY.items():
        if re.fullmatch(where, path) and re.fullmatch(names, target):
            found, expected = _imported(target), _imported(base)
            return inspect.isclass(found) and issubclass(found, expected)
    return False


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None
