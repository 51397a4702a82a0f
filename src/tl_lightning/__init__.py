"""Transfer learning and domain adaptation on Lightning and Hydra."""

from __future__ import annotations

__version__ = "0.1.0"
