"""What a run's report says of the classes of its target, and of their frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tl_lightning.callbacks.selected_outputs import SelectedOutputs
from tl_lightning.methods.adda import ADDA
from tl_lightning.methods.bnm import BNM
from tl_lightning.methods.components.adversary import Adversary
from tl_lightning.methods.components.class_sets import WeighsClasses
from tl_lightning.methods.coral import CORAL
from tl_lightning.methods.deepjdot import DeepJDOT
from tl_lightning.methods.jan import JAN
from tl_lightning.methods.mmd import MMD
from tl_lightning.methods.shot import SHOT
from tl_lightning.methods.wdgrl import WDGRL
from tl_lightning.reliability.assessment import Record
from tl_lightning.reliability.label_shift import ClassMix, believed_absent, class_mix
from tl_lightning.reporting.estimates import UNKNOWN_COUNT
from tl_lightning.tasks.target_outputs import PriorCorrection
from tl_lightning.training.build import Parts
from tl_lightning.utils.callbacks import find_callback

__all__ = ["EQUAL_PROPORTIONS", "class_set_entries"]

#: Methods that make the distributions of the domains equal or predictions balanced, which is right
#: only if the classes are as frequent in both domains.
EQUAL_PROPORTIONS = (Adversary, MMD, CORAL, JAN, DeepJDOT, WDGRL, ADDA, BNM, SHOT)


def class_set_entries(
    parts: Parts, record: Record | None, entries: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``class_sets``, and the entries that depend on it, for the report.

    ``class_sets`` has the setting ``classes``, the names of the source's classes that the model
    believes ``absent`` from the target, how samples are recognised as unknown and how many were
    (``rejection``), the correction of the logits by class (``label_shift``) and the fraction of it
    that is applied (``explained``), and a ``proportions`` warning for methods that assume equal
    class frequencies. Nothing of it uses labels of the target. Empty without a target.

    Args:
        parts: Objects of a run after the test.
        record: The outputs on source validation; None without.
        entries: ``class_mix`` and ``estimated_accuracy`` of the report.
    """
    run, task = parts.run, parts.module.task
    if "target" not in parts.data.found:
        return {}
    found = dict(entries)
    kind = str((run.target or {}).get("classes") or "same")
    if record is not None and (isinstance(task.prior, PriorCorrection) or run.rejection != "none"):
        found |= _own_mix(parts, record)
    mix, names = found.get("class_mix"), parts.data.classes
    about: dict[str, Any] = {"classes": kind, "absent": [], "proportions": None}
    if mix is not None:
        absent = believed_absent(np.array(mix["source"]), np.array(mix["likely"]))
        about["absent"] = [names[index] for index in absent]
        about["proportions"] = _assumption(parts, mix)
    if isinstance(task.prior, PriorCorrection):
        about["label_shift"] = task.prior.shift.tolist()
        about["explained"] = task.prior.explained
    if run.rejection != "none":
        about["rejection"] = _rejection(parts)
    estimate = found.get("estimated_accuracy")
    if kind in ("open", "universal") and estimate and "value" in estimate:
        warnings = [*estimate.get("warnings", ()), UNKNOWN_COUNT.format(kind=kind)]
        found["estimated_accuracy"] = {**estimate, "warnings": warnings}
    return {**found, "class_sets": about}


def _own_mix(parts: Parts, record: Record) -> dict[str, Any]:
    """Return the class mix of the samples that are not rejected, by their uncorrected logits.

    Those are comparable with the logits of the source.
    """
    kept, prior = find_callback(parts.trainer, SelectedOutputs).kept, parts.module.task.prior
    if "target" not in kept:
        return {}
    index, logits = kept["target"][0].tolist(), kept["target"][1].double().numpy()
    if isinstance(prior, PriorCorrection):
        logits = logits - prior.shift.double().cpu().numpy()
    accepted = [not parts.collector.rejected.get(one, False) for one in index]
    if not any(accepted):
        return {}
    mix: ClassMix = class_mix(record.logits, record.labels, logits[accepted])
    return {"class_mix": {key: value.tolist() if isinstance(value, np.ndarray) else value
                          for key, value in asdict(mix).items()}}  # fmt: skip


def _assumption(parts: Parts, mix: Mapping[str, Any]) -> str | None:
    """Return a warning if a method assumes proportions that seem to be far off."""
    methods = parts.run.methods
    if not mix["warning"] or any(issubclass(node.cls, WeighsClasses) for node in methods.values()):
        return None
    assuming = [name for name, node in methods.items() if issubclass(node.cls, EQUAL_PROPORTIONS)]
    if not assuming:
        return None
    advice = (
        "set data.sampling=class_balanced data.target_sampling=pseudo_balanced label_shift=prior"
    )
    if all(issubclass(methods[name].cls, (Adversary, MMD)) for name in assuming):
        advice = f"set method=[class_weights,{','.join(methods)}], or {advice}"
    return (
        f"{' and '.join(assuming)} assume{'s' if len(assuming) == 1 else ''} that the classes are "
        f"as frequent in the target as in the source, but {100 * mix['distance']:.0f} % of the "
        f"samples seem to differ: {advice}; see docs/targets.md"
    )


def _rejection(parts: Parts) -> dict[str, Any]:
    """Return how samples of no class were recognised, and the fraction of the tested ones."""
    flags = list(parts.collector.rejected.values())
    rejection = parts.module.task.rejection
    assert rejection is not None
    return {
        "score": parts.run.rejection, "rejected": float(np.mean(flags)) if flags else None,
        "threshold": float(rejection.threshold),
        "rule": parts.run.rejection_threshold,
    }  # fmt: skip
