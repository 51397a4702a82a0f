"""Validator study: regret of each selection rule that does not use target labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.studies.selection_runs import Trace
from tl_lightning.selection.collapse import WORST, kept
from tl_lightning.selection.scores import SCORES

__all__ = ["Choice", "Line", "choices", "lines", "rank_correlation"]

#: Rules in table order: name, and whether the collapse filter is applied.
RULES = (
    ("last", False),
    ("source_val", False),
    *((name, under) for name in SCORES for under in (False, True)),
)


@dataclass(frozen=True)
class Choice:
    """The checkpoint that a rule selects from one run, or from all runs of a dataset and seed.

    Attributes:
        rule: Name of the score.
        under: Whether the collapse filter is applied.
        scope: ``run`` (selects an epoch) or ``pool`` (selects a run and an epoch).
        trace: The run of the checkpoint.
        place: Index of the checkpoint in the run.
        best: Accuracy of the best candidate.
        collapsed: Whether its accuracy is below a limit that the best candidate reaches: half of
            source-only's last accuracy, or without source-only ``min(2 / C, 0.5)`` of C classes.
    """

    rule: str
    under: bool
    scope: str
    trace: Trace
    place: int
    best: float
    collapsed: bool

    @property
    def accuracy(self) -> float:
        """Accuracy on target validation data."""
        return float(self.trace.accuracy[self.place])

    @property
    def regret(self) -> float:
        """Difference of accuracy from the best candidate."""
        return self.best - self.accuracy


@dataclass(frozen=True)
class Line:
    """One rule over all runs and pools; regrets are fractions.

    Attributes:
        rule: Name of the score.
        under: Whether the collapse filter is applied.
        run: Mean regret within a run.
        run_worst: Worst regret within a run.
        pool: Mean regret within a pool (all runs of one dataset and seed); None for ``last``.
        pool_worst: Worst regret within a pool.
        spearman: Rank correlation of score and accuracy, averaged over pools, or None.
        checkpoints: Number of checkpoints compared.
        runs: Number of runs.
        collapsed: Number of choices that had collapsed.
        chosen: Number of choices.
    """

    rule: str
    under: bool
    run: float
    run_worst: float
    pool: float | None
    pool_worst: float | None
    spearman: float | None
    checkpoints: int
    runs: int
    collapsed: int
    chosen: int


def _values(trace: Trace, rule: str, under: bool, top: float = 0.0) -> Array:
    """Return a rule's score of each checkpoint; ``top`` is the pool's best source accuracy."""
    if rule == "last":
        return trace.epoch.astype(float)
    if rule == "source_val":
        return trace.source_acc
    if not under:
        return trace.raw[rule]
    collapsed = trace.source_acc < trace.ratio * top
    return np.where(collapsed, WORST + trace.source_acc, trace.filtered[rule])


def _pools(traces: Sequence[Trace]) -> dict[tuple[str, int], list[Trace]]:
    pools: dict[tuple[str, int], list[Trace]] = {}
    for trace in traces:
        pools.setdefault((trace.data, trace.seed), []).append(trace)
    return pools


def choices(traces: Sequence[Trace]) -> list[Choice]:
    """Return the choice of every rule within each run and within each pool of runs.

    Within a run, the collapse filter uses the best source accuracy so far, as in training. Within a
    pool, whose runs have all finished, it uses the best source accuracy of the pool.
    """
    made = []
    for pool in _pools(traces).values():
        limit = _limit(pool)
        for rule, under in RULES:
            for trace in pool:
                place = _within(trace, rule, under)
                made.append(_choice(rule, under, "run", trace, place, [trace], limit))
            if rule != "last":  # the last epoch does not rank runs
                chosen, place = _across(pool, rule, under)
                made.append(_choice(rule, under, "pool", chosen, place, pool, limit))
    return made


def _within(trace: Trace, rule: str, under: bool) -> int:
    values = _values(trace, rule, under)
    if under:
        return kept(list(values), list(trace.source_acc), trace.ratio)
    return int(np.argmax(values))


def _across(pool: Sequence[Trace], rule: str, under: bool) -> tuple[Trace, int]:
    top = max(float(trace.source_acc.max()) for trace in pool)
    values = [_values(trace, rule, under, top) for trace in pool]
    number = int(np.argmax([value.max() for value in values]))
    return pool[number], int(np.argmax(values[number]))


def _limit(pool: Sequence[Trace]) -> float:
    """Return the accuracy below which a selected model counts as collapsed.

    Twice chance is only a fallback: on a hard target with few classes, source-only itself may be
    below it.
    """
    baseline = [float(trace.accuracy[-1]) for trace in pool if trace.name == "source_only"]
    return max(baseline) / 2 if baseline else min(2 / pool[0].num_classes, 0.5)


def _choice(
    rule: str,
    under: bool,
    scope: str,
    trace: Trace,
    place: int,
    candidates: Sequence[Trace],
    limit: float,
) -> Choice:
    best = max(float(other.accuracy.max()) for other in candidates)
    collapsed = bool(trace.accuracy[place] < limit <= best)
    return Choice(rule, under, scope, trace, place, best, collapsed)


def rank_correlation(a: Array, b: Array) -> float | None:
    """Return Spearman's rank correlation, with mean ranks for ties.

    None if either input is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return round(float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]), 12)


def lines(traces: Sequence[Trace], made: Sequence[Choice] | None = None) -> list[Line]:
    """Return one line per rule, in the order of :data:`RULES`.

    Args:
        traces: Runs of one or more datasets.
        made: Result of :func:`choices`; computed if None.
    """
    made = choices(traces) if made is None else made
    checkpoints = sum(len(trace.epoch) for trace in traces)
    table = []
    for rule, under in RULES:
        matching = [choice for choice in made if (choice.rule, choice.under) == (rule, under)]
        run = [choice.regret for choice in matching if choice.scope == "run"]
        pool = [choice.regret for choice in matching if choice.scope == "pool"]
        table.append(
            Line(
                rule=rule,
                under=under,
                run=float(np.mean(run)),
                run_worst=max(run),
                pool=float(np.mean(pool)) if pool else None,
                pool_worst=max(pool, default=None),
                spearman=_correlation(traces, rule, under),
                checkpoints=checkpoints,
                runs=len(traces),
                collapsed=sum(choice.collapsed for choice in matching),
                chosen=len(matching),
            )
        )
    return table


def _correlation(traces: Sequence[Trace], rule: str, under: bool) -> float | None:
    if rule == "last":
        return None
    correlations = []
    for pool in _pools(traces).values():
        top = max(float(trace.source_acc.max()) for trace in pool)
        values = np.concatenate([_values(trace, rule, under, top) for trace in pool])
        value = rank_correlation(values, np.concatenate([trace.accuracy for trace in pool]))
        correlations += [] if value is None else [value]
    return float(np.mean(correlations)) if correlations else None
