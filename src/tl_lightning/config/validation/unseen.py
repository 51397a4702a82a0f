"""Checks of models that do not see the target before the test."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import RunConfig
from tl_lightning.selection.rules import rule_of

__all__ = ["unseen_problems"]


def unseen_problems(run: RunConfig) -> Iterator[str]:
    """Yield settings that would use the target, or select by samples that are trained on."""
    if "target" not in run.model.cls.unseen:
        return
    rule = rule_of("last" if run.selection == "auto" else run.selection, run.task.kind)
    if rule.needs_target:
        yield (
            f"selection={run.selection} scores the target, which model={run.name} must not see "
            "before the test; set selection=mean_domain, worst_domain or source_val"
        )
    if run.track_target:
        yield (
            f"track_target=true validates on the target, which model={run.name} must not see "
            "before the test; set track_target=false"
        )
    if (run.target or {}).get("labelled_per_class"):
        yield (
            f"data.target.labelled_per_class trains on target samples, which model={run.name} must "
            "not see before the test; set it to 0, or model=domain_adaptation"
        )
    if run.model.params.get("full_data") and rule.monitor is not None:
        yield (
            f"model.full_data=true trains on the validation samples, by which selection="
            f"{run.selection} would choose; set selection=last, or model.full_data=false"
        )
    if run.label_shift == "prior":
        yield (
            f"label_shift=prior is fitted to target samples, which model={run.name} must not see "
            "before the test; set label_shift=none"
        )
    if run.rejection not in ("none", "auto") and run.rejection_threshold == "otsu":
        yield (
            f"rejection_threshold=otsu is found on target samples, which model={run.name} must not "
            "see before the test; set rejection_threshold=source, or rejection=none"
        )
    for name, node in run.methods.items():
        if "target" in {*node.cls.required_domains, *node.cls.extra_views, *node.cls.teacher_views}:
            yield (
                f"method=[{name}] adapts to the target, which model={run.name} must not see before "
                "the test; set model=domain_adaptation, or a method that needs only the source "
                "(group_dro, vrex, irm, domain_coral, mixstyle)"
            )
