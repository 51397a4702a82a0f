"""The model that compares others: checks of its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from tl_lightning.config.hints import above, at_least
from tl_lightning.config.paths import choices
from tl_lightning.config.schema import RunConfig
from tl_lightning.errors import nearest
from tl_lightning.models.adaptation import DomainAdaptation
from tl_lightning.tasks.head import Head

__all__ = ["AutoAdaptation"]


class AutoAdaptation(DomainAdaptation):
    """Stands for the best of several models, see :func:`tl_lightning.training.auto.fit_auto`.

    Each of them is trained as a :class:`DomainAdaptation`; this class only has the settings.

    Args:
        candidates: Methods of the trained heads, joined by ``+``.
        steps: Optimizer steps of each of them.
        bottleneck: Width of the bottleneck of their heads.
        head_lr: Learning rate of their heads.
        kwargs: As in :class:`DomainAdaptation`.
    """

    composite: ClassVar[bool] = True

    def __init__(
        self,
        *,
        candidates: Sequence[str],
        steps: Annotated[int, at_least(1)],
        bottleneck: Annotated[int, at_least(1)],
        head_lr: Annotated[float, above(0)],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield the candidates that are not known."""
        known = choices("method")
        for candidate in params["candidates"]:
            for name in str(candidate).split("+"):
                if name not in known:
                    yield (
                        f"{where}.candidates contains {candidate}, but {name} is not a method; "
                        f"{nearest(name, known)}"
                    )

    @classmethod
    def check_run(cls, where: str, params: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
        """Yield why its candidates cannot be trained."""
        if run.task.kind != "classification":
            yield (
                f"model={run.name} compares classifiers, but task={run.task.kind}; set "
                "model=source_only, or model=domain_adaptation method=[<name>]"
            )
            return
        if run.head_init != "probe":
            yield (
                f"model={run.name} compares models on the features of a pretrained network of "
                "images with a linear head; set backbone=resnet18 head=linear head_init=auto, or "
                "model=dann"
            )
        elif key := Head.hidden(head := run.nodes["head"].params):
            yield (
                f"model={run.name} compares linear probes with heads of its own, but head.{key}="
                f"{head[key]}; set head.{key}=null, or model.bottleneck=<width>"
            )
        trained = [name for name, node in run.methods.items() if node.cls.adds_loss]
        if trained:
            yield (
                f"model={run.name} trains the methods in model.candidates, and method=[...] only "
                f"names what is adapted without training, but {trained[0]} is trained; set "
                f"model.candidates=[{','.join(trained)}] or model={trained[0]}"
            )
        if run.resume not in (None, "auto"):
            yield (
                f"model={run.name} is resumed in its own folder, but resume={run.resume}; set "
                "resume=auto hydra.run.dir=<folder of the run>"
            )
        if not run.trainer.single_process:
            yield (
                f"model={run.name} trains several models in turn, which is not supported on "
                "several devices; set trainer.devices=1 trainer.num_nodes=1"
            )
