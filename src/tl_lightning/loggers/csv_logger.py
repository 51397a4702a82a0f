"""CSV logger that resumes without duplicate or missing rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger

from tl_lightning.utils.files import write_text

__all__ = ["MetricsCSVLogger", "keep_rows", "rows_so_far"]


class _Writer:
    """Append rows to ``metrics.csv``; rewrite the file when a new column appears.

    Lightning's writer ignores the columns of an existing file and cannot append to it.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer: list[dict[str, Any]] = []
        self.columns, self.count = self._read_existing()

    def _read_existing(self) -> tuple[list[str], int]:
        if not self.path.is_file():
            return [], 0
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), sum(1 for _ in reader)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Do nothing: the configuration is in the run folder and in the report."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None) -> None:
        """Buffer a row."""
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        self.buffer.append({**plain, "step": step})

    def save(self) -> None:
        """Write the buffered rows."""
        if not self.buffer:
            return
        new = set().union(*self.buffer) - set(self.columns)
        if new:
            rows = [*self.rows(), *self.buffer]
            self.columns = sorted({*self.columns, *new})
            self._write_all(rows)
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerows(self.buffer)
        self.count += len(self.buffer)
        self.buffer = []

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in the file."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def keep(self, columns: list[str], count: int, pending: dict[str, Any] | None) -> None:
        """Truncate the file to its first ``count`` rows and append the pending row, if any."""
        rows = self.rows()
        if len(rows) < count:  # resumed in the folder of another run: start a new table
            return
        rows = [{key: row.get(key, "") for key in columns} for row in rows[:count]]
        self.columns, self.count, self.buffer = list(columns), count, []
        if columns:
            self._write_all(rows)
        else:
            self.path.unlink(missing_ok=True)
        if pending:
            step = pending.pop("step")
            self.log_metrics(pending, step)
            self.save()

    def _write_all(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


class MetricsCSVLogger(CSVLogger):
    """Lightning's CSV logger, with a file that is consistent after an interruption and resume.

    Args:
        save_dir: The run's folder, in which ``metrics.csv`` is written.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, name=None, version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file, on rank zero only."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(Path(self.log_dir) / "metrics.csv")  # type: ignore[assignment]
        return self._experiment


def _writer(trainer: L.Trainer) -> _Writer | None:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSVLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def rows_so_far(trainer: L.Trainer, ends_epoch: bool) -> dict[str, Any] | None:
    """Write all buffered rows; return the table's state for a checkpoint, None without a table.

    Args:
        trainer: The trainer whose CSV logger is saved.
        ends_epoch: Whether the row of the epoch is still to be written, after this checkpoint.
    """
    writer = _writer(trainer)
    if writer is None:
        return None
    writer.save()
    row: dict[str, Any] | None = None
    if ends_epoch:
        metrics = trainer._logger_connector.metrics["log"]
        row = {key: float(value) for key, value in metrics.items()}
        if row:
            row["epoch"] = trainer.current_epoch
            row["step"] = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
    return {"columns": list(writer.columns), "count": writer.count, "row": row or None}


def keep_rows(trainer: L.Trainer, state: dict[str, Any] | None) -> None:
    """Restore the table to the state returned by :func:`rows_so_far`."""
    writer = _writer(trainer)
    if writer is not None and state is not None:
        writer.keep(state["columns"], state["count"], dict(state["row"]) if state["row"] else None)
