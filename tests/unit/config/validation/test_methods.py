"""Conflicts between adaptation methods and other settings."""

from __future__ import annotations

import pytest

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError

ADAPT = "model=domain_adaptation"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=fine_tuning", "method=[mcc]"],
         r"not support adaptation methods, got method=\[mcc\]; set model=domain_adaptation"),
        ([ADAPT, "method=[shot]"], r"method=\[shot\] adapts a trained model .* set model=sour"),
        (["model=source_free", "method=[shot]"], r"but init=null; set init=<run folder>"),
        (["model=source_free", "method=[dann]", "init=x"], r"method=\[dann\] needs source data"),
        ([ADAPT, "method=[mme]"], r"few-shot target samples; set data.target.labelled_per_class"),
        ([ADAPT, "method=[self_training]", "cache.features=full", "data.augment=none"],
         r"augments target images in every step.*set cache.features=off"),
        ([ADAPT, "method=[adda]", "cache.features=prefix", "data.augment=none"],
         r"keeps a second copy of the network.*set cache.features=off"),
        ([ADAPT, "method=[adda,self_training]"],
         r"method=\[adda,self_training\]: only one method with a teacher can be used at a time; k"),
        ([ADAPT, "method=[mcd,wdgrl]"],
         r"method=\[mcd,wdgrl\]: only one alternating method can be used at a time; keep one of"),
        ([ADAPT, "method=[mcd]", "trainer.gradient_clip_val=1.0"],
         r"not supported with trainer.gradient_clip_val=1.0; set trainer.gradient_clip_val=null"),
        ([ADAPT, "method=[mcd]", "trainer.accumulate_grad_batches=2"],
         r"method=\[mcd\] .* not supported with trainer.accumulate_grad_batches=2; set trainer.ac"),
        ([ADAPT, "method=[mcd]", "trainer.max_steps=5"],
         r"not supported with trainer.max_steps=5; set trainer.max_steps=-1"),
        ([ADAPT, "method=[mcd]", "lr_find=true"],
         r"not supported with lr_find=True; set lr_find=false"),
        (["model=dann", "method.dann.max_lambda=-1"], r"max_lambda=-1 must be at least 0; set met"),
        ([ADAPT, "method=[mcc]", "method.mcc.weight=-2"], r"weight=-2 must be at least 0; set met"),
        ([ADAPT, "method=[dann,mcc]", "trainer.precision=bf16-true"],
         r"method=\[dann,mcc\] computes its loss in 32 bits; set trainer.precision=bf16-mixed"),
    ],
)  # fmt: skip
def test_problems(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config(*overrides))


def test_alternating_methods_use_ddp_with_unused_parameters() -> None:
    """Plain DDP would wait for gradients that a stage does not compute."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    for name, unused in (("mcd", True), ("mcc", False)):
        checked = validation.check(config(ADAPT, f"method=[{name}]", *ddp))
        assert ("find_unused" in str(checked.trainer.strategy)) is unused


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["model=dann"], "bnm"),
        (["model=joint_bn"], "bnm"),
        (["model=source_only"], "bnm"),
        (["model=oracle"], "oracle"),
        (["model=fine_tuning"], "last"),
        (["model=source_only", "data.target=null"], "last"),
        (["model=dann", "callbacks.validators=null"], "last"),
        (["model=dann", "selection=snd"], "snd"),
    ],
)
def test_auto_selection_is_the_same_for_a_model_and_its_baselines(overrides, rule) -> None:
    assert validation.check(config("selection=auto", *overrides)).selection == rule
