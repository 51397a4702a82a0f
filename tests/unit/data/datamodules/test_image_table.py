import sys

import pytest

from layouts import domain_folders, file_settings, table
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.image_table import TableData
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import build as building

COLUMNS = {"path": "path", "label": "label", "domain": "domain", "split": "split"}


def rows(root, number=10, label=lambda path: path.parent.name):
    """Write photo and sketch in two classes, and return a row for each: path, label, domain."""
    domain_folders(root, ("photo", "sketch"), number, ("dog", "horse"))
    return [
        [path.relative_to(root).as_posix(), label(path), path.parts[-3]]
        for path in sorted(root.rglob("*.jpg"))
    ]


def made(file, root="/nowhere", source="photo", target="sketch", **kwargs):
    given = {"table": None if file is None else str(file), "delimiter": None, "columns": COLUMNS}
    given["others"] = []
    for role, asked in (("source", source), ("target", target)):
        plain = isinstance(asked, dict) or (role == "target" and asked is None)
        given[role] = asked if plain else {"domain": asked}
    return TableData(**file_settings(root, **{**given, **kwargs}))


def found(*args, **kwargs):
    data = made(*args, **kwargs)
    data.discover()
    return data.found


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


@pytest.mark.parametrize(
    ("name", "mark", "start"),
    [
        ("list.csv", ",", ""),
        ("list.csv", ",", "\ufeff"),
        ("list.txt", ";", "\n"),
        ("list.csv", "|", ""),
        ("list.dat", "\t", ""),
        ("list.tsv", "\t", ""),
    ],
)
def test_domains_of_a_table(tmp_path, name, mark, start):
    file = table(tmp_path / name, [["path", "label", "domain"], *rows(tmp_path)], mark, start)
    both = found(file)
    assert (both["source"].name, both["target"].name) == ("photo", "sketch")
    for domain in both.values():
        assert domain.classes == ("dog", "horse")
        assert sizes(domain) == (8, 4, 8)
        assert domain.note.startswith("no official split was found")
        for split in domain.splits().values():
            for path, label in zip(split.pictures, split.labels, strict=True):
                assert path.is_file()
                assert path.parent.name == domain.classes[label]
    assert not set(both["source"].paths()) & set(both["target"].paths())


def test_the_rows_order_changes_nothing(tmp_path):
    listed = rows(tmp_path)
    head = ["path", "label", "domain"]
    one = found(table(tmp_path / "a.csv", [head, *listed]))
    other = found(table(tmp_path / "b.csv", [head, *listed[::-1]]))
    assert one["target"].test.names == other["target"].test.names


def test_without_domains_and_a_target(tmp_path):
    listed = [row[:2] for row in rows(tmp_path)]
    file = table(tmp_path / "a.csv", [["path", "label"], *listed])
    nothing = {"root": None, "domain": None, "labelled_per_class": 0, "shift": None}
    (source,) = found(file, source=None, target=nothing).values()
    assert (source.name, sizes(source)) == ("tiny", (18, 6, 16))
    with pytest.raises(
        DataError, match=r"data\.source\.domain=photo, but .*a\.csv has no column 'd"
    ):
        found(file, target=None)
    listed = rows(tmp_path)
    file = table(tmp_path / "b.csv", [["path", "label", "domain"], *listed])
    words = (
        r"=null names no domain; .*b\.csv holds photo, sketch; .*, or data\.columns\.domain=null"
    )
    with pytest.raises(DataError, match=words):
        found(file, source=None, target=None)
    (source,) = found(file, source=None, target=None, columns={**COLUMNS, "domain": None}).values()
    assert sizes(source) == (18, 6, 16)


def test_splits_by_all_their_names(tmp_path):
    names = [
        "train",
        "train",
        "Train",
        "valid",
        "test",
        "validation",
        "val",
        "test",
        "train",
        "test",
    ]
    listed = [[*row, names[index % 10]] for index, row in enumerate(rows(tmp_path))]
    both = found(table(tmp_path / "a.csv", [["path", "label", "domain", "split"], *listed]))
    for domain in both.values():
        assert sizes(domain) == (8, 6, 6)
        assert domain.note == ""


