"""Shared figure style and palette, with PNG rendering that needs no global backend."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

__all__ = [
    "CLASS_COLOURS",
    "GRID",
    "INK",
    "LINES",
    "MUTED",
    "SOURCE",
    "TARGET",
    "figure_png",
    "jpeg",
    "short",
]

INK, MUTED, GRID = "#1c2430", "#667085", "#e4e7ec"
SOURCE, TARGET = "#0072b2", "#d55e00"
LINES = (SOURCE, TARGET, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c2430", "#888888")
"""Palette of Okabe and Ito, distinguishable with all common types of colour blindness."""
CLASS_COLOURS = (
    *("#88ccee", "#cc6677", "#ddcc77", "#117733", "#332288", "#aa4499"),
    *("#44aa99", "#999933", "#882255", "#661100", "#6699cc", "#888888"),
)
"""CARTO's "Safe" palette, for at most 12 classes."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures look the same everywhere
    "font.size": 8.5,
    "text.parse_math": False,  # class names may contain "$"
    "text.color": INK,
    "axes.edgecolor": "#98a2b3",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}
DPI = 200


def figure_png(
    width: float, height: float, draw: Callable[[Any], None], constrained: bool = True
) -> bytes:
    """Return a PNG of the matplotlib figure that ``draw`` fills.

    Args:
        width: Width in inches; text is sized for display at 85 to 95 CSS pixels per inch.
        height: Height in inches.
        draw: Function that is called with the empty figure.
        constrained: Whether to use the constrained layout.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # The font may lack glyphs of class names; the HTML page shows them correctly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(
            figsize=(width, height), dpi=DPI, layout="constrained" if constrained else None
        )
        draw(figure)
        # Half the time of the default level, for a few percent of the size.
        small = {"compress_level": 3}
        figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs=small)
    return buffer.getvalue()


def jpeg(pixels: Any, quality: int = 80) -> bytes:
    """Return an image ``(H, W, 3)`` uint8 as a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()


#: WordNet ids in front of ImageNet's class names.
_WORDNET = re.compile(r"^n\d{8}[-_](?=.)")


def short(name: str, length: int = 16) -> str:
    """Return ``name`` for a figure: without a WordNet id, and cut to ``length`` characters.

    >>> short("n02085620-Chihuahua"), short("n02085620-Chihuahua", 6)
    ('Chihuahua', 'Chihu…')
    """
    name = _WORDNET.sub("", name)
    return name if len(name) <= length else name[: length - 1] + "…"
