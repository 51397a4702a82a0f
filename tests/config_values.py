"""Generator of configurations in which one key has a value at its bounds or of a wrong type."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tl_lightning.config.compose import as_dict, compose, with_values
from tl_lightning.config.paths import choices
from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.errors import TransferError

__all__ = ["VALUES", "bases", "cases", "outcome"]

#: Numbers at the bounds of what a setting may be, and values of every other type.
VALUES: tuple[Any, ...] = (
    0, -1, 1, 0.5, -0.5, 2**32, 10**30, 1e308, 1e-320, float("nan"), float("inf"), float("-inf"),
    "", None, True, False, "x", "auto", "1", [], [0], [None], [-1, "x"], {}, {"x": 1},
)  # fmt: skip
#: Paths that a user may have.
PATHS: tuple[Any, ...] = (
    "a b", "käfer", "it's", 'a"b', "a(b)", "[a]", "{a}", "a=b", "a,b", "$HOME/a", "-a", "~/a", "~",
    "a\\b", "a\nb", "a:b", "a;b", "%s{x}", "\x1b[31m", "[/b]", "/proc/x", "/dev/null/x", "a\0b",
)  # fmt: skip
_PATHLIKE = ("dir", "root", "url", "table", "train", "val", "test", "weights", "checkpoint", "init",
             "resume", "tokenizer", "name", "note", "root_dir")  # fmt: skip
#: Groups that a single choice is made of, whose choices all have keys of their own.
_GROUPS = ("data", "backbone", "model", "optimizer", "scheduler", "trainer", "callbacks", "logger",
           "loss", "head", "phases", "debug", "task")  # fmt: skip
_LISTS = {"method": "method", "regularizer": "regularizer", "aux_task": "aux_task"}


def bases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a name and a plain configuration for every choice of ``conf/``."""
    for group in _GROUPS:
        for name in choices(group):
            if f"{group}={name}" not in _NOT_HERE:
                yield f"{group}={name}", _composed([f"{group}={name}"])
    for group in _LISTS:
        for name in choices(group):
            if name != "none":
                yield f"{group}=[{name}]", _composed([f"{group}=[{name}]"])


def _composed(overrides: list[str]) -> dict[str, Any]:
    """Return a valid configuration with a choice: the rest has to fit it."""
    choice = overrides[0]
    rest = [to_set for pattern, to_set in _REQUIRES.items() if re.match(pattern, choice)]
    return as_dict(compose([*overrides, *itertools.chain(*rest)]))


#: Choices that need a class of the user, or what not every machine has.
_NOT_HERE = ("data=custom", "model=custom", "trainer=gpu", "trainer=deepspeed")
#: What a choice needs besides the defaults.
_REQUIRES = {
    r"data=(text|imdb)": ["backbone=minilm"],
    r"data=vectors": ["backbone=vector_net"],
    r"data=(cifar|csv|dogs|folder|imdb|pets|stream|text_csv|text_domains|text_folder|vectors)": [
        "model=source_only"],
    r"backbone=(bert_base|hf|minilm)": ["data=text_csv", "model=source_only"],
    r"backbone=vector_net": ["data=vectors", "model=source_only"],
    r"model=(align|auto)": ["backbone=resnet18"],
    r"model=oracle": ["selection=last"],
    r"method=.(shot|tent)": ["model=source_free", "init=x"],
    r"method=.mme": ["model=domain_adaptation", "data.target.labelled_per_class=3"],
    r"method=.align": ["model=align", "backbone=resnet18"],
    r"method=.relative_bn": ["model=domain_adaptation", "backbone=resnet18"],
    r"method=.(?!shot|tent|align|mme|relative_bn)": ["model=domain_adaptation"],
    r"model=(source_free)": ["method=[shot]", "init=x"],
    r"model=(self_training|custom)": [],
    r"task=(regression|multi_label)": ["data=csv", "model=source_only"],
    r"loss=(squared_error|absolute_error|huber)": [
        "task=regression", "data=csv", "model=source_only"],
    r"loss=binary_cross_entropy": ["task=multi_label", "data=csv", "model=source_only"],
    r"loss=coral": ["task=ordinal"],
    r"aux_task=": ["data=csv", "data.label_columns=[age]"],
    **{rf"aux_task=.{name}": [f"aux_tasks.{name}.labels=age"]
       for name in ("classification", "multi_label", "ordinal", "regression")},
    r"(phases|debug|callbacks|optimizer|scheduler|regularizer|aux_task)=": ["model=source_only"],
}  # fmt: skip


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every key, of those that contain others too."""
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        yield path, value
        if isinstance(value, Mapping):
            yield from leaves(value, path)


def cases(
    found: Iterable[tuple[str, dict[str, Any]]] | None = None,
) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Yield ``(base, key, value, configuration)``; each key of the same class only once.

    Args:
        found: Names and configurations to change; :func:`bases` by default.
    """
    seen: set[str] = set()
    for name, config in bases() if found is None else found:
        for path, _ in list(leaves(config)):
            owner = config.get(path.split(".")[0])
            target = owner.get("_target_") if isinstance(owner, Mapping) else ""
            if f"{target}:{path}" in seen:
                continue
            seen.add(f"{target}:{path}")
            values = VALUES + (PATHS if path.split(".")[-1] in _PATHLIKE else ())
            for value in values:
                yield name, path, value, with_values(config, {path: copy.deepcopy(value)})


def outcome(config: Mapping[str, Any], path: str) -> str:
    """Return ``valid``, ``error``, or what is wrong with the error.

    Args:
        config: The configuration.
        path: The key that was set, which an error has to name.
    """
    try:
        run: RunConfig = check(config)
        run.data.build()
    except TransferError as error:
        parts = path.split(".")
        ends = itertools.combinations(range(len(parts) + 1), 2)
        names = {".".join(parts[a:b]) for a, b in ends if b - a >= min(2, len(parts))}
        text = str(error)
        if any(name in text for name in names):
            return "error"
        return f"does not name the key: {text[:200]}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:120]}"
    return "valid"
