"""Runs of a benchmark that are made once: those in a file of results are skipped.

Shared by the benchmarks of class sets, of few labels and of regression.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.config.compose import as_dict, composed
from tl_lightning.training.fit import fit


def arguments_of(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options ``name=value`` of a benchmark, and the overrides after ``--``."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    given = dict(item.split("=", 1) for item in arguments[:split])
    return given, list(arguments[split + 1 :])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the results written so far, one per line."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


class Results:
    """A file with one line of JSON for each run.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = {line["key"] for line in lines_of(path)}

    def run(
        self,
        settings: Sequence[str],
        about: Mapping[str, Any],
        figures: Callable[[dict[str, Any], Path], dict[str, Any]],
    ) -> None:
        """Train with some settings and add a line, unless it is there.

        Args:
            settings: Overrides of the run.
            about: What the line says of the run.
            figures: Returns what it says of the result, of the report and the run's folder.
        """
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        if key in self.done:
            return
        with tempfile.TemporaryDirectory() as folder:
            report = fit(as_dict(composed(settings, ())), Path(folder))
            line = {"key": key, **about, **figures(report, Path(folder))}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
