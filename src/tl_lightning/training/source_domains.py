"""Domains of the source, and domains that are only tested, in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.domain import Domain, concatenated
from tl_lightning.errors import ConfigError
from tl_lightning.selection.rules import rule_of
from tl_lightning.tasks.domain_accuracy import MEAN, WORST

__all__ = ["as_trained", "check_sources", "named_sources", "source_problems"]


def source_problems(run: RunConfig, source: Domain) -> Iterator[str]:
    """Yield the settings that do not fit the number of domains of the source."""
    if len(source.domains) > 1:
        yield from _other_numbers(run, source)
        return
    what = f"the source ({source.name}) is one domain"
    # One domain is what data.source.domain=others left.
    change = f"leave the method out, or {_several(source)}" if source.domains else _several(source)
    for name, node in run.methods.items():
        if node.cls.uses_source_domains:
            yield f"method=[{name}] compares the domains of the source, but {what}; {change}"
        if node.params.get("per_source"):
            yield (
                f"method.{name}.per_source=true keeps the domains of the source apart, but {what}; "
                f"set method.{name}.per_source=false, or {_several(source)}"
            )
    monitor = str(rule_of(run.selection, run.task.kind).monitor)
    if monitor.endswith((MEAN, WORST)) and not source.domains:
        yield (
            f"selection={run.selection} compares the domains of the source, but {what}; "
            "set selection=source_val"
        )


def _other_numbers(run: RunConfig, source: Domain) -> Iterator[str]:
    for name, node in run.methods.items():
        given = node.params.get("num_sources")
        if node.params.get("per_source") and given not in (None, len(source.domains)):
            yield (
                f"method.{name}.num_sources={given}, but the source ({source.name}) has "
                f"{len(source.domains)} domains; set method.{name}.num_sources=null"
            )


def _several(source: Domain) -> str:
    return "add another domain" if source.domains else "set data.source.domain=[<one>,<another>]"


def named_sources(run: RunConfig, source: Domain) -> dict[str, list[str]]:
    """Return the names that a checkpoint stores if the model has layers for each source domain."""
    apart = any(node.params.get("per_source") for node in run.methods.values())
    return {"sources": list(source.domains)} if apart else {}


def check_sources(stored: Mapping[str, Any], source: Domain, checkpoint: object) -> None:
    """Check that samples of the source pass the layers of their domain in a trained model.

    Args:
        stored: The data of its run, as in :class:`.StoredModel`.
        source: The source of other data.
        checkpoint: For the message.

    Raises:
        ConfigError: If the source has other domains, or the same ones in another order.
    """
    known = stored.get("sources")
    if known is not None and known != list(source.domains):
        found = ", ".join(source.domains) or f"one domain ({source.name})"
        raise ConfigError(
            f"checkpoint={checkpoint} was trained with per_source=true and has batch norm for the "
            f"source domains {', '.join(known)}, but the source of the data is {found}; set "
            f"data.source.domain=[{','.join(known)}]"
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
