"""The command ``tl-evaluate``."""

from __future__ import annotations

import os
from pathlib import Path

from tl_lightning.cli.common import allowed, part_of, plain_command
from tl_lightning.errors import ConfigError, nearest

__all__ = ["evaluate"]


def evaluate() -> None:
    """Test a checkpoint: ``tl-evaluate checkpoint=<run or file> [data=<name> data.root=...]``."""
    plain_command(
        _evaluate,
        "usage: evaluate.py checkpoint=<run folder or file.ckpt>\n"
        "                   [data=<name>] [data.<key>=<value> ...]\n"
        "                   [trainer=<name>] [trainer.<key>=<value> ...]\n"
        "                   [allow=[<full name of a class of yours>]]\n"
        "Tests the checkpoint on its own data, or on other data with the same classes.",
    )


def _evaluate(arguments: list[str]) -> None:
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    alien = [a for a in arguments if a.split("=")[0].split(".")[0] not in _EVALUATE_KEYS]
    if alien or "checkpoint" not in given:
        key = alien[0].split("=")[0] if alien else ""
        words = f"{key} is no option; {nearest(key, _EVALUATE_KEYS)}" if alien else ""
        raise ConfigError(words or "checkpoint is missing; type checkpoint=<run folder>")
    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.evaluation.evaluate import evaluate as tested
    from tl_lightning.reporting.console import print_metrics

    checkpoint = str(checkpoint_of(Path(given.pop("checkpoint")), "checkpoint"))
    typed = [f"{k}={v}" for k, v in given.items()]
    data, trainer = (part_of(name, checkpoint, typed) for name in ("data", "trainer"))
    found = tested(checkpoint, data, trainer, allowed(typed))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print_metrics(found["metrics"], title=f"{checkpoint} on {found['data']}")


_EVALUATE_KEYS = ("checkpoint", "data", "trainer", "allow")
