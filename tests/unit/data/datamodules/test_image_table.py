import sys

import pytest

from layouts import domain_folders, file_settings, table
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.errors import ConfigError, DataError

COLUMNS = {"path": "path", "label": "label", "domain": "domain", "split": "split"}


def rows(root, number=10, label=lambda path: path.parent.name):
    """Write two domains of two classes and return rows of path, label and domain."""
    domain_folders(root, ("photo", "sketch"), number, ("dog", "horse"))
    return [
        [path.relative_to(root).as_posix(), label(path), path.parts[-3]]
        for path in sorted(root.rglob("*.jpg"))
    ]


def made(file, root="/nowhere", source="photo", target="sketch", **kwargs):
    given = {"table": None if file is None else str(file), "delimiter": None, "columns": COLUMNS}
    given["label_columns"] = []
    for key, domain in (("source", source), ("target", target)):
        plain = isinstance(domain, dict) or (key == "target" and domain is None)
        given[key] = domain if plain else {"domain": domain}
    return ImageTableDataModule(**file_settings(root, **{**given, **kwargs}))


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
def test_table_formats_are_read(tmp_path, name, mark, start):
    file = table(tmp_path / name, [["path", "label", "domain"], *rows(tmp_path)], mark, start)
    both = found(file)
    assert (both["source"].name, both["target"].name) == ("photo", "sketch")
    for domain in both.values():
        assert domain.classes == ("dog", "horse")
        assert sizes(domain) == (8, 4, 8)
        assert domain.note.startswith("no official split was found")
        for split in domain.splits().values():
            for path, label in zip(split.samples, split.labels, strict=True):
                assert path.is_file()
                assert path.parent.name == domain.classes[label]
    assert not set(both["source"].paths()) & set(both["target"].paths())


def test_row_order_does_not_change_the_splits(tmp_path):
    listed = rows(tmp_path)
    head = ["path", "label", "domain"]
    one = found(table(tmp_path / "a.csv", [head, *listed]))
    other = found(table(tmp_path / "b.csv", [head, *listed[::-1]]))
    assert one["target"].test.names == other["target"].test.names


def test_table_without_domains_or_target(tmp_path):
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
    message = (
        r"=null selects no domain; .*b\.csv contains photo, sketch; .*, or data\.columns\.domain=nu"
    )
    with pytest.raises(DataError, match=message):
        found(file, source=None, target=None)
    (source,) = found(file, source=None, target=None, columns={**COLUMNS, "domain": None}).values()
    assert sizes(source) == (18, 6, 16)


def test_all_split_names_are_accepted(tmp_path):
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


def test_renamed_columns_and_absolute_paths(tmp_path):
    listed = [[tmp_path / path, label, 7, domain] for path, label, domain in rows(tmp_path)]
    (tmp_path / "away").mkdir()
    file = table(tmp_path / "away" / "a.csv", [["file", "breed", "age", "site"], *listed])
    columns = {"path": "file", "label": "breed", "domain": "site", "split": None}
    assert sizes(found(file, columns=columns)["target"]) == (8, 4, 8)
    message = (
        r"a\.csv has no column 'sites' \(it has file, breed, age, site\); did you mean 'site'\?"
    )
    with pytest.raises(DataError, match=message):
        found(file, columns={**columns, "domain": "sites"})
    with pytest.raises(
        DataError, match=r"data\.columns\.label=null, but a table must contain the label"
    ):
        found(file, columns={**columns, "label": None})
    with pytest.raises(DataError, match=r"data\.columns has no key 'lable'; did you mean 'label'"):
        found(file, columns={**columns, "lable": "x"})


def test_relative_paths_are_resolved_against_root(tmp_path):
    listed = rows(tmp_path / "images")
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    assert sizes(found(file, tmp_path / "images")["source"]) == (8, 4, 8)
    message = (
        r"20 of 20 listed images not found: line 2 photo/dog/dog_0\.jpg, line 3 .*and 15 "
        rf"more; searched in {tmp_path} and /nowhere; set data\.source\.root=/folder"
    )
    with pytest.raises(DataError, match=message):
        found(file)
    both = found(file, tmp_path / "images", source={"domain": "photo", "root": None}, target=None)
    assert len(both) == 1
    own = {"domain": "photo", "root": str(tmp_path / "images")}
    assert sizes(found(file, source=own, target=None)["source"]) == (8, 4, 8)


