"""Files of predictions: what is written, and how they survive interruptions."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import killed_after
from tl_lightning.cli.predict import _predict
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference import draft as drafts
from tl_lightning.inference.draft import Draft
from tl_lightning.inference.formats import Csv, JsonLines, format_of
from tl_lightning.inference.logit_sample import LogitSample
from tl_lightning.inference.predictions import Prediction

FORMULA = Prediction("=cmd|x", "@class", 0.5, top=(("@class", 0.5), ("+b", 0.25)))
SUFFIXES = ("csv", "jsonl", "parquet")


@pytest.fixture
def given(trained: Path, photos: Path) -> list[str]:
    return [f"checkpoint={trained / 'run'}", f"input={photos}", "batch_size=4", "top=2"]


# -- formats -------------------------------------------------------------------------------------
def test_no_cell_is_executed_by_a_spreadsheet() -> None:
    form = Csv(top=2)
    text = (
        form.header() + form.encoded([FORMULA, Prediction("-p", None, None, error="=e")])
    ).decode()
    first, second = csv.DictReader(io.StringIO(text))
    assert first["sample"] == "'=cmd|x"
    assert first["class"] == "'@class"
    assert first["class_2"] == "'+b"
    assert second["sample"] == "'-p"
    assert second["error"] == "'=e"
    row = json.loads(JsonLines().encoded([FORMULA]))  # read by programs, which execute nothing
    assert (row["sample"], row["class"]) == ("=cmd|x", "@class")


def test_names_that_are_not_utf_8_and_values_that_are_not_finite() -> None:
    nan = float("nan")
    row = Prediction(os.fsdecode(b"caf\xe9"), "a", nan, nan, top=(("a", nan),),
                     embedding=np.float32([0.1, nan]))  # fmt: skip
    found = json.loads(JsonLines().encoded([row]))
    assert found["sample"] == "caf\\udce9"
    assert (found["probability"], found["novelty"]) == (None, None)
    assert np.float32(found["embedding"][0]) == np.float32(0.1)
    assert found["embedding"][1] is None
    assert b"caf\\udce9,a,nan,nan,no," in Csv(1).encoded([row])


def test_parquet_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"out=<file.parquet> requires the package pyarrow; run"):
        format_of(Path("a.parquet"), 1, False)


def test_groups_of_a_parquet_file_have_the_same_size(tmp_path: Path, monkeypatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("tl_lightning.inference.formats.GROUP", 10)
    form = format_of(Path("a.parquet"), 1, False)
    rows = [Prediction(str(number), "a", 0.5) for number in range(37)]
    files = []
    for name, size in (("a", 7), ("b", 25)):
        draft = tmp_path / name / "rows"
        draft.parent.mkdir()
        parts = (form.encoded(rows[start : start + size]) for start in range(0, 37, size))
        draft.write_bytes(b"".join(parts))
        files.append(form.finished(draft))
    assert files[0].read_bytes() == files[1].read_bytes()
    meta = parquet.ParquetFile(files[0]).metadata
    assert [meta.row_group(group).num_rows for group in range(4)] == [10, 10, 10, 7]
    assert parquet.read_table(files[0])["sample"].to_pylist() == [row.sample for row in rows]


# -- interruptions -------------------------------------------------------------------------------
@pytest.fixture
def whole(given: list[str], tmp_path: Path, capsys) -> Iterator[dict[str, bytes]]:
    pytest.importorskip("pyarrow")
    files = {suffix: tmp_path / f"whole.{suffix}" for suffix in SUFFIXES}
    for file in files.values():
        _predict([*given, f"out={file}"])
    capsys.readouterr()
    return {suffix: file.read_bytes() for suffix, file in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_command_continues_without_a_lost_or_repeated_row(
    suffix: str, given: list[str], whole: dict[str, bytes], tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / f"out.{suffix}"
    out.write_bytes(b"earlier")
    arguments = [*given, f"out={out}"]
    for number in (2, 3):  # killed twice, with rows behind the last state
        killed_after(number, arguments, monkeypatch)
        assert out.read_bytes() == b"earlier"
        with (tmp_path / f".out.{suffix}.draft" / "rows").open("ab") as file:
            file.write(b"a part of a row")
    _predict(arguments)
    output = capsys.readouterr()
    assert "continuing after 20 samples of an interrupted command" in output.err
    assert "1 of 42 images cannot be read" in output.err
    assert "22 images in " in output.err
    assert out.read_bytes() == whole[suffix]
    assert not list(tmp_path.glob(".out*"))


def test_the_expected_accuracy_is_that_of_all_samples(
    given: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    arguments = [*given, f"out={tmp_path / 'out.csv'}"]
    _predict(arguments)
    expected = capsys.readouterr().out
    killed_after(3, arguments, monkeypatch)
    _predict(arguments)
    assert capsys.readouterr().out == expected


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), [
    ("batch_size=5", "had another batch_size; starting again"),
    ("top=3", "had another top; starting again"),
    ("inputs", "the inputs have changed since the interrupted command for out="),
    ("rows", "is incomplete; starting again"),
    ("version", "is of another version; starting again"),
])  # fmt: skip
def test_another_command_starts_again(
    change: str, message: str, given: list[str], whole: dict[str, bytes], photos: Path,
    tmp_path: Path, capsys, monkeypatch,
) -> None:  # fmt: skip
    out = tmp_path / "out.csv"
    arguments = [*given, f"out={out}"]
    killed_after(3, arguments, monkeypatch)
    draft = tmp_path / ".out.csv.draft"
    if change == "inputs":
        os.utime(photos / "03.png", (1, 1))
    elif change == "rows":
        os.truncate(draft / "rows", 10)
    elif change == "version":
        state = json.loads((draft / "state.json").read_text())
        (draft / "state.json").write_text(json.dumps({**state, "more": 1}))
    else:
        arguments = [one for one in arguments if one.partition("=")[0] not in change] + [change]
    _predict(arguments)
    assert message in capsys.readouterr().err
    if "=" not in change:
        assert out.read_bytes() == whole["csv"]
    assert len(out.read_text().splitlines()) == 43


def test_more_inputs_after_an_incomplete_batch_start_again(
    trained: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Otherwise the last batch would differ from that of an uninterrupted command."""
    files = sorted(str(file) for file in photos.iterdir())
    (tmp_path / "list.txt").write_text("\n".join(files[:6]))
    arguments = [f"checkpoint={trained / 'run'}", f"input={tmp_path / 'list.txt'}",
                 "batch_size=4", f"out={tmp_path / 'out.csv'}"]  # fmt: skip
    killed_after(3, arguments, monkeypatch)
    (tmp_path / "list.txt").write_text("\n".join(files[:7]))
    _predict(arguments)
    assert "the inputs have changed" in capsys.readouterr().err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 8


