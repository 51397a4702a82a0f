import numpy as np
import pytest
import torch

from layouts import (
    BREEDS,
    SHIFT,
    class_folders,
    file_settings,
    image,
    official_dogs,
    real_data,
    split_folders,
)
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules import stanford_dogs as module
from tl_lightning.data.datamodules.stanford_dogs import StanfordDogsDataModule, fetch
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec

SYNTHETIC = {"root": None, "shift": SHIFT}


def dogs(root, target=SYNTHETIC, **kwargs):
    settings = {"name": "dogs", "download": False, "source": {"root": None}, "target": target}
    return StanfordDogsDataModule(**file_settings(root, **{**settings, **kwargs}))


def found(*args, **kwargs):
    data = dogs(*args, **kwargs)
    data.discover()
    return data.found


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


def files(split):
    return {name.rpartition("/")[2] for name in split.names}


LAYOUTS = {
    "official": lambda root: official_dogs(root),
    "lists_beside": lambda root: official_dogs(root, lists="."),
    "folders": lambda root: split_folders(root),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inside", ["", "dogs", "stanford_dogs"])
def test_all_layouts_give_the_same_splits(tmp_path, layout, inside):
    LAYOUTS[layout](tmp_path / inside)
    (source,) = found(tmp_path, target=None).values()
    assert source.classes == BREEDS
    assert sizes(source) == (18, 6, 12)
    assert source.note == ""
    assert files(source.test) == {
        f"{b.split('-')[0]}_{i}.jpg" for b in BREEDS for i in range(8, 12)
    }
    for split in (source.train, source.val, source.test):
        for name, label, path in zip(split.names, split.labels, split.samples, strict=True):
            assert name.split("/")[-2] == source.classes[label] == path.parent.name


def test_split_does_not_depend_on_the_layout(tmp_path):
    domains = []
    for layout, instantiate in LAYOUTS.items():
        instantiate(tmp_path / layout)
        domains.append(found(tmp_path / layout))
    for domain in ("source", "target"):
        for split in ("train", "val", "test"):
            names = [files(getattr(each[domain], split)) for each in domains]
            assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("lists", [None, "folders"])
def test_missing_test_split_is_chosen_by_hash(tmp_path, lists):
    if lists is None:
        official_dogs(tmp_path, train=10, test=0, lists=None)
    else:
        split_folders(tmp_path, train=10, test=0)
    both = found(tmp_path)
    for domain in both.values():
        assert len(domain.test) == 12
        assert "no official split was found: 40% of every class" in domain.note
    assert both["source"].test.names == both["target"].test.names
    assert not set(both["source"].test.names) & set(both["source"].train.names)


def test_synthetic_target_uses_the_other_half(tmp_path):
    official_dogs(tmp_path, train=8)
    both = found(tmp_path)
    source, target = both["source"], both["target"]
    assert sizes(source) == sizes(target) == (9, 3, 12)
    groups = [s for d in (source, target) for s in (d.train.names, d.val.names)]
    assert len({name for group in groups for name in group}) == sum(map(len, groups)) == 24
    for split in (source.train, target.train):
        assert np.bincount(split.labels).tolist() == [3, 3, 3]
    assert target.note.startswith("synthetic shift: blur 2% of the shorter side, brightness x0.5")
    assert target.test.names == source.test.names
    for split in ("train", "val", "test"):
        assert getattr(target, split).change.brightness == 0.5
        assert getattr(source, split).change is None
        assert getattr(target, split).labels is not None


def test_target_batches_are_shifted_and_unlabelled(tmp_path):
    official_dogs(tmp_path)
    data = dogs(tmp_path)
    data.discover()
    data.prepare(ModelNeeds(InputSpec(16, (0.5,) * 3, (0.5,) * 3)))
    source, target = (next(iter(loader)) for loader in data.val_dataloader())
    assert "labels" in source
    assert "labels" not in target
    source, target = (next(iter(loader)) for loader in data.test_dataloader())
    assert torch.equal(source["labels"], target["labels"])
    assert target["inputs"].dtype == torch.uint8
    ratio = target["inputs"].float().mean() / source["inputs"].float().mean()
    assert ratio.item() == pytest.approx(0.5, abs=0.02)
    again = next(iter(data.test_dataloader()[1]))
    assert torch.equal(again["inputs"], target["inputs"])


@pytest.mark.parametrize("layout", ["official", "folders", "plain"])
def test_target_in_another_folder(tmp_path, layout):
    split_folders(tmp_path / "a", train=8)
    if layout == "plain":
        class_folders(tmp_path / "mine", 10, BREEDS[::-1])
    else:
        LAYOUTS[layout](tmp_path / "mine")
    both = found(tmp_path / "a", target={"root": str(tmp_path / "mine"), "shift": SHIFT})
    assert sizes(both["source"]) == (18, 6, 12)
    assert both["target"].classes == BREEDS
    assert both["target"].name == "mine"
    assert both["target"].train.change is None
    assert not both["target"].note.startswith("synthetic")
    if layout == "plain":
        assert len(both["target"].test) == 12
        assert both["target"].note.startswith("no official split was found")
    for name, label in zip(both["target"].test.names, both["target"].test.labels, strict=True):
        assert name.split("/")[-2] == BREEDS[label]


def test_source_root_overrides_root(tmp_path):
    split_folders(tmp_path / "here")
    assert found("/nowhere", target=None, source={"root": str(tmp_path / "here")})
    with pytest.raises(DataError, match=r"not found with data\.source\.root=/nowhere; tried:"):
        found(tmp_path / "here", target=None, source={"root": "/nowhere"})


def test_missing_dataset_is_an_error_with_the_paths_tried(tmp_path):
    message = (
        rf"Stanford Dogs \(Images/.*not found with data\.root={tmp_path}; tried: "
        rf"{tmp_path} \(other files\), {tmp_path}/dogs \(absent\), .*StanfordDogs.*; "
        r"set data\.root=/the/right/folder, or data\.download=true to fetch 757 MB"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    split_folders(tmp_path)
    with pytest.raises(
        DataError, match=r"or <class>/\*\.jpg\) not found with data\.target\.root=/n"
    ):
        found(tmp_path, target={"root": "/nowhere"})


def test_folder_of_datasets_is_not_a_dataset(tmp_path):
    """Folders ``data/<dataset>/`` look like class folders; the usual name is preferred."""
    split_folders(tmp_path / "all" / "dogs")
    split_folders(tmp_path / "all" / "cars", classes=("x", "y"))
    split_folders(tmp_path / "source")
    both = found(tmp_path / "source", target={"root": str(tmp_path / "all")})
    assert both["target"].name == "dogs"


def test_different_classes_are_an_error(tmp_path):
    split_folders(tmp_path / "a")
    class_folders(tmp_path / "b", 5, (BREEDS[0], "Maltese_dog", BREEDS[1]))
    message = (
        r"classes of the target differ: 3 expected, 3 found; missing: n02085936-Maltese_dog; "
        r"extra: Maltese_dog \(did you mean n02085936-Maltese_dog\?\).*data\.target\.root="
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path / "a", target={"root": str(tmp_path / "b"), "shift": None})


def test_same_folder_as_source_and_target_is_an_error(tmp_path):
    split_folders(tmp_path / "dogs")
    message = (
        r"data.source and data.target both contain .*0\.jpg \(and 35 more images\); set another"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, target={"root": str(tmp_path / "dogs"), "shift": SHIFT})


def test_target_without_root_and_shift_is_an_error(tmp_path):
    split_folders(tmp_path)
    with pytest.raises(
        DataError, match=r"target\.root and data\.target\.shift are both null, so the"
    ):
        found(tmp_path, target={"root": None, "shift": None})


def test_unknown_and_missing_keys_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"data\.target has no key 'shft'; did you mean 'shift'\?"):
        dogs(tmp_path, target={"root": None, "shft": SHIFT})
    with pytest.raises(DataError, match=r"data\.source has no key 'path'; valid: domain, root"):
        dogs(tmp_path, source={"path": "x"})
    shift = {key: value for key, value in SHIFT.items() if key not in ("noise", "seed")}
    split_folders(tmp_path)
    with pytest.raises(
        DataError, match=r"data\.target\.shift lacks noise, seed; set data\.target\."
    ):
        found(tmp_path, target={"root": None, "shift": shift})


def test_files_that_are_not_images_are_errors(tmp_path):
    split_folders(tmp_path)
    broken = image(tmp_path / "train" / BREEDS[0] / "broken.jpg", 0)
    broken.write_text("404")
    with pytest.raises(DataError, match=r"1 of 24 files are not images: .*/broken\.jpg \(begins"):
        found(tmp_path)


def test_listed_images_that_are_missing_are_reported(tmp_path):
    official_dogs(tmp_path)
    (tmp_path / "Images" / BREEDS[0] / "n02085620_3.jpg").unlink()
    message = r"1 of 24 images listed in .*train_list\.mat are missing from .*Images: n02085620-Ch"
    with pytest.raises(DataError, match=message):
        found(tmp_path)


def test_invalid_list_is_an_error(tmp_path):
    official_dogs(tmp_path)
    (tmp_path / "lists" / "test_list.mat").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(
        DataError, match=r"cannot read the list .*test_list\.mat: .*; extract lists\.tar"
    ):
        found(tmp_path)


def test_both_archives_are_downloaded(tmp_path, monkeypatch):
    requested = []

    def download(url, path, *, checksum, size, elsewhere):
        requested.append((url.rpartition("/")[2], checksum.partition(":")[0], size))
        return path

    def extract(archive, folder, *, inside):
        official_dogs(folder.parent)

    monkeypatch.setattr(module, "download", download)
    monkeypatch.setattr(module, "extract", extract)
    assert sizes(found(tmp_path, target=None, download=True)["source"]) == (18, 6, 12)
    assert requested == [("lists.tar", "sha256", 481_280)]  # The fake extract() writes Images/ too.
    assert fetch(tmp_path / "stanford_dogs") == tmp_path / "stanford_dogs"
    assert len(requested) == 1
    (tmp_path / "stanford_dogs" / "Images").rename(tmp_path / "away")
    fetch(tmp_path / "stanford_dogs")
    assert requested[1:] == [("images.tar", "sha256", 793_579_520)]


def test_configuration_builds_the_data_module(tmp_path):
    root = split_folders(tmp_path, train=12)
    overrides = ["data=dogs", "seed=3", f"data.root={root}", "data.batch_size=4"]
    data = validation.check(compose(overrides)).data.build()
    data.discover()
    assert data.seed == 3
    assert data.found["target"].note.startswith("synthetic shift: blur 0.4% of")


@pytest.mark.slow
@pytest.mark.real
def test_real_dogs_counts_and_disjoint_splits():
    real_data("dogs")
    both = found(real_data(), val_fraction=0.1)
    source, target = both["source"], both["target"]
    assert len(source.classes) == 120
    assert source.classes[0] == "n02085620-Chihuahua"
    assert (sizes(source), sizes(target)) == ((1320, 240, 1800), (1200, 240, 1800))
    groups = [source.train, source.val, target.train, target.val, source.test]
    paths = [path for group in groups for path in group.samples]
    assert len(set(paths)) == len(paths) == 120 * 40
    assert len({path.name for path in paths}) == len(paths)
