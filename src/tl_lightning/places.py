"""Where the package's own files lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONF"]

_HERE = Path(__file__).resolve().parent
#: A wheel carries conf/ inside the package; an editable install reads the repository's.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parents[1] / "conf"
