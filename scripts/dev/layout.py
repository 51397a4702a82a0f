"""Count what ``docs/design.md`` says of the layout: ``python scripts/dev/layout.py [checkout]``.

Works on any checkout of the project, so that two commits can be compared.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
#: Reading a composed configuration by string key.
BY_STRING = re.compile(r"\b(?:config|cfg|checked|saved)(?:\[\"|\.get\(\"|\[key\])")
#: A representative of each kind of extension; files of src and conf that name it are those that an
#: extension of the same kind has to touch.
EXTENSIONS = {
    "data set": "pets", "method": "deepjdot", "score": "iwcv", "metric": "f1",
    "backbone": "convnext_tiny",
}  # fmt: skip


def modules(source: Path) -> dict[str, Path]:
    """Return the files of the package by module name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = [source.name, *path.relative_to(source).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: Path) -> dict[str, set[str]]:
    """Return which module of the package imports which others, anywhere in the file."""
    every = modules(source)
    found: dict[str, set[str]] = {}
    for name, path in every.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{one.name}" for one in node.names]
                named |= {one if one in every else node.module for one in full}
            elif isinstance(node, ast.Import):
                named |= {one.name for one in node.names}
        found[name] = (named & every.keys()) - {name}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def depths(source: Path) -> dict[str, int]:
    """Return for every class how many of the package's own classes its MRO has, itself included."""
    bases: dict[str, list[str]] = {}
    for path in modules(source).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = [b.value if isinstance(b, ast.Subscript) else b for b in node.bases]
                bases[node.name] = [
                    b.id if isinstance(b, ast.Name) else b.attr
                    for b in names
                    if isinstance(b, ast.Name | ast.Attribute)
                ]

    def own(name: str) -> set[str]:
        return {name}.union(*(own(b) for b in bases[name] if b in bases and b != name))

    return {name: len(own(name)) for name in bases}


def long_functions(source: Path, limit: int = 60) -> list[str]:
    """Return the functions with more than ``limit`` lines without their docstring."""
    found = []
    for name, path in modules(source).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                has = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                doc = (first.end_lineno or 0) - first.lineno + 1 if has else 0
                lines = (node.end_lineno or 0) - node.lineno + 1 - doc
                if lines > limit:
                    found.append(f"{name}.{node.name} {lines}")
    return found


def naming(repo: Path, word: str) -> list[str]:
    """Return the files of src and conf that hold a word."""
    files = [*repo.glob("src/**/*.py"), *repo.glob("conf/**/*.yaml")]
    return sorted(
        str(p.relative_to(repo)) for p in files if re.search(rf"(?i)\b{word}\b", p.read_text())
    )


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def counts(repo: Path = REPO) -> dict[str, str]:
    """Return every figure as text."""
    source = repo / "src" / "tl_lightning"
    folders = Counter(path.parent for path in source.rglob("*.py"))
    fullest, files = max(
        ((f, n) for f, n in folders.items() if f != source), key=lambda item: item[1]
    )
    by_string = [p for p in source.rglob("*.py") if BY_STRING.search(p.read_text())]
    deep = depths(source)
    deepest = max(deep, key=lambda name: deep[name])
    found = {
        "modules at the top": str(folders[source]),
        "files in the fullest folder": f"{files} ({fullest.relative_to(source)})",
        "files that read the configuration by string": str(len(by_string)),
        "own classes in the deepest MRO": f"{deep[deepest]} ({deepest})",
        "import circles": str(len(circles(imports(source)))),
        "functions over 60 lines": str(len(long_functions(source))),
        "lines of src": str(lines([*repo.glob("src/**/*.py")])),
        "lines of conf": str(lines([*repo.glob("conf/**/*.yaml")])),
    }
    for kind, word in EXTENSIONS.items():
        found[f"files of src and conf for a {kind} ({word})"] = str(len(naming(repo, word)))
    return found


def main() -> None:
    for name, value in counts(Path(sys.argv[1]) if len(sys.argv) > 1 else REPO).items():
        print(f"{name:48} {value}")


if __name__ == "__main__":
    main()
