"""Imports of large packages that are put off until something of them is used.

``import lightning`` imports torchmetrics, which imports the libraries of all of its metrics:
torchvision, transformers, matplotlib, scipy.signal and, through them, torch's compiler. That takes
most of the time in which a command starts, and a classifier uses none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MethodType, ModuleType
from typing import Any

__all__ = ["deferred", "import_lightning"]

#: What ``import lightning`` needs only for metrics and functions that are called later.
PUT_OFF = ("torchvision", "transformers", "matplotlib", "scipy.signal", "torch._dynamo")


def import_lightning() -> None:
    """Import Lightning and torchvision without the packages that they rarely use."""
    if "lightning" in sys.modules or "torchmetrics" in sys.modules:
        return
    import_module("torch")  # completely, as it may be imported in part by its own modules
    with deferred(PUT_OFF):
        import_module("lightning")
    with deferred(["torch._dynamo"]):
        import_module("torchvision.transforms.v2")


@contextmanager
def deferred(packages: Sequence[str]) -> Iterator[None]:
    """Within the context, importing these packages gives stand-ins for what is in them.

    Afterwards, a stand-in imports the package when it is called, or an attribute of it is read,
    and other imports of the package are not affected. Packages that are imported already are used
    as they are.
    """
    names = [name for name in packages if name not in sys.modules]
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.active = False
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandInModule):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if vars(sys.modules.get(parent, module)).get(child) is module:
                    delattr(sys.modules[parent], child)


class _Finder(MetaPathFinder, Loader):
    """Finds the packages before their files are found."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages
        self.active = True

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if any(name == one or name.startswith(f"{one}.") for one in self.packages):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing; there is nothing to execute."""


class _StandInModule(ModuleType):
    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _StandIn(self._finder, self.__name__, lambda: import_module(self.__name__))
        return getattr(found, name)


class _StandIn:
    """A value that needs a package which is not imported yet.

    While the import is put off, its attributes and the results of calling it are stand-ins too, so
    that decorators and annotations of the importing module work.

    Args:
        finder: Of the context.
        module: Name of the module that the value is from.
        make: Imports the module and returns the value.
    """

    def __init__(self, finder: _Finder, module: str, make: Callable[[], Any]) -> None:
        vars(self).update(_finder=finder, _module=module, _make=make)

    def _real(self) -> Any:
        if "_value" not in vars(self):
            if self._finder.active:
                raise ImportError(f"a value of {self._module} is used while its import is put off")
            vars(self)["_value"] = self._make()
        return vars(self)["_value"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._finder.active:
            return _StandIn(self._finder, self._module, lambda: _attribute(self._real(), name))
        return _attribute(self._real(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._finder.active:
            return _StandIn(self._finder, self._module, lambda: self._real()(*args, **kwargs))
        return self._real()(*args, **kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Bind a decorated method."""
        return self if owner is None else MethodType(self, owner)

    def __iter__(self) -> Any:
        return iter(self._real())

    def __instancecheck__(self, one: Any) -> bool:
        # Nothing can be an instance of a class whose module has not been imported.
        return self._module in sys.modules and isinstance(one, self._real())

    def __mro_entries__(self, bases: Any) -> tuple[Any, ...]:
        return (self._real(),)


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError:
        if not isinstance(value, ModuleType):
            raise
        return import_module(f"{value.__name__}.{name}")
