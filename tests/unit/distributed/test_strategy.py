"""Which processes can train what, at which rate, and the words of a refusal."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from typing import Any

import pytest
import torch

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.distributed.strategy import processes
from tl_lightning.errors import ConfigError
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "bracket=[]")
ADAPT = "model=domain_adaptation"


def refused(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(*overrides))
    return caught.value.faults


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([ADAPT, "adapter=[mcd]"], "adapter=[mcd] takes several steps of the optimizer a batch"),
        ([ADAPT, "adapter=[self_training]"], "adapter=[self_training] keeps a second copy of"),
        ([ADAPT, "adapter=[dsbn]"], "adapter=[dsbn] changes the network's own layers"),
        (["callbacks=ema"], "callbacks.average keeps a whole copy of the weights"),
        (["regularizer=[l2_sp]"], "regularizer=[l2_sp] reads whole weights"),
        (["regularizer=[l1]"], "regularizer=[l1] reads whole weights"),
        (["balance=uncertainty", "task=[coarse]"], "balance=uncertainty learns weights that are"),
        (["cache.features=full", "data.augment=none", "model=feature_extraction"],
         "cache.features=full runs parts of the network by themselves"),
        (["compile=true"], "compile=True was not tried far enough with divided weights"),
    ],
)  # fmt: skip
def test_what_divided_weights_cannot_do_is_refused(overrides, words) -> None:
    faults = refused(*FSDP, *overrides)
    assert faults == [f"{faults[0].partition(', which')[0]}, which trainer=fsdp cannot do; type "
                      "trainer=ddp"]  # fmt: skip
    assert faults[0].startswith(words)
    validation.check(config("trainer=ddp", *FSDP[1:], *overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer=deepspeed"], r"trainer.strategy=deepspeed_stage_2 writes folders of pieces in "
         r"place of checkpoints, which nothing here reads; type trainer=fsdp"),
        (["trainer.strategy=fsdp"], r"trainer.strategy=fsdp is Lightning's older FSDP.*type "
         r"trainer=fsdp"),
        (["trainer.strategy=dp"], r"trainer.strategy=dp was removed from Lightning; type "
         r"trainer=ddp"),
        (["trainer.sync_batchnorm=true"], r"trainer.sync_batchnorm=true works on GPUs only.*"
         r"type trainer.sync_batchnorm=false"),
        (["lr_for_batch=0"], r"lr_for_batch=0 is no number of pictures; type lr_for_batch=256"),
        (["lr_for_batch=64", "lr_find=true"], r"lr_for_batch=64 would scale it again; type "
         r"lr_for_batch=null"),
        (["trainer.num_nodes=2", "lr_find=true"], r"lr_find=true tests on one device.*"
         r"trainer.num_nodes=2; type trainer=auto"),
    ],
)  # fmt: skip
def test_words(overrides, words) -> None:
    faults = refused(*overrides, "trainer.accelerator=cpu")
    assert [fault for fault in faults if re.search(words, fault)], faults


def test_machines_started_by_hand_need_a_name_in_common(monkeypatch) -> None:
    nodes = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2")
    monkeypatch.setenv("TL_RUN_ID", f"20261121-120000-{os.getpid()}")  # as made up by this process
    (fault,) = refused(*nodes)
    assert "each would write a folder of its own; type TL_RUN_ID=<name> before" in fault
    monkeypatch.setenv("TL_RUN_ID", "mine")
    validation.check(config(*nodes))
    monkeypatch.delenv("TL_RUN_ID")  # SLURM's or torchrun's, or a folder of the user's
    validation.check(config(*nodes))


def test_divided_weights_have_no_stored_features_and_no_fused_sgd() -> None:
    checked = validation.check(config(*FSDP, "model=feature_extraction", "optimizer=sgd"))
    assert checked["cache"]["features"] == "off"
    assert checked["optimizer"]["fused"] is False
    plain = validation.check(config("model=feature_extraction", "optimizer=sgd"))
    assert plain["cache"]["features"] == "auto"
    assert plain["optimizer"]["fused"] is True


@pytest.mark.parametrize(
    ("devices", "found"), [(1, 1), ("2", 2), (4, 4), ("auto", 1), (-1, 1), ([0, 1], 2), ("0,1", 2)]
)
def test_processes_on_a_cpu(devices, found) -> None:
    node = {"devices": devices, "num_nodes": 1, "accelerator": "cpu"}
    assert processes(node) == found
    assert processes({**node, "num_nodes": 3}) == 3 * found


def rates(*overrides: str) -> dict[str, float]:
    """Return the rate of every parameter group as it is built."""
    checked = validation.check(config("model=source_only", "optimizer=sgd", *overrides))
    module: Any = building.build_module(checked, tuple("0123456789"), pretrained=False)
    return {group["name"]: group["initial_lr"] for group in
            module.configure_optimizers()["optimizer"].param_groups}  # fmt: skip


def test_rates_grow_with_the_batch_of_all_processes() -> None:
    before = rates("optimizer.lr=0.01", "data.batch_size=16")
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    more = ["lr_for_batch=16", "trainer.accumulate_grad_batches=3"]
    after = rates("optimizer.lr=0.01", "data.batch_size=16", *ranks, *more)
    assert after == pytest.approx({name: 6 * rate for name, rate in before.items()})
    assert rates("optimizer.lr=0.01", "data.batch_size=16", "lr_for_batch=16") == before


def test_rates_of_phases_grow_alike() -> None:
    steps = "phases.steps=[{from:0,train:[head]},{from:1,train:[head,backbone],lr:0.002}]"
    for extra, factor in ((), 1), (("lr_for_batch=4",), 4):
        checked = validation.check(config("model=source_only", steps, "optimizer.lr=0.01", *extra))
        module = building.build_module(checked, tuple("0123456789"), pretrained=False)
        found = [module.lr * module.phases.rate(number, module.lr) for number in (0, 1)]
        assert found == pytest.approx([0.01 * factor, 0.002 * factor])
    assert checked["phases"]["steps"][1]["lr"] == 0.002  # the configuration stays what was asked


def test_the_report_states_batch_and_rate(tmp_path) -> None:
    given = config("model=source_only", "trainer.max_epochs=1", "lr_for_batch=8",
                   "optimizer.lr=0.001", "trainer.accumulate_grad_batches=2")  # fmt: skip
    report = training.fit(deepcopy(given), tmp_path)
    assert report["scale"] == {
        "processes": 1, "batch_size": 16, "accumulated": 2, "global_batch": 32,
        "lr": pytest.approx(0.004),
    }  # fmt: skip
    from tl_lightning.reporting.run.page import write_page

    text = write_page(tmp_path).read_text()
    assert "<dt>batch a domain</dt><dd>32 (16 each, 2 batches a step)</dd>" in text
    assert "<dt>learning rate</dt><dd>0.004</dd>" in text
    assert torch.load(tmp_path / report["selection"]["checkpoint"], weights_only=True)
