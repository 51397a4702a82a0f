"""Signatures and attributes of the package's own classes, read from source without importing them.

Importing a model, a data module or a callback loads torch and Lightning, which takes seconds. A
misspelled key, a string where a number is expected, or a model that needs a target where there is
none, is found without that: the source is parsed, not run. ``tests/unit/config/test_static.py``
compares the result with the real classes.
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

__all__ = ["NotStatic", "StaticClass", "is_kind", "static_bases", "static_signature"]

_PACKAGE = "tl_lightning"
_ROOT = Path(__file__).resolve().parents[1]
#: What the value of an attribute may consist of; anything else would run code.
_EVALUABLE = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Name, ast.Attribute, ast.BinOp,
    ast.BitOr, ast.BitAnd, ast.Sub, ast.Call, ast.Starred, ast.expr_context, ast.UnaryOp, ast.USub,
)  # fmt: skip
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
    return {name.rpartition(".")[2] for name in StaticClass(target).bases}


class NotStatic(Exception):
    """Raised for an attribute that only the imported class can tell."""


class StaticClass:
    """Stands for a class whose attributes are read from source.

    >>> StaticClass("tl_lightning.models.DomainAdaptation").train_on
    ('source', 'target')

    Args:
        target: Full name of the class. One of another package has no attributes that can be read.

    Raises:
        NotStatic: If an attribute is read that is a method or computed from other code.
        AttributeError: If neither the class nor a base class in this package has the attribute.
    """

    def __init__(self, target: str) -> None:
        module, _, name = target.rpartition(".")
        found = _class(module, name)
        self.__module__ = found[0] if found else module
        self.__name__ = self.__qualname__ = name
        self._order = _order(*found) if found else []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        for module, node in self._order:
            for line in node.body:
                if isinstance(line, ast.FunctionDef) and line.name == name:
                    raise NotStatic(f"{node.name}.{name}")
                if name in _assigned(line):
                    assert isinstance(line, ast.Assign | ast.AnnAssign)
                    return _value(module, node, line.value)
        if not self._order:
            raise NotStatic(f"{self.__module__}.{self.__name__}.{name}")
        raise AttributeError(f"{self.__name__} has no attribute {name}")

    @property
    def bases(self) -> list[str]:
        """Full names of the class and its base classes in this package, in order."""
        return [f"{module}.{node.name}" for module, node in self._order]


def is_kind(cls: Any, name: str) -> bool:
    """Return whether a class, or a :class:`StaticClass`, is another one or derived from it.

    Args:
        cls: The class.
        name: Full name of the other class, in the module that defines it.

    Raises:
        NotStatic: If the class is of another package and not imported.
    """
    if not isinstance(cls, StaticClass):
        return any(f"{one.__module__}.{one.__qualname__}" == name for one in cls.__mro__)
    if not cls.bases:
        raise NotStatic(f"{cls.__module__}.{cls.__name__}")
    return name in cls.bases


def _order(module: str, node: ast.ClassDef) -> list[tuple[str, ast.ClassDef]]:
    """Return a class and its base classes in this package, those of several classes last."""
    found = [(module, node)]
    for base in node.bases:
        one = _class(module, base.id) if isinstance(base, ast.Name) else None
        found += _order(*one) if one else []
    return [one for number, one in enumerate(found) if one not in found[number + 1 :]]


def _assigned(line: ast.stmt) -> list[str]:
    """Return the names that a statement of a class gives a value."""
    targets = line.targets if isinstance(line, ast.Assign) else []
    if isinstance(line, ast.AnnAssign) and line.value is not None:
        targets = [line.target]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _value(module: str, owner: ast.ClassDef, node: ast.expr | None) -> Any:
    """Evaluate the value of an attribute; other classes and constants are read from source too."""
    names = {part.id for part in ast.walk(node or ast.Constant(None)) if isinstance(part, ast.Name)}
    known: dict[str, Any] = {}
    for name in names:
        own = next((line for line in owner.body if name in _assigned(line)), None)
        origin, original = _imports(module).get(name, (module, name))
        constant = next((x for x in _tree(origin).body if original in _assigned(x)), None)
        if isinstance(own, ast.Assign | ast.AnnAssign):
            known[name] = _value(module, owner, own.value)
        elif _class(module, name):
            known[name] = StaticClass(f"{module}.{name}")
        elif isinstance(constant, ast.Assign | ast.AnnAssign):
            known[name] = _value(origin, ast.ClassDef(name, [], [], [], []), constant.value)
        elif name not in ("frozenset", "set", "tuple", "dict"):
            raise NotStatic(f"{owner.name}: {name}")
    if node is None or not all(isinstance(part, _EVALUABLE) for part in ast.walk(node)):
        raise NotStatic(f"{owner.name}: {ast.unparse(node) if node else ''}")
    return eval(compile(ast.Expression(node), module, "eval"), {}, known)


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
