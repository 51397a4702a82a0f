"""The chart of the page: how many times better tl_lightning is than the best peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.rows import Row

__all__ = ["draw"]

REACHED, MISSED, NO_TARGET = "#2a9d5c", "#c8553d", "#6c7a89"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a horizontal bar for every row that has a peer; a line marks what was asked."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row.ratio() is not None][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.42 * len(shown)), layout="constrained")
    for place, row in enumerate(shown):
        ratio = row.ratio() or 0.0
        colour = {True: REACHED, False: MISSED, None: NO_TARGET}[row.reached()]
        axes.barh(place, ratio - 1, left=1, height=0.6, color=colour)
        beyond = ratio >= 1
        line = row.asked if row.asked is not None and not row.absolute else 0.0
        place_of_figure = line if beyond and ratio < line < 1.5 * ratio else ratio
        axes.annotate(
            f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}", (place_of_figure, place),
            xytext=(4 if beyond else -4, 0), textcoords="offset points", va="center",
            ha="left" if beyond else "right", fontsize=9,
        )  # fmt: skip
        if row.asked is not None and not row.absolute:
            axes.plot([row.asked] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.4, high * 1.4)  # space for the figures beside the bars
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low < t < high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [row.title for row in shown])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the best peer (below 1: worse)")
    names = ((REACHED, "target reached"), (MISSED, "target missed"), (NO_TARGET, "no target"))
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour, _ in names]
    handles.append(plt.Line2D([], [], color="black", linewidth=1.5))
    axes.legend(
        handles, [*(label for _, label in names), "asked"], fontsize=8, ncols=4, frameon=False,
        loc="lower left", bbox_to_anchor=(0, 1),
    )  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
