"""The command ``tl-predict``: classify texts or images with a trained model."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.cli.common import plain_command
from tl_lightning.errors import ConfigError, DataError, nearest
from tl_lightning.evaluation.predict import Prediction, find_images, predicted
from tl_lightning.utils.files import write_text
from tl_lightning.utils.text import csv_cell, printable

__all__ = ["predict"]

_KEYS = ("checkpoint", "text", "texts", "images", "precision", "out", "allow")

#: Maximum number of characters of a text shown in the table.
SHOWN = 60


def predict() -> None:
    """Print predictions of a model: ``tl-predict checkpoint=<run or file> text="..."``."""
    plain_command(
        _predict,
        "usage: predict.py checkpoint=<run folder or file.ckpt> text=<text> [text=...]\n"
        "       predict.py checkpoint=<...> texts=<file.txt, one text per line>\n"
        "       predict.py checkpoint=<...> images=<file or folder>\n"
        "                  [precision=<0 to 1>] [out=<file.csv>]\n"
        "                  [allow=[<import path of a custom class>]]\n"
        "Prints the most likely class of each sample and its calibrated probability, and the\n"
        "accuracy to expect; precision=0.95 abstains where the class is not certain enough; out=\n"
        "writes a CSV file.",
    )


def _predict(arguments: list[str]) -> None:
    pairs = [argument.partition("=")[::2] for argument in arguments]
    given = dict(pairs)
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"{key} is not an option; {nearest(key, _KEYS)}")
        if key != "text" and sum(other == key for other, _ in pairs) > 1:
            raise ConfigError(f"{key} is given more than once; set {key} only once")
    if not given.get("checkpoint"):
        raise ConfigError("checkpoint is missing; set checkpoint=<run folder or file.ckpt>")
    inputs = [key for key in ("text", "texts", "images") if key in given]
    if len(inputs) != 1:
        raise ConfigError(
            f"exactly one input is required, got {' and '.join(inputs) or 'none'}; set one of "
            "text=<text>, texts=<file.txt> or images=<file or folder>"
        )
    out = Path(given.get("out") or ".").expanduser()
    if not out.parent.is_dir():  # checked before predicting, which may take long
        raise DataError(f"cannot write out={out}: {out.parent} is not a folder; set out=<file.csv>")
    if inputs == ["images"]:
        samples: Sequence[Any] = find_images(Path(given["images"]).expanduser())
    else:
        samples = _texts(given, [value for key, value in pairs if key == "text"])
    precision = _precision(given["precision"]) if "precision" in given else None
    from tl_lightning.evaluation.nodes import allowed_classes
    from tl_lightning.reliability.assessment import expected_accuracy

    unreadable: dict[str, str] = {}
    allow = allowed_classes(arguments)
    found = predicted(given["checkpoint"], samples, allow, unreadable, precision)
    results = found.rows
    _show(results, Path(given.get("images", "")).expanduser())
    if unreadable:
        print(
            f"warning: {len(unreadable)} of {len(samples)} images cannot be read and have no "
            "prediction:",
            *(f"  {path}: {reason}" for path, reason in unreadable.items()),
            sep="\n",
            file=sys.stderr,
        )
    if given.get("out"):
        _write(results, Path(given["out"]).expanduser())
    if found.threshold is not None:
        print(_abstained(results, given["precision"], found.threshold))
    for line in expected_accuracy(
        found.assessment, f"these {'images' if inputs == ['images'] else 'texts'}"
    ):
        print(line)


def _precision(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"precision={text} is not a number; set precision=0.95") from None


def _abstained(results: Sequence[Prediction], precision: str, threshold: float) -> str:
    """Return how many predictions abstain, and what the precision holds for."""
    kept = [row.probability for row in results if not row.abstained]
    text = (
        f"precision={precision}: {len(results) - len(kept)} of {len(results)} have a probability "
        f"below {threshold:.3f} and no class; this precision is assured for samples like those of "
        "source validation, not for others"
    )
    return f"{text}; mean probability of the others: {sum(kept) / len(kept):.3f}" if kept else text


def _texts(given: dict[str, str], typed: list[str]) -> list[str]:
    if typed:
        if not all(text.strip() for text in typed):
            raise DataError("text= is empty; set text=<text>")
        return typed
    from tl_lightning.data.io.texts import read_text

    file = Path(given["texts"]).expanduser()
    try:
        # Not str.splitlines, which also splits at characters that may be part of a text.
        lines = [line.rstrip("\n") for line in io.StringIO(read_text(file), newline=None)]
    except ValueError as error:
        raise DataError(f"cannot read texts={file}: {error}; set texts=<file.txt>") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"line {number} of texts={file} is empty; remove it")
    return lines


def _show(results: Sequence[Prediction], folder: Path) -> None:
    """Print a table; images in ``folder`` are shown by their names, texts by their beginnings."""
    from rich.console import Console
    from rich.table import Column, Table

    familiar = any(row.novelty is not None for row in results)
    columns = ("class", "probability", *(("novelty",) if familiar else ()))
    table = Table(*columns, Column("sample", overflow="fold"))
    images = folder != Path()
    for sample, name, probability, novelty, abstained in results:
        shown = Path(sample).name if images and folder.is_dir() else sample
        if not images and len(sample) > SHOWN:
            shown = f"{sample[: SHOWN - 3]}..."
        # As plain text, since rich would parse [...] as markup.
        cells = ["(unknown)" if abstained else name, f"{probability:.3f}"]
        cells += [] if novelty is None else [f"{novelty:.2f}"]
        table.add_row(*(_plain(printable(text)) for text in (*cells, shown)))
    Console().print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _write(results: Sequence[Prediction], file: Path) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("sample", "class", "probability", "novelty", "abstained"))
    for sample, name, probability, novelty, abstained in results:
        shown = "" if novelty is None else f"{novelty:.4f}"
        label = "" if abstained else csv_cell(name)
        writer.writerow(
            (csv_cell(sample), label, f"{probability:.6f}", shown, "yes" if abstained else "no")
        )
    try:
        if file.is_file() or not file.exists():
            write_text(file.resolve(), table.getvalue())  # a killed command leaves no part of it
        else:  # such as /dev/stdout, which must not be replaced
            with file.open("w", newline="", encoding="utf-8") as handle:
                handle.write(table.getvalue())
    except OSError as error:
        message = f"cannot write out={file}: {error.strerror}; set out=<another file.csv>"
        raise DataError(message) from error
    print(f"written: {file}")
