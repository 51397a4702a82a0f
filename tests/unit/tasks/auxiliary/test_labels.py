"""Labels of further tasks, from columns and from classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layouts import domain_folders, file_settings, table
from tl_lightning.data.cache.features import FeatureLoader
from tl_lightning.data.datamodules.image_table import TableData
from tl_lightning.data.datasets import ArrayDataset, EvalDataset, PictureDataset
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


def made(root, kind=lambda k: "red" if k % 2 else "blue", others=("extra",), target="sketch"):
    """Return a table of two domains; ``kind`` writes the further label of row ``k``."""
    domain_folders(root, ("photo", "sketch"), 10, ("dog", "horse"))
    rows = [
        [path.relative_to(root).as_posix(), path.parent.name, path.parts[-3], kind(k)]
        for k, path in enumerate(sorted(root.rglob("*.jpg")))
    ]
    file = table(root / "list.csv", [["path", "label", "domain", "extra"], *rows])
    settings = file_settings(root, source={"domain": "photo"}, target={"domain": target})
    data = TableData(
        table=str(file), delimiter=None, columns=COLUMNS, others=list(others), **settings
    )
    data.discover()
    return data, {root / row[0]: row[3] for row in rows}


def attached(data, kind=SingleLabel, **knobs):
    return attach_labels(data, {"x": (kind, {"labels": "extra", "groups": None, **knobs})})


def test_every_picture_has_the_label_of_its_line(tmp_path) -> None:
    data, written = made(tmp_path)
    facts = attached(data)["x"]
    assert facts == {"names": ["blue", "red"]}
    for domain in data.found.values():
        for split in domain.splits().values():
            found = [facts["names"][k] for k in split.others["x"]]
            assert found == [written[path] for path in split.pictures]


def test_labels_go_where_the_pictures_go(tmp_path) -> None:
    data, _ = made(tmp_path, lambda k: k + 0.5)
    attached(data, Regression)
    split = data.found["source"].train
    part = split.subset([3, 0])
    assert part.others["x"].tolist() == [split.others["x"][3], split.others["x"][0]]
    assert split.without_labels().others is None
    pixels = np.zeros((len(split), 8, 8, 3), dtype=np.uint8)
    keys = [(2, 0), (5, 0)]
    spec = InputSpec(8, (0.5,) * 3, (0.5,) * 3)
    pictures = PictureDataset(split, lambda place: torch.zeros(3, 8, 8, dtype=torch.uint8),
                              Centre(spec), 8)  # fmt: skip
    for dataset in (ArrayDataset(replace(split, pictures=pixels)), pictures):
        batch = dataset.__getitems__(keys)
        assert batch["others"]["x"].tolist() == split.others["x"][[2, 5]].tolist()
        assert dataset[2, 0]["others"]["x"] == split.others["x"][2]
        filled = EvalDataset(dataset).__getitems__([(2, 1), (5, 0)])
        assert filled["index"].tolist() == [2, -1]
        assert "others" in filled
    assert "others" not in ArrayDataset(replace(split, pictures=pixels, others=None))[0, 0]


def test_stored_features_come_with_further_labels() -> None:
    class Stored:
        views, number = 1, 5

        def rows(self, rows):
            return rows[:, None].float()

    others = {"x": np.arange(5, dtype=np.float32) * 2}
    sampler = EvalSampler(size=5, rank=0, world=1)
    labels = np.zeros(5, dtype=np.int64)
    batches = list(FeatureLoader(Stored(), labels, 2, sampler, others))
    found = torch.cat([batch["others"]["x"] for batch in batches])
    assert found.tolist() == [0, 2, 4, 6, 8]
    assert all("others" not in batch for batch in FeatureLoader(Stored(), labels, 2, sampler))


def test_missing_labels_are_marked(tmp_path) -> None:
    data, written = made(tmp_path, lambda k: ("", "a;b", ";", "nan")[k % 4])
    attached(data, MultiLabel)
    split = data.found["source"].train
    wanted = {"": "nan nan", "nan": "nan nan", "a;b": "1.0 1.0", ";": "0.0 0.0"}
    for path, row in zip(split.pictures, split.others["x"].tolist(), strict=True):
        assert " ".join(map(str, row)) == wanted[written[path]]


def test_a_domain_without_labels_has_none(tmp_path) -> None:
    data, _ = made(tmp_path, lambda k: "" if k >= 20 else "ab"[k % 2])  # the second is the target
    attached(data)
    assert set(data.found["source"].train.others) == {"x"}
    assert all(split.others is None for split in data.found["target"].splits().values())


def test_two_tasks_of_one_column(tmp_path) -> None:
    data, _ = made(tmp_path, lambda k: str(k % 3))
    knobs = {"labels": "extra", "groups": None}
    attach_labels(data, {"kind": (SingleLabel, knobs), "size": (Regression, knobs)})
    others = data.found["source"].train.others
    assert others["kind"].tolist() == others["size"].tolist()
    assert (others["kind"].dtype, others["size"].dtype) == (np.int64, np.float32)


def test_facts_of_an_earlier_run_are_kept(tmp_path) -> None:
    data, _ = made(tmp_path)
    known = {"x": {"names": ["red", "blue", "green"]}}
    kinds = {"x": (SingleLabel, {"labels": "extra", "groups": None})}
    assert attach_labels(data, kinds, known) == known
    assert data.found["source"].train.others["x"].max() == 1


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (lambda k: "", SingleLabel, r"tasks\.x\.labels=extra says nothing of any of the \d+ train"),
        (lambda k: "green" if k == 25 else "ab"[k % 2], SingleLabel,
         r"tasks\.x cannot read 1 of its labels: sketch/.*jpg: 'green' is no label that the source"
         r" trains with .*; mend them, or leave the cells empty"),
        (lambda k: "many" if k >= 20 else k, Regression,
         r"cannot read \d+ of its labels: .* and \d+ more; mend them"),
        (lambda k: "many" if k < 20 else k, Regression, r"its labels hold 'many'; mend the table"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(tmp_path, write, kind, words) -> None:
    data, _ = made(tmp_path, write)
    with pytest.raises(DataError, match=words):
        attached(data, kind)


def test_columns_that_are_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no column 'extras' .* did you mean 'extra'"):
        made(tmp_path, others=("extras",))


def test_one_picture_has_one_further_label(tmp_path) -> None:
    domain_folders(tmp_path, ("photo",), 10, ("dog", "horse"))
    paths = sorted(tmp_path.rglob("*.jpg"))
    rows = [[path.relative_to(tmp_path), path.parent.name, "1"] for path in paths]
    file = table(tmp_path / "l.csv", [["path", "label", "age"], *rows, [*rows[0][:2], "2"]])
    columns = {**COLUMNS, "domain": None, "split": None}
    data = TableData(table=str(file), delimiter=None, columns=columns, others=["age"],
                     **file_settings(tmp_path))  # fmt: skip
    with pytest.raises(DataError, match="a path that is there with another further label"):
        data.discover()


def groups(root, lines):
    return table(root / "groups.csv", [["class", "label"], *lines])


def test_labels_by_class(tmp_path) -> None:
    data, _ = made(tmp_path)
    file = groups(tmp_path, [["horse", "hoofs"], ["dog", "paws"], ["cat", "paws"]])
    found = attach_labels(data, {"x": (SingleLabel, {"labels": None, "groups": str(file)})})
    assert found == {"x": {"names": ["hoofs", "paws"], "by_class": [1, 0]}}
    assert data.found["source"].train.others is None  # they follow in the model


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([["dog", "a"]], r"has no line for 1 of 2 classes, the first is 'horse'"),
        ([["dog", ""], ["horse", ""]], r"gives none of the classes a label; fill it in"),
        ([["dog", "a"], ["dog", "b"]], r"line 3 of .* has 'dog' as 'b', but it was 'a' before"),
        ([["dog", "a"], ["horse", "a"]], r"tasks\.x has only the label 'a'"),
    ],
)
def test_groups_that_cannot_be_used(tmp_path, lines, words) -> None:
    data, _ = made(tmp_path)
    file = groups(tmp_path, lines)
    with pytest.raises(DataError, match=words):
        attach_labels(data, {"x": (SingleLabel, {"labels": None, "groups": str(file)})})


def test_groups_that_are_no_table(tmp_path) -> None:
    with pytest.raises(DataError, match=r"g=/no is no file; type the path .*\(dogs_akc\)"):
        read_groups("/no", "g")
    file = table(tmp_path / "a.csv", [["breed", "label"], ["a", "b"]])
    with pytest.raises(DataError, match=r"has no column 'class' \(it has breed, label\)"):
        read_groups(str(file), "g")


def test_the_kennel_clubs_groups() -> None:
    found = read_groups("dogs_akc", "g")
    sizes = {name: list(found.values()).count(name) for name in set(found.values())}
    assert len(found) == sum(sizes.values()) == 120
    assert sizes == {
        "sporting": 18, "hound": 19, "toy": 17, "terrier": 19, "non-sporting": 10, "working": 20,
        "herding": 13, "other": 4,
    }  # fmt: skip


def test_splits_without_further_labels_stay_so() -> None:
    split = Split(np.zeros((2, 1, 1, 3), dtype=np.uint8), None, ["a", "b"])
    assert split.subset([1]).others is None
