"""The page of results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.peers.rows import OURS, Row, Value

__all__ = ["page"]


def page(rows: Sequence[Row], about: Mapping[str, str], chart: str = "") -> str:
    """Return the page.

    Args:
        rows: What was measured.
        about: What is said of the machine and the versions, in their order.
        chart: File of the chart beside the page.
    """
    return "\n".join(_lines(rows, about, chart)) + "\n"


def _lines(rows: Sequence[Row], about: Mapping[str, str], chart: str) -> Iterator[str]:
    yield f"# Beside other libraries, {about.get('date', '')}"
    yield ""
    yield (
        "Medians, with half of the range between the quartiles in percent. Each library runs in "
        "its own environment; worker processes take turns, so that changes of the machine affect "
        "all alike. *Ratio*: how many times better tl_lightning is than the best peer; below 1 it "
        "is worse."
    )
    yield ""
    yield from (f"- {key}: {value}" for key, value in about.items() if key != "date")
    yield ""
    if chart:
        yield f"![Ratio to the best peer in each row]({chart})"
        yield ""
    yield "| | tl_lightning | best peer | ratio | asked | |"
    yield "|---|---:|---:|---:|---:|---|"
    yield from (_summary(row) for row in rows)
    for row in rows:
        yield from ("", f"## {row.title}", "")
        if row.how:
            yield from (row.how, "")
        yield f"| | {row.unit} | spread | repetitions | |"
        yield "|---|---:|---:|---:|---|"
        yield from _figures(row)
        if row.reached() is False or row.behind():
            yield ""
            word = "Missed" if row.reached() is False else "Behind"
            yield f"**{word}.** {row.reason or 'The reason is not known.'}"
            yield f"Next step: {row.next_step or 'a profile'}."


def _summary(row: Row) -> str:
    ours, peer, ratio = row.values.get(OURS), row.best_peer(), row.ratio()
    best = "" if peer is None else f"{shown(row.values[peer].median)} ({peer})"
    verdict = {True: "reached", False: "**missed**", None: ""}[row.reached()]
    own = "" if ours is None else f"{shown(ours.median)} {row.unit}"
    return (
        f"| {row.title} | {own} | {best} | {'' if ratio is None else f'{ratio:.2f}'} | "
        f"{_asked(row)} | {verdict} |"
    )


def _asked(row: Row) -> str:
    if row.asked is None:
        return ""
    if row.absolute:
        return f"{'at most' if row.better == 'less' else 'at least'} {shown(row.asked)} {row.unit}"
    return f"{shown(row.asked)}x"


def _figures(row: Row) -> Iterator[str]:
    for name, value in _ordered(row):
        spread = f"{100 * value.spread:.0f} %" if value.count > 1 else ""
        repetitions = "" if value.count == 0 else str(value.count)
        yield f"| {name} | {shown(value.median)} | {spread} | {repetitions} | {value.note} |"
    for name, why in sorted(row.absent.items()):
        yield f"| {name} | – | | | {why} |"


def _ordered(row: Row) -> Iterable[tuple[str, Value]]:
    sign = 1 if row.better == "less" else -1
    return sorted(row.values.items(), key=lambda item: sign * item[1].median)


def shown(value: float) -> str:
    """Return a figure with three significant digits.

    >>> shown(1234.5), shown(12.345), shown(2.0), shown(0.0123)
    ('1,234', '12.3', '2', '0.0123')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
