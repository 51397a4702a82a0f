"""Metrics of the user: classes and functions of logits and labels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torchmetrics import Metric

from tl_lightning.config.instantiate import ALLOWED, nodes_of
from tl_lightning.config.signatures import SPECIAL
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation.metrics import SCORES
from tl_lightning.evaluation.outputs import Outputs

__all__ = ["built_metrics", "own_scores"]

#: A ``torchmetrics.Metric``, or a function of logits ``(n, K)`` and labels ``(n,)``.
OwnMetric = Callable[..., Any]


def built_metrics(
    given: Mapping[str, Any], allow: Sequence[str], num_classes: int
) -> dict[str, OwnMetric]:
    """Return the metrics of these nodes or objects, by name.

    A function is called only if ``allow`` has its package or its full name: those of the packages
    whose classes may be built also load and run code.

    Args:
        given: By name, a node with ``_target_`` and arguments, or the metric itself.
        allow: Packages and full names of classes and functions that may be used.
        num_classes: Passed to classes that take it.

    Raises:
        ConfigError: If a name is taken, or a metric cannot be built.
    """
    found: dict[str, OwnMetric] = {}
    for name, value in given.items():
        where = f"metrics.{name}"
        if name in SCORES:
            taken = ", ".join(SCORES)
            raise ConfigError(f"{where} is computed already ({taken}); use another name")
        metric = value
        if isinstance(value, Mapping) and "_target_" in value:
            metric = _function(where, value, allow) or _instance(where, value, allow, num_classes)
        if not callable(metric):
            raise ConfigError(
                f"{where}={value} is neither a metric nor a function; set "
                f"+{where}._target_=<import path of a torchmetrics.Metric or a function>"
            )
        found[name] = metric
    return found


def _function(where: str, node: Mapping[str, Any], allow: Sequence[str]) -> OwnMetric | None:
    """Return a function with its keywords, or None if the target is something else."""
    target = str(node["_target_"])
    module, _, name = target.rpartition(".")
    package = target.split(".")[0]
    if package not in (*ALLOWED, *allow) and target not in allow:
        return None  # not even imported
    try:
        function: Any = getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None
    if not inspect.isroutine(function):
        return None
    if package not in allow and target not in allow:
        raise ConfigError(
            f"{where}._target_={target} is a function, and functions are only called if they are "
            f"allowed; set allow=[{target}] if you trust it"
        )
    keywords = {str(key): value for key, value in node.items() if key not in SPECIAL}
    try:
        inspect.signature(function).bind(None, None, **keywords)
    except TypeError as error:
        raise ConfigError(
            f"{where}: {target} cannot be called with logits and labels and "
            f"{', '.join(keywords) or 'no settings'}: {error}; correct {where}.<key>"
        ) from error
    except ValueError:  # a function of C, without a signature
        pass
    return functools.partial(function, **keywords)


def _instance(
    where: str, node: Mapping[str, Any], allow: Sequence[str], num_classes: int
) -> OwnMetric:
    group, _, name = where.partition(".")
    nodes, problems = nodes_of({group: {name: node}}, [*ALLOWED, *allow])
    if problems:
        raise ConfigError(problems)
    try:
        metric: OwnMetric = nodes[where].build(num_classes=num_classes)
    except (TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where} cannot be built: {reason}; correct {where}.<key>") from error
    return metric


def own_scores(metrics: Mapping[str, OwnMetric], outputs: Outputs) -> dict[str, float]:
    """Return the values of the metrics for the labelled samples of a domain.

    Args:
        metrics: By name.
        outputs: With labels.

    Raises:
        ConfigError: If a metric fails, or returns something else than one number.
    """
    logits, labels = torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels)
    found = {}
    for name, metric in metrics.items():
        try:
            value = _value(metric, logits, labels)
        except Exception as error:  # code of the user
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise ConfigError(
                f"metrics.{name} failed on logits {tuple(logits.shape)} and labels "
                f"{tuple(labels.shape)}: {reason}"
            ) from error
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            shape = getattr(value, "shape", None)
            kind = type(value).__name__ if shape is None else f"an array of shape {tuple(shape)}"
            raise ConfigError(
                f"metrics.{name} must return one number, got {kind}; average it, for example with "
                f"+metrics.{name}.average=macro"
            ) from error
    return found


def _value(metric: OwnMetric, logits: torch.Tensor, labels: torch.Tensor) -> Any:
    if not isinstance(metric, Metric):
        return metric(logits, labels)
    metric.reset()
    metric = metric.cpu()
    # Every rank has the outputs of all of them.
    metric.distributed_available_fn = lambda: False
    metric.update(logits, labels)
    value = metric.compute()
    metric.reset()
    return value
