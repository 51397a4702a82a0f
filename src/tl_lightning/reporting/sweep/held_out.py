"""Table of leave-one-domain-out sweeps, as in DomainBed: methods by held-out domain."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tl_lightning.reporting.formatting import seeds_range
from tl_lightning.reporting.statistics import Interval, student
from tl_lightning.reporting.sweep.compare import Group
from tl_lightning.reporting.sweep.multitask import named
from tl_lightning.reporting.sweep.summary import labels_of
from tl_lightning.utils.text import csv_cell, flatten

__all__ = ["HeldOut", "HeldOutRow", "held_out", "held_out_cells", "held_out_csv", "held_out_json"]

Run = Mapping[str, Any]
#: Settings in which the runs of one row differ.
_OF_DOMAIN = ("data.target.domain", "data.source.domain")
PROBE = "frozen probe"


@dataclass
class HeldOutRow:
    """One method.

    Attributes:
        label: Its name, with the settings that distinguish it from others of that name.
        values: Test accuracy by held-out domain and seed.
        rules: Selection rules of its runs.
    """

    label: str
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    rules: set[str] = field(default_factory=set)

    def add(self, domain: str, seed: int, accuracy: float) -> None:
        """Add the accuracy of a run; the first of a domain and seed counts."""
        self.values.setdefault(domain, {}).setdefault(seed, accuracy)

    def of(self, domain: str) -> Interval | None:
        """Return the accuracy on a domain over the seeds."""
        found = self.values.get(domain)
        return student([*found.values()]) if found else None

    def over(self, domains: Iterable[str], what: Any) -> Interval | None:
        """Return a function of all domains' accuracies over the seeds that have all of them."""
        each = [self.values.get(domain, {}) for domain in domains]
        seeds = set.intersection(*(set(one) for one in each)) if each else set()
        found = [what([one[seed] for one in each]) for seed in sorted(seeds)]
        return student(found) if found else None

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return sorted({seed for found in self.values.values() for seed in found})


@dataclass(frozen=True)
class HeldOut:
    """The table.

    Attributes:
        data: Name of the dataset.
        domains: The held-out domains.
        rows: One for each method; the frozen probe first.
    """

    data: str
    domains: tuple[str, ...]
    rows: tuple[HeldOutRow, ...]


def held_out(reports: Iterable[Run]) -> list[HeldOut]:
    """Return a table for each dataset with runs whose target was not seen in training.

    Only datasets with at least two held-out domains have one. The frozen probe is the start of the
    runs without further settings, the same for all methods that do not train on validation samples.
    """
    runs: dict[str, list[Run]] = {}
    for report in reports:
        if _domain(report) and _accuracy(report.get("metrics")) is not None:
            runs.setdefault(str(report.get("data")), []).append(report)
    tables = []
    for data, found in runs.items():
        domains = tuple(sorted({_domain(run) for run in found}))
        if len(domains) > 1:
            tables.append(HeldOut(data, domains, tuple(_rows(found))))
    return tables


def _domain(report: Run) -> str:
    """Return the held-out domain of a run; empty if its target was seen, or has no name."""
    if report.get("kind") != "run" or report.get("status", "finished") != "finished":
        return ""
    if "target" not in (report.get("unseen") or ()):
        return ""
    target = ((report.get("config") or {}).get("data") or {}).get("target") or {}
    domain = target.get("domain")
    return "+".join(map(str, domain)) if isinstance(domain, list) else str(domain or "")


def _accuracy(metrics: Any) -> float | None:
    value = (metrics or {}).get("target/test/acc")
    return float(value) if isinstance(value, int | float) else None


def _rows(runs: list[Run]) -> list[HeldOutRow]:
    groups: dict[tuple[str, str, str], Group] = {}
    rows: dict[tuple[str, str, str], HeldOutRow] = {}
    probe = HeldOutRow(PROBE)
    for run in runs:
        settings = {
            key: value
            for key, value in named(flatten(run.get("config"))).items()
            if not key.startswith(_OF_DOMAIN)
        }
        kept = {k: v for k, v in settings.items() if not k.endswith("seed")}
        key = (str(run.get("name")), str(run.get("data")), json.dumps(kept, default=str))
        groups.setdefault(key, Group(key, {}, settings))
        row = rows.setdefault(key, HeldOutRow(""))
        seed, accuracy = int(run.get("seed") or 0), _accuracy(run.get("metrics"))
        assert accuracy is not None
        row.add(_domain(run), seed, accuracy)
        row.rules.add(str((run.get("selection") or {}).get("rule")))
        start = _probe(run)
        if start is not None and not settings.get("model.full_data"):
            probe.add(_domain(run), seed, start)
    for key, label in labels_of([*groups.values()]).items():
        rows[key].label = label
    return [*([probe] if probe.values else []), *rows.values()]


def _probe(run: Run) -> float | None:
    candidates = (run.get("start") or {}).get("candidates") or []
    found = [one for one in candidates if one.get("name") == PROBE]
    return _accuracy(found[0].get("metrics")) if found else None


def held_out_cells(table: HeldOut) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a table as text, in percent with standard deviations."""
    heads = ["Method", *table.domains, "Mean", "Worst", "Seeds", "Selected by"]
    rows = [
        [
            row.label,
            *(_text(row.of(domain)) for domain in table.domains),
            _text(row.over(table.domains, _mean)),
            _text(row.over(table.domains, min)),
            seeds_range(row.seeds),
            ", ".join(sorted(row.rules)) or "–",
        ]
        for row in table.rows
    ]
    return heads, rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _text(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    spread = "" if interval.std is None else f" ± {100 * interval.std:.1f}"
    return f"{100 * interval.mean:.1f}{spread}"


def held_out_csv(tables: list[HeldOut]) -> str:
    """Return all tables as CSV: one line per method, domain and seed, accuracies as fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["data", "method", "held_out_domain", "seed", "accuracy"])
    for table in tables:
        for row in table.rows:
            for domain in table.domains:
                for seed, accuracy in sorted(row.values.get(domain, {}).items()):
                    names = [csv_cell(one) for one in (table.data, row.label, domain)]
                    writer.writerow([*names, seed, accuracy])
    return buffer.getvalue()


def held_out_json(tables: list[HeldOut]) -> list[dict[str, Any]]:
    """Return the tables as plain values."""
    return [
        {
            "data": table.data,
            "domains": list(table.domains),
            "rows": [
                {
                    "label": row.label,
                    "accuracy": {
                        domain: {str(seed): value for seed, value in sorted(found.items())}
                        for domain, found in row.values.items()
                    },
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]
