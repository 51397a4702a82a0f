"""Features of all image datasets on disk: unreadable images, few-shot, class subsets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import file_config as dogs
from helpers import same, weights
from layouts import BREEDS, class_folders, file_settings, image, split_folders
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.class_folders import ClassFoldersDataModule
from tl_lightning.data.io import unreadable as module
from tl_lightning.data.io.unreadable import unreadable, without_unreadable
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training


@pytest.fixture
def root(tmp_path):
    return split_folders(tmp_path / "dogs", train=60, test=8)


def broken(path):
    path.write_bytes(path.read_bytes()[:-60])
    return path


@pytest.mark.slow
def test_skipped_images_are_removed_and_listed_in_the_report(root, tmp_path) -> None:
    bad = broken(root / "train" / BREEDS[0] / "n02085620_3.jpg")
    with pytest.raises(DataError, match=r"cannot read image .*n02085620_3\.jpg.*on_error=skip"):
        training.fit(dogs(root, "cache.images=decoded"), tmp_path / "stopped")
    report = training.fit(dogs(root, "data.on_error=skip"), tmp_path / "run")
    (listed,) = report["dataset"]["quarantined"].values()
    assert len(listed) == 1
    assert listed[0].startswith(f"{bad} (")
    assert any("1 unreadable image(s) skipped: " in n for n in report["notes"])
    counts = report["dataset"]["counts"]
    train = sum(
        counts[f"{domain}/{s}"] for domain in ("source", "target") for s in ("train", "val")
    )
    assert train == 3 * 60 - 1


def test_more_than_one_percent_unreadable_is_an_error(root, tmp_path) -> None:
    for k in range(4):
        broken(root / "train" / BREEDS[0] / f"n02085620_{k}.jpg")
    message = (
        r"leaves out at most 1% of the images, in small sets 3 and at most 10%, but 4 of \d+ "
        r"images of dogs.* cannot be read: .*check_data"
    )
    with pytest.raises(DataError, match=message):
        training.fit(dogs(root, "data.on_error=skip", "data.target=null", "model=source_only"),
                     tmp_path / "run")  # fmt: skip


def test_check_results_are_cached(root, monkeypatch) -> None:
    paths = sorted(root.rglob("*.jpg"))
    bad = broken(paths[3])
    assert list(unreadable(paths)) == [bad]
    monkeypatch.setattr(module, "_decode_all", lambda paths: pytest.fail("checked again"))
    assert list(unreadable(paths)) == [bad]


def test_missing_file_is_unreadable(root) -> None:
    paths = sorted(root.rglob("*.jpg"))
    paths[0].unlink()
    assert "No such file" in unreadable(paths)[paths[0]]


def test_changed_file_is_checked_again(root) -> None:
    paths = sorted(root.rglob("*.jpg"))
    good = paths[3].read_bytes()
    broken(paths[3])
    assert unreadable(paths)
    paths[3].write_bytes(good)
    assert not unreadable(paths)


def test_few_shot_batches_contain_labels(root, tmp_path) -> None:
    cfg = validation.check(dogs(root, "data.target.labelled_per_class=2"))
    parts = training.build(cfg, tmp_path)
    domain = parts.data.found["target"]
    assert np.bincount(domain.labelled.labels).tolist() == [2, 2, 2]
    assert not set(domain.labelled.names) & set(domain.train.names)
    parts.trainer.strategy._lightning_module = parts.module
    parts.data.trainer = parts.trainer
    batch = {name: next(iter(loader)) for name, loader in parts.data.train_dataloader().items()}
    batch = parts.data.on_after_batch_transfer(batch, 0)
    assert "labels" in batch["target_labelled"]
    assert "labels" not in batch["target"]
    views = parts.module.views(batch)
    assert views["target"].labels is None
    assert torch.equal(views["target_labelled"].labels, batch["target_labelled"]["labels"])
    parts.module._record = lambda *arguments: None  # logging needs a trainer
    assert {"task", "task_labelled"} <= set(parts.module.losses(batch))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dann", "source_only"])
def test_few_shot_samples_change_the_trained_weights(root, tmp_path, model) -> None:
    for count in (0, 2):
        arguments = (f"model={model}", f"data.target.labelled_per_class={count}")
        report = training.fit(dogs(root, *arguments), tmp_path / str(count))
        assert any("2 few-shot target" in note for note in report["notes"]) == bool(count)
    last = "checkpoints/last.ckpt"
    assert not same(weights(tmp_path / "0" / last), weights(tmp_path / "2" / last))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.target.labelled_per_class=99"], r"=99, but class 'n02085620.*has \d+ training"),
        (["data.target.labelled_per_class=-1"],
         r"labelled_per_class=-1 is not a valid number of samples; set data.target.labelled"),
        (["data.classes=[n02085620-Chihuahua,n02085782-Japanese_spanel]"],
         r"contains 'n02085782-Japanese_spanel', which .* did you mean 'n02085782-Japanese_span"),
        (["data.classes=[n02085620-Chihuahua]"], r"must name at least two classes, each once"),
        (["data.source.domain=x"], r"data.source.domain=x, but data=dogs has one domain; set"),
    ],
)  # fmt: skip
def test_invalid_settings_are_errors(root, tmp_path, overrides, message) -> None:
    with pytest.raises(DataError, match=message):
        training.fit(dogs(root, *overrides), tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cache.images=all", r"cache.images=all is not one of off, decoded, auto; set cache.im"),
        (
            "cache.shorter_side=big",
            r"cache.shorter_side=big is not an integer of at least 1 or null",
        ),
        (
            "data.augment=mild",
            r"data.augment=mild is not none, flip, light, crop.* or a mapping; set data.augment=",
        ),
        ("data.on_error=ignore", r"data.on_error=ignore is not one of stop, skip"),
    ],
)
def test_invalid_values_are_config_errors(root, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(dogs(root, override))


def test_subset_of_classes_keeps_the_given_order(root, tmp_path) -> None:
    chosen = f"data.classes=[{BREEDS[2]},{BREEDS[0]}]"
    parts = training.build(validation.check(dogs(root, chosen)), tmp_path)
    for domain in parts.data.found.values():
        assert domain.classes == (BREEDS[2], BREEDS[0])
        for split in domain.splits().values():
            assert {n.split("/")[-2] for n in split.names} == {BREEDS[0], BREEDS[2]}
            for name, label in zip(split.names, split.labels, strict=True):
                assert name.split("/")[-2] == domain.classes[label]


def test_transductive_target_uses_all_samples_for_training_and_testing(root, tmp_path) -> None:
    other = split_folders(tmp_path / "other", train=10, test=4)
    arguments = (f"data.target.root={other}", "data.transductive=true")
    parts = training.build(validation.check(dogs(root, *arguments)), tmp_path)
    domain = parts.data.found["target"]
    assert len(domain.train) == len(domain.test) == 3 * 14
    assert "transductive" in parts.data.notes(pretrained=False)[0]
    few = dogs(root, *arguments, "data.target.labelled_per_class=2")
    domain = training.build(validation.check(few), tmp_path).data.found["target"]
    assert not set(domain.labelled.names) & {*domain.train.names, *domain.test.names}


def first_batches(root, tmp_path, workers, images):
    arguments = (f"data.num_workers={workers}", f"cache.images={images}", "data.augment=standard")
    parts = training.build(validation.check(dogs(root, *arguments)), tmp_path)
    parts.trainer.strategy._lightning_module = parts.module
    parts.data.trainer = parts.trainer
    found = []
    for stream, loader in parts.data.train_dataloader().items():
        for batch in loader:
            ready = parts.data.on_after_batch_transfer(batch, 0)
            found.append((stream, ready["index"], ready["inputs"]))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # on two cores
@pytest.mark.parametrize("images", ["off", "decoded"])
def test_batches_do_not_depend_on_the_number_of_workers(root, tmp_path, images) -> None:
    plain = first_batches(root, tmp_path, 0, images)
    for workers in (2, 4):
        other = first_batches(root, tmp_path, workers, images)
        assert len(plain) == len(other) == 4
        for (stream, index, inputs), (other_stream, other_index, other_inputs) in zip(
            plain, other, strict=True
        ):
            assert stream == other_stream
            assert torch.equal(index, other_index)
            assert torch.equal(inputs, other_inputs)


def test_removing_an_unreadable_image_keeps_the_rest_of_the_split(root) -> None:
    config = dogs(root, "data.target=null", "model=source_only")
    data = validation.check(config).data.build()
    domain = data.domains()["source"]
    bad = broken(domain.train.samples[5])
    kept, left_out = without_unreadable(replace(domain, labelled=None))
    assert len(left_out) == 1
    assert kept.train.names == [n for n in domain.train.names if n != domain.train.names[5]]
    assert bad not in kept.paths()
    assert kept.test is domain.test


@pytest.mark.slow
def test_report_contains_the_number_of_cached_images(root, tmp_path) -> None:
    training.fit(dogs(root, "cache.images=decoded"), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    counts = report["dataset"]["counts"]
    assert report["dataset"]["cached"]["source"] == sum(
        n for k, n in counts.items() if k.startswith("source")
    )


def test_pretraining_overlap_is_noted(root, tmp_path) -> None:
    data = training.build(validation.check(dogs(root)), tmp_path).data
    assert "pretraining overlap: Stanford Dogs" in " ".join(data.notes(pretrained=True))
    assert "overlap" not in " ".join(data.notes(pretrained=False))


def test_image_files_that_are_not_used_are_told(tmp_path):
    root = class_folders(tmp_path / "set", 10)
    first = root / BREEDS[0]
    image(first / "part2" / "x.jpg", 1)
    image(first / "part2" / "y.jpg", 2)
    image(root / "beside.png", 3)
    (first / "old.gif").write_bytes(b"GIF89a")
    (first / "gone.jpg").symlink_to(tmp_path / "nothing")
    image(first / "taken.jpg", 4).rename(first / "taken.jfif")
    data = ClassFoldersDataModule(**file_settings(root))
    data.discover()
    assert sum(data.counts().values()) == 31
    assert first / "taken.jfif" in data.found["source"].paths()
    (text,) = data.remarks()
    assert text.startswith("5 image file(s) near the dataset are not used: ")
    for part in (
        f"2 in a subfolder of a class folder, such as {first}/part2/x.jpg",
        f"1 of an unsupported format (.gif), such as {first}/old.gif",
        f"1 next to the class folders, such as {root}/beside.png",
        "1 named as an image but a link to ",
    ):
        assert part in text
    assert text in data.notes(pretrained=False)


def test_folder_next_to_the_splits_is_told(tmp_path):
    split_folders(tmp_path)
    class_folders(tmp_path / "holdout", 2)
    data = ClassFoldersDataModule(**file_settings(tmp_path))
    data.discover()
    place = rf"6 in a folder next to the splits, such as {tmp_path}/holdout/"
    assert place in data.remarks()[0]


def test_skipped_and_unchosen_images_are_not_told_again(tmp_path):
    root = class_folders(tmp_path, 101)
    (root / BREEDS[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    data = ClassFoldersDataModule(**file_settings(root, on_error="skip", classes=BREEDS[:2]))
    data.discover()
    assert len(data.unreadable["source"]) == 1
    assert data.remarks() == []
