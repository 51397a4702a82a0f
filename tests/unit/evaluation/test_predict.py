"""Inputs of tl-predict, which are checked before the model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tl_lightning.cli.predict import _predict, _texts
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation.predict import find_images


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