def test_numeric_labels_are_sorted_as_numbers(tmp_path):
    listed = rows(tmp_path, label=lambda path: "10" if path.parent.name == "dog" else "9")
    both = found(table(tmp_path / "a.csv", [["path", "label", "domain"], *listed]))
    assert both["source"].classes == ("9", "10")


def test_class_subset_few_shot_target_and_merged_domains(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    target = {"domain": "sketch", "labelled_per_class": 1}
    domain = found(file, target=target, classes=["horse", "dog"])["target"]
    assert (domain.classes, len(domain.labelled)) == (("horse", "dog"), 2)
    both = found(file, source=["photo", "sketch"], target=None)
    assert both["source"].name == "photo+sketch"
    assert sizes(both["source"]) == (18, 6, 16)


def test_shared_and_unknown_domains_are_errors(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    with pytest.raises(
        DataError, match=r"the domain photo is in both data\.source\.domain and data\.t"
    ):
        found(file, target="photo")
    with pytest.raises(DataError, match=r"=skech is not a domain of .*a\.csv, .*mean 'sketch'\?"):
        found(file, target="skech")


def test_image_in_both_domains_is_an_error(tmp_path):
    listed = rows(tmp_path)
    listed += [[tmp_path / listed[0][0], "dog", "sketch"]]
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    with pytest.raises(
        DataError, match=r"both contain .*/photo/dog/dog_0\.jpg \(and 0 more images"
    ):
        found(file)


PROBLEMS = {
    "empty_label": (
        lambda listed: [listed[0], [listed[1][0], " ", "photo", "train"], *listed[2:]],
        r"a\.csv has 1 row\(s\) with an empty label: line 3; fix",
    ),
    "empty_path": (
        lambda listed: [["", *listed[0][1:]], *listed[1:]],
        r"a\.csv has 1 row\(s\) with an empty path: line 2; fix",
    ),
    "empty_split": (
        lambda listed: [[*listed[0][:3], ""], *listed[1:]],
        r"a\.csv has 1 row\(s\) with an empty split: line 2; fix",
    ),
    "unknown_split": (
        lambda listed: [*listed[:2], [*listed[2][:3], "trian"], *listed[3:]],
        r"1 row\(s\) with an unknown split: line 4 'trian' \(did you mean 'train'\?\); fix",
    ),
    "another_label": (
        lambda listed: [*listed, [listed[0][0], "horse", "photo", "train"]],
        r"1 row\(s\) with a duplicate path but a different label: line 42 photo/dog/dog_0\.jpg is "
        r"'horse', but 'dog' on line 2; fix",
    ),
    "another_split": (
        lambda listed: [*listed, ["./" + listed[0][0], "dog", "photo", "test"]],
        r"duplicate path but a different split: line 42 photo/dog/dog_0\.jpg is 'test', but "
        r"'train' on line 2; fix",
    ),
    "gone": (
        lambda listed: [["photo/dog/gone.jpg", *listed[0][1:]], *listed[1:]],
        r"1 of 20 listed images not found: line 2 photo/dog/gone\.jpg; searched in",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_invalid_rows_are_reported(tmp_path, problem):
    change, message = PROBLEMS[problem]
    listed = [[*row, "train"] for row in rows(tmp_path)]
    file = table(tmp_path / "a.csv", [["path", "label", "domain", "split"], *change(listed)])
    with pytest.raises(DataError, match=message):
        found(file)
    # With another handler the problem is recorded and the row skipped.
    data, problems = made(file), []
    data.collect_problems(problems.append)
    total = sum(sizes(data.domains()["source"]))
    assert (len(problems), total) == (1, 20 if problem.startswith("another") else 19)


def test_file_listed_under_two_paths_is_an_error(tmp_path):
    listed = rows(tmp_path)
    listed += [[tmp_path / listed[0][0], "dog", "photo"]]
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed])
    message = (
        r"1 row\(s\) list an image again under another path: line \d+ .* is the file on line \d+"
    )
    with pytest.raises(DataError, match=message):
        found(file)


def test_duplicate_row_counts_once(tmp_path):
    listed = rows(tmp_path)
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *listed, listed[0]])
    assert sum(sizes(found(file)["source"])) == 20


