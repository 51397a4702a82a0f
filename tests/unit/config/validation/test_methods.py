"""What is wrong between adapters and the rest, in words."""

from __future__ import annotations

import pytest

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError

ADAPT = "model=domain_adaptation"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=fine_tuning", "adapter=[mcc]"], r"takes no adapter, got \[mcc\]; type model=dom"),
        ([ADAPT, "adapter=[shot]"], r"adapter=\[shot\] adapts a trained model .* type model=sour"),
        (["model=source_free", "adapter=[shot]"], r"but init=null; type init=<folder of a run>"),
        (["model=source_free", "adapter=[dann]", "init=x"], r"adapter=\[dann\] needs the source"),
        ([ADAPT, "adapter=[mme]"], r"labelled target pictures; type data.target.labelled_per_cla"),
        ([ADAPT, "adapter=[self_training]", "cache.features=full", "data.augment=none"],
         r"changes the target's pictures in every step.*type cache.features=off"),
        ([ADAPT, "adapter=[adda]", "cache.features=prefix", "data.augment=none"],
         r"keeps a second copy of the network.*type cache.features=off"),
        ([ADAPT, "adapter=[adda,self_training]"], r"\[adda,self_training\]: all keep a second co"),
        ([ADAPT, "adapter=[mcd,wdgrl]"], r"\[mcd,wdgrl\]: all take turns of steps; type only one"),
        ([ADAPT, "adapter=[mcd]", "trainer.gradient_clip_val=1.0"],
         r"trainer.gradient_clip_val=1.0 does not go with; type trainer.gradient_clip_val=null"),
        ([ADAPT, "adapter=[mcd]", "trainer.accumulate_grad_batches=2"], r"_batches=2 does not go"),
        ([ADAPT, "adapter=[mcd]", "trainer.max_steps=5"], r"max_steps=5 does not go with; type"),
        ([ADAPT, "adapter=[mcd]", "lr_find=true"], r"lr_find=True does not go with; type lr_find"),
        (["model=dann", "adapter.dann.max_lambda=-1"], r"max_lambda=-1 is below 0; type adapter."),
        ([ADAPT, "adapter=[mcc]", "adapter.mcc.weight=-2"], r"weight=-2 is below 0; type adapter."),
        ([ADAPT, "adapter=[dann,mcc]", "trainer.precision=bf16-true"],
         r"adapter=\[dann,mcc\] computes its terms in 32; type trainer.precision=bf16-mixed"),
        (["init=3"], r"init=3 is no path; type init=<run folder>"),
    ],
)  # fmt: skip
def test_words(overrides, words) -> None:
    with pytest.raises(ConfigError, match=words):
        validation.check(config(*overrides))


def test_turns_are_followed_under_ddp() -> None:
    """Plain DDP would wait for gradients that a stage does not make."""
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    for name, follows in (("mcd", True), ("mcc", False)):
        checked = validation.check(config(ADAPT, f"adapter=[{name}]", *ddp))
        assert ("find_unused" in str(checked["trainer"]["strategy"])) is follows


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
def test_auto_is_the_rule_of_the_study_for_all_that_is_compared(overrides, rule) -> None:
    assert validation.check(config("selection=auto", *overrides))["selection"] == rule
