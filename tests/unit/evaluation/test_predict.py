"""What a finished model is asked about, before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tl_lightning.cli.predict import _pictures, _predict, _texts
from tl_lightning.errors import ConfigError, DataError


def test_a_line_is_a_text_whatever_it_holds(tmp_path: Path) -> None:
    """Some characters within a text end a line for ``str.splitlines``."""
    lines = ["one\u2028text", "another\x0cone", "a\x85third"]
    for end in ("\n", "\r\n"):
        file = tmp_path / "lines.txt"
        file.write_bytes(end.join([*lines, ""]).encode())
        assert _texts({"texts": str(file)}, []) == lines


def test_an_empty_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"line 2 of texts=.* is empty; remove it"):
        _texts({"texts": str(file)}, [])


def test_every_typed_text_is_asked_about_and_other_keys_come_once() -> None:
    assert _texts({}, ["one", "two"]) == ["one", "two"]
    with pytest.raises(ConfigError, match="texts= is there twice; type it once"):
        _predict(["checkpoint=a", "texts=b", "texts=c"])


def test_pictures_in_folders_below_are_not_denied(tmp_path: Path) -> None:
    below = tmp_path / "photo" / "a cat"
    below.mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no pictures; type pictures=<file or folder>"):
        _pictures(tmp_path)
    (below / "one.jpg").touch()
    with pytest.raises(DataError, match=r"not looked into; type pictures=.*/photo/a cat, for one"):
        _pictures(tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_the_model_looks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write out=.*nowhere is no folder"):
        _predict(["checkpoint=/absent", "text=a", f"out={tmp_path / 'nowhere' / 'a.csv'}"])
