"""Checks of the settings for targets with other classes or class frequencies."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.target import target_setting
from tl_lightning.distributed.strategy import is_sharded
from tl_lightning.methods.components.class_sets import (
    RecognisesUnknown,
    WeighsClasses,
    uses_weights,
)

__all__ = ["class_set_problems"]


def class_set_problems(run: RunConfig) -> Iterator[str]:
    """Yield an error message for every conflict of ``label_shift``, ``rejection`` and methods."""
    fitted = {"label_shift": run.label_shift == "prior",
              "rejection": run.rejection != "none"}  # fmt: skip
    for name, wanted in fitted.items():
        setting = f"{name}={getattr(run, name)}"
        if wanted and run.target is None:
            yield (
                f"{setting} is fitted to a target, but data.target=null; set {name}=none, or "
                f"data.target.{target_setting(run.data.cls)}"
            )
        if wanted and is_sharded(run.trainer):
            yield (
                f"{setting} is not supported with a sharded strategy; set trainer.strategy=ddp, or "
                f"{name}=none"
            )
    if run.rejection == "method" and not any(
        issubclass(node.cls, RecognisesUnknown) for node in run.methods.values()
    ):
        yield (
            "rejection=method needs a method that recognises unknown classes, but method="
            f"[{','.join(run.methods)}]; set method=[ovanet], or rejection=entropy"
        )
    if run.label_shift == "prior" and run.data.params.get("sampling") == "domain_balanced":
        yield (
            "label_shift=prior does not know the class frequencies of data.sampling="
            "domain_balanced; set data.sampling=uniform, or label_shift=none"
        )
    weighing = [name for name, node in run.methods.items() if issubclass(node.cls, WeighsClasses)]
    if not weighing:
        return
    if run.label_shift == "prior":
        yield (
            f"method=[{weighing[0]}] trains with the target's class frequencies, and "
            "label_shift=prior would correct for them again; set label_shift=none"
        )
    if run.data.params.get("sampling") == "domain_balanced":
        yield (
            f"method=[{weighing[0]}] does not know the class frequencies of data.sampling="
            "domain_balanced; set data.sampling=uniform"
        )
    if run.nodes["loss"].params.get("class_weights"):
        yield (
            f"method=[{weighing[0]}] and loss.class_weights both weight the classes; set "
            "loss.class_weights=null"
        )
    blind = [
        name
        for name, node in run.methods.items()
        if {"source", "target"} <= node.cls.required_domains
        and node.cls.adds_loss
        and not uses_weights(node.cls)
    ]
    if blind:
        yield (
            f"method=[{','.join(run.methods)}]: {blind[0]} compares the domains without the "
            f"weights of {weighing[0]}; combine {weighing[0]} with dann, cdan, ba3us, mmd, ovanet "
            "or a method of the target alone (mcc, bnm, entropy)"
        )
    loss = run.nodes["loss"]
    if not getattr(loss.cls, "takes_weights", False):
        yield (
            f"method=[{weighing[0]}] weights the samples of the source, which "
            f"loss._target_={loss.target} cannot; set loss=cross_entropy"
        )
