"""Strategies: supported combinations, number of processes and learning rate scaling."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.distributed.strategy import num_processes
from tl_lightning.errors import ConfigError
from tl_lightning.training import build as building
from tl_lightning.training import fit as training
from tl_lightning.training import trainer as making

FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "baselines=[]")
ADAPT = "model=domain_adaptation"


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*overrides))
    return caught.value.problems


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "setting", "reason"),
    [
        ([ADAPT, "method=[mcd]"], "method=[mcd]", "takes several optimizer steps per batch"),
        ([ADAPT, "method=[self_training]"], "method=[self_training]", "keeps a second copy of the"),
        ([ADAPT, "method=[dsbn]"], "method=[dsbn]", "changes the layers of the network"),
        (["callbacks=ema"], "callbacks.weight_averaging", "keeps a full copy of the weights"),
        (["regularizer=[l2_sp]"], "regularizer=[l2_sp]", "reads the full weights"),
        (["regularizer=[l1]"], "regularizer=[l1]", "reads the full weights"),
        (["task_weighting=uncertainty", "aux_task=[coarse]"], "task_weighting=uncertainty",
         "trains weights outside the network"),
        (["cache.features=full", "data.augment=none", "model=feature_extraction"],
         "cache.features=full", "runs parts of the network alone"),
        (["compile=true"], "compile=True", "has not been tested enough with sharded weights"),
    ],
)  # fmt: skip
def test_settings_that_do_not_support_sharded_weights(overrides, setting, reason) -> None:
    (problem,) = problems_of(*FSDP, *overrides)
    assert problem.startswith(f"{setting} is not supported with trainer=fsdp: it {reason}")
    assert problem.endswith("; set trainer=ddp")
    validation.check(config("trainer=ddp", *FSDP[1:], *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer=deepspeed"], r"trainer.strategy=deepspeed_stage_2 writes sharded checkpoint "
         r"folders, which cannot be read here; set trainer=fsdp"),
        (["trainer.strategy=fsdp"], r"trainer.strategy=fsdp uses Lightning's FSDP1.*set "
         r"trainer=fsdp"),
        (["trainer.strategy=dp"], r"trainer.strategy=dp was removed from Lightning; set "
         r"trainer=ddp"),
        (["trainer.sync_batchnorm=true"], r"trainer.sync_batchnorm=true is only supported on GPUs.*"
         r"set trainer.sync_batchnorm=false"),
        (["reference_batch_size=0"],
         r"reference_batch_size=0 is not an integer of at least 1 or null; set reference_batch"),
        (["reference_batch_size=64", "lr_find=true"],
         r"reference_batch_size=64 would scale it again; set reference_batch_size=null"),
        (["trainer.num_nodes=2", "lr_find=true"], r"lr_find=true runs on one device.*"
         r"trainer.num_nodes=2; run it with trainer=auto first"),
    ],
)  # fmt: skip
def test_invalid_settings_are_reported(overrides, message) -> None:
    problems = problems_of(*overrides, "trainer.accelerator=cpu")
    assert [problem for problem in problems if re.search(message, problem)], problems


def test_manually_started_nodes_need_a_common_run_id(monkeypatch) -> None:
    nodes = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2")
    monkeypatch.setenv("TL_RUN_ID", f"20261121-120000-{os.getpid()}")  # the default of this process
    (problem,) = problems_of(*nodes)
    assert "own run folder; set the environment variable TL_RUN_ID=<name>" in problem
    monkeypatch.setenv("TL_RUN_ID", "mine")
    validation.check(config(*nodes))
    monkeypatch.delenv("TL_RUN_ID")  # set by SLURM or torchrun, or the user sets a folder
    validation.check(config(*nodes))


def test_fsdp_disables_feature_cache_and_fused_sgd() -> None:
    checked = validation.check(config(*FSDP, "model=feature_extraction", "optimizer=sgd"))
    assert checked.cache.features == checked.plain["cache"]["features"] == "off"
    assert checked.optimizer.params["fused"] is False
    plain = validation.check(config("model=feature_extraction", "optimizer=sgd"))
    assert plain.cache.features == "auto"
    assert plain.optimizer.params["fused"] is True


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(1, 1), ("2", 2), (4, 4), ("auto", 1), (-1, 1), ([0, 1], 2), ("0,1", 2)],
)
def test_number_of_processes_on_cpu(devices, expected) -> None:
    trainer = replace(validation.check(config()).trainer, devices=devices)
    assert num_processes(trainer) == expected
    assert num_processes(replace(trainer, num_nodes=3)) == 3 * expected


def rates(*overrides: str) -> dict[str, float]:
    """Return the initial learning rate of each parameter group."""
    checked = validation.check(config("model=source_only", "optimizer=sgd", *overrides))
    module: Any = building.build_module(checked, tuple("0123456789"), pretrained=False)
    module.trainer = making.make_trainer(checked.trainer, logger=False)
    return {group["name"]: group["initial_lr"] for group in
            module.configure_optimizers()["optimizer"].param_groups}  # fmt: skip


def test_learning_rates_scale_with_global_batch_size() -> None:
    before = rates("optimizer.lr=0.01", "data.batch_size=16")
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    more = ["reference_batch_size=16", "trainer.accumulate_grad_batches=3"]
    after = rates("optimizer.lr=0.01", "data.batch_size=16", *ranks, *more)
    assert after == pytest.approx({name: 6 * rate for name, rate in before.items()})
    assert rates("optimizer.lr=0.01", "data.batch_size=16", "reference_batch_size=16") == before


def test_learning_rates_of_phases_scale_equally() -> None:
    steps = "phases.steps=[{from:0,train:[head]},{from:1,train:[head,backbone],lr:0.002}]"
    for extra, factor in ((), 1), (("reference_batch_size=4",), 4):
        checked = validation.check(config("model=source_only", steps, "optimizer.lr=0.01", *extra))
        module = building.build_module(checked, tuple("0123456789"), pretrained=False)
        lrs = [module.lr * module.phases.rate(number, module.lr) for number in (0, 1)]
        assert lrs == pytest.approx([0.01 * factor, 0.002 * factor])
    assert checked.steps[1]["lr"] == 0.002  # the configuration is not modified


@pytest.mark.slow
def test_report_contains_batch_size_and_learning_rate(tmp_path) -> None:
    settings = config("model=source_only", "trainer.max_epochs=1", "reference_batch_size=8",
                   "optimizer.lr=0.001", "trainer.accumulate_grad_batches=2")  # fmt: skip
    report = training.fit(deepcopy(settings), tmp_path)
    assert report["scale"] == {
        "processes": 1, "batch_size": 16, "accumulated": 2, "global_batch": 32,
        "lr": pytest.approx(0.004),
    }  # fmt: skip
    from tl_lightning.reporting.run.page import write_page

    text = write_page(tmp_path).read_text()
    assert "<dt>batch per domain</dt><dd>32 (16 per process, 2 batches per step)</dd>" in text
    assert "<dt>learning rate</dt><dd>0.004</dd>" in text
    assert torch.load(tmp_path / report["selection"]["checkpoint"], weights_only=True)