def test_other_columns_and_absolute_paths(tmp_path):
    listed = [[tmp_path / path, label, 7, domain] for path, label, domain in rows(tmp_path)]
    (tmp_path / "away").mkdir()
    file = table(tmp_path / "away" / "a.csv", [["file", "breed", "age", "site"], *listed])
    columns = {"path": "file", "label": "breed", "domain": "site", "split": None}
    assert sizes(found(file, columns=columns)["target"]) == (8, 4, 8)
    words = r"a\.csv has no column 'sites' \(it has file, breed, age, site\); did you mean 'site'\?"
    with pytest.raises(DataError, match=words):
        found(file, columns={**columns, "domain": "sites"})
    with pytest.raises(
        DataError, match=r"data\.columns\.label=null, but a table must say every pict"
    ):
        found(file, columns={**columns, "label": None})
    with pytest.raises(DataError, match=r"data\.columns has no key 'lable'; did you mean 'label'"):
        found(file, columns={**columns, "lable": "x"})


def test_paths_below_root(tmp_path):
    listed = rows(tmp_path / "pictures")
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    assert sizes(found(file, tmp_path / "pictures")["source"]) == (8, 4, 8)
    words = (
        r"20 of 20 listed pictures are not on disk: line 2 photo/dog/dog_0\.jpg; line 3 .*and 15 "
        rf"more; looked for in {tmp_path} and /nowhere; type data\.source\.root=/folder"
    )
    with pytest.raises(DataError, match=words):
        found(file)
    both = found(file, tmp_path / "pictures", source={"domain": "photo", "root": None}, target=None)
    assert len(both) == 1
    own = {"domain": "photo", "root": str(tmp_path / "pictures")}
    assert sizes(found(file, source=own, target=None)["source"]) == (8, 4, 8)


def test_labels_that_are_numbers(tmp_path):
    listed = rows(tmp_path, label=lambda path: "10" if path.parent.name == "dog" else "9")
    both = found(table(tmp_path / "a.csv", [["path", "label", "domain"], *listed]))
    assert both["source"].classes == ("9", "10")


