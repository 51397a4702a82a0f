"""Code metrics quoted in ``docs/design.md``: ``python scripts/dev/layout.py [checkout]``.

Works on any checkout of the project, so that two commits can be compared.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
#: Access to a composed configuration by string key.
BY_STRING = re.compile(r"\b(?:config|cfg|checked|saved)(?:\[\"|\.get\(\"|\[key\])")
#: One example of each kind of extension. The files in src and conf that mention it are those that
#: have to be changed for a new extension of that kind.
EXTENSIONS = {
    "dataset": "pets", "method": "deepjdot", "score": "iwcv", "metric": "f1",
    "backbone": "convnext_tiny",
}  # fmt: skip


def modules(source: Path) -> dict[str, Path]:
    """Return the source files of the package by module name."""
    paths = {}
    for path in sorted(source.rglob("*.py")):
        parts = [source.name, *path.relative_to(source).with_suffix("").parts]
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imports(source: Path) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, also within functions.

    Imports under ``if TYPE_CHECKING`` are never executed and not counted.
    """
    paths = modules(source)
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        imported = set()
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not _for_types(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                imported |= {item if item in paths else node.module for item in full}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[name] = (imported & paths.keys()) - {name}
    return graph


def _for_types(node: ast.stmt) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of modules with circular imports (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

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
                groups.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def depths(source: Path) -> dict[str, int]:
    """Return the number of the package's classes in the MRO of each class, including itself."""
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
    """Return functions with more than ``limit`` lines, not counting the docstring."""
    long = []
    for name, path in modules(source).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                has = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                doc = (first.end_lineno or 0) - first.lineno + 1 if has else 0
                lines = (node.end_lineno or 0) - node.lineno + 1 - doc
                if lines > limit:
                    long.append(f"{name}.{node.name} {lines}")
    return long


def naming(repo: Path, word: str) -> list[str]:
    """Return the files in src and conf that contain a word."""
    files = [*repo.glob("src/**/*.py"), *repo.glob("conf/**/*.yaml")]
    return sorted(
        str(p.relative_to(repo)) for p in files if re.search(rf"(?i)\b{word}\b", p.read_text())
    )


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def counts(repo: Path = REPO) -> dict[str, str]:
    """Return all metrics as text."""
    source = repo / "src" / "tl_lightning"
    folders = Counter(path.parent for path in source.rglob("*.py"))
    largest, files = max(
        ((f, n) for f, n in folders.items() if f != source), key=lambda item: item[1]
    )
    by_string = [p for p in source.rglob("*.py") if BY_STRING.search(p.read_text())]
    depth = depths(source)
    deepest = max(depth, key=lambda name: depth[name])
    metrics = {
        "modules at the top level": str(folders[source]),
        "files in the largest folder": f"{files} ({largest.relative_to(source)})",
        "files that access the configuration by string": str(len(by_string)),
        "own classes in the longest MRO": f"{depth[deepest]} ({deepest})",
        "circular imports": str(len(circles(imports(source)))),
        "functions over 60 lines": str(len(long_functions(source))),
        "lines of src": str(lines([*repo.glob("src/**/*.py")])),
        "lines of conf": str(lines([*repo.glob("conf/**/*.yaml")])),
    }
    for kind, word in EXTENSIONS.items():
        metrics[f"files in src and conf for a {kind} ({word})"] = str(len(naming(repo, word)))
    return metrics


def main() -> None:
    for name, value in counts(Path(sys.argv[1]) if len(sys.argv) > 1 else REPO).items():
        print(f"{name:50} {value}")


if __name__ == "__main__":
    main()
