"""Terminal report of a data survey."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tl_lightning.data.checks.issues import ERROR, KINDS, NOTE, PAIRS, WARNING

__all__ = ["console", "render", "verdict"]

#: Number of files listed per kind of problem; ``format=json`` lists all.
SHOWN = 5
#: Maximum number of classes with a row each.
FEW = 20
STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}


def console() -> Console:
    """Return a console for the terminal, or of 100 columns if the output is redirected."""
    fixed = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=100 if fixed else None, markup=False)


def verdict(found: Mapping[str, Any]) -> str:
    """Return the last line of the report.

    >>> verdict({"may_start": True, "errors": 0, "warnings": 1})
    'training can start (1 warning)'
    """
    warnings = _number(found["warnings"], "warning")
    if found["may_start"]:
        return "training can start" + (f" ({warnings})" if found["warnings"] else "")
    return f"training would stop: {_number(found['errors'], 'error')} ({warnings})"


def render(found: Mapping[str, Any], out: Console) -> None:
    """Print a survey.

    Args:
        found: Result of :func:`tl_lightning.data.checks.survey.survey`.
        out: Console to print to.
    """
    domains = found["domains"]
    if domains:
        out.print(_table(domains))
        for name, domain in domains.items():
            if domain["classes"]:
                out.print(Text(_balance(name, domain)))
    if found["sizes"]:
        sizes = (f"{side} {s['min']} / {s['median']} / {s['max']}"
                 for side, s in found["sizes"].items())  # fmt: skip
        out.print(Text(f"{found['examined']:,} files, pixels (min / median / max): "
                           + ", ".join(sizes)))  # fmt: skip
    for note in dict.fromkeys(domain["note"] for domain in domains.values() if domain["note"]):
        out.print(Text(note, style="dim"))
    out.print()
    base = _base(found)
    if base:
        out.print(Text(f"files below {base}", style="dim"))
    for part in _problems(found, base):
        # Paths are not wrapped, so that they can be copied.
        out.print(part, soft_wrap=isinstance(part, Text))
    for line in _quality(found["quality"]) if "quality" in found else ():
        out.print(line, soft_wrap=True)
    style = "bold green" if found["may_start"] else "bold red"
    seconds = Text(f"  {found['seconds']:.1f} s", style="dim")
    out.print(Text(verdict(found), style=style).append_text(seconds))


# -- counts --------------------------------------------------------------------------------------
def _table(domains: Mapping[str, Any]) -> Table:
    """Return the table of images per domain and split, with a row per class if there are few."""
    columns = [(name, split) for name, domain in domains.items() for split in domain["splits"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("\nclass", overflow="fold", max_width=36)
    for key, split in columns:
        first = split == next(iter(domains[key]["splits"]))
        table.add_column(f"{key if first else ''}\n{split}", justify="right")
    classes = list(dict.fromkeys(n for domain in domains.values() for n in domain["classes"]))
    if len(classes) <= FEW:
        for name in classes:
            table.add_row(Text(name), *_class_cells(domains, name, columns))
        table.add_section()
    totals = (f"{domains[key]['splits'][split]:,}" for key, split in columns)
    table.add_row(Text(_number(len(classes), "class", "classes")), *totals)
    return table


def _class_cells(
    domains: Mapping[str, Any], name: str, columns: Sequence[tuple[str, str]]
) -> list[str]:
    counts = (domains[key]["classes"].get(name, {}).get(split) for key, split in columns)
    return ["–" if count is None else f"{count:,}" for count in counts]


def _balance(key: str, domain: Mapping[str, Any]) -> str:
    """Return a summary of the number of training images per class of a domain."""
    if not any("train" in counts for counts in domain["classes"].values()):
        number = domain["splits"].get("train", 0)
        return f"{key} ({domain['name']}): {number:,} training images without labels"
    sizes = {
        name: counts.get("train", 0) + counts.get("labelled", 0)
        for name, counts in domain["classes"].items()
    }
    low, high = min(sizes.values()), max(sizes.values())
    text = (
        f"{key} ({domain['name']}): training images per class (min / median / max) "
        f"{low} / {statistics.median(sizes.values()):.0f} / {high}"
    )
    if low and high > low:
        text += f", {high / low:.1f} to 1"
    if len(sizes) > FEW and high > low:
        order = sorted(sizes, key=lambda name: (sizes[name], name))
        fewest = ", ".join(f"{name} {sizes[name]}" for name in order[:3])
        most = ", ".join(f"{name} {sizes[name]}" for name in order[-3:])
        text += f"; fewest {fewest}; most {most}"
    return text


# -- problems ------------------------------------------------------------------------------------
def _problems(found: Mapping[str, Any], base: str) -> list[RenderableType]:
    """Return all problems, most severe first."""
    parts: list[tuple[str, list[RenderableType]]] = []
    parts += [(ERROR, [_line(ERROR, problem)]) for problem in found["problems"]]
    for kind, items in found["files"].items():
        level = found["levels"][kind]
        names = [_file(item, base) for item in items[:SHOWN]]
        head = f"{_number(len(items), 'file')}: {KINDS[kind].text}"
        parts.append((level, _listed(level, head, names, len(items))))
    for kind, pair in PAIRS.items():
        groups = [group for group in found["duplicates"] if group["kind"] == kind]
        if groups:
            names = [_copies(group, base) for group in groups[:SHOWN]]
            head = f"{_number(len(groups), 'group')}: {pair.text}"
            parts.append((pair.level, _listed(pair.level, head, names, len(groups))))
    parts += [(r["level"], [_line(r["level"], r["text"])]) for r in found["remarks"]]
    if found["overlap"]:
        parts.append((NOTE, [_line(NOTE, found["overlap"])]))
    order = list(STYLES)
    parts.sort(key=lambda part: order.index(part[0]))
    return [line for _, lines in parts for line in lines]


#: Lists of suspicious samples, in the order in which they are printed.
_SUSPECTS = {
    "label_error": "probable label errors",
    "outlier": "outliers: least like any other image",
    "ambiguous": "ambiguous: two classes are about equally probable",
}


def _quality(found: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the first suspicious samples of every kind and domain."""
    for domain, number in found["samples"].items():
        accuracy = found["accuracy"].get(domain)
        shown = "" if accuracy is None else f", {100 * accuracy:.1f} % correct out of fold"
        features = f"features of {found['backbone']}, {number:,} images{shown}"
        yield Text(f"\n{domain}: {features}", style="dim")
        for kind, text in _SUSPECTS.items():
            rows = [r for r in found["findings"] if (r["domain"], r["finding"]) == (domain, kind)]
            if rows:
                yield Text("look at ", style=STYLES[NOTE]).append(f"{len(rows):,} {text}", "none")
            yield from (_suspect(row) for row in rows[:SHOWN])
    yield from (Text(f"note    {note}") for note in found["notes"])
    files = found["files"]
    yield Text(f"all of them: {files['lists']}\nwith images: {files['page']}\n")


