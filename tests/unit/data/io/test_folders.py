import random
from pathlib import Path

import pytest

from layouts import class_folders, picture
from tl_lightning.data.io.folders import check_signatures, find_root, match_classes, scan_classes
from tl_lightning.data.splits import halves_by_hash, split_by_hash
from tl_lightning.errors import DataError


def test_scan_sorts_and_ignores_what_is_no_picture(tmp_path):
    class_folders(tmp_path, 2, ("b", "a"))
    picture(tmp_path / "a" / "Z.JPEG", 1)
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
def test_every_suffix_is_found_and_its_signature_known(tmp_path, suffix):
    class_folders(tmp_path, 1, ("a", "b"))
    path = picture(tmp_path / "a" / f"one.{suffix}", 0)
    assert path in scan_classes(tmp_path)["a"]
    check_signatures([path])


def test_scan_without_class_folders(tmp_path):
    with pytest.raises(DataError, match=r"holds no class folders; expected .*type data\.root=/the"):
        scan_classes(tmp_path)
    with pytest.raises(DataError, match="holds no class folders"):
        scan_classes(tmp_path / "absent")


def test_scan_with_an_empty_class(tmp_path):
    class_folders(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    words = r"1 of 4 class folders in .* hold no pictures \(.*\.jpg.*\): empty; fill or remove"
    with pytest.raises(DataError, match=words):
        scan_classes(tmp_path)


def test_scan_with_one_class(tmp_path):
    class_folders(tmp_path, 1, ("alone",))
    with pytest.raises(DataError, match=r"only one class folder, 'alone'.*data\.target\.root=/an"):
        scan_classes(tmp_path, setting="data.target.root")


def test_signatures_name_what_is_no_picture(tmp_path):
    good = [picture(tmp_path / f"{i}.jpg", i) for i in range(9)]
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "zero.jpg").write_bytes(b"")
    bad = [tmp_path / name for name in ("text.jpg", "zero.jpg", "gone.jpg")]
    words = (
        r"3 of 12 files are not pictures: .*text\.jpg \(begins with b'<html>not fo'\), "
        r".*zero\.jpg \(0 bytes\), .*gone\.jpg \(No such file.*; "
        r"mend or remove them, or type data\.root="
    )
    with pytest.raises(DataError, match=words):
        check_signatures([*good, *bad])
    many = [bad[1]] * 8
    with pytest.raises(DataError, match=r"8 of 8 files are not pictures: .* and 3 more;"):
        check_signatures(many)


def _names(number):
    return [f"{label}/{i}.jpg" for label in "abc" for i in range(number)]


def test_split_counts_are_exact_in_every_class():
    names, labels = _names(30), [i // 30 for i in range(90)]
    rest, held = split_by_hash(names, labels, 0.1, "val")
    assert sorted(rest + held) == list(range(90))
    assert [sum(labels[i] == label for i in held) for label in range(3)] == [3, 3, 3]
    assert len(split_by_hash(names[:7], labels[:7], 0.1, "val")[1]) == 1


def test_split_depends_on_names_alone():
    names, labels = _names(20), [i // 20 for i in range(60)]
    held = {names[i] for i in split_by_hash(names, labels, 0.3, "val")[1]}
    order = list(range(60))
    random.Random(0).shuffle(order)
    shuffled = [names[i] for i in order]
    again = split_by_hash(shuffled, [labels[i] for i in order], 0.3, "val")[1]
    assert {shuffled[i] for i in again} == held
    assert {names[i] for i in split_by_hash(names, labels, 0.3, "test")[1]} != held
    # Fixed for good: a saved checkpoint's validation pictures must stay unseen by its training.
    assert sorted(held)[:3] == ["a/11.jpg", "a/12.jpg", "a/13.jpg"]


def test_split_refuses_what_leaves_nothing():
    with pytest.raises(DataError, match=r"class of a/0\.jpg has 1 samples: nothing is left after"):
        split_by_hash(["a/0.jpg"], [0], 0.1, "val")
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(DataError, match=rf"between 0 and 1, got {fraction}; .*data\.val_frac"):
            split_by_hash(["a", "b"], [0, 0], fraction, "val")


def test_halves_are_disjoint_and_whole():
    names, labels = _names(5), [i // 5 for i in range(15)]
    first, second = halves_by_hash(names, labels, "halves")
    assert sorted(first + second) == list(range(15))
    assert (len(first), len(second)) == (9, 6)


def test_classes_match_by_name():
    assert match_classes(["a", "b", "c"], ["c", "a", "b"]) == [2, 0, 1]


def test_classes_that_differ():
    words = (
        r"classes of the target differ: 3 expected, 2 found; missing: n1-Pug, n3-Boxer; "
        r"extra: Boxer \(did you mean n3-Boxer\?\); rename or remove"
    )
    with pytest.raises(DataError, match=words):
        match_classes(["n1-Pug", "n2-Collie", "n3-Boxer"], ["n2-Collie", "Boxer"])
    with pytest.raises(DataError, match=r"extra: none.*or type data\.target\.root=/another/folder"):
        match_classes(["a", "b"], ["a"])
    with pytest.raises(DataError, match=r"or type data\.target\.domain=<another>$"):
        match_classes(["a", "b"], ["a"], setting="data.target.domain")


def test_root_is_the_folder_or_its_parent(tmp_path, monkeypatch):
    (tmp_path / "dogs" / "train").mkdir(parents=True)

    def accepts(path: Path) -> bool:
        return (path / "train").is_dir()

    assert find_root(tmp_path, ["dogs"], "Dogs", accepts) == tmp_path / "dogs"
    assert find_root(str(tmp_path / "dogs"), ["dogs"], "Dogs", accepts) == tmp_path / "dogs"
    (tmp_path / "digits").mkdir()
    assert find_root(tmp_path / "digits", ["../dogs"], "Dogs", accepts) == tmp_path / "dogs"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_root("~", ["dogs"], "Dogs", accepts) == tmp_path / "dogs"


def test_root_lists_every_path_tried(tmp_path):
    words = (
        rf"Dogs not found with data\.root={tmp_path}; tried: {tmp_path} \(other files\), "
        rf"{tmp_path}/dogs \(absent\); type data\.root=/the/right/folder, or data\.download=true"
    )
    with pytest.raises(DataError, match=words):
        find_root(tmp_path, ["dogs"], "Dogs", lambda path: False, otherwise="data.download=true")
