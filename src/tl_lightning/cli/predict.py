"""The command ``tl-predict``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_lightning.cli.common import plain_command
from tl_lightning.errors import ConfigError, DataError, nearest
from tl_lightning.evaluation.predict import Prediction, predictions

__all__ = ["predict"]

_KEYS = ("checkpoint", "text", "texts", "pictures", "out")

#: Letters of a sample that the table shows.
SHOWN = 60


def predict() -> None:
    """Print what a model says: ``tl-predict checkpoint=<run or file> text="..."``."""
    plain_command(
        _predict,
        "usage: predict.py checkpoint=<run folder or file.ckpt> text=<words> [text=...]\n"
        "       predict.py checkpoint=<...> texts=<file.txt, a text a line>\n"
        "       predict.py checkpoint=<...> pictures=<file or folder>\n"
        "                  [out=<file.csv>]\n"
        "Prints the likeliest class of each and its probability; out= also writes them as CSV.",
    )


def _predict(arguments: list[str]) -> None:
    pairs = [argument.partition("=")[::2] for argument in arguments]
    given = dict(pairs)
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"{key} is no option; {nearest(key, _KEYS)}")
        if key != "text" and sum(other == key for other, _ in pairs) > 1:
            raise ConfigError(f"{key}= is there twice; type it once")
    if not given.get("checkpoint"):
        raise ConfigError("checkpoint is missing; type checkpoint=<run folder or file.ckpt>")
    asked = [key for key in ("text", "texts", "pictures") if key in given]
    if len(asked) != 1:
        raise ConfigError(
            f"{' and '.join(asked) or 'nothing'} to ask about; type one of text=<words>, "
            "texts=<file.txt> or pictures=<file or folder>"
        )
    out = Path(given.get("out") or ".").expanduser()
    if not out.parent.is_dir():  # told before the model has looked at thousands
        raise DataError(f"cannot write out={out}: {out.parent} is no folder; type another")
    if asked == ["pictures"]:
        samples: Sequence[Any] = _pictures(Path(given["pictures"]).expanduser())
    else:
        samples = _texts(given, [value for key, value in pairs if key == "text"])
    found = predictions(given["checkpoint"], samples)
    _show(found)
    if given.get("out"):
        _write(found, Path(given["out"]).expanduser())


def _texts(given: dict[str, str], typed: list[str]) -> list[str]:
    if typed:
        if not all(text.strip() for text in typed):
            raise DataError("text= is empty; type text=<words>")
        return typed
    from tl_lightning.data.io.texts import read_text

    file = Path(given["texts"]).expanduser()
    try:
        # Lines as people see them: str.splitlines also ends one at characters within a text.
        lines = [line.rstrip("\n") for line in io.StringIO(read_text(file), newline=None)]
    except ValueError as error:
        raise DataError(f"cannot read texts={file}: {error}; type texts=<file.txt>") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"line {number} of texts={file} is empty; remove it")
    return lines


def _pictures(place: Path) -> list[Path]:
    from tl_lightning.data.io.folders import check_signatures, picture_files

    if not place.exists():
        raise DataError(f"pictures={place} is absent; type pictures=<file or folder>")
    files = [place] if place.is_file() else picture_files(place)
    if not files:
        deeper = next((item for item in sorted(place.rglob("*/")) if picture_files(item)), None)
        raise DataError(
            f"pictures={place} holds no pictures itself, and folders below it are not looked into; "
            f"type pictures={deeper}, for one"
            if deeper
            else f"pictures={place} holds no pictures; type pictures=<file or folder>"
        )
    check_signatures(files, setting="pictures")
    return files


def _show(found: Sequence[Prediction]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "probability", "sample")
    for sample, name, probability in found:
        short = sample if len(sample) <= SHOWN else f"{sample[: SHOWN - 3]}..."
        # As plain text: words in brackets are no markup.
        table.add_row(*(_plain(text) for text in (name, f"{probability:.3f}", short)))
    Console().print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _write(found: Sequence[Prediction], file: Path) -> None:
    try:
        with file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(("sample", "class", "probability"))
            writer.writerows((s, name, f"{share:.6f}") for s, name, share in found)
    except OSError as error:
        raise DataError(f"cannot write out={file}: {error.strerror}; type another") from error
    print(f"written: {file}")