def _suspect(row: Mapping[str, Any]) -> Text:
    text = Text(f"          {row['file']}")
    other = f" -> {row['suggested']}?" if row["suggested"] not in (None, row["label"]) else ""
    return text.append(f"  {row['label'] or ''}{other} {row['score']:.3g}", style="dim")


def _line(level: str, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=7)
    grid.add_column(overflow="fold")
    grid.add_row(Text(level, style=STYLES[level]), Text(text))
    return grid


def _listed(level: str, head: str, names: Sequence[Text], total: int) -> list[RenderableType]:
    lines = [Text(" " * 10).append_text(name) for name in names]
    if total > len(names):
        more = f"          ... and {total - len(names):,} more; format=json lists all"
        lines.append(Text(more, style="dim"))
    return [_line(level, head), *lines]


def _file(item: Mapping[str, str], base: str) -> Text:
    text = Text(_below(item["path"], base))
    return text.append(f"  {item['detail']}", style="dim") if item["detail"] else text


def _copies(group: Mapping[str, Any], base: str) -> Text:
    text = Text()
    for item in group["paths"][:3]:
        text.append("\n" + " " * 10 + "= " if text else "").append(_below(item["path"], base))
        text.append(f"  {', '.join(item['places'])}", style="dim")
    if len(group["paths"]) > 3:
        text.append(f" and {len(group['paths']) - 3} more", style="dim")
    return text.append("; same bytes" if group["exact"] else "; looks the same", style="dim")


def _base(found: Mapping[str, Any]) -> str:
    """Return the common parent folder of all listed files, to shorten their paths."""
    paths = [item["path"] for items in found["files"].values() for item in items]
    paths += [item["path"] for group in found["duplicates"] for item in group["paths"]]
    if not paths or not all(os.path.isabs(path) for path in paths):
        return ""  # images in memory have no folder
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    return "" if base == os.sep else base


def _below(path: str, base: str) -> str:
    return os.path.relpath(path, base) if base else path


def _number(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
