"""The command ``tl-evaluate``: test a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import flag, plain_command
from tl_lightning.cli.usage import CHECKPOINT, Usage
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.utils.text import shorten

__all__ = ["evaluate"]


USAGE = Usage(
    ("evaluate.py checkpoint=<run or file.ckpt> [data=<name>] [<option>=<value> ...]",),
    "Test a trained model on its own dataset, or on another one with the same classes.",
    {
        "Model": CHECKPOINT,
        "Data and machine": {
            "data": "another dataset, with its settings as data.<key>=<value>",
            "trainer": "cpu, gpu, ddp, ..., with its settings as trainer.<key>=<value>",
        },
        "What to measure": {
            "compare": "another run or checkpoint, tested on the same samples",
            "corruptions": "true: also test on corrupted versions of the images (default: false)",
            "+metrics": "+metrics.<name>._target_=<class or function>: a metric of your own",
        },
        "Output": {
            "out": "folder for metrics.json, per_class.csv, confusion.csv and predictions.csv",
        },
    },
    ("evaluate.py checkpoint=runs/a", "evaluate.py checkpoint=runs/a compare=runs/b out=results"),
)


def evaluate() -> None:
    """Test a checkpoint: ``tl-evaluate checkpoint=<run or file> [data=<name> data.root=...]``."""
    plain_command(_evaluate, USAGE)


def _evaluate(arguments: list[str]) -> None:
    given = dict(item.partition("=")[::2] for item in arguments)
    for argument in arguments:
        key = argument.split("=")[0]
        if key.split(".")[0] not in (*_EVALUATE_KEYS, "+metrics"):
            raise ConfigError(f"{key} is not an option; {nearest(key, _EVALUATE_KEYS)}")
        if "=" not in argument:
            raise ConfigError(f"{argument} has no value; set {argument}=<value>")
    if "checkpoint" not in given:
        raise ConfigError("checkpoint is missing; set checkpoint=<run folder>")
    check_place(given["checkpoint"])  # the next imports take seconds
    from tl_lightning.checkpoints.warm_start import checkpoint_of
    from tl_lightning.evaluation.evaluate import evaluate as run_evaluation
    from tl_lightning.evaluation.nodes import allowed_classes, metric_nodes, stored_node
    from tl_lightning.evaluation.tables import print_evaluation
    from tl_lightning.reporting.console import print_metrics

    checkpoint = str(checkpoint_of(Path(given.pop("checkpoint")), "checkpoint"))
    compare, out = given.pop("compare", None), given.pop("out", None)
    corruptions = flag("corruptions", given.pop("corruptions", "false").lower())
    overrides = [f"{k}={v}" for k, v in given.items()]
    data, trainer = (stored_node(name, checkpoint, overrides) for name in ("data", "trainer"))
    result = run_evaluation(
        checkpoint,
        data,
        trainer,
        allowed_classes(overrides),
        metrics=metric_nodes(overrides),
        compare=compare and checkpoint_of(Path(compare), "compare"),
        corruptions=corruptions,
        out=out,
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        title, task = f"{checkpoint} on {result['data']}", result.get("task", "classification")
        print_metrics(result["metrics"], title=title, task=task)
        counts = result["counts"].items()
        print(
            "tested: " + ", ".join(f"{number:,} samples of the {name}" for name, number in counts)
        )
        for note in result["notes"]:
            print(f"note: {note}")
        for line in result["expected"]:
            print(line)
        if result["absent"]:
            print(
                f"{len(result['absent'])} of the {len(result['classes'])} classes seem to be "
                f"absent from the target, estimated without labels: {shorten(result['absent'])}"
            )
        print_evaluation(result)
        if out is not None:
            print(f"written: {out}")


_EVALUATE_KEYS = (
    "checkpoint",
    "data",
    "trainer",
    "allow",
    "metrics",
    "compare",
    "corruptions",
    "out",
)
