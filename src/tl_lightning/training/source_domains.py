"""Domains of the source, and domains that are only tested, in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.domain import Domain, concatenated
from tl_lightning.selection.rules import rule_of
from tl_lightning.tasks.domain_accuracy import MEAN, WORST

__all__ = ["as_trained", "source_problems"]


def source_problems(run: RunConfig, source: Domain) -> Iterator[str]:
    """Yield the settings that need several domains of the source if it has only one."""
    if len(source.domains) > 1:
        return
    what = f"the source ({source.name}) is one domain"
    change = "set data.source.domain=[<one>,<another>]"
    if source.domains:  # what data.source.domain=others left
        change = "leave the method out, or add another domain"
    for name, node in run.methods.items():
        if node.cls.uses_source_domains:
            yield f"method=[{name}] compares the domains of the source, but {what}; {change}"
    monitor = str(rule_of(run.selection, run.task.kind).monitor)
    if monitor.endswith((MEAN, WORST)) and not source.domains:
        yield (
            f"selection={run.selection} compares the domains of the source, but {what}; "
            "set selection=source_val"
        )


def as_trained(run: RunConfig, found: Mapping[str, Domain]) -> dict[str, Domain]:
    """Return the domains as the model may see them.

    A domain that is only tested keeps no training and validation samples. With
    ``model.full_data``, the source's validation samples are trained on as well.
    """
    domains = dict(found)
    for name in run.model.cls.unseen & domains.keys():
        domain = domains[name]
        none = domain.test.subset([])
        domains[name] = replace(domain, train=none, val=none, labelled=None)
    if run.model.params.get("full_data"):
        source = domains["source"]
        note = (
            f"model.full_data: the {len(source.val):,} validation samples are trained on as well, "
            "so that figures on source validation are of training samples"
        )
        domains["source"] = replace(
            source,
            train=concatenated([source.train, source.val]),
            note="; ".join(part for part in (source.note, note) if part),
        )
    return domains
