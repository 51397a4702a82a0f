"""Layouts of tables: lists without column names, one-hot labels, a list for each domain."""

from __future__ import annotations

import pytest

from layouts import domain_folders, file_settings, table
from tl_lightning.config.compose import compose
from tl_lightning.data.datamodules.image_table import ImageTableDataModule
from tl_lightning.data.io.tables import read_rows
from tl_lightning.errors import DataError

COLUMNS = {name: name for name in ("path", "label", "domain", "split")}


def made(root, file, target=None, **changed):
    given = {"delimiter": None, "columns": COLUMNS, "label_columns": [], "table": str(file)}
    return ImageTableDataModule(**file_settings(root, **{**given, "target": target, **changed}))


def files(root, domain):
    return [path.relative_to(root).as_posix() for path in sorted((root / domain).rglob("*.jpg"))]


def office(root, mark=" ", names=("0", "1")):
    """Write two domains and a list of each, as TLLib and DomainNet do; return the lists."""
    domain_folders(root, ("Real World", "amazon"), 10, ("back_pack", "alarm clock"))
    lists = []
    for domain in ("Real World", "amazon"):
        lines = [f"{path}{mark}{names['back' in path]}\n" for path in files(root, domain)]
        lists.append(root / f"{domain}.txt")
        lists[-1].write_text("".join(lines) + "\n", encoding="utf-8")
    return lists


@pytest.mark.parametrize("mark", [" ", "\t", ",", ", ", ";", "  "])
@pytest.mark.parametrize("names", [("0", "1"), ("alarm clock", "back_pack")])
def test_a_list_without_column_names_for_each_domain(tmp_path, mark, names) -> None:
    source, target = office(tmp_path, mark, names)
    data = made(tmp_path, source, {"table": str(target)})
    data.discover()
    assert data.classes == names
    assert [domain.name for domain in data.found.values()] == ["tiny", "amazon"]
    for domain, folder in (("source", "Real World"), ("target", "amazon")):
        for split in data.found[domain].splits().values():
            for path, label in zip(split.samples, split.labels, strict=True):
                assert path.parent.parent.name == folder
                assert (path.parent.name == "back_pack") == label
    assert sum(data.counts().values()) == 40


def test_the_target_may_have_a_table_with_domains(tmp_path) -> None:
    source, _ = office(tmp_path)
    rows = [[path, str(int("back" in path)), "a"] for path in files(tmp_path, "amazon")]
    target = table(tmp_path / "b.csv", [["path", "label", "domain"], *rows])
    data = made(tmp_path, source, {"table": str(target), "domain": "a"})
    data.discover()
    assert data.found["target"].name == "a"
    with pytest.raises(DataError, match=r"data\.target\.domain=null selects no domain; .*/b\.csv"):
        made(tmp_path, source, {"table": str(target)}).discover()
    with pytest.raises(DataError, match=r"data\.target\.table=/none\.csv is absent; set"):
        made(tmp_path, source, {"table": "/none.csv"}).discover()


def test_an_odd_line_in_a_list_is_an_error(tmp_path) -> None:
    source, _ = office(tmp_path)
    source.write_text(source.read_text() + "amazon/x.jpg\n")
    message = r"line 22 of .*World\.txt is 'amazon/x\.jpg', not an image and its label as in"
    with pytest.raises(DataError, match=message):
        made(tmp_path, source).discover()


def test_the_first_line_is_a_header_unless_it_lists_an_image(tmp_path) -> None:
    header, rows = read_rows(table(tmp_path / "a.csv", [["x.jpg", "label"], ["b", "c"]]), None, [])
    assert (header, rows[0].cells) == (["x.jpg", "label"], {"x.jpg": "b", "label": "c"})


def test_one_hot_labels(tmp_path) -> None:
    office(tmp_path)
    names = files(tmp_path, "amazon")
    hot = [[path, str(int("back" in path)), f"{int('alarm' in path)}.0"] for path in names]
    file = table(tmp_path / "hot.csv", [["path", "pack", "clock"], *hot])
    advice = r"no column 'label' .*; set data\.columns\.label=\[pack,clock\], which contain only"
    with pytest.raises(DataError, match=advice):
        made(tmp_path, file).discover()
    data = made(tmp_path, file, columns={**COLUMNS, "label": ["pack", "clock"]})
    data.discover()
    assert data.classes == ("clock", "pack")
    train = data.found["source"].train
    for path, label in zip(train.samples, train.labels, strict=True):
        assert (path.parent.name == "back_pack") == label
    hot[3][1:] = ["1", "1"]
    both = table(tmp_path / "both.csv", [["path", "pack", "clock"], *hot])
    message = r"line 5 of .*both\.csv has pack=1, clock=1, but of the columns in data\.columns"
    with pytest.raises(DataError, match=message):
        made(tmp_path, both, columns={**COLUMNS, "label": ["pack", "clock"]}).discover()


def test_table_without_column_names_is_told(tmp_path) -> None:
    file = table(tmp_path / "ids.csv", [["0a1", "cat"], ["0a2", "dog"]])
    message = r"no column 'path' \(it has 0a1, cat\).*; the first line must name the columns$"
    with pytest.raises(DataError, match=message):
        made(tmp_path, file).discover()


def test_settings_of_tables_on_the_command_line() -> None:
    cfg = compose(["data=csv", "data.columns.label=[cat,1e3]", "data.target.table=/a b/ü.txt"])
    assert cfg.data.columns.label == ["cat", "1e3"]
    assert cfg.data.target.table == "/a b/ü.txt"
    assert compose(["data=csv", "data.columns.label=1e3"]).data.columns.label == "1e3"