def test_missing_and_duplicate_columns_are_errors(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "lable"], ["a.jpg", "dog"]])
    message = (
        r"a\.csv has no column 'label' \(it has path, lable\); did you mean 'lable'\?; set "
        r"data\.columns\.label="
    )
    with pytest.raises(DataError, match=message):
        found(file)
    file = table(tmp_path / "b.csv", [["path", "label", "path"], ["a", "b", "c"]])
    with pytest.raises(DataError, match=r"b\.csv has several columns named 'path'; rename"):
        found(file)


def test_unreadable_tables_are_errors(tmp_path):
    with pytest.raises(
        DataError, match=r"tiny needs a table, but data\.table=null; set data\.table"
    ):
        found(None)
    with pytest.raises(DataError, match=r"data\.table=/nowhere\.csv is absent; set data\.table="):
        found("/nowhere.csv")
    with pytest.raises(DataError, match=r"data\.table=.* is a folder; set"):
        found(tmp_path)
    file = table(tmp_path / "a.csv", [["path", "label"]])
    with pytest.raises(DataError, match=r"data\.delimiter=',,' must be one character; set"):
        found(file, delimiter=",,")
    with pytest.raises(DataError, match=r"a\.csv has no rows below its header; add some"):
        found(file, source=None, target=None)
    with pytest.raises(DataError, match=r"empty\.csv is empty; its first line must name the colum"):
        found(table(tmp_path / "empty.csv", []))
    (tmp_path / "latin.csv").write_bytes("path,label\nä,b\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"cannot read the table .*latin\.csv: .*; save it as a UTF"
    ):
        found(tmp_path / "latin.csv")
    file = table(tmp_path / "b.csv", [["path", "label"], ["a", "b"], ["a", "b", "c"]])
    with pytest.raises(DataError, match=r"line 3 of .*b\.csv has 3 cells, but line 1 names 2 colu"):
        found(file)
    file = table(tmp_path / "c.csv", [["path", "label"], ['"a"b', "c"]])
    with pytest.raises(DataError, match=r"line 2 of .*c\.csv cannot be read: .*; fix its quotes"):
        found(file)


def test_parquet_is_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = [list(column) for column in zip(*rows(tmp_path), strict=True)]
    names = dict(zip(("path", "label", "domain"), columns, strict=True))
    parquet.write_table(arrow.table(names), tmp_path / "a.parquet")
    assert sizes(found(tmp_path / "a.parquet")["target"]) == (8, 4, 8)
    names["label"][3] = None
    parquet.write_table(arrow.table(names), tmp_path / "b.parquet")
    with pytest.raises(
        DataError, match=r"b\.parquet has 1 row\(s\) with an empty label: row 4; fix"
    ):
        found(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"cannot read the table .*c\.parquet: .*; write it again"):
        found(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    message = r"requires the package pyarrow; run pip install 'tl_lightning\[parquet\]', or"
    with pytest.raises(DataError, match=message):
        found(tmp_path / "a.parquet")


def test_configuration_builds_the_data_module(tmp_path):
    file = table(tmp_path / "a.csv", [["path", "label", "domain"], *rows(tmp_path)])
    given = ["data=csv", f"data.table={file}", "data.batch_size=2", "data.source.domain=photo"]
    data = validation.check(compose([*given, "model=fine_tuning"])).data.build()
    data.discover()
    assert set(data.found) == {"source"}
    with pytest.raises(ConfigError, match=r"set data\.target\.domain=<name>, or set model="):
        validation.check(compose([*given, "model=dann"]))
    data = validation.check(compose([*given, "data.target.domain=sketch"])).data.build()
    data.discover()
    assert set(data.found) == {"source", "target"}


def test_single_class_is_an_error(tmp_path):
    """The error is raised with the data, not later by a metric."""
    file = table(
        tmp_path / "list.csv",
        [["path", "label", "domain"], *rows(tmp_path, label=lambda path: "animal")],
    )
    with pytest.raises(DataError, match=r"only the class 'animal', but a classifier needs at"):
        found(file, target=None)
