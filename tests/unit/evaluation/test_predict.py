"""Inputs of tl-predict, which are checked before the model is loaded."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from helpers import file_config
from layouts import image, split_folders
from tl_lightning.checkpoints.io import amend, read_checkpoint
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.cli.predict import _predict, _texts, _write
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.predict import Prediction, find_images, predictions
from tl_lightning.training import fit as training


def test_texts_are_split_only_at_newlines(tmp_path: Path) -> None:
    """``str.splitlines`` also splits at other characters, which may occur within a text."""
    lines = ["one\u2028text", "another\x0cone", "a\x85third"]
    for end in ("\n", "\r\n"):
        file = tmp_path / "lines.txt"
        file.write_bytes(end.join([*lines, ""]).encode())
        assert _texts({"texts": str(file)}, []) == lines


def test_empty_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"line 2 of texts=.* is empty; remove it"):
        _texts({"texts": str(file)}, [])


def test_only_text_may_be_passed_more_than_once() -> None:
    assert _texts({}, ["one", "two"]) == ["one", "two"]
    with pytest.raises(ConfigError, match="texts is given more than once; set texts only once"):
        _predict(["checkpoint=a", "texts=b", "texts=c"])


def test_error_names_a_subfolder_with_images(tmp_path: Path) -> None:
    below = tmp_path / "photo" / "a cat"
    below.mkdir(parents=True)
    with pytest.raises(DataError, match=r"contains no images; set images=<file or folder>"):
        find_images(tmp_path)
    (below / "one.jpg").touch()
    with pytest.raises(DataError, match=r"not searched; set for example images=.*/photo/a cat"):
        find_images(tmp_path)


def test_unwritable_output_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write out=.*nowhere is not a folder; set out="):
        _predict(["checkpoint=/absent", "text=a", f"out={tmp_path / 'nowhere' / 'a.csv'}"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    root = split_folders(folder / "dogs", train=6, test=2)
    training.fit(file_config(root, "model=source_only", "data.target=null"), folder / "run")
    return folder


def test_unreadable_images_are_listed_and_the_others_predicted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder with a long name" / "another folder with a long name"
    names = [f"the_file_{'of_the_same_name_' * 3}{index}.png" for index in range(3)]
    for index, name in enumerate(names):
        image(folder / name, index)
    half = folder / "half.jpg"
    half.write_bytes(image(folder / "whole.jpg", 9).read_bytes()[:300])
    (folder / "text.png").write_text("<html>404</html>")
    out = tmp_path / "out.csv"
    _predict([f"checkpoint={trained / 'run'}", f"images={folder}", f"out={out}"])
    output = capsys.readouterr()
    shown = "".join(output.out.replace("│", " ").split())
    assert all(name in shown for name in names)
    assert "2 of 6 images cannot be read and have no prediction:" in output.err
    assert f"{half}: " in output.err
    assert "on_error" not in output.err
    rows = out.read_text().splitlines()[1:]
    assert [Path(row.split(",")[0]).name for row in rows] == [*names, "whole.jpg"]
    with pytest.raises(DataError, match=r"2 of 6 images cannot be read: .*half\.jpg \(.*; leave"):
        predictions(trained / "run", find_images(folder))
    for name in [*names, "whole.jpg"]:
        (folder / name).unlink()
    with pytest.raises(DataError, match="2 of 2 images cannot be read"):
        _predict([f"checkpoint={trained / 'run'}", f"images={folder}"])


def test_killed_while_writing_leaves_the_earlier_file(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "out.csv"
    file.write_text("earlier")
    monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if not child:
        _write([Prediction("text", "cat", 0.5)], file)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert file.read_text() == "earlier"


def test_output_may_be_a_link_or_a_pipe(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.csv", tmp_path / "pipe"
    link.symlink_to("out.csv")
    os.mkfifo(pipe)
    _write([Prediction("text", "cat", 0.5)], link)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    _write([Prediction("text", "cat", 0.5)], pipe)
    assert os.read(reader, 99) == (tmp_path / "out.csv").read_bytes()
    os.close(reader)
    assert link.is_symlink()
    assert pipe.is_fifo()


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


def test_probabilities_are_calibrated_and_novelty_is_a_share(trained: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 6)
    files = find_images(folder)
    once, halved = (
        predictions(recorded(trained, tmp_path, temperature=scale), files) for scale in (1.0, 2.0)
    )
    bare = predictions(recorded(trained, tmp_path), files)
    assert [row[:3] for row in once] == [row[:3] for row in bare]
    assert [row.label for row in once] == [row.label for row in halved]
    assert all(one.probability > two.probability for one, two in zip(once, halved, strict=True))
    assert all(row.novelty is not None and 0 <= row.novelty <= 1 for row in once)
    assert not any(row.abstained for row in once)


def test_expected_accuracy_is_printed_with_its_warning(
    trained: Path, tmp_path: Path, capsys
) -> None:
    folder = folder_of(tmp_path / "images", 5)
    _predict([f"checkpoint={trained / 'run'}", f"images={folder}"])
    output = capsys.readouterr().out
    line = r"expected accuracy on these images: \d+ % \(\d+ to \d+ %\), estimated without labels"
    assert re.search(line, output)
    assert "warning: There are only 5 target samples." in output
    assert "novelty" in output


def test_checkpoint_without_outputs_predicts_and_says_what_is_missing(
    trained: Path, tmp_path: Path, capsys
) -> None:
    folder, old = folder_of(tmp_path / "images", 3), recorded(trained, tmp_path)
    _predict([f"checkpoint={old}", f"images={folder}"])
    output = capsys.readouterr().out
    start = "expected accuracy on these images: not available: the checkpoint has no outputs"
    assert start in output
    assert "novelty" not in output
    assert all(row.novelty is None for row in predictions(old, find_images(folder)))
    with pytest.raises(ConfigError, match=r"precision=0.9 cannot be assured: the checkpoint has"):
        predictions(old, find_images(folder), precision=0.9)


def test_less_certain_predictions_abstain(trained: Path, tmp_path: Path, capsys) -> None:
    folder = folder_of(tmp_path / "images", 6)
    files = find_images(folder)
    labels = torch.arange(400) % 2
    right = torch.nn.functional.one_hot(labels, 2) * 8.0
    # Confident samples are right, the others are right in half of the cases.
    wrong = right.flip(1)[:100] / 40
    record = {"logits": torch.cat([right, wrong, right[:100] / 40]), "temperature": 1.0,
              "labels": torch.cat([labels, labels[:100], labels[:100]])}  # fmt: skip
    file, out = recorded(trained, tmp_path, **record), tmp_path / "out.csv"
    rows = predictions(file, files, precision=0.95)
    assert [row.abstained for row in rows] == [row.probability < 0.999 for row in rows]
    arguments = [f"checkpoint={file}", f"images={folder}", "precision=0.95", f"out={out}"]
    _predict(arguments)
    output = " ".join(capsys.readouterr().out.split())
    number = sum(row.abstained for row in rows)
    assert f"precision=0.95: {number} of 6 have a probability below 1.000 and no class" in output
    assert output.count("(unknown)") == number > 0
    written = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["abstained"] for row in written] == ["yes" if r.abstained else "no" for r in rows]
    assert [row["class"] for row in written] == ["" if r.abstained else r.label for r in rows]
    with pytest.raises(ConfigError, match=r"precision=much is not a number; set precision=0.95"):
        _predict([*arguments[:2], "precision=much"])
