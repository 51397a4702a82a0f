"""What is typed for Lightning's trainer: it works, or a sentence says why it does not."""

from __future__ import annotations

import pytest

from helpers import config
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("+trainer.num_sanity_val_steps=2", "num_sanity_val_steps=2 is set by the program"),
        ("+trainer.logger=false", "trainer.logger=False is set by the program; type logger=<name>"),
        ("+trainer.enable_checkpointing=false", "enable_checkpointing=False is set by the program"),
        ("+trainer.fast_dev_run=true", "fast_dev_run=True keeps no model that could be tested"),
        ("+trainer.barebones=true", "barebones=True keeps no model"),
        ("+trainer.overfit_batches=1", "overfit_batches=1 puts a sampler of Lightning's"),
        ("trainer.limit_train_batches=0", "limit_train_batches=0 is neither a number of batches"),
        ("trainer.limit_test_batches=0", "limit_test_batches=0 is neither a number of batches"),
        ("trainer.limit_val_batches=1.5", "limit_val_batches=1.5 is neither a number of batches"),
        ("trainer.max_epochs=-1", "with trainer.max_steps=-1 never ends"),
    ],
)
def test_what_no_run_can_be_made_with_is_a_sentence(typed: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validation.check(config(typed))
    assert words in str(caught.value)
    assert "; type " in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.max_steps=4", "trainer.limit_train_batches=0.5", "trainer.limit_val_batches=0",
        "trainer.check_val_every_n_epoch=5", "+trainer.val_check_interval=2",
        "+trainer.fast_dev_run=false", "+trainer.max_time=00:00:10:00",
    ],
)  # fmt: skip
def test_what_works_is_let_pass(typed: str) -> None:
    validation.check(config(typed))


@pytest.mark.parametrize("typed", ["trainer.check_val_every_n_epoch=5", "limit_val_batches=0"])
def test_a_rule_that_would_compare_nothing_is_a_sentence(typed: str) -> None:
    """Without a validation the last model was kept under the rule's name, without a word."""
    with pytest.raises(ConfigError, match=typed):
        validation.check(config("selection=bnm", f"trainer.{typed.removeprefix('trainer.')}"))


@pytest.mark.filterwarnings("always")
def test_a_run_that_ends_before_its_first_validation_says_what_it_tests(tmp_path) -> None:
    settings = config("model=source_only", "selection=source_val", "trainer.max_steps=2")
    report = training.fit(settings, tmp_path)
    assert [words for words in report["warnings"] if "the last model is tested" in words]
