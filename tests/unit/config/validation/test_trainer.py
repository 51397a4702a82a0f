"""Checks of the arguments of Lightning's trainer."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.num_sanity_val_steps=2", "num_sanity_val_steps=2 is not supported, as the fr"),
        ("+trainer.logger=false", "trainer.logger=False is not supported, as the framework sets it"
                                  "; set logger=<name>"),
        ("+trainer.enable_checkpointing=false", "enable_checkpointing=False is not supported, as"),
        ("+trainer.barebones=true", "trainer.barebones=True is not supported, as the framework"),
        ("trainer.fast_dev_run=-1", "fast_dev_run=-1 is not an integer of at least 0, true or fal"),
        ("trainer.overfit_batches=-1", "overfit_batches=-1 is not an integer of at least 0"),
        ("trainer.overfit_batches=0.5", "overfit_batches=0.5 is not an integer of at least 0"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0 is neither a positive number of"),
        ("trainer.limit_test_batches=0", "limit_test_batches=0 is neither a positive number of"),
        ("trainer.limit_val_batches=1.5", "limit_val_batches=1.5 is neither a positive number of"),
        ("trainer.max_epochs=-1", "with trainer.max_steps=-1 has no known length"),
        ("trainer.accelerator=mps", "trainer.accelerator=mps with trainer.devices=1, but this m"),
        ("trainer.accelerator=tpu", "but this machine has no TPU that torch can use"),
        ("trainer.devices=[0,1]", "trainer.devices=[0, 1] is not a valid choice of devices with"),
        ("trainer.devices=-1", "trainer.devices=-1 is not a valid choice of devices with trainer"),
        ("trainer.devices=x", "trainer.devices=x is not a valid choice of devices with trainer"),
    ],
)  # fmt: skip
def test_unsupported_argument(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(override))
    assert message in str(caught.value)
    assert "; set " in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=auto", "trainer.devices='1'", "trainer.max_steps=4",
        "trainer.limit_train_batches=0.5", "trainer.limit_val_batches=0",
        "trainer.check_val_every_n_epoch=5", "+trainer.val_check_interval=2",
        "trainer.fast_dev_run=false", "trainer.overfit_batches=1", "+trainer.max_time=00:00:10:00",
    ],
)  # fmt: skip
def test_supported_argument(override: str) -> None:
    validation.check(config(override))


@pytest.mark.slow
@pytest.mark.parametrize(("value", "batches"), [("true", 1), ("2", 2)])
def test_dry_run_saves_and_tests_a_checkpoint(value, batches, tmp_path) -> None:
    """The argument of Lightning saves no checkpoint to test, so limits are set in its place."""
    settings = config(
        "model=source_only", f"trainer.fast_dev_run={value}", "data.eval_batch_size=8"
    )
    run = validation.check(settings)
    limits = [getattr(run.trainer, f"limit_{stage}_batches") for stage in ("train", "val", "test")]
    assert limits == [batches] * 3
    assert (run.trainer.max_epochs, run.trainer.max_steps) == (1, -1)
    assert "fast_dev_run" not in run.trainer.arguments()
    report = training.fit(run, tmp_path)
    assert (tmp_path / report["selection"]["checkpoint"]).is_file()
    assert "source/test/acc" in report["metrics"]
    assert [note for note in report["notes"] if "trainer.fast_dev_run: a dry run" in note]


@pytest.mark.slow
@pytest.mark.parametrize("overfit", [0, 2])
def test_every_epoch_repeats_the_batches_to_overfit(overfit, tmp_path) -> None:
    """The argument of Lightning would replace the samplers of the data module."""
    seen: list[torch.Tensor] = []

    class Record(L.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, _: int) -> None:
            seen.append(batch["source"]["inputs"].clone())

    run = validation.check(config("model=source_only", f"trainer.overfit_batches={overfit}"))
    assert "overfit_batches" not in run.trainer.arguments()
    training.fit(run, tmp_path, callbacks=[Record()])
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == (overfit or 3)
    repeated = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert repeated is bool(overfit)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("override", ["check_val_every_n_epoch=5", "limit_val_batches=0"])
def test_selection_rule_without_validation_is_refused(override: str) -> None:
    """Otherwise the last model would silently be kept instead of the one the rule selects."""
    with pytest.raises(ConfigError, match=rf"trainer\.{override}"):
        validation.check(config("selection=bnm", f"trainer.{override}"))


@pytest.mark.filterwarnings("always")
def test_run_that_ends_before_its_first_validation_warns(tmp_path) -> None:
    settings = config("model=source_only", "selection=source_val", "trainer.max_steps=2")
    report = training.fit(settings, tmp_path)
    assert [text for text in report["warnings"] if "the last model is tested" in text]
