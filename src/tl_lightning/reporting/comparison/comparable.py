"""What makes the figures of two configurations incomparable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tl_lightning.reporting.formatting import seeds_range, uses_target_labels
from tl_lightning.reporting.schema import fingerprint_of
from tl_lightning.reporting.sweep.compare import Group
from tl_lightning.utils.text import shorten

__all__ = ["differences"]

#: Settings of data that decide which samples are tested; those of training alone do not.
SPLITS = ("val_fraction", "test_fraction", "test_split", "transductive", "classes", "source",
          "target", "target_copies", "max_samples")  # fmt: skip


def differences(group: Group, base: Group, label: str) -> Iterator[str]:
    """Yield in what the figures of a configuration cannot be compared with those of a baseline.

    Args:
        group: The configuration.
        base: The baseline.
        label: Of the baseline.
    """
    shared = sorted(group.runs.keys() & base.runs.keys())
    if not shared:
        yield (
            f"has no seed in common with {label}: {seeds_range(group.runs)} here, "
            f"{seeds_range(base.runs)} there"
        )
        return
    pairs = [(group.runs[seed], base.runs[seed]) for seed in shared]
    if any(len({fingerprint_of(one) for one in pair} - {None}) > 1 for pair in pairs):
        yield f"trained or tested on another version of the data than {label} (fingerprints differ)"
    own, other = pairs[0]
    if (changed := _splits(own, other)) or _tested(own) != _tested(other):
        named = f" ({shorten(changed)})" if changed else f" ({_tested(own)} and {_tested(other)})"
        yield f"tested on other samples than {label}{named}"
    if _classes(own) != _classes(other):
        yield f"has other classes than {label}"
    rules = [str((run.get("selection") or {}).get("rule")) for run in (own, other)]
    if rules[0] != rules[1]:
        yield f"selected by {rules[0]}, {label} by {rules[1]}"
    if uses_target_labels(own) != uses_target_labels(other):
        yield f"only {'it' if uses_target_labels(own) else label} uses target labels"
    if group.runs.keys() != base.runs.keys():
        yield (
            f"has the seeds {seeds_range(group.runs)}, {label} {seeds_range(base.runs)}; "
            "differences are over the common ones, means are not"
        )


def _data(run: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (run.get("config") or {}).get("data")
    return found if isinstance(found, Mapping) else {}


def _splits(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    first, second = _data(own), _data(other)
    # A model that needs no target may have none.
    return [
        f"data.{key}"
        for key in SPLITS
        if key in first and key in second and first[key] != second[key]
        and None not in (first[key], second[key])
    ]  # fmt: skip


def _tested(run: Mapping[str, Any]) -> str:
    counts = (run.get("dataset") or {}).get("counts") or {}
    return ", ".join(f"{n:,} {key}" for key, n in sorted(counts.items()) if key.endswith("/test"))


def _classes(run: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in (run.get("dataset") or {}).get("classes") or []]
