"""Transfer learning and domain adaptation with Lightning and Hydra."""

from __future__ import annotations

__version__ = "0.1.0"
