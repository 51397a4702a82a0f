"""The notebooks of the site run, and their pages show the stored output."""

from __future__ import annotations

import json
from typing import Any

import pytest

import notebooks

FILES = sorted(notebooks.FOLDER.glob("*.ipynb"))


def outputs(book: dict[str, Any]) -> list[list[str]]:
    """Return the kinds of output of each cell of code, without repetitions."""
    found = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            kinds = (one["output_type"] for one in cell["outputs"] if one.get("name") != "stderr")
            found.append(list(dict.fromkeys(kinds)))
    return found


def test_pages_show_the_stored_notebooks() -> None:
    assert len(FILES) == 2
    for file, text, images in notebooks.pages():
        assert file.read_text() == text, "run: make notebooks"
        for name, content in images.items():
            assert (file.parent / "images" / name).read_bytes() == content, "run: make notebooks"
        assert "![Output" in text
        assert "Traceback" not in text


def test_a_page_has_text_code_and_output() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "b"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": "c", "outputs": [{"data": {"image/png": "aGk="}}]},
    ]
    text, images = notebooks.page_of({"cells": cells}, "x")
    assert text.startswith("# A\nb\n\n[Download")
    assert "```python\n1 + 1\n```\n\n```text\n2\n```\n\n```python\nc\n```" in text
    assert images == {"notebook_x_1.png": b"hi"}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_is_stored(path, monkeypatch, tmp_path) -> None:
    pytest.importorskip("nbclient")
    stored = json.loads(path.read_text())
    found = notebooks.executed(path)
    assert outputs(found) == outputs(stored)
    assert any(outputs(found))
