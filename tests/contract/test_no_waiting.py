"""A training step never waits for the device: no value of a tensor is read by Python.

On a GPU, reading a value (``item``, ``if tensor``, a boolean mask, ``cpu``) waits until everything
that was queued has been computed, and the next operations start late. It is found here on a CPU, by
the operations themselves.
"""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from contract.test_methods import (
    CLASSES,
    TERMS,
    arguments,
    batch,
    core_first,
    module,
    terms_and_views,
    trained,
)
from helpers import config
from tl_lightning.training import fit as training

__all__ = ["trained"]

#: Operations whose result has to be known on the host.
READING = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal",
    "aten._unique2", "aten.unique_dim", "aten.unique_consecutive",
}  # fmt: skip
#: Methods that read values, and why.
DOMAINS = "the samples of a batch are divided by their source domain"
RANDOM = "random numbers depend on the samples, and are drawn on the host"
SPECTRUM = "values that are not finite are kept from the solver, which would raise an error"
RANK = "the number of dimensions that are compared depends on the batch"
WAITS = {
    "bnm": SPECTRUM, "bsp": SPECTRUM, "deepjdot": "the transport plan is solved on the host",
    "rsd": RANK, "dare_gram": RANK, "wdgrl": RANDOM,
    **dict.fromkeys(["domain_coral", "group_dro", "irm", "m3sda", "mdan", "vrex"], DOMAINS),
}  # fmt: skip


class Readings(TorchDispatchMode):
    """Counts the operations that read values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = f"{op.namespace}.{op._opname}"
        masks = args[1] if name in ("aten.index", "aten.index_put", "aten.index_put_") else ()
        if name in READING or any(m is not None and m.dtype == torch.bool for m in masks):
            self.found.append(f"{name} in {_caller()}")
        return op(*args, **(kwargs or {}))


def _caller() -> str:
    """Return the line of this project that led to the current operation."""
    frames = [f for f in traceback.extract_stack() if "tl_lightning" in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "torch"


@pytest.fixture
def readings(monkeypatch) -> Readings:
    """Return a counter that also sees copies to the host."""
    counter = Readings()
    for name in ("cpu", "numpy", "tolist"):
        original = getattr(torch.Tensor, name)

        def read(self, *args, _name=name, _original=original, **kwargs):
            counter.found.append(f"{_name} in {_caller()}")
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)

    def one_hot(labels, num_classes=-1):  # on a CPU, torch reads the labels to check their range
        assert num_classes > 0, "one_hot without a number of classes reads the labels"
        return labels[..., None] == torch.arange(num_classes, device=labels.device)

    monkeypatch.setattr(functional, "one_hot", lambda *a, **k: one_hot(*a, **k).long())
    return counter


@pytest.mark.parametrize("name", core_first(TERMS))
def test_a_step_of_a_method_reads_no_value(name, trained, readings) -> None:
    net = module(*arguments(name, trained)).train()
    terms_and_views(net)  # what is prepared before the first step or once per epoch
    readings.found.clear()
    with readings:
        views = net.views(batch(net))
        for stage in net.stages or [None]:
            terms = net.terms(views, stage)
            torch.stack([term.float() for term in terms.values()]).sum().backward()
            views = net.views(batch(net))
    assert bool(readings.found) == (name in WAITS), readings.found


def test_methods_that_wait_exist() -> None:
    assert WAITS.keys() <= CLASSES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fine_tuning", "dann"])
def test_the_loop_reads_no_value_in_a_step(model, tmp_path, readings) -> None:
    """An epoch of six steps reads as often as one of three."""
    counts = []
    for steps in (3, 6):
        readings.found.clear()
        settings = config(
            f"model={model}", "trainer.max_epochs=1", "test=false", "report.samples=1",
            f"data.steps_per_epoch={steps}", "baselines=[]",
        )  # fmt: skip
        with readings:
            training.fit(settings, tmp_path / str(steps))
        counts.append(len(readings.found))
    assert counts[0] == counts[1], sorted(set(readings.found))
