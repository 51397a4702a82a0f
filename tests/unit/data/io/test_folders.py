import random
from pathlib import Path

import pytest

from layouts import class_folders, image
from tl_lightning.data.io.folders import check_signatures, find_root, match_classes, scan_classes
from tl_lightning.data.splits import halves_by_hash, split_by_hash
from tl_lightning.errors import DataError


def test_scan_sorts_and_ignores_other_files(tmp_path):
    class_folders(tmp_path, 2, ("b", "a"))
    image(tmp_path / "a" / "Z.JPEG", 1)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "a" / "folder.jpg").mkdir()
    for junk in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        (tmp_path / junk).mkdir()
    (tmp_path / "readme.jpg").write_bytes(b"x")
    found = scan_classes(tmp_path)
    assert list(found) == ["a", "b"]
    assert [path.name for path in found["a"]] == ["Z.JPEG", "a_0.jpg", "a_1.jpg"]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "ppm"])
def test_all_suffixes_are_found_and_pass_the_signature_check(tmp_path, suffix):
    class_folders(tmp_path, 1, ("a", "b"))
    path = image(tmp_path / "a" / f"one.{suffix}", 0)
    assert path in scan_classes(tmp_path)["a"]
    check_signatures([path])


def test_scan_without_class_folders(tmp_path):
    with pytest.raises(
        DataError, match=r"contains no class folders; expected .*set data\.root=/the"
    ):
        scan_classes(tmp_path)
    with pytest.raises(DataError, match="contains no class folders"):
        scan_classes(tmp_path / "absent")


def test_scan_with_empty_class(tmp_path):
    class_folders(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    message = r"1 of 4 class folders in .* contain no images \(.*\.jpg.*\): empty; add images or re"
    with pytest.raises(DataError, match=message):
        scan_classes(tmp_path)


def test_scan_with_single_class(tmp_path):
    class_folders(tmp_path, 1, ("alone",))
    with pytest.raises(DataError, match=r"only one class folder, 'alone'.*data\.target\.root=/an"):
        scan_classes(tmp_path, setting="data.target.root")


def test_signature_check_names_files_that_are_not_images(tmp_path):
    good = [image(tmp_path / f"{i}.jpg", i) for i in range(9)]
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "zero.jpg").write_bytes(b"")
    bad = [tmp_path / name for name in ("text.jpg", "zero.jpg", "gone.jpg")]
    message = (
        r"3 of 12 files are not images: .*text\.jpg \(begins with b'<html>not fo'\), "
        r".*zero\.jpg \(0 bytes\), .*gone\.jpg \(No such file.*; "
        r"fix or remove them, or set data\.root="
    )
    with pytest.raises(DataError, match=message):
        check_signatures([*good, *bad])
    many = [bad[1]] * 8
    with pytest.raises(DataError, match=r"8 of 8 files are not images: .* and 3 more;"):
        check_signatures(many)


def _names(number):
    return [f"{label}/{i}.jpg" for label in "abc" for i in range(number)]


def test_split_sizes_are_exact_per_class():
    names, labels = _names(30), [i // 30 for i in range(90)]
    rest, held = split_by_hash(names, labels, 0.1, "val")
    assert sorted(rest + held) == list(range(90))
    assert [sum(labels[i] == label for i in held) for label in range(3)] == [3, 3, 3]
    assert len(split_by_hash(names[:7], labels[:7], 0.1, "val")[1]) == 1


def test_split_depends_only_on_names():
    names, labels = _names(20), [i // 20 for i in range(60)]
    held = {names[i] for i in split_by_hash(names, labels, 0.3, "val")[1]}
    order = list(range(60))
    random.Random(0).shuffle(order)
    shuffled = [names[i] for i in order]
    again = split_by_hash(shuffled, [labels[i] for i in order], 0.3, "val")[1]
    assert {shuffled[i] for i in again} == held
    assert {names[i] for i in split_by_hash(names, labels, 0.3, "test")[1]} != held
    # Must never change: validation images of existing checkpoints must stay out of training.
    assert sorted(held)[:3] == ["a/11.jpg", "a/12.jpg", "a/13.jpg"]


def test_split_that_leaves_no_samples_is_refused():
    with pytest.raises(
        DataError, match=r"class of a/0\.jpg has only 1 sample\(s\), and none is left"
    ):
        split_by_hash(["a/0.jpg"], [0], 0.1, "val")
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(
            DataError, match=rf"data\.val_fraction={fraction} is not a fraction abo"
        ):
            split_by_hash(["a", "b"], [0, 0], fraction, "val")


def test_halves_are_disjoint_and_complete():
    names, labels = _names(5), [i // 5 for i in range(15)]
    first, second = halves_by_hash(names, labels, "halves")
    assert sorted(first + second) == list(range(15))
    assert (len(first), len(second)) == (9, 6)


def test_classes_match_by_name():
    assert match_classes(["a", "b", "c"], ["c", "a", "b"]) == [2, 0, 1]


def test_classes_that_differ():
    message = (
        r"classes of the target differ: 3 expected, 2 found; missing: n1-Pug, n3-Boxer; "
        r"extra: Boxer \(did you mean n3-Boxer\?\); rename or remove"
    )
    with pytest.raises(DataError, match=message):
        match_classes(["n1-Pug", "n2-Collie", "n3-Boxer"], ["n2-Collie", "Boxer"])
    with pytest.raises(DataError, match=r"extra: none.*or set data\.target\.root=/another/folder"):
        match_classes(["a", "b"], ["a"])
    with pytest.raises(DataError, match=r"or set data\.target\.domain=<another>$"):
        match_classes(["a", "b"], ["a"], setting="data.target.domain")


def test_root_may_be_the_folder_or_its_parent(tmp_path, monkeypatch):
    (tmp_path / "dogs" / "train").mkdir(parents=True)

    def accepts(path: Path) -> bool:
        return (path / "train").is_dir()

    assert find_root(tmp_path, ["dogs"], "Stanford Dogs", accepts) == tmp_path / "dogs"
    assert (
        find_root(str(tmp_path / "dogs"), ["dogs"], "Stanford Dogs", accepts) == tmp_path / "dogs"
    )
    (tmp_path / "digits").mkdir()
    assert (
        find_root(tmp_path / "digits", ["../dogs"], "Stanford Dogs", accepts) == tmp_path / "dogs"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_root("~", ["dogs"], "Stanford Dogs", accepts) == tmp_path / "dogs"


def test_error_lists_all_paths_tried(tmp_path):
    message = (
        rf"^Stanford Dogs not found with data\.root={tmp_path}; tried: {tmp_path} \(other files\), "
        rf"{tmp_path}/dogs \(absent\); set data\.root=/the/right/folder, or data\.download=true"
    )
    with pytest.raises(DataError, match=message):
        find_root(
            tmp_path,
            ["dogs"],
            "Stanford Dogs",
            lambda path: False,
            otherwise="data.download=true",
        )
