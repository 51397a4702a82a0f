"""Labels of auxiliary tasks from columns and from classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layouts import domain_folders, file_settings, table
from tl_lightning.data.cache.features import FeatureLoader
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.data.datasets import ArrayDataset, EvalDataset, ImageDataset
from tl_lightning.data.domain import Split
from tl_lightning.data.samplers.domain import EvalSampler
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import DataError
from tl_lightning.tasks.auxiliary.labels import attach_labels, read_groups
from tl_lightning.tasks.auxiliary.multi_label import MultiLabel
from tl_lightning.tasks.auxiliary.regression import Regression
from tl_lightning.tasks.auxiliary.single_label import SingleLabel
from tl_lightning.types import InputSpec

COLUMNS = {"path": "path", "label": "label", "domain": "domain", "split": "split"}


def make_data(
    root, kind=lambda k: "red" if k % 2 else "blue", label_columns=("extra",), target="sketch"
):
    """Return a data module of two domains; ``kind`` returns the auxiliary label of row ``k``."""
    domain_folders(root, ("photo", "sketch"), 10, ("dog", "horse"))
    rows = [
        [path.relative_to(root).as_posix(), path.parent.name, path.parts[-3], kind(k)]
        for k, path in enumerate(sorted(root.rglob("*.jpg")))
    ]
    file = table(root / "list.csv", [["path", "label", "domain", "extra"], *rows])
    settings = file_settings(root, source={"domain": "photo"}, target={"domain": target})
    data = ImageTableDataModule(
        table=str(file),
        delimiter=None,
        columns=COLUMNS,
        label_columns=list(label_columns),
        **settings,
    )
    data.discover()
    return data, {root / row[0]: row[3] for row in rows}


def attach(data, kind=SingleLabel, **params):
    return attach_labels(data, {"x": (kind, {"labels": "extra", "groups": None, **params})})


def test_every_image_has_the_label_of_its_row(tmp_path) -> None:
    data, labels = make_data(tmp_path)
    label_info = attach(data)["x"]
    assert label_info == {"names": ["blue", "red"]}
    for domain in data.found.values():
        for split in domain.splits().values():
            result = [label_info["names"][k] for k in split.aux_labels["x"]]
            assert result == [labels[path] for path in split.samples]


def test_labels_follow_subsets_and_batches(tmp_path) -> None:
    data, _ = make_data(tmp_path, lambda k: k + 0.5)
    attach(data, Regression)
    split = data.found["source"].train
    part = split.subset([3, 0])
    assert part.aux_labels["x"].tolist() == [split.aux_labels["x"][3], split.aux_labels["x"][0]]
    assert split.without_labels().aux_labels is None
    pixels = np.zeros((len(split), 8, 8, 3), dtype=np.uint8)
    keys = [(2, 0), (5, 0)]
    spec = InputSpec(8, (0.5,) * 3, (0.5,) * 3)
    images = ImageDataset(split, lambda index: torch.zeros(3, 8, 8, dtype=torch.uint8),
                              Centre(spec), 8)  # fmt: skip
    for dataset in (ArrayDataset(replace(split, samples=pixels)), images):
        batch = dataset.__getitems__(keys)
        assert batch["aux_labels"]["x"].tolist() == split.aux_labels["x"][[2, 5]].tolist()
        assert dataset[2, 0]["aux_labels"]["x"] == split.aux_labels["x"][2]
        padded = EvalDataset(dataset).__getitems__([(2, 1), (5, 0)])
        assert padded["index"].tolist() == [2, -1]
        assert "aux_labels" in padded
    assert "aux_labels" not in ArrayDataset(replace(split, samples=pixels, aux_labels=None))[0, 0]


def test_cached_features_have_auxiliary_labels() -> None:
    class Cache:
        views, number = 1, 5

        def rows(self, rows):
            return rows[:, None].float()

    aux_labels = {"x": np.arange(5, dtype=np.float32) * 2}
    sampler = EvalSampler(size=5, rank=0, world=1)
    labels = np.zeros(5, dtype=np.int64)
    batches = list(FeatureLoader(Cache(), labels, 2, sampler, aux_labels))
    result = torch.cat([batch["aux_labels"]["x"] for batch in batches])
    assert result.tolist() == [0, 2, 4, 6, 8]
    assert all("aux_labels" not in batch for batch in FeatureLoader(Cache(), labels, 2, sampler))


def test_missing_labels_are_nan(tmp_path) -> None:
    data, labels = make_data(tmp_path, lambda k: ("", "a;b", ";", "nan")[k % 4])
    attach(data, MultiLabel)
    split = data.found["source"].train
    expected = {"": "nan nan", "nan": "nan nan", "a;b": "1.0 1.0", ";": "0.0 0.0"}
    for path, row in zip(split.samples, split.aux_labels["x"].tolist(), strict=True):
        assert " ".join(map(str, row)) == expected[labels[path]]


def test_a_domain_without_labels_is_unchanged(tmp_path) -> None:
    data, _ = make_data(
        tmp_path, lambda k: "" if k >= 20 else "ab"[k % 2]
    )  # the second is the target
    attach(data)
    assert set(data.found["source"].train.aux_labels) == {"x"}
    assert all(split.aux_labels is None for split in data.found["target"].splits().values())


def test_two_tasks_can_use_the_same_column(tmp_path) -> None:
    data, _ = make_data(tmp_path, lambda k: str(k % 3))
    params = {"labels": "extra", "groups": None}
    attach_labels(data, {"kind": (SingleLabel, params), "size": (Regression, params)})
    aux_labels = data.found["source"].train.aux_labels
    assert aux_labels["kind"].tolist() == aux_labels["size"].tolist()
    assert (aux_labels["kind"].dtype, aux_labels["size"].dtype) == (np.int64, np.float32)


def test_label_info_of_an_earlier_run_is_kept(tmp_path) -> None:
    data, _ = make_data(tmp_path)
    known = {"x": {"names": ["red", "blue", "green"]}}
    kinds = {"x": (SingleLabel, {"labels": "extra", "groups": None})}
    assert attach_labels(data, kinds, known) == known
    assert data.found["source"].train.aux_labels["x"].max() == 1


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        (lambda k: "", SingleLabel,
         r"aux_tasks\.x\.labels=extra is empty for all \d+ training samples; fill in the column"),
        (lambda k: "green" if k == 25 else "ab"[k % 2], SingleLabel,
         r"aux_tasks\.x has 1 invalid label\(s\): sketch/.*jpg: 'green' is not one of the source's "
         r"training labels .*; fix them, or leave the cells of missing labels empty"),
        (lambda k: "many" if k >= 20 else k, Regression,
         r"has \d+ invalid label\(s\): .*; and \d+ more; fix them"),
        (lambda k: "many" if k < 20 else k, Regression,
         r"the label 'many' is not a finite number; fix the table"),
    ],
)  # fmt: skip
def test_invalid_labels(tmp_path, write, kind, message) -> None:
    data, _ = make_data(tmp_path, write)
    with pytest.raises(DataError, match=message):
        attach(data, kind)


def test_unknown_label_column(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no column 'extras' .* did you mean 'extra'"):
        make_data(tmp_path, label_columns=("extras",))


def test_different_labels_for_the_same_image(tmp_path) -> None:
    domain_folders(tmp_path, ("photo",), 10, ("dog", "horse"))
    paths = sorted(tmp_path.rglob("*.jpg"))
    rows = [[path.relative_to(tmp_path), path.parent.name, "1"] for path in paths]
    file = table(tmp_path / "l.csv", [["path", "label", "age"], *rows, [*rows[0][:2], "2"]])
    columns = {**COLUMNS, "domain": None, "split": None}
    data = ImageTableDataModule(
        table=str(file),
        delimiter=None,
        columns=columns,
        label_columns=["age"],
        **file_settings(tmp_path),
    )
    with pytest.raises(DataError, match="a duplicate path but a different auxiliary label"):
        data.discover()


def groups(root, lines):
    return table(root / "groups.csv", [["class", "label"], *lines])


def test_labels_from_classes(tmp_path) -> None:
    data, _ = make_data(tmp_path)
    file = groups(tmp_path, [["horse", "hoofs"], ["dog", "paws"], ["cat", "paws"]])
    result = attach_labels(data, {"x": (SingleLabel, {"labels": None, "groups": str(file)})})
    assert result == {"x": {"names": ["hoofs", "paws"], "by_class": [1, 0]}}
    assert data.found["source"].train.aux_labels is None  # derived in the model


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["dog", "a"]], r"has no row for 1 of 2 classes, starting with 'horse' .*; add the miss"),
        ([["dog", ""], ["horse", ""]], r"has no label for any class; fill in the table"),
        (
            [["dog", "a"], ["dog", "b"]],
            r"line 3 of .* maps 'dog' to 'b', but an earlier row maps it to 'a'; remove one of",
        ),
        ([["dog", "a"], ["horse", "a"]], r"aux_tasks\.x has only the label 'a'"),
    ],
)
def test_invalid_groups(tmp_path, lines, message) -> None:
    data, _ = make_data(tmp_path)
    file = groups(tmp_path, lines)
    with pytest.raises(DataError, match=message):
        attach_labels(data, {"x": (SingleLabel, {"labels": None, "groups": str(file)})})


def test_groups_table_not_found_or_without_columns(tmp_path) -> None:
    with pytest.raises(DataError, match=r"g=/no not found; set g to the path .*\(dogs_akc\)"):
        read_groups("/no", "g")
    file = table(tmp_path / "a.csv", [["breed", "label"], ["a", "b"]])
    with pytest.raises(DataError, match=r"has no column 'class' \(found: breed, label\); the head"):
        read_groups(str(file), "g")


def test_packaged_dog_groups() -> None:
    result = read_groups("dogs_akc", "g")
    sizes = {name: list(result.values()).count(name) for name in set(result.values())}
    assert len(result) == sum(sizes.values()) == 120
    assert sizes == {
        "sporting": 18, "hound": 19, "toy": 17, "terrier": 19, "non-sporting": 10, "working": 20,
        "herding": 13, "other": 4,
    }  # fmt: skip


def test_subset_without_auxiliary_labels() -> None:
    split = Split(np.zeros((2, 1, 1, 3), dtype=np.uint8), None, ["a", "b"])
    assert split.subset([1]).aux_labels is None
