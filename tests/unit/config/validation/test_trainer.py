"""Checks of the arguments of Lightning's trainer."""

from __future__ import annotations

import pytest

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
        ("+trainer.fast_dev_run=true", "fast_dev_run=True saves no checkpoint to test"),
        ("+trainer.barebones=true", "barebones=True saves no checkpoint"),
        ("+trainer.overfit_batches=1", "overfit_batches=1 replaces the samplers of the data modul"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0 is neither a positive number of"),
        ("trainer.limit_test_batches=0", "limit_test_batches=0 is neither a positive number of"),
        ("trainer.limit_val_batches=1.5", "limit_val_batches=1.5 is neither a positive number of"),
        ("trainer.max_epochs=-1", "with trainer.max_steps=-1 never ends"),
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
        "trainer.max_steps=4", "trainer.limit_train_batches=0.5", "trainer.limit_val_batches=0",
        "trainer.check_val_every_n_epoch=5", "+trainer.val_check_interval=2",
        "+trainer.fast_dev_run=false", "+trainer.max_time=00:00:10:00",
    ],
)  # fmt: skip
def test_supported_argument(override: str) -> None:
    validation.check(config(override))


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
