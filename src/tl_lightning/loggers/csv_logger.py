"""The log as a table of figures, which a resumed run continues without a doubled or missing row."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger

from tl_lightning.utils.files import write_text

__all__ = ["MetricsTable", "keep_rows", "rows_so_far"]


class _Writer:
    """Appends rows to ``metrics.csv``; writes it anew, as a whole, where a column comes up.

    Lightning's own loses the columns of the rows that a run finds there, and fails on them.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[dict[str, Any]] = []
        self.columns, self.count = self._found()

    def _found(self) -> tuple[list[str], int]:
        if not self.path.is_file():
            return [], 0
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), sum(1 for _ in reader)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write nothing: the run's configuration lies in its folder and its report."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None) -> None:
        """Take a row."""
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        self.waiting.append({**plain, "step": step})

    def save(self) -> None:
        """Write the rows that wait."""
        if not self.waiting:
            return
        new = set().union(*self.waiting) - set(self.columns)
        if new:
            rows = [*self.rows(), *self.waiting]
            self.columns = sorted({*self.columns, *new})
            self._write_all(rows)
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerows(self.waiting)
        self.count += len(self.waiting)
        self.waiting = []

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in the file."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def keep(self, columns: list[str], count: int, further: dict[str, Any] | None) -> None:
        """Keep the first rows of the file, and add one that was about to be written."""
        rows = self.rows()
        if len(rows) < count:  # another run's folder: a table of its own begins
            return
        rows = [{key: row.get(key, "") for key in columns} for row in rows[:count]]
        self.columns, self.count, self.waiting = list(columns), count, []
        if columns:
            self._write_all(rows)
        else:
            self.path.unlink(missing_ok=True)
        if further:
            step = further.pop("step")
            self.log_metrics(further, step)
            self.save()

    def _write_all(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


class MetricsTable(CSVLogger):
    """Lightning's CSV logger with a file that survives being cut and continued.

    Args:
        save_dir: The run's folder, which gets ``metrics.csv``.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, name=None, version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file's writer, on the first rank."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(Path(self.log_dir) / "metrics.csv")  # type: ignore[assignment]
        return self._experiment


def _writer(trainer: L.Trainer) -> _Writer | None:
    tables = [one for one in trainer.loggers if isinstance(one, MetricsTable)]
    return tables[0].experiment if tables and trainer.is_global_zero else None


def rows_so_far(trainer: L.Trainer, ends_epoch: bool) -> dict[str, Any] | None:
    """Return where the table stands, once everything is on the disk.

    Args:
        trainer: Whose table.
        ends_epoch: Whether the epoch's row is about to be written, after this checkpoint.
    """
    writer = _writer(trainer)
    if writer is None:
        return None
    writer.save()
    row: dict[str, Any] | None = None
    if ends_epoch:
        found = trainer._logger_connector.metrics["log"]
        row = {key: float(value) for key, value in found.items()}
        if row:
            row["epoch"] = trainer.current_epoch
            row["step"] = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
    return {"columns": list(writer.columns), "count": writer.count, "row": row or None}


def keep_rows(trainer: L.Trainer, stand: dict[str, Any] | None) -> None:
    """Take the table back to where it stood when a checkpoint was written."""
    writer = _writer(trainer)
    if writer is not None and stand is not None:
        writer.keep(stand["columns"], stand["count"], dict(stand["row"]) if stand["row"] else None)
