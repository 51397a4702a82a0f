"""Domains of a pooled source or target keep their names, from the folders to the batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from layouts import domain_folders
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import DataError
from tl_lightning.reporting.run.page import write_page
from tl_lightning.training import fit as training
from tl_lightning.types import Stream

NAMES = ("art_painting", "photo", "sketch")


@pytest.fixture
def root(tmp_path):
    return domain_folders(tmp_path / "set", NAMES, number=10)


def data_of(root, *overrides):
    given = [
        "data=domains", f"data.root={root}", "data.batch_size=6", "data.num_workers=0",
        "data.steps_per_epoch=4", "backbone=tiny_cnn", "backbone.size=16", *overrides,
    ]  # fmt: skip
    data = validation.check(compose(given)).data.build()
    data.discover()
    return data


def batches(data, stream=Stream.SOURCE):
    data.prepare()
    return [
        data.on_before_batch_transfer({stream: batch}, 0)[stream]
        for batch in data.train_dataloader()[stream]
    ]


def test_every_sample_keeps_its_domain(root) -> None:
    given = "data.source.domain=[photo,art_painting]", "data.target.domain=sketch"
    source = data_of(root, *given).found["source"]
    assert source.name == "photo+art_painting"
    assert source.domains == ("photo", "art_painting")
    for split in source.splits().values():
        assert len(split)
        for path, domain in zip(split.samples, split.domains, strict=True):
            assert path.parts[-3] == source.domains[domain]


def test_one_domain_has_no_names(root) -> None:
    data = data_of(root, "data.source.domain=photo", "data.target.domain=sketch")
    assert data.found["source"].domains == ()
    assert "domain" not in batches(data)[0]


def test_batches_carry_the_domain_of_every_sample(root) -> None:
    data = data_of(root, "data.source.domain=[photo,art_painting]", "data.target.domain=sketch")
    split = data.found["source"].train
    seen = set()
    for batch in batches(data):
        assert torch.equal(batch["domain"], torch.from_numpy(split.domains)[batch["index"]])
        seen |= set(batch["domain"].tolist())
    assert seen == {0, 1}
    both = data.train_dataloader()
    whole = {stream: next(iter(loader)) for stream, loader in both.items()}
    assert "domain" not in data.on_before_batch_transfer(whole, 0)["target"]


def test_an_unlabelled_target_of_several_domains_has_them_too(root) -> None:
    data = data_of(root, "data.source.domain=photo", "data.target.domain=[sketch,art_painting]")
    batch = batches(data, Stream.TARGET)[0]
    assert "labels" not in batch
    assert set(batch["domain"].tolist()) == {0, 1}


def test_balanced_batches_contain_all_domains_equally_often(tmp_path) -> None:
    domain_folders(tmp_path, ("photo",), number=40)
    domain_folders(tmp_path, ("art_painting", "sketch"), number=8)
    given = "data.source.domain=[photo,art_painting]", "data.target.domain=sketch"
    counted = {}
    for sampling in ("uniform", "domain_balanced"):
        data = data_of(tmp_path, *given, f"data.sampling={sampling}")
        counted[sampling] = [Counter(batch["domain"].tolist()) for batch in batches(data)]
    assert counted["domain_balanced"] == [{0: 3, 1: 3}] * 4
    assert any(count != {0: 3, 1: 3} for count in counted["uniform"])


def test_balancing_the_domains_needs_several(root) -> None:
    given = "data.source.domain=photo", "data.target.domain=sketch"
    with pytest.raises(DataError, match=r"the source \(photo\) is one domain; set data\.source"):
        data_of(root, *given, "data.sampling=domain_balanced")


def test_one_domain_that_others_leaves_keeps_its_name(root) -> None:
    given = "data.source.domain=others", "data.target.domain=[photo,sketch]"
    data = data_of(root, *given, "data.sampling=domain_balanced")
    source = data.found["source"]
    assert source.domains == ("art_painting",)
    assert len(source.val)
    assert not source.val.domains.any()
    assert [batch["domain"].tolist() for batch in batches(data)] == [[0] * 6] * 4


def test_a_domain_without_training_samples_cannot_be_balanced(tmp_path) -> None:
    rows = ["path,label,domain,split"]
    folder = domain_folders(tmp_path, ("photo", "sketch"), number=6)
    for domain in ("photo", "sketch"):
        for number, path in enumerate(sorted((folder / domain).rglob("*.jpg"))):
            train = "train" if domain == "photo" and number % 3 == 0 else "val"
            split = train if number % 3 < 2 else "test"
            relative = path.relative_to(folder)
            rows.append(f"{relative},{path.parent.name},{domain},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    given = [
        "data=csv", f"data.table={tmp_path / 'list.csv'}", "data.source.domain=[photo,sketch]",
        "data.target=null", "data.sampling=domain_balanced", "data.batch_size=2",
    ]  # fmt: skip
    with pytest.raises(DataError, match="domain sketch of the source has no training samples"):
        validation.check(compose([*given, "model=source_only"])).data.build().discover()


@pytest.mark.slow
def test_others_are_all_domains_except_the_target(root) -> None:
    data = data_of(root, "data.source.domain=others", "data.target.domain=photo")
    assert data.found["source"].domains == ("art_painting", "sketch")
    data = data_of(root, "data.source.domain=others", "data.target.domain=[photo,Sketch]")
    assert data.found["source"].name == "art_painting"
    with pytest.raises(DataError, match=r"others means all domains except that of the target, but"):
        data_of(root, "data.source.domain=others")
    given = "data.target.domain=[photo,sketch,art_painting]"
    with pytest.raises(DataError, match=r"source\.domain=others is empty, as data\.target"):
        data_of(root, "data.source.domain=others", given)
    with pytest.raises(DataError, match=r"data\.target\.domain=foto is not a domain of .*photo"):
        data_of(root, "data.source.domain=others", "data.target.domain=foto")


def test_others_in_a_table(tmp_path) -> None:
    folder = domain_folders(tmp_path, NAMES, number=10)
    rows = ["path,label,domain"] + [
        f"{path.relative_to(folder)},{path.parent.name},{path.parts[-3]}"
        for path in sorted(folder.rglob("*.jpg"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    given = [
        "data=csv", f"data.table={tmp_path / 'list.csv'}", "data.source.domain=others",
        "data.target.domain=sketch", "data.batch_size=2",
    ]  # fmt: skip
    data = validation.check(compose(given)).data.build()
    data.discover()
    assert data.found["source"].domains == ("art_painting", "photo")


@pytest.mark.slow
def test_the_report_has_the_accuracy_by_domain(root, tmp_path) -> None:
    report = training.fit(compose(config_of(root)), tmp_path / "run")
    predictions = np.load(tmp_path / "run" / "predictions.npz")
    right = predictions["source_true"] == predictions["source_pred"]
    of = np.array([name.partition("/")[0] for name in predictions["source_name"]])
    expected = {name: right[of == name].mean() for name in ("photo", "art_painting")}
    metrics = report["metrics"]
    for name, value in expected.items():
        assert metrics[f"source/test/acc_{name}"] == pytest.approx(value)
    mean, worst = np.mean([*expected.values()]), min(expected.values())
    assert metrics["source/test/mean_domain_acc"] == pytest.approx(mean)
    assert metrics["source/test/worst_domain_acc"] == pytest.approx(worst)
    assert not any(name.startswith("target/test/acc_") for name in metrics)
    counts = report["dataset"]["domains"]["source"]["photo"]
    assert sum(counts.values()) == 30
    assert report["dataset"]["domains"]["target"] == {}
    page = write_page(tmp_path / "run").read_text()
    assert "Domains of the source" in page
    assert "Domains of the target" not in page


def config_of(root):
    return [
        "data=domains", f"data.root={root}", "data.batch_size=6", "data.num_workers=0",
        "data.source.domain=[photo,art_painting]", "data.target.domain=sketch",
        "backbone=tiny_cnn", "backbone.size=16", "model=source_only", "trainer=cpu",
        "trainer.max_epochs=1", "data.steps_per_epoch=2", "selection=last",
        "report.samples=30", "report.explained=0",
    ]  # fmt: skip
