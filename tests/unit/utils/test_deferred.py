"""Packages whose import is put off."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tl_lightning.utils.deferred import deferred

LIBRARY = """
import heavy
from heavy import Base, made, nested
from heavy.inner import value
import heavy.inner as inner

def use():
    return made(3), nested.deep.name, inner.value

class Late:
    wanted: heavy.Base

    @heavy.decorator("a")
    def method(self, x):
        return x
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a package ``heavy`` and a module that imports it."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(
        "class Base: ...\ndef made(x): return [x]\n"
        "def decorator(a): return lambda f: lambda self, x: (a, f(self, x))\n"
        "class nested:\n    class deep: name = 'n'\n"
    )
    (tmp_path / "heavy" / "inner.py").write_text("value = 7\n")
    (tmp_path / "library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("heavy", "heavy.inner", "library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("library")
def test_a_package_is_imported_when_it_is_used() -> None:
    with deferred(["heavy"]):
        library = import_module("library")
    assert "heavy" not in sys.modules
    assert not isinstance(3, library.Base)
    assert "heavy" not in sys.modules
    late = library.Late()
    assert "heavy" not in sys.modules
    assert late.method(3) == ("a", 3)
    assert library.use() == ([3], "n", 7)
    heavy = import_module("heavy")

    assert library.heavy.made(1) == [1]
    assert isinstance(heavy.Base(), library.Base)
    assert type("Sub", library.Base.__mro_entries__(()), {})().__class__.__mro__[1] is heavy.Base


def test_a_use_while_it_is_put_off_is_an_error(library: Path) -> None:
    (library / "library.py").write_text("from heavy import made\nclass A(made): ...\n")
    with deferred(["heavy"]), pytest.raises(ImportError, match="value of heavy is used while its"):
        import_module("library")
    heavy = import_module("heavy")

    assert heavy.made(1) == [1]


@pytest.mark.usefixtures("library")
def test_a_package_that_is_imported_already_is_used_as_it_is() -> None:
    heavy = import_module("heavy")

    with deferred(["heavy"]):
        library = import_module("library")
    assert library.Base is heavy.Base


CHECK = """
import sys, warnings
from tl_lightning.utils.deferred import PUT_OFF, import_lightning
import_lightning()
assert {*PUT_OFF} & set(sys.modules) == {"torchvision"}
import torch, torchvision, torchmetrics, lightning
from torchmetrics.functional.audio import permutation_invariant_training
from torchmetrics.functional.image import arniqa
from torchmetrics.classification import MulticlassAccuracy
metric = MulticlassAccuracy(3)
assert metric(torch.eye(3), torch.arange(3)) == 1
from torchmetrics.functional.text import bert
assert "transformers" not in sys.modules
assert bert.AutoTokenizer.from_pretrained
assert sys.modules["transformers"].__file__
assert torchvision.transforms.Normalize
from torchmetrics.functional.image.arniqa import transforms
assert transforms.Normalize is torchvision.transforms.Normalize
metric.update(torch.eye(3), torch.arange(3))
assert metric.plot()
from lightning.pytorch.demos.boring_classes import BoringModel
class Model(BoringModel):
    def training_step(self, batch, index):
        loss = super().training_step(batch, index)["loss"]
        self.log("loss", loss)
        return loss
lightning.Trainer(fast_dev_run=1, accelerator="cpu", enable_progress_bar=False).fit(Model())
"""


@pytest.mark.slow
def test_lightning_and_metrics_work_afterwards() -> None:
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
