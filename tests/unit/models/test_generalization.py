"""Domain generalization: the target is tested, and has no part in training and selection."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers import config, evaluated, same, weights
from layouts import domain_folders
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.digits import DigitsDataModule
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training
from tl_lightning.training.data_version import check_version

SOURCES = "data.source.domain=[plain,inverted,tilted]"
GIVEN = ["model=domain_generalization", SOURCES, "selection=auto"]


@pytest.mark.slow
def test_the_images_of_the_target_change_neither_weights_nor_selection(tmp_path, monkeypatch):
    settings = config(*GIVEN, "method=[group_dro]")
    plain = training.fit(settings, tmp_path / "plain")
    original = DigitsDataModule.domains

    def with_other_images(self):
        found = original(self)
        for split in found["target"].splits().values():
            split.samples[:] = 255 - split.samples
        return found

    monkeypatch.setattr(DigitsDataModule, "domains", with_other_images)
    other = training.fit(settings, tmp_path / "other")
    assert (
        plain["metrics"]["target/test/acc"] != other["metrics"]["target/test/acc"]
        or (
            np.load(tmp_path / "plain" / "predictions.npz")["target_confidence"]
            != np.load(tmp_path / "other" / "predictions.npz")["target_confidence"]
        ).any()
    )
    assert plain["selection"] == other["selection"]
    assert plain["selection"]["rule"] == "mean_domain"
    for file in (plain["selection"]["checkpoint"], "checkpoints/last.ckpt"):
        assert same(weights(tmp_path / "plain" / file), weights(tmp_path / "other" / file))
    counts = plain["dataset"]["counts"]
    assert counts["target/train"] == counts["target/val"] == 0 < counts["target/test"]
    page = write_page(tmp_path / "plain").read_text()
    assert "The model was trained on target samples" not in page
    assert "Compare with model=erm, the mean loss" in page
    log = (tmp_path / "plain" / "metrics.csv").read_text().splitlines()[0]
    assert "target/val" not in log
    assert "validator/floored" not in log
    assert "source/val/worst_domain_acc" in log


@pytest.mark.slow
def test_all_samples_of_the_target_are_tested_then_and_later(tmp_path) -> None:
    root = domain_folders(tmp_path / "set", number=10)
    given = [
        "data=domains", f"data.root={root}", "data.source.domain=others", "data.batch_size=6",
        "data.target.domain=sketch", "data.num_workers=0", "backbone=tiny_cnn", "backbone.size=16",
        "model=erm", "trainer=cpu", "trainer.max_epochs=1", "data.steps_per_epoch=2",
        "report.samples=30", "report.explained=0",
    ]  # fmt: skip
    report = training.fit(compose(given), tmp_path / "run")
    assert report["dataset"]["counts"]["target/test"] == 30
    assert report["dataset"]["domains"]["source"].keys() == {"art_painting", "photo"}
    again = evaluation.evaluate(tmp_path / "run" / report["selection"]["checkpoint"], None, None)
    assert again["metrics"] == evaluated(report)


def leave_one_out(tmp_path, *overrides):
    """Return the settings of the experiment for two domains, of which one is held out."""
    root = domain_folders(tmp_path / "set", ("photo", "sketch"), number=10)
    return compose([
        "experiment=leave_one_out", "data=domains", f"data.root={root}", "data.batch_size=6",
        "data.target.domain=sketch", "data.num_workers=0", "backbone=tiny_cnn", "backbone.size=16",
        "trainer=cpu", "trainer.max_epochs=1", "data.steps_per_epoch=2", "report.samples=30",
        "report.explained=0", *overrides,
    ])  # fmt: skip


@pytest.mark.slow
def test_leaving_out_one_of_two_domains(tmp_path) -> None:
    report = training.fit(leave_one_out(tmp_path, "model=erm"), tmp_path / "run")
    metrics = report["metrics"]
    assert report["dataset"]["domains"]["source"].keys() == {"photo"}
    assert report["selection"]["rule"] == "mean_domain"
    for name in ("acc_photo", "mean_domain_acc", "worst_domain_acc"):
        assert metrics[f"source/test/{name}"] == metrics["source/test/acc"]


def test_one_domain_is_too_few_for_methods_that_compare_them(tmp_path) -> None:
    with pytest.raises(DataError, match=r"\[vrex\] compares .* \(photo\) is one domain; leave the"):
        training.fit(leave_one_out(tmp_path, "model=vrex"), tmp_path / "run")


@pytest.mark.slow
def test_groups_within_one_domain(tmp_path) -> None:
    """The column of the groups is named as that of the domains, and there is no target."""
    colours, rows = {"red": (255, 0, 0), "blue": (0, 0, 255)}, ["path,label,device"]
    for number in range(60):
        label = [*colours][number % 2]
        # The images of the group "old" are all alike, so that it cannot be learned.
        group, colour = ("old", (90, 90, 90)) if number % 5 < 2 else ("new", colours[label])
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{group}")
    table = tmp_path / "list.csv"
    table.write_text("\n".join(rows) + "\n")
    given = [
        "data=csv", f"data.table={table}", "data.columns.domain=device", "data.target=null",
        "data.source.domain=[new,old]", "model=group_dro", "method.group_dro.eta=1",
        "data.batch_size=16", "data.num_workers=0", "backbone=tiny_cnn", "backbone.size=16",
        "trainer=cpu", "trainer.max_epochs=2", "data.steps_per_epoch=10", "optimizer.lr=0.01",
        "report.samples=30", "report.explained=0",
    ]  # fmt: skip
    report = training.fit(compose(given), tmp_path / "run")
    metrics = report["metrics"]
    groups = {name: metrics[f"source/test/acc_{name}"] for name in ("new", "old")}
    assert metrics["source/test/worst_domain_acc"] == groups["old"] < groups["new"]
    assert report["dataset"]["domains"]["source"].keys() == groups.keys()
    stored = weights(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert stored["methods.group_dro.q"][1] > 0.6


@pytest.mark.slow
def test_validation_samples_are_trained_on_if_asked_for(tmp_path) -> None:
    reports = [
        training.fit(config(*GIVEN, f"model.full_data={value}"), tmp_path / value)
        for value in ("true", "false")
    ]
    whole, part = (report["dataset"]["counts"] for report in reports)
    assert whole["source/train"] == part["source/train"] + part["source/val"]
    assert whole["source/val"] == part["source/val"]
    assert [report["selection"]["rule"] for report in reports] == ["last", "mean_domain"]
    assert any("validation samples are trained on as well" in note for note in reports[0]["notes"])


@pytest.mark.parametrize(("override", "message"), [
    ("selection=bnm", r"selection=bnm scores the target, which model=erm must not see"),
    ("track_target=true", r"track_target=true validates on the target, which model=erm must not"),
    ("data.target.labelled_per_class=2", r"labelled_per_class trains on target samples, which"),
    ("label_shift=prior", "label_shift=prior is fitted to target samples, which model=erm must"),
    ("rejection=entropy", "rejection_threshold=otsu is found on target samples, which model=erm"),
    ("method=[mcc]", r"method=\[mcc\] adapts to the target, which model=mcc must not see before"),
    ("method=[adabn]", r"method=\[adabn\] adapts to the target, which model=adabn must not see"),
])  # fmt: skip
def test_settings_that_would_use_the_target(override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config("model=domain_generalization", SOURCES, override))


def test_selecting_by_samples_that_are_trained_on_is_refused() -> None:
    given = "model=domain_generalization", "model.full_data=true", "selection=source_val"
    with pytest.raises(ConfigError, match=r"full_data=true trains on the validation samples, by"):
        validation.check(config(*given))


@pytest.mark.slow
@pytest.mark.parametrize(("override", "message"), [
    ("selection=worst_domain", r"selection=worst_domain compares the domains of the source, but"),
    ("method=[vrex]", r"method=\[vrex\] compares the domains of the source, but the source"),
])  # fmt: skip
def test_one_source_has_no_domains_to_compare(override, message, tmp_path) -> None:
    with pytest.raises(DataError, match=message):
        training.fit(config("model=domain_generalization", override), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["mean_domain", "worst_domain"])
def test_the_epoch_is_selected_by_the_domains(rule, tmp_path) -> None:
    given = [*GIVEN, f"selection={rule}", "trainer.max_epochs=4", "optimizer.lr=0.01"]
    report = training.fit(config(*given), tmp_path)
    lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    column, epoch = lines[0].index(f"source/val/{rule}_acc"), lines[0].index("epoch")
    known = {int(float(line[epoch])): float(line[column]) for line in lines[1:] if line[column]}
    assert len(known) == 4
    assert report["selection"]["epoch"] == max(known, key=known.get)
    assert report["selection"]["value"] == pytest.approx(max(known.values()), rel=1e-5)


def test_without_a_target() -> None:
    assert validation.check(config("model=erm", SOURCES, "data.target=null")).target is None


def test_looks_of_the_digits_are_checked() -> None:
    with pytest.raises(DataError, match=r"data\.source\.domain=inverse is not known; did you mean"):
        validation.check(config("data.source.domain=[inverse]")).data.build()
    with pytest.raises(DataError, match=r"\[plain,plain\] must name at least one look, each once"):
        validation.check(config("data.source.domain=[plain,plain]")).data.build()


def test_looks_share_the_digits() -> None:
    data = validation.check(config(SOURCES)).data.build()
    data.discover()
    source, plain = data.found["source"], validation.check(config()).data.build()
    plain.discover()
    alone = plain.found["source"]
    assert source.train.names == alone.train.names
    same_look = source.train.domains == 0
    assert np.array_equal(source.train.samples[same_look], alone.train.samples[same_look])
    other = source.train.domains == 1
    assert np.array_equal(source.train.samples[other], 255 - alone.train.samples[other])
    assert 0.2 < other.mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("full", ["true", "false"])
def test_a_finished_run_is_recognised_when_a_sweep_is_continued(full, tmp_path) -> None:
    settings = config(*GIVEN, f"model.full_data={full}", "trainer.max_epochs=1")
    report = training.fit(settings, tmp_path)
    check_version(report, settings, tmp_path)
