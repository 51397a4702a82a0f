"""Notebooks of the site: ``make notebooks`` executes them, stores their output and writes pages.

The site is made of Markdown, so that each notebook has a page with its cells and their output.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tl_lightning.utils.files import write_text

__all__ = ["FOLDER", "executed", "main", "page_of", "pages"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "notebooks"
#: Seconds until a cell must have ended.
PATIENCE = 1800
#: Output that differs from run to run: colours of the terminal, addresses and temporary folders.
UNSTABLE = re.compile(r"\x1b\[[0-9;]*m|(?<=at )0x[0-9a-f]+|/\S*/(?=runs/)")


def executed(path: Path) -> dict[str, Any]:
    """Return a notebook with new output; raise nbclient's error of the first cell that fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            book, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell["cell_type"] != "code":
            continue
        # Warnings of other packages, and progress bars, are of no interest to a reader.
        cell["outputs"] = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        for output in cell["outputs"]:
            if "text" in output:
                output["text"] = UNSTABLE.sub("", output["text"])
    book.metadata["language_info"] = {"name": "python"}
    found: dict[str, Any] = json.loads(nbformat.writes(book))
    return found


def page_of(book: Mapping[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook, and its images by name of the file.

    Args:
        book: Content of the file.
        name: Name of the file without its suffix.
    """
    images: dict[str, bytes] = {}
    parts = [
        part
        for cell in book["cells"]
        for part in ([_text(cell["source"])] if cell["cell_type"] == "markdown"
                     else _code(cell, name, images))
    ]  # fmt: skip
    title, *rest = parts
    link = (
        f"[Download this notebook](notebooks/{name}.ipynb). `make notebooks` computes its output."
    )
    return "\n\n".join([title, link, *rest]) + "\n", images


def _text(lines: str | list[str]) -> str:
    return "".join(lines).rstrip()


def _code(cell: Mapping[str, Any], name: str, images: dict[str, bytes]) -> Iterator[str]:
    yield f"```python\n{_text(cell['source'])}\n```"
    waiting = ""  # a stream may be stored in several parts
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" not in data:
            waiting += "".join(output.get("text") or data.get("text/plain") or "")
            continue
        if waiting.strip():
            yield _output(waiting)
        waiting = ""
        file = f"notebook_{name}_{len(images) + 1}.png"
        images[file] = base64.b64decode("".join(data["image/png"]))
        yield f"![Output of the cell above](images/{file})"
    if waiting.strip():
        yield _output(waiting)


def _output(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def pages() -> Iterator[tuple[Path, str, dict[str, bytes]]]:
    """Yield the file, text and images of the page of every notebook, from its stored output."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, images = page_of(json.loads(path.read_text()), path.stem)
        yield DOCS / f"notebook_{path.stem}.md", text, images


def main() -> None:
    """Execute all notebooks, or those that are named, and write them and their pages."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        write_text(path, json.dumps(executed(path), indent=1, ensure_ascii=False) + "\n")
    for file, text, images in pages():
        for old in (DOCS / "images").glob(f"{file.stem}_*.png"):
            old.unlink()
        for name, content in images.items():
            (DOCS / "images" / name).write_bytes(content)
        write_text(file, text)
        print(f"written: {file}")


if __name__ == "__main__":
    main()
