"""The command tl-predict and tl.predict: predictions, messages and options."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tl_lightning as tl
from conftest import REPO
from layouts import image
from tl_lightning.checkpoints.io import amend, read_checkpoint
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.cli.predict import _predict
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.options import Options
from tl_lightning.inference.predict import opened, stream


def folder_of(root: Path, count: int) -> Path:
    for index in range(count):
        image(root / f"{index:02d}.png", index)
    return root


def recorded(trained: Path, folder: Path, **changed: object) -> Path:
    """Copy the checkpoint of a run with another record of source validation."""
    path = checkpoint_of(trained / "run", "checkpoint")
    copy = folder / "changed.ckpt"
    shutil.copy(path, copy)
    stored = read_checkpoint(copy)["reliability"]
    amend(copy, reliability={**stored, **changed} if changed else {})
    return copy


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


# -- options -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("arguments", "message"), [
    (["checkpoint=a", "input=b", "input=c"], "input is given more than once; set input only once"),
    (["checkpoint=a", "images=b"], "images was replaced by input; set input=b"),
    (["checkpoint=a", "texts=b"], "texts was replaced by input; set input=b"),
    (["checkpoint=a", "inptu=b"], "inptu is not an option; did you mean 'input'"),
    (["checkpoint=a"], "exactly one input is required, got none; set input=<file, folder"),
    (["checkpoint=a", "input=b", "text=c"], "exactly one input is required, got text and input"),
    (["input=b"], "checkpoint is missing; set checkpoint=<run folder or file.ckpt>"),
    (["checkpoint=a", "input="], "input= is empty; set input=<file, folder"),
    (["checkpoint=a", "input=b", "top=some"], "top=some is not an integer; set top=5"),
    (["checkpoint=a", "input=b", "top=0"], "top=0 must be at least 1; set top=<number>"),
    (["checkpoint=a", "input=b", "workers=0"], "workers=0 must be at least 1; leave out workers"),
    (["checkpoint=a", "input=b", "tta=yes"], "tta=yes is not true or false; set tta=true"),
    (["checkpoint=a", "input=b", "precision=much"], "precision=much is not a number; set precisi"),
    (["checkpoint=a", "input=b", "precision=95"], "precision=95 is not a fraction between 0 and 1"),
    (["checkpoint=a", "input=b", "embeddings=true"], "embeddings=true requires a file; set out="),
])  # fmt: skip
def test_options_are_checked_before_the_model_is_loaded(arguments, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _predict(arguments)


def test_output_is_checked_before_the_model_is_loaded(tmp_path: Path) -> None:
    given = ["checkpoint=/absent", "text=a"]
    with pytest.raises(DataError, match=r"cannot write out=.*nowhere is not a folder; set out="):
        _predict([*given, f"out={tmp_path / 'nowhere' / 'a.csv'}"])
    with pytest.raises(DataError, match=r"cannot write out=.*: it is a folder; set out="):
        _predict([*given, f"out={tmp_path}"])
    with pytest.raises(ConfigError, match=r"has the suffix \.xls, which is not supported; set out"):
        _predict([*given, f"out={tmp_path / 'a.xls'}"])
    with pytest.raises(ConfigError, match=r"embeddings=true is not supported for out=.*a\.csv"):
        _predict([*given, f"out={tmp_path / 'a.csv'}", "embeddings=true"])


def test_what_does_not_fit_the_model_or_the_machine_is_an_error(trained: Path, tmp_path) -> None:
    run = f"checkpoint={trained / 'run'}"
    with pytest.raises(ConfigError, match=r"expects images, got a text; set input=<image, folder"):
        _predict([run, "text=a film"])
    with pytest.raises(ConfigError, match=r"devices=abacus is not available: .*; set devices=all"):
        _predict([run, "input=a", "devices=abacus"])
    with pytest.raises(ConfigError, match=r"devices has no effect on a Predictor; pass its check"):
        tl.predict(tl.Predictor.open(trained / "run"), [], devices="cpu")
    with pytest.raises(DataError, match=r"input=.*absent not found; set input=<image, folder"):
        _predict([run, f"input={tmp_path / 'absent'}"])


# -- inputs that cannot be read ------------------------------------------------------------------
def test_unreadable_images_are_listed_and_the_others_predicted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder with a long name" / "another folder with a long name"
    names = [f"the_file_{'of_the_same_name_' * 3}{index}.png" for index in range(3)]
    for index, name in enumerate(names):
        image(folder / name, index)
    half = folder / "half.jpg"
    half.write_bytes(image(folder / "whole.jpg", 9).read_bytes()[:300])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("<html>404</html>")
    (folder / "notes.txt").write_text("not an image by its suffix")
    out = tmp_path / "out.csv"
    _predict([f"checkpoint={trained / 'run'}", f"input={folder}"])
    output = capsys.readouterr()
    shown = "".join(output.out.replace("│", " ").split())
    assert all(name in shown for name in names)
    assert "3 of 7 images cannot be read and have no prediction:" in output.err
    assert f"{half}: " in output.err
    assert "on_error" not in output.err
    _predict([f"checkpoint={trained / 'run'}", f"input={folder}", f"out={out}"])
    rows = {Path(row["sample"]).name: row for row in table(out)}
    assert [*rows] == sorted([*names, "whole.jpg", "half.jpg", "text.png", "empty.png"])
    assert rows["empty.png"]["error"] == "the file is empty"
    assert "cannot identify image" in rows["text.png"]["error"]
    for name, row in rows.items():
        broken = name in ("half.jpg", "text.png", "empty.png")
        assert bool(row["error"]) == broken
        assert bool(row["class"]) == bool(row["probability"]) == (not broken)
    found = tl.predict(trained / "run", folder)
    assert [row.error for row in found] == [row["error"] for row in table(out)]
    assert [row.label or "" for row in found] == [row["class"] for row in table(out)]
    for name in [*names, "whole.jpg"]:
        (folder / name).unlink()
    with pytest.raises(DataError, match="none of 3 images can be read; check input="):
        _predict([f"checkpoint={trained / 'run'}", f"input={folder}"])
    with pytest.raises(DataError, match=r"none of 3 inputs can be read: .*the file is empty"):
        tl.predict(trained / "run", folder)


def test_an_unavailable_disk_stops_instead_of_being_a_broken_image(trained, monkeypatch) -> None:
    def unavailable(path: Path, *_: Any) -> Any:
        raise DataError("cannot read image") from OSError(5, "Input/output error")

    monkeypatch.setattr("tl_lightning.inference.predictor.open_image", unavailable)
    with pytest.raises(DataError, match=r"Input/output error; check that its disk or mount is ava"):
        tl.predict(trained / "run", ["a.png"])


# -- results -------------------------------------------------------------------------------------
def test_probabilities_are_calibrated_and_novelty_is_a_share(trained: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 6)
    once, halved = (
        tl.predict(recorded(trained, tmp_path, temperature=scale, target_temperature=None), folder)
        for scale in (1.0, 2.0)
    )
    bare = tl.predict(recorded(trained, tmp_path), folder)
    assert [row[:3] for row in once] == [row[:3] for row in bare]
    assert [row.label for row in once] == [row.label for row in halved]
    for one, two in zip(once, halved, strict=True):
        assert one.probability is not None
        assert two.probability is not None
        assert one.probability > two.probability
        assert one.novelty is not None
        assert 0 <= one.novelty <= 1
    assert not any(row.abstained for row in once)


def test_top_classes_are_sorted_and_add_up(trained: Path, tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "images", 5), tmp_path / "out.csv"
    for row in tl.predict(trained / "run", folder, top=99):
        names, values = zip(*row.top, strict=True)
        assert row.top[0] == (row.label, row.probability)
        assert list(values) == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1)
        assert len(set(names)) == len(names) > 2
    _predict([f"checkpoint={trained / 'run'}", f"input={folder}", f"out={out}", "top=2"])
    expected = tl.predict(trained / "run", folder, top=2)
    for cells, row in zip(table(out), expected, strict=True):
        assert (cells["class"], cells["class_2"]) == (row.top[0][0], row.top[1][0])
        assert float(cells["probability_2"]) == pytest.approx(row.top[1][1], abs=1e-6)


def test_all_formats_contain_what_python_returns(trained: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = folder_of(tmp_path / "images", 5)
    (folder / "broken.png").write_text("text")
    run = [f"checkpoint={trained / 'run'}", f"input={folder}", "top=2"]
    rows = tl.predict(trained / "run", folder, top=2, embeddings=True)
    for name in ("out.jsonl", "out.parquet"):
        _predict([*run, f"out={tmp_path / name}", "embeddings=true"])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for found in (lines, parquet.read_table(tmp_path / "out.parquet").to_pylist()):
        for one, row in zip(found, rows, strict=True):
            assert one["sample"] == row.sample
            assert one["class"] == row.label
            assert one["error"] == (row.error or None)
            assert [(top["class"], top["probability"]) for top in one["top"]] == list(row.top)
            if row.embedding is not None:
                assert np.array_equal(np.float32(one["embedding"]), row.embedding)
    assert sum(row.embedding is None for row in rows) == 1


def test_expected_accuracy_is_printed_with_its_warning(
    trained: Path, tmp_path: Path, capsys
) -> None:
    folder = folder_of(tmp_path / "images", 5)
    _predict([f"checkpoint={trained / 'run'}", f"input={folder}"])
    output = capsys.readouterr()
    line = r"expected accuracy on these images: \d+ % \(\d+ to \d+ %\), estimated without labels"
    assert re.search(line, output.out)
    assert "warning: There are only 5 target samples." in output.out
    assert "novelty" in output.out
    assert re.search(r"5 images in [\d.]+ s: [\d.,]+ images/s; loading the model took", output.err)


def test_checkpoint_without_outputs_predicts_and_says_what_is_missing(
    trained: Path, tmp_path: Path, capsys
) -> None:
    folder, old = folder_of(tmp_path / "images", 3), recorded(trained, tmp_path)
    _predict([f"checkpoint={old}", f"input={folder}"])
    output = capsys.readouterr().out
    start = "expected accuracy on these images: not available: the checkpoint has no outputs"
    assert start in output
    assert "novelty" not in output
    assert all(row.novelty is None for row in tl.predict(old, folder))
    with pytest.raises(ConfigError, match=r"precision=0.9 cannot be assured: the checkpoint has"):
        tl.predict(old, folder, precision=0.9)


def test_less_certain_predictions_abstain(trained: Path, tmp_path: Path, capsys) -> None:
    folder = folder_of(tmp_path / "images", 6)
    labels = torch.arange(400) % 2
    right = torch.nn.functional.one_hot(labels, 2) * 8.0
    # Confident samples are right, the others are right in half of the cases.
    wrong = right.flip(1)[:100] / 40
    record = {"logits": torch.cat([right, wrong, right[:100] / 40]), "temperature": 1.0,
              "target_temperature": None,
              "labels": torch.cat([labels, labels[:100], labels[:100]])}  # fmt: skip
    file, out = recorded(trained, tmp_path, **record), tmp_path / "out.csv"
    rows = tl.predict(file, folder, precision=0.95)
    assert [row.abstained for row in rows] == [(row.probability or 0) < 0.999 for row in rows]
    arguments = [f"checkpoint={file}", f"input={folder}", "precision=0.95"]
    _predict(arguments)
    output = " ".join(capsys.readouterr().out.split())
    number = sum(row.abstained for row in rows)
    assert f"precision=0.95: {number} of 6 have a probability below 1.000 and no class" in output
    assert output.count("(abstained)") == number > 0
    _predict([*arguments, f"out={out}"])
    written = table(out)
    assert [row["abstained"] for row in written] == ["yes" if r.abstained else "no" for r in rows]
    assert [row["class"] for row in written] == ["" if r.abstained else r.label for r in rows]


def test_averaging_the_mirror_image(trained: Path, tmp_path: Path) -> None:
    """A mirrored image then has the same prediction, and the logits are the mean."""
    file = image(tmp_path / "a.png", 3, (40, 24))
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    files = [file, tmp_path / "b.png"]
    plain, averaged = (
        tl.predict(trained / "run", files, tta=tta, embeddings=True, top=9) for tta in (False, True)
    )
    for one, other in (averaged, plain):
        assert one.embedding is not None
        assert other.embedding is not None
    assert averaged[0].embedding is not None
    assert np.allclose(averaged[0].embedding, averaged[1].embedding, atol=1e-5)
    assert not np.allclose(plain[0].embedding, plain[1].embedding, atol=1e-3)
    mean = (plain[0].embedding + plain[1].embedding) / 2  # type: ignore[operator]
    assert np.allclose(averaged[0].embedding, mean, atol=1e-5)


# -- Python --------------------------------------------------------------------------------------
def test_images_in_memory_are_predicted_as_their_files(trained: Path, tmp_path: Path) -> None:
    file = image(tmp_path / "a.png", 3, (40, 24))
    opened_image = Image.open(file)
    pixels = np.asarray(opened_image.convert("RGB"))
    forms = [file, str(file), file.read_bytes(), opened_image, pixels,
             torch.from_numpy(pixels.copy()).permute(2, 0, 1)]  # fmt: skip
    found = tl.predict(trained / "run", forms)
    assert len({row[1:] for row in found}) == 1
    assert [row.sample for row in found] == [str(file), str(file), "2", "3", "4", "5"]
    for one in (pixels, opened_image):  # the last digits depend on the size of the batch
        alone = tl.predict(trained / "run", one)[0]
        assert alone.label == found[0].label
        assert alone.probability == pytest.approx(found[0].probability, abs=1e-6)
    wrong = tl.predict(trained / "run", [file, pixels / 255, 3, np.zeros((0, 4, 3), np.uint8)])
    assert "uint8 of shape (H, W, 3) (numpy) or (3, H, W) (torch), got ndarray" in wrong[1].error
    assert "got int of shape" in wrong[2].error
    assert wrong[3].error == "the image has no pixels"


def test_a_stream_needs_no_end(trained: Path, tmp_path: Path) -> None:
    file, asked = image(tmp_path / "a.png", 3), 0

    def endless() -> Any:
        nonlocal asked
        while True:
            asked += 1
            yield file

    rows = tl.predict(trained / "run", endless(), stream=True, batch_size=4)
    found = [next(rows) for _ in range(10)]
    rows.close()  # type: ignore[attr-defined]
    assert len({row[1:] for row in found}) == 1
    assert asked <= 4 * (3 + 3)


def test_predictions_do_not_depend_on_threads_and_devices(trained: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 30)
    (folder / "05a.png").write_text("text")
    alone = tl.predict(trained / "run", folder, batch_size=4, workers=1)
    several = opened(
        trained / "run", Options(batch_size=4, workers=3, devices=["cpu", "cpu", "cpu"])
    )
    assert len(several.predictors) == 3
    assert len({id(one.module) for one in several.predictors}) == 3
    assert list(stream(several, folder)) == alone
    assert alone[6].error


def test_a_file_that_cannot_be_examined_is_a_row_with_an_error(trained: Path, tmp_path) -> None:
    folder = folder_of(tmp_path / "photos", 2)
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    rows = {Path(row.sample).name: row.error for row in tl.predict(trained / "run", folder)}
    assert rows.pop("loop.jpg")
    assert set(rows.values()) == {""}


@pytest.mark.slow
def test_the_standard_output_contains_the_predictions_alone(trained: Path, tmp_path) -> None:
    folder = folder_of(tmp_path / "photos", 3)
    command = f"{sys.executable} {REPO}/scripts/predict.py checkpoint={trained}/run input={folder}"
    for end, lines in (("cat", 4), ("head -1", 1)):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} out=/dev/stdout | {end}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == lines
        assert done.stdout.startswith("sample,class")
        assert "Traceback" not in done.stderr


def test_a_deep_image_in_memory_has_the_white_of_the_model(trained: Path, tmp_path) -> None:
    predictor = tl.Predictor.open(trained / "run")
    deep = replace(predictor, stored=replace(predictor.stored, input_state={"max_value": 4095}))
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((32, 32), 4000, dtype=np.uint16)).save(file)
    with Image.open(file) as image:
        one, other = tl.predict(deep, [file, image])
    assert one.top == other.top
