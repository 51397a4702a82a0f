"""Constructor signatures of the package's own classes, read from source without importing them.

Importing a model, a data module or a callback loads torch and Lightning, which takes seconds. A
misspelled key or a string where a number is expected is found without that: ``__init__`` is parsed,
not run. ``tests/unit/config/test_static.py`` compares the result with the real signatures.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import typing
from functools import cache
from pathlib import Path
from typing import Any

from tl_lightning.config import hints
from tl_lightning.config.signatures import Parameter, Signature

__all__ = ["static_bases", "static_signature"]

_PACKAGE = "tl_lightning"
_ROOT = Path(__file__).resolve().parents[1]
#: Modules whose names in annotations are looked up; everything else is ``Any``.
_EVALUATED = {
    "typing": typing, "collections.abc": collections.abc, "tl_lightning.config.hints": hints,
}  # fmt: skip


def static_signature(target: str) -> Signature | None:
    """Return the signature of a class of this package, or None if there is no such source.

    >>> static_signature("tl_lightning.methods.dann.DANN").parameters["max_lambda"]
    Parameter(hint=<class 'float'>, required=True)
    >>> static_signature("torch.optim.Adam") is None
    True
    """
    module, _, name = target.rpartition(".")
    found = _class(module, name)
    if found is None:
        return None
    parameters: dict[str, Parameter] = {}
    while found is not None:
        module, node = found
        init = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
        if isinstance(init, ast.FunctionDef):
            for argument, parameter in _parameters(module, init).items():
                parameters.setdefault(argument, parameter)
            if init.args.kwarg is None:
                return Signature(name, parameters, open_ended=False)
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        found = next((base for one in bases if (base := _class(module, one))), None)
    return Signature(name, parameters, open_ended=True)  # continues in somebody else's class


def static_bases(target: str) -> set[str]:
    """Return the name of a class of this package, and those of its base classes in the package.

    >>> sorted(static_bases("tl_lightning.methods.dann.DANN"))
    ['Adversary', 'DANN', 'Method']
    """
    module, _, name = target.rpartition(".")
    found = _class(module, name)
    if found is None:
        return set()
    module, node = found
    bases = [f"{module}.{base.id}" for base in node.bases if isinstance(base, ast.Name)]
    return {node.name}.union(*map(static_bases, bases))


@cache
def _tree(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] == _PACKAGE and file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Return ``{local name: (module, name)}`` of what a module imports at its top."""
    nodes = [node for node in _tree(module).body if isinstance(node, ast.ImportFrom)]
    return {
        one.asname or one.name: (node.module or "", one.name)
        for node in nodes
        for one in node.names
    }


def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return the definition of a class and the module it is in, following imports."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    origin = _imports(module).get(name)
    return _class(*origin) if origin else None


def _parameters(module: str, init: ast.FunctionDef) -> dict[str, Parameter]:
    plain = [*init.args.posonlyargs, *init.args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(init.args.defaults))
    pairs = list(zip(plain, [*defaults, *init.args.defaults], strict=True))[1:]
    pairs += zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return {
        argument.arg: Parameter(_hint(module, argument.annotation), default is None)
        for argument, default in pairs
    }


def _hint(module: str, annotation: ast.expr | None) -> Any:
    """Evaluate an annotation; ``Any`` if it names what only an import could tell."""
    if annotation is None:
        return Any
    try:
        return eval(compile(ast.Expression(annotation), module, "eval"), {}, _Names(module))
    except Exception:  # attributes and operators of names that are Any here
        return Any


class _Names(dict[str, Any]):
    """Names in annotations: builtins, the modules above, and aliases of the package."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        origin, original = _imports(self.module).get(name, (self.module, name))
        if origin in _EVALUATED:
            return getattr(_EVALUATED[origin], original)
        for node in _tree(origin).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == original for target in targets):
                return _hint(origin, node.value if isinstance(node, ast.Assign) else None)
        return Any
