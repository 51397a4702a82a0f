"""Data survey and its terminal report."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from layouts import BREEDS, class_folders, image, planted_problems, split_folders, two_domains
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.checks import files
from tl_lightning.data.checks import survey as module
from tl_lightning.data.checks.render import render, verdict
from tl_lightning.data.checks.survey import survey
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.pretraining_overlap import pretraining_overlap


def dogs(root: Path, *overrides: str):
    settings = ["model=source_only", "data=dogs", f"data.root={root}", "data.batch_size=4"]
    return validation.check(compose([*settings, *overrides])).data.build()


def both(root: Path, *overrides: str):
    return survey(dogs(root / "source", f"data.target.root={root / 'target'}", *overrides))


def rendered(found) -> str:
    out = io.StringIO()
    render(found, Console(file=out, width=100))
    return out.getvalue()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    return planted_problems(root), both(root)


PAIRS = ("two_classes", "across_splits", "across_domains", "within")


def test_exactly_the_planted_problems_are_found(planted):
    files, found = planted
    expected: dict[str, set[str]] = {}
    for key, path in files.items():
        kind = key.split("/")[0]
        if kind not in PAIRS:
            text = str(path).replace("\udce9", "\\xe9")
            expected.setdefault(kind, set()).add(text)
    assert {k: {item["path"] for item in v} for k, v in found["files"].items()} == expected


def test_planted_duplicates_are_classified(planted):
    files, found = planted
    groups = {group["kind"]: group for group in found["duplicates"]}
    assert len(found["duplicates"]) == len(groups) == 4
    for kind in PAIRS:
        assert str(files[kind]) in [item["path"] for item in groups[kind]["paths"]]
    assert [groups[kind]["exact"] for kind in PAIRS] == [True, True, False, True]
    leak = groups["across_splits"]["paths"]
    assert {place for item in leak for place in item["places"]} >= {"source/test"}


def test_counts_and_problems(planted):
    _, found = planted
    assert found["may_start"] is False
    assert found["errors"] == 6
    assert len(found["problems"]) == 1
    assert "did you mean n02085936-Maltese_dog?" in found["problems"][0]
    source = found["domains"]["source"]
    assert source["splits"] == {"train": 29, "val": 5, "test": 10}
    assert source["classes"][BREEDS[2]] == {"train": 5, "val": 1, "test": 3}
    assert found["sizes"]["width"] == {"min": 16, "median": 48, "max": 48}
    assert json.loads(json.dumps(found)) == found


def test_report_of_100_columns_names_all_planted_files(planted):
    files, found = planted
    text = rendered(found)
    root = files["outside"].parents[2]
    for path in files.values():
        assert str(path.relative_to(root)).replace("\udce9", "\\xe9") in text
    assert f"files below {root}" in text
    assert text.rstrip().splitlines()[-1].startswith("training would stop: 6 errors (")
    order = [
        line.split()[0] for line in text.splitlines() if line[:5] in ("error", "warni", "note ")
    ]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_valid_data_may_start(tmp_path):
    found = both(two_domains(tmp_path))
    assert found["may_start"] is True
    assert (found["errors"], found["warnings"]) == (0, 0)
    assert found["files"] == {}
    assert found["duplicates"] == []
    assert "training can start  " in rendered(found)


def test_synthetic_target_is_not_reported_as_leakage(tmp_path):
    root = split_folders(tmp_path)
    found = survey(dogs(root, "data.batch_size=2"))
    assert (
        found["domains"]["target"]["splits"]["test"] == found["domains"]["source"]["splits"]["test"]
    )
    assert found["examined"] == 36
    assert found["duplicates"] == []
    assert "synthetic shift" in rendered(found)


def test_validation_split_that_is_also_tested_is_not_reported_as_leakage(tmp_path):
    root = split_folders(tmp_path, train=6, test=0, val=2)
    first = next((root / "val" / BREEDS[0]).iterdir())
    shutil.copy(first, first.with_name("again.jpg"))
    found = survey(dogs(root, "data.target=null", "model=source_only"))
    assert found["domains"]["source"]["splits"] == {"train": 18, "val": 7, "test": 7}
    assert [group["kind"] for group in found["duplicates"]] == ["within"]


def test_transductive_target_is_not_reported_as_leakage(tmp_path):
    found = both(two_domains(tmp_path), "data.transductive=true")
    assert found["domains"]["target"]["splits"]["train"] == 27
    assert found["duplicates"] == []


def test_few_shot_target_samples_count_as_training_images(tmp_path):
    root = two_domains(tmp_path)
    train = root / "target" / "train" / BREEDS[0]
    for index, path in enumerate(sorted(train.iterdir())):
        shutil.copy(path, root / "target" / "test" / BREEDS[0] / f"copy_{index}.jpg")
    found = both(root, "data.target.labelled_per_class=1")
    target = found["domains"]["target"]
    assert target["splits"]["labelled"] == 3
    assert [group["kind"] for group in found["duplicates"]] == ["across_splits"] * 6
    assert "labelled" in rendered(found)


def test_target_without_labels_may_start(tmp_path):
    root = two_domains(tmp_path)
    flat = tmp_path / "flat"
    for number in range(12):
        image(flat / f"{number}.jpg", 700 + number, (48, 40))
    shutil.copy(flat / "0.jpg", flat / "copy.jpg")  # one of them may select the model: harmless
    shutil.copy(next((root / "source").rglob("*.jpg")), flat / "seen.jpg")
    (flat / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    image(tmp_path / "beside.jpg", 0)  # in the parent of the folder, which is none of its business
    found = survey(dogs(root / "source", f"data.target.root={flat}"))
    assert found["may_start"] is True
    assert found["domains"]["target"]["splits"] == {"train": 12, "val": 2, "test": 14}
    kinds = {kind: [Path(item["path"]).name for item in items]
             for kind, items in found["files"].items()}  # fmt: skip
    assert kinds == {"ignored_format": ["phone.heic"]}
    assert sorted(group["kind"] for group in found["duplicates"]) == ["across_domains", "within"]
    text = rendered(found)
    assert "target (flat): 12 training images without labels" in text
    assert "has no class folders: 14 images without labels" in " ".join(text.split())
    assert json.loads(json.dumps(found)) == found


def test_copies_across_training_and_labelled_test_images_are_leakage(tmp_path):
    root = two_domains(tmp_path)
    flat, test = tmp_path / "flat", tmp_path / "target" / "test"
    for number in range(12):
        image(flat / f"{number}.jpg", 700 + number, (48, 40))
    shutil.copy(flat / "0.jpg", test / BREEDS[0] / "copy.jpg")
    found = survey(dogs(root / "source", f"data.target.root={flat}", f"data.target.test={test}"))
    assert found["domains"]["target"]["splits"]["test"] == 10
    assert [group["kind"] for group in found["duplicates"]] == ["across_splits"]


def test_missing_folder_is_reported(tmp_path):
    found = survey(dogs(tmp_path / "nowhere"))
    assert found["may_start"] is False
    assert "not found with data.root=" in found["problems"][0]
    assert found["domains"] == {}
    assert rendered(found).rstrip().splitlines()[-1].startswith("training would stop: 1 error (0 ")


def test_class_imbalance_and_similar_names_are_warned_about(tmp_path):
    names = ("Cat", "cat ", "dog")
    class_folders(tmp_path / "train", 4, names, size=(48, 40))
    class_folders(tmp_path / "test", 1, names, start=4, size=(48, 40))
    for index in range(50):
        image(tmp_path / "train" / "dog" / f"more_{index}.png", 70_000 + index, (48, 40))
    found = survey(dogs(tmp_path, "data.target=null"))
    texts = [remark["text"] for remark in found["remarks"]]
    assert texts[0].startswith("imbalance in source: 48 training images of 'dog', 3 of 'Cat' (16")
    assert texts[1] == (
        "classes of source that differ only in case or spaces: 'Cat', 'cat'; are they the same "
        "class?"
    )
    assert found["may_start"]
    assert found["warnings"] == 2


def test_many_classes_are_summarized_by_the_extremes(tmp_path):
    names = [f"class_{index:02d}" for index in range(24)]
    class_folders(tmp_path / "train", 3, names)
    class_folders(tmp_path / "test", 1, names, start=3)
    image(tmp_path / "train" / "class_07" / "more.png", 90_000)
    text = " ".join(rendered(survey(dogs(tmp_path, "data.target=null"))).split())
    assert "24 classes" in text
    assert (
        "fewest class_00 2, class_01 2, class_02 2; most class_22 2, class_23 2, class_07 3" in text
    )


@pytest.mark.slow
@pytest.mark.parametrize(("good", "may_start"), [(50, False), (150, True)])
def test_on_error_skip_allows_one_percent_of_unreadable_files(tmp_path, good, may_start):
    class_folders(tmp_path / "train", good, BREEDS[:2])
    class_folders(tmp_path / "test", 2, BREEDS[:2], start=good)
    (tmp_path / "train" / BREEDS[0] / "a.jpg").touch()
    (tmp_path / "train" / BREEDS[0] / "b.jpg").write_text("text")
    data = dogs(tmp_path, "data.target=null")
    assert survey(data)["errors"] == 2
    data = dogs(tmp_path, "data.target=null")
    data.on_error = "skip"
    found = survey(data)
    assert found["may_start"] is may_start
    message = (
        "2 unreadable file(s) would be skipped"
        if may_start
        else "2 of 106 files are unreadable, more than"
    )
    assert found["remarks"][0]["text"].startswith(message)


class InMemory:
    name, overlap, encoding = "memory", "", None

    def __init__(self, domains):
        self.found = domains

    def check_browsable(self):
        pass

    def collect_problems(self, on_problem):
        pass

    def domains(self):
        return self.found

    def check_domains(self, found):
        return iter(())


def test_images_in_memory_are_counted_and_compared():
    rng = np.random.default_rng(0)

    def domain(name):
        splits = [
            Split(
                rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
                np.array([0, 0, 1, 1]),
                [str(index) for index in range(4)],
            )
            for _ in range(3)
        ]
        return Domain(name, ("a", "b"), *splits)

    source, target = domain("one"), domain("other")
    source.test.samples[0] = source.train.samples[0]
    target.val.samples[3] = source.val.samples[3]
    found = survey(InMemory({"source": source, "target": target}))
    assert [group["kind"] for group in found["duplicates"]] == ["across_splits", "across_domains"]
    assert [item["path"] for item in found["duplicates"][0]["paths"]] == [
        "source/train/0",
        "source/test/0",
    ]
    assert found["files"] == {}
    assert found["sizes"] == {}
    text = rendered(found)
    assert "files below" not in text
    assert "source/train/0" in text


def test_only_five_files_per_kind_are_listed(tmp_path):
    root = two_domains(tmp_path)
    for index in range(9):
        (root / "source" / "train" / BREEDS[0] / f"empty_{index}.jpg").touch()
    text = rendered(both(root))
    assert "9 files: empty (0 bytes)" in text
    assert "... and 4 more; format=json lists all" in text
    assert "empty_4.jpg" in text
    assert "empty_5.jpg" not in text


def test_interrupt_cancels_pending_checks(tmp_path, monkeypatch):
    started = []

    def interrupted(path, white):
        started.append(path)
        if len(started) == 3:
            raise KeyboardInterrupt
        return original(path)

    original = module.examine
    monkeypatch.setattr(module, "examine", interrupted)
    paths = [image(tmp_path / f"{index}.png", index) for index in range(300)]
    with pytest.raises(KeyboardInterrupt):
        module._examine(paths)
    assert len(started) < 300


def test_verdict():
    assert verdict({"may_start": True, "errors": 0, "warnings": 0}) == "training can start"
    found = {"may_start": False, "errors": 1, "warnings": 2}
    assert verdict(found) == "training would stop: 1 error (2 warnings)"


def test_pretraining_overlap_is_known_or_detected_by_file_names():
    assert pretraining_overlap(["a.jpg"], "") == ""
    assert pretraining_overlap([], "") == ""
    known = pretraining_overlap([], "Dogs are part of ImageNet")
    assert known == (
        "pretraining overlap: Dogs are part of ImageNet; ImageNet backbones have seen these images"
    )
    named = ["x/n02085620_1.jpg"] * 21 + ["ILSVRC2012_val_00000001.JPEG"] * 4 + ["a.jpg"] * 75
    assert "25% of the file names follow the ImageNet pattern" in pretraining_overlap(named, "")
    assert pretraining_overlap(named[5:] + ["a.jpg"] * 5, "") == ""
    assert pretraining_overlap(["n02085620_1_mine.jpg", "n0208_1.jpg"], "") == ""


def test_images_are_decoded_once(tmp_path, monkeypatch):
    opened = []
    original = files.decode
    monkeypatch.setattr(files, "decode", lambda file, *a: opened.append(file) or original(file, *a))
    found = both(two_domains(tmp_path))
    # A thread of an earlier test may still open an image of its own.
    own = [file for file in opened if str(tmp_path) in str(getattr(file, "name", file))]
    assert len(own) == found["examined"] == 54


SEVERE_PROBLEMS = {
    "unknown classes": (["data.classes=[x,y]"], "data.classes contains 'x', which is not a class"),
    "too many labelled": (["data.target.labelled_per_class=9"], "labelled_per_class=9, but class"),
    "fraction of two": (["data.val_fraction=2"], "data.val_fraction=2 is not a fraction above 0"),
    "same domain twice": (
        ["data.target.root=${data.root}"],
        "data.source and data.target both contain",
    ),
}


@pytest.mark.parametrize("case", sorted(SEVERE_PROBLEMS))
def test_severe_problems_are_reported(case, tmp_path):
    overrides, message = SEVERE_PROBLEMS[case]
    found = both(two_domains(tmp_path), *overrides)
    assert found["may_start"] is False
    assert any(message in problem for problem in found["problems"])
    text = " ".join(rendered(found).split())
    assert message in text
    assert "training would stop" in text


def test_class_names_that_are_not_utf_8_or_contain_markup(tmp_path):
    """The markup is that of rich."""
    names = ("[red]cat", os.fsdecode(b"caf\xe9"))
    class_folders(tmp_path / "train", 6, names)
    class_folders(tmp_path / "test", 2, names, start=6)
    found = survey(dogs(tmp_path, "data.target=null"))
    assert len(found["files"]["bad_name"]) == 8
    assert list(found["domains"]["source"]["classes"]) == ["[red]cat", "caf\\xe9"]
    assert "[red]cat" in rendered(found)
    json.dumps(found).encode()