def test_some_classes_labelled_and_several_domains(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    target = {"domain": "sketch", "labelled_per_class": 1}
    domain = found(file, target=target, classes=["horse", "dog"])["target"]
    assert (domain.classes, len(domain.labelled)) == (("horse", "dog"), 2)
    both = found(file, source=["photo", "sketch"], target=None)
    assert both["source"].name == "photo+sketch"
    assert sizes(both["source"]) == (18, 6, 16)


def test_the_same_and_unknown_domains(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    with pytest.raises(DataError, match=r"the domain photo is in data\.source\.domain and in data"):
        found(file, target="photo")
    with pytest.raises(DataError, match=r"=skech is no domain in .*a\.csv, .*mean 'sketch'\?"):
        found(file, target="skech")


def test_a_picture_in_two_domains_by_two_paths(tmp_path):
    listed = rows(tmp_path)
    listed += [[tmp_path / listed[0][0], "dog", "sketch"]]
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    with pytest.raises(DataError, match=r"both hold .*/photo/dog/dog_0\.jpg \(and 0 more\)"):
        found(file)


FAULTS = {
    "empty_label": (
        lambda listed: [listed[0], [listed[1][0], " ", "photo", "train"], *listed[2:]],
        r"a\.csv has 1 rows with an empty label: line 3; mend",
    ),
    "empty_path": (
        lambda listed: [["", *listed[0][1:]], *listed[1:]],
        r"a\.csv has 1 rows with an empty path: line 2; mend",
    ),
    "empty_split": (
        lambda listed: [[*listed[0][:3], ""], *listed[1:]],
        r"a\.csv has 1 rows with an empty split: line 2; mend",
    ),
    "unknown_split": (
        lambda listed: [*listed[:2], [*listed[2][:3], "trian"], *listed[3:]],
        r"1 rows with an unknown split: line 4 'trian' \(did you mean 'train'\?\); mend",
    ),
    "another_label": (
        lambda listed: [*listed, [listed[0][0], "horse", "photo", "train"]],
        r"1 rows with a path that is there with another label: line 42 photo/dog/dog_0\.jpg is "
        r"'horse', but 'dog' on line 2; mend",
    ),
    "another_split": (
        lambda listed: [*listed, ["./" + listed[0][0], "dog", "photo", "test"]],
        r"is there with another split: line 42 photo/dog/dog_0\.jpg is 'test', but 'train' on lin",
    ),
    "gone": (
        lambda listed: [["photo/dog/gone.jpg", *listed[0][1:]], *listed[1:]],
        r"1 of 20 listed pictures are not on disk: line 2 photo/dog/gone\.jpg; looked for in",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_cannot_be_used(tmp_path, fault):
    change, words = FAULTS[fault]
    listed = [[*row, "train"] for row in rows(tmp_path)]
    file = table(tmp_path / "a.csv", [["path", "label", "domain", "split"], *change(listed)])
    with pytest.raises(DataError, match=words):
        found(file)
    # What only notes the fault can go on without the row.
    data, faults = made(file), []
    data.complain = faults.append
    total = sum(sizes(data.domains()["source"]))
    assert (len(faults), total) == (1, 20 if fault.startswith("another") else 19)


def test_a_file_by_two_paths(tmp_path):
    listed = rows(tmp_path)
    listed += [[tmp_path / listed[0][0], "dog", "photo"]]
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    words = r"1 rows name a picture by another path once more: line \d+ .* is the file on line \d+;"
    with pytest.raises(DataError, match=words):
        found(file)


def test_a_row_that_is_there_twice_counts_once(tmp_path):
    listed = rows(tmp_path)
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed, listed[0]])
    assert sum(sizes(found(file)["source"])) == 20


def test_missing_columns(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "lable"], ["a.jpg", "dog"]])
    words = (
        r"a\.csv has no column 'label' \(it has path, lable\); did you mean 'lable'\?; type "
        r"data\.columns\.label="
    )
    with pytest.raises(DataError, match=words):
        found(file)
    file = table(tmp_path / "b.csv", [["path", "label", "path"], ["a", "b", "c"]])
    with pytest.raises(DataError, match=r"b\.csv has two columns named 'path'; rename one"):
        found(file)


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(
        DataError, match=r"tiny needs a table, but data\.table=null; type data\.tabl"
    ):
        found(None)
    with pytest.raises(DataError, match=r"data\.table=/nowhere\.csv is absent; type data\.table="):
        found("/nowhere.csv")
    with pytest.raises(DataError, match=r"data\.table=.* is a folder; type"):
        found(tmp_path)
    file = table(tmp_path / "a.csv", [["path", "label"]])
    with pytest.raises(DataError, match=r"data\.delimiter=',,' must be one character; type"):
        found(file, delimiter=",,")
    with pytest.raises(DataError, match=r"a\.csv lists no pictures below its first line"):
        found(file, source=None, target=None)
    with pytest.raises(DataError, match=r"empty\.csv is empty; its first line must name the colum"):
        found(table(tmp_path / "empty.csv", []))
    (tmp_path / "latin.csv").write_bytes("path,label\nä,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read the table .*latin\.csv: .*; save it as text"):
        found(tmp_path / "latin.csv")
    file = table(tmp_path / "b.csv", [["path", "label"], ["a", "b"], ["a", "b", "c"]])
    with pytest.raises(DataError, match=r"line 3 of .*b\.csv has 3 cells, but line 1 names 2 colu"):
        found(file)
    file = table(tmp_path / "c.csv", [["path", "label"], ['"a"b', "c"]])
    with pytest.raises(DataError, match=r"line 2 of .*c\.csv cannot be read: .*; mend its quotes"):
        found(file)


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = [list(column) for column in zip(*rows(tmp_path), strict=True)]
    names = dict(zip(("path", "label", "domain"), columns, strict=True))
    parquet.write_table(arrow.table(names), tmp_path / "a.parquet")
    assert sizes(found(tmp_path / "a.parquet")["target"]) == (8, 4, 8)
    names["label"][3] = None
    parquet.write_table(arrow.table(names), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has 1 rows with an empty label: row 4; mend"):
        found(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"cannot read the table .*c\.parquet: .*; write it again"):
        found(tmp_path / "c.parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    words = r"needs the package pyarrow to be read; type pip install 'tl_lightning\[parquet\]', or"
    with pytest.raises(DataError, match=words):
        found(tmp_path / "a.parquet")


def test_the_config_names_every_setting(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    given = ["data=csv", f"data.table={file}", "data.batch_size=2", "data.source.domain=photo"]
    data = building.build_data(validation.check(compose([*given, "model=fine_tuning"])))
    data.discover()
    assert set(data.found) == {"source"}
    with pytest.raises(ConfigError, match=r"type data\.target\.domain=<name> or type model="):
        validation.check(compose([*given, "model=dann"]))
    data = building.build_data(validation.check(compose([*given, "data.target.domain=sketch"])))
    data.discover()
    assert set(data.found) == {"source", "target"}


def test_one_class_is_nothing_to_learn(tmp_path):
    """A sentence, not what a metric says of its argument once the network is built."""
    file = table(
        tmp_path / "list.csv",
        [["path", "label", "domain"], *rows(tmp_path, label=lambda path: "animal")],
    )
    with pytest.raises(DataError, match=r"only the class 'animal', and a classifier needs at"):
        found(file, target=None)
