"""Limits and flags of the trainer that shorten a stage, each against every kind of report."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from helpers import SMALL, config, plain_config
from layouts import class_folders, image
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.reporting.console import print_run, report_folder
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training

LIMITS = [
    *(f"limit_{stage}_batches={limit}" for stage in ("train", "val", "test") for limit in (1, 1.0)),
    "limit_val_batches=0", "fast_dev_run=true", "overfit_batches=1", "max_steps=1",
    "check_val_every_n_epoch=2", "+val_check_interval=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Write images with and without labels, texts, and vectors."""
    root = tmp_path_factory.mktemp("files")
    class_folders(root / "photos", 12)
    for number in range(25):
        image(root / "sketches" / f"{number:02d}.jpg", 9000 + number)
    reviews(root / "texts", 12)
    tiny_bert(root / "bert", weights=True)
    rng = np.random.default_rng(0)
    for domain in ("a", "b"):
        np.savez(root / f"{domain}.npz", x=rng.normal(size=(90, 6)), y=np.arange(90) % 3)
    return root


def shortened(plain: dict[str, Any], limit: str) -> dict[str, Any]:
    key, _, value = limit.lstrip("+").partition("=")
    trainer = {**plain["trainer"], key: OmegaConf.create({"value": _typed(value)})["value"]}
    return {**plain, "trainer": trainer, "baselines": []}


def _typed(text: str) -> Any:
    loaded: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return loaded["value"]


def settings(kind: str, root: Path) -> dict[str, Any]:
    """Return the configuration of a tiny run with more than one batch in every stage."""
    small = config()
    if kind == "digits":
        return config("model=dann", "data.eval_batch_size=16", "selection=last")
    if kind == "texts":
        arguments = ["data=text_folder", f"data.root={root}/texts", "model=source_only"]
        return text_config(root / "bert", *arguments, "data.eval_batch_size=2", "selection=last")
    if kind == "vectors":
        arguments = ["data=vectors", "model=dann", "data.batch_size=16", "trainer.max_epochs=2"]
        arguments += [f"data.source.train={root}/a.npz", f"data.target.train={root}/b.npz"]
        keys = ("callbacks", "report", "checkpointing", "trainer")
        arguments.append("data.eval_batch_size=4")
    else:
        arguments = ["data=folder", f"data.root={root}/photos", "model=dann", "backbone=tiny_cnn"]
        arguments += [*SMALL, f"data.target.root={root}/sketches", "data.eval_batch_size=2"]
        keys = ("callbacks", "report", "checkpointing", "trainer", "backbone", "channels_last")
    found = plain_config(*arguments, "selection=last")
    return {**found, **{key: small[key] for key in keys}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "texts", "vectors", "unlabelled"])
@pytest.mark.parametrize("limit", LIMITS)
def test_every_report_is_written(kind, limit, files, tmp_path, capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning warns of some of them
        report = training.fit(shortened(settings(kind, files), limit), tmp_path / "0")
    page = write_page(tmp_path / "0")
    print_run(report, page)
    report_folder(tmp_path, as_sweep=True)
    assert str(page) in capsys.readouterr().out
    assert (tmp_path / "table.md").is_file()
    tested = report["predicted"].get("target") if kind == "unlabelled" else None
    if tested and limit == "limit_test_batches=1":
        assert tested["samples"] == 2


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("limit_train_batches=0.2", r"=0.2 of 3 batch\(es\) leaves none; set trainer.limit_train"),
        ("limit_val_batches=0.1", r"leaves none; set trainer.limit_val_batches=1"),
        ("limit_test_batches=0.1", r"leaves none; set trainer.limit_test_batches=1"),
        ("+val_check_interval=7", r"is more than the 3 batch\(es\) of an epoch; set .*interval=3"),
    ],
)
def test_limits_that_leave_nothing_are_refused_before_training(limit, message, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        training.fit(shortened(config("data.eval_batch_size=200"), limit), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (("max_steps=0",), "trains nothing; set trainer.max_steps=-1"),
        (("max_epochs=-1",), "has no known length, which learning rates and"),
        (("max_epochs=-1", "max_time=00:00:01:00"), "which trainer.max_time may cut"),
        (("max_epochs=null", "max_time=00:00:01:00"), "trainer.max_epochs=null with"),
        (("max_time=soon",), "trainer.max_time=soon is not a duration"),
    ],
)
def test_a_run_has_a_length(limits, message) -> None:
    plain = config()
    for limit in limits:
        plain = shortened(plain, limit)
    with pytest.raises(ConfigError, match=message):
        check(plain)


@pytest.mark.slow
def test_a_run_cut_by_time_says_so_on_its_page(tmp_path, capsys) -> None:
    plain = shortened(shortened(config("test=false"), "max_epochs=5000"), "max_time=00:00:00:01")
    report = training.fit(plain, tmp_path)
    note = next(text for text in report["notes"] if "trainer.max_time ended the run after" in text)
    assert "of 15,000 batches (" in note
    page = write_page(tmp_path)
    assert "trainer.max_time ended the run" in page.read_text()
    print_run(report, page)
    assert "trainer.max_time ended the run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["max_steps=6", "max_epochs=2"])
def test_a_whole_run_is_not_called_cut(limit, tmp_path) -> None:
    report = training.fit(shortened(config("test=false"), limit), tmp_path)
    assert not [text for text in report["notes"] if "ended the run" in text]


@pytest.mark.slow
@pytest.mark.parametrize("limits", [("max_epochs=2",), ("max_epochs=-1", "max_steps=5")])
def test_schedules_reach_their_end_with_the_run(limits, tmp_path, monkeypatch) -> None:
    from tl_lightning.models.adaptation import DomainAdaptation

    seen: list[tuple[float, float]] = []
    original = DomainAdaptation.on_train_batch_start

    def record(self, batch, batch_idx):
        original(self, batch, batch_idx)
        seen.append((self.progress, self.trainer.optimizers[0].param_groups[-1]["lr"]))

    monkeypatch.setattr(DomainAdaptation, "on_train_batch_start", record)
    plain = config("scheduler=cosine", "test=false")
    for limit in limits:
        plain = shortened(plain, limit)
    training.fit(plain, tmp_path)
    progress, rates = zip(*seen, strict=True)
    assert progress == pytest.approx(np.arange(len(seen)) / len(seen))
    assert rates[-1] < 0.3 * max(rates)
