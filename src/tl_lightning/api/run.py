"""Training, testing and prediction from Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, overload

import lightning as L
from omegaconf import DictConfig

from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.config.compose import composed
from tl_lightning.errors import ConfigError, nearest
from tl_lightning.evaluation.evaluate import evaluate as _evaluate
from tl_lightning.evaluation.load import load as _load
from tl_lightning.evaluation.nodes import stored_node
from tl_lightning.inference.options import Options
from tl_lightning.inference.predict import opened, whole
from tl_lightning.inference.predict import stream as streamed
from tl_lightning.inference.predictions import Prediction
from tl_lightning.inference.predictor import Predictor
from tl_lightning.models.base import TransferModule
from tl_lightning.reporting.run.page import write_page
from tl_lightning.sweeps.baselines import fit_with_baselines
from tl_lightning.utils.run_id import run_id

__all__ = ["evaluate", "fit", "load", "predict"]


def fit(
    overrides: Sequence[str] | DictConfig = (),
    *,
    run_dir: str | Path | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> dict[str, Any]:
    """Train, select, test and report one model, as ``scripts/train.py`` does.

    Args:
        overrides: Settings as on the command line, such as ``["model=dann", "data=digits"]``, or a
            composed configuration.
        run_dir: Folder of the run; None: a new one in ``outputs/``.
        callbacks: Callbacks besides those of the configuration.

    Returns:
        The content of ``report.json``; ``report["metrics"]["target/test/acc"]`` is in [0, 1].

    Raises:
        TransferError: If the settings, the data or a checkpoint cannot be used.
    """
    if isinstance(overrides, str):
        raise ConfigError(
            f"overrides must be a list of settings, not a string; pass [{overrides!r}]"
        )
    cfg = overrides if isinstance(overrides, DictConfig) else composed(list(overrides), ())
    name = f"{cfg.model.name}-{cfg.data.name}"
    folder = Path(run_dir or f"outputs/{name}/{run_id()}").expanduser().absolute()
    report = fit_with_baselines(cfg, folder, sweeping=False, callbacks=callbacks)
    if report:  # rank 0
        write_page(folder)
    return report


def evaluate(
    checkpoint: str | Path,
    overrides: Sequence[str] = (),
    *,
    allow: Sequence[str] = (),
    metrics: Mapping[str, Any] | None = None,
    compare: str | Path | None = None,
    corruptions: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Test a trained model on its own data, or on other data with the same classes.

    Args:
        checkpoint: A checkpoint or run folder.
        overrides: Settings of ``data`` and ``trainer``, as on the command line.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        metrics: Further metrics by name: a ``torchmetrics.Metric``, or a function of logits
            ``(n, K)`` and labels ``(n,)``.
        compare: Another checkpoint or run folder, tested on the same samples.
        corruptions: Whether to test on corrupted versions of the images as well.
        out: Folder for metrics.json, per_class.csv, confusion.csv and predictions.csv, or None.

    Returns:
        See :func:`tl_lightning.evaluation.evaluate.evaluate`: ``metrics`` are those of the run's
        report, ``domains`` has further metrics of every labelled domain, with intervals.
        ``expected`` has the accuracy to expect of a domain without labels, in lines.
    """
    for override in overrides:
        if re.split(r"[.=]", override)[0] not in ("data", "trainer"):
            raise ConfigError(f"{override} has no effect; set data, trainer or a key of them")
    path = str(checkpoint_of(Path(checkpoint).expanduser(), "checkpoint"))
    given = [*overrides, f"allow=[{','.join(allow)}]"]
    data, trainer = (stored_node(name, path, given) for name in ("data", "trainer"))
    other = None if compare is None else checkpoint_of(Path(compare), "compare")
    more: dict[str, Any] = {"compare": other, "corruptions": corruptions, "out": out}
    return _evaluate(path, data, trainer, allow, metrics=metrics, **more)


def load(
    checkpoint: str | Path, *, revision: str | None = None, allow: Sequence[str] = (), **own: Any
) -> TransferModule:
    """Return a trained model in evaluation mode; ``model(images)`` returns logits ``(B, K)``.

    Args:
        checkpoint: A checkpoint, a run folder, a published folder or ``owner/name`` on the Hugging
            Face hub; where there is a local folder of that name, it is used.
        revision: Branch, tag or commit on the hub.
        allow: Full names of additional classes that its configuration may build.
        own: The parts of your own that the model was created with: ``backbone=...``,
            ``methods=...``, see :func:`tl_lightning.create`.
    """
    place = checkpoint if revision is None else f"{checkpoint}@{revision}"
    return _load(checkpoint_of(Path(place), "checkpoint"), allow, own)


@overload
def predict(
    checkpoint: str | Path | Predictor,
    inputs: Any,
    *,
    stream: Literal[False] = False,
    allow: Sequence[str] = (),
    **options: Any,
) -> list[Prediction]: ...
@overload
def predict(
    checkpoint: str | Path | Predictor,
    inputs: Any,
    *,
    stream: Literal[True],
    allow: Sequence[str] = (),
    **options: Any,
) -> Iterator[Prediction]: ...
def predict(
    checkpoint: str | Path | Predictor,
    inputs: Any,
    *,
    stream: bool = False,
    allow: Sequence[str] = (),
    **options: Any,
) -> list[Prediction] | Iterator[Prediction]:
    """Return the most likely classes of each sample, calibrated probabilities and its novelty.

    There is one prediction per input, in their order; one that cannot be read has ``error``.

    Args:
        checkpoint: A checkpoint or run folder, or a model opened with :class:`Predictor`.
        inputs: A file, folder, glob, list or table, as ``input=`` of ``tl-predict``; or any
            iterable: of paths, bytes, images of Pillow or uint8 arrays ``(H, W, 3)`` or tensors
            ``(3, H, W)``; of texts; or vectors ``(N, F)``.
        stream: Whether to return a generator, which reads a few batches ahead, so that the inputs
            may be endless; otherwise a list.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        options: Fields of :class:`.Options`: ``top``, ``precision``, ``embeddings``, ``tta``,
            ``batch_size``, ``workers``, ``devices`` and ``adapt``: the name of a method of
            test-time adaptation, or a mapping with ``method`` and further fields of
            :class:`.AdaptOptions`.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If an option is not valid.
        DataError: If the inputs are not what the model classifies, or none can be read.
    """
    known = [one.name for one in fields(Options)]
    for name in options:
        if name not in known:
            raise ConfigError(f"{name} is not an option of predict; {nearest(name, known)}")
    work = opened(checkpoint, Options(**options), allow)
    return streamed(work, inputs) if stream else whole(work, inputs)