def test_only_one_command_writes_an_output(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with Draft.open(out, {}), pytest.raises(DataError, match=r"another command is writing out="):
        _predict([*given, f"out={out}"])


def test_a_full_disk_keeps_the_draft(given: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    out, write = tmp_path / "out.csv", drafts.write_json
    calls = itertools.count(1)

    def full(*args: Any) -> Any:
        if next(calls) > 2:
            raise OSError(28, "No space left on device")
        return write(*args)

    monkeypatch.setattr(drafts, "EVERY", 0.0)
    monkeypatch.setattr(drafts, "write_json", full)
    with pytest.raises(DataError, match=r"cannot write out=.*: No space left on device; free some"):
        _predict([*given, f"out={out}"])
    monkeypatch.setattr(drafts, "write_json", write)
    _predict([*given, f"out={out}"])
    assert "continuing after 8 samples" in capsys.readouterr().err


def test_output_may_be_a_link_or_a_pipe(given: list[str], tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.csv", tmp_path / "pipe"
    link.symlink_to("out.csv")
    os.mkfifo(pipe)
    _predict([*given, f"out={link}"])
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    _predict([*given, f"out={pipe}"])
    assert os.read(reader, 1 << 16) == (tmp_path / "out.csv").read_bytes()
    os.close(reader)
    assert link.is_symlink()
    assert pipe.is_fifo()


# -- logits for the expected accuracy ------------------------------------------------------------
def test_a_random_part_of_the_logits_is_kept_and_restored() -> None:
    whole = LogitSample(2, limit=50)
    logits = np.stack([np.arange(1000.0), np.zeros(1000)], axis=1).astype(np.float32)
    stored = b""
    for start in range(0, 600, 100):
        stored += whole.add(range(start, start + 100), logits[start : start + 100])
    again = LogitSample(2, limit=50)
    again.restore(stored, 600)
    for one in (whole, again):
        for start in range(600, 1000, 80):
            one.add(range(start, start + 80), logits[start : start + 80])
    assert np.array_equal(whole.logits, again.logits)
    kept = whole.logits[:, 0]
    assert len(kept) == 50
    assert whole.seen == again.seen == 1000
    assert (np.diff(kept) > 0).all()
    assert 350 < kept.mean() < 650  # not only the first samples
    few = LogitSample(2, limit=50)
    few.add(range(3), logits[:3])
    assert np.array_equal(few.logits, logits[:3])
