"""The validator study: how far from the best checkpoint each rule without target labels ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from tl_lightning.reporting.artifacts import Array
from tl_lightning.reporting.studies.selection_runs import SCORES, Trace
from tl_lightning.selection.collapse import WORST, kept

__all__ = ["Choice", "Line", "choices", "lines", "rank_correlation"]

#: Every rule of the study, in the order of its tables: name, and whether under the floor.
RULES = (
    ("last", False),
    ("source_val", False),
    *((name, under) for name in SCORES for under in (False, True)),
)


@dataclass(frozen=True)
class Choice:
    """The checkpoint that a rule takes from one run, or from all runs of one data set and seed.

    Attributes:
        rule: Name of the score.
        under: Whether under the floor.
        scope: ``run`` (which epoch) or ``pool`` (which run and epoch).
        trace: The run that it lies in.
        place: Its place in the run.
        best: The best accuracy there was to choose.
        collapsed: Whether its accuracy is below half of source-only's last one, or where there is
            none below twice chance (or half, if that is less), though a better one was there.
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
        """Its accuracy on target validation."""
        return float(self.trace.accuracy[self.place])

    @property
    def regret(self) -> float:
        """What was lost against the best."""
        return self.best - self.accuracy


@dataclass(frozen=True)
class Line:
    """One rule over all runs and pools; regrets are in fractions.

    Attributes:
        rule: Name of the score.
        under: Whether under the floor.
        run: Mean regret within a run.
        run_worst: Worst regret within a run.
        pool: Mean regret over all runs of one data set and seed; None for ``last``.
        pool_worst: Worst such regret.
        spearman: Mean over pools of the rank correlation of score and accuracy, or None.
        checkpoints: How many were compared.
        runs: How many runs they are of.
        collapsed: How often the choice had collapsed.
        chosen: Of how many choices.
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
    """Return a rule's score of each checkpoint; ``top`` is the best source accuracy known."""
    if rule == "last":
        return trace.epoch.astype(float)
    if rule == "source_val":
        return trace.source_acc
    if not under:
        return trace.raw[rule]
    below = trace.source_acc < trace.ratio * top
    return np.where(below, WORST + trace.source_acc, trace.floored[rule])


def _pools(traces: Sequence[Trace]) -> dict[tuple[str, int], list[Trace]]:
    pools: dict[tuple[str, int], list[Trace]] = {}
    for trace in traces:
        pools.setdefault((trace.data, trace.seed), []).append(trace)
    return pools


def choices(traces: Sequence[Trace]) -> list[Choice]:
    """Return what every rule chooses within each run, and within each pool of runs.

    Within a run a floored rule goes forward as training does: the floor rises with the best source
    accuracy so far. Within a pool, all of whose runs have ended, it is that of the pool's best.
    """
    found = []
    for pool in _pools(traces).values():
        limit = _limit(pool)
        for rule, under in RULES:
            for trace in pool:
                place = _within(trace, rule, under)
                found.append(_choice(rule, under, "run", trace, place, [trace], limit))
            if rule != "last":  # which run is last is no rule
                chosen, place = _across(pool, rule, under)
                found.append(_choice(rule, under, "pool", chosen, place, pool, limit))
    return found


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
    """Return the accuracy below which a chosen model has collapsed.

    Twice chance is no measure where there is a better one: of few classes a hard target leaves
    source-only itself below it.
    """
    plain = [float(trace.accuracy[-1]) for trace in pool if trace.name == "source_only"]
    return max(plain) / 2 if plain else min(2 / pool[0].num_classes, 0.5)


def _choice(
    rule: str,
    under: bool,
    scope: str,
    trace: Trace,
    place: int,
    among: Sequence[Trace],
    limit: float,
) -> Choice:
    best = max(float(other.accuracy.max()) for other in among)
    bad = bool(trace.accuracy[place] < limit <= best)
    return Choice(rule, under, scope, trace, place, best, bad)


def rank_correlation(a: Array, b: Array) -> float | None:
    """Return Spearman's rank correlation, equal values sharing their mean rank.

    None where one of the two does not vary.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return round(float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]), 12)


def lines(traces: Sequence[Trace], made: Sequence[Choice] | None = None) -> list[Line]:
    """Return the table: a line a rule, in the order of :data:`RULES`.

    Args:
        traces: Of one data set or of several.
        made: Their :func:`choices`, where they are known.
    """
    made = choices(traces) if made is None else made
    checkpoints = sum(len(trace.epoch) for trace in traces)
    table = []
    for rule, under in RULES:
        own = [choice for choice in made if (choice.rule, choice.under) == (rule, under)]
        run = [choice.regret for choice in own if choice.scope == "run"]
        pool = [choice.regret for choice in own if choice.scope == "pool"]
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
                collapsed=sum(choice.collapsed for choice in own),
                chosen=len(own),
            )
        )
    return table


def _correlation(traces: Sequence[Trace], rule: str, under: bool) -> float | None:
    if rule == "last":
        return None
    found = []
    for pool in _pools(traces).values():
        top = max(float(trace.source_acc.max()) for trace in pool)
        values = np.concatenate([_values(trace, rule, under, top) for trace in pool])
        one = rank_correlation(values, np.concatenate([trace.accuracy for trace in pool]))
        found += [] if one is None else [one]
    return float(np.mean(found)) if found else None
