"""The main task of a run: its head, loss and metrics by the kind of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig
from tl_lightning.tasks.classification import Classification, prepare_outputs
from tl_lightning.tasks.label_task import LabelTask, label_task
from tl_lightning.tasks.ordinal import make_ordinal

__all__ = ["MainTask", "main_task"]

MainTask = Classification | LabelTask


def main_task(
    run: RunConfig,
    in_features: int,
    classes: Sequence[str],
    class_counts: Sequence[int] | None,
    own: Mapping[str, Any],
    input_state: Mapping[str, Any],
) -> MainTask:
    """Return the main task of a checked configuration.

    Args:
        run: The configuration.
        in_features: Width of the backbone's features.
        classes: Names of the classes, or of the outputs.
        class_counts: Source training samples of each class, if the data are available.
        own: ``loss`` and ``metrics`` in place of, or besides, the configured ones.
        input_state: What the data have fitted, with the label statistics of numbers.
    """
    sizes: dict[str, Any] = {"num_classes": len(classes)}
    head = run.nodes["head"].build(in_features=in_features, **sizes)
    node, kind = run.nodes["loss"], run.task.kind
    of_classes = {} if hasattr(node.cls, "tasks") else {"class_counts": class_counts, **sizes}
    loss = own.get("loss") or node.build(**of_classes)
    if kind in WITHOUT_CLASSES:
        return label_task(kind, head, loss, input_state["labels"])
    metrics = {name: node.build(**sizes) for name, node in run.group("metrics").items()}
    metrics |= own.get("metrics", {})
    if kind == "ordinal":
        make_ordinal(head, len(classes))
    task = Classification(head=head, loss=loss, metrics=metrics, kind=kind, **sizes)
    prepare_outputs(run, task)
    return task
