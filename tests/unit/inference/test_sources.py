"""What is predicted for every form of input, in which order, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.sources import Sample, Source, from_input, from_python, from_texts


def names(source: Source) -> list[str]:
    found = [sample.name for sample in source.samples]
    assert source.total in (None, len(found))
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("b/2.JPG", "b/10.png", "a.gif", "c/deep/er/x.webp", "notes.txt", "a/1.jpeg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for hidden in (".trash/1.png", "b/.1.png", "__MACOSX/1.png"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).touch()
    return root


def test_a_folder_is_searched_with_its_subfolders_in_a_fixed_order(photos: Path) -> None:
    found = [
        str(Path(name).relative_to(photos)) for name in names(from_input(str(photos), "images"))
    ]
    assert found == ["a.gif", "a/1.jpeg", "b/10.png", "b/2.JPG", "c/deep/er/x.webp"]
    (photos / "c" / "loop").symlink_to(photos)
    assert len(names(from_input(str(photos), "images"))) == 5
    assert [Path(name).name for name in names(from_input(str(photos), "texts"))] == ["notes.txt"]


def test_globs_take_every_file_that_matches(photos: Path) -> None:
    found = names(from_input(f"{photos}/**/*.[jJ]*", "images"))
    assert [Path(name).name for name in found] == ["1.jpeg", "2.JPG"]
    assert names(from_input(f"{photos}/n*", "images")) == [f"{photos}/notes.txt"]
    with pytest.raises(DataError, match=r"input=.*/z\* matches no files; set input=<image, folder"):
        from_input(f"{photos}/z*", "images")


def test_an_existing_name_is_not_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    assert names(from_input(f"{tmp_path}/a[1].png", "images")) == [f"{tmp_path}/a[1].png"]


def test_a_list_names_paths_relative_to_itself_or_the_current_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos / "c")
    (photos / "list.txt").write_text("a/1.jpeg\r\n\nb\\10.png\ndeep/er/x.webp\nabsent.png\n")
    samples = list(from_input(str(photos / "list.txt"), "images").samples)
    assert [sample.name for sample in samples] == [
        "a/1.jpeg", "b\\10.png", "deep/er/x.webp", "absent.png",
    ]  # fmt: skip
    assert [sample.value and sample.value.name for sample in samples[:3]] == [
        "1.jpeg", "10.png", "x.webp",
    ]  # fmt: skip
    assert samples[3].problem == "not found"


def test_texts_are_split_only_at_newlines(tmp_path: Path) -> None:
    """``str.splitlines`` also splits at other characters, which may occur within a text."""
    lines = ["one\u2028text", "another\x0cone", "a\x85third"]
    for end in ("\n", "\r\n", "\r"):
        file = tmp_path / "lines.txt"
        file.write_bytes(end.join([*lines, ""]).encode())
        assert names(from_input(str(file), "texts")) == lines


def test_an_empty_line_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\nthree\n")
    found = list(from_input(str(tmp_path / "lines.txt"), "texts").samples)
    assert found[1] == Sample("", "", "the text is empty")
    assert [sample.problem for sample in from_texts(["a", " "]).samples] == [
        "", "the text is empty",
    ]  # fmt: skip


def test_the_standard_input_names_paths_or_texts(photos: Path, monkeypatch) -> None:
    def given(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    monkeypatch.chdir(photos)
    given(b"a/1.jpeg\nb/caf\xe9.png\n\nb/10.png")
    found = list(from_input("-", "images").samples)
    assert [sample.problem for sample in found] == ["", "not found", ""]
    given(b"a text\nanother")
    assert names(from_input("-", "texts")) == ["a text", "another"]
    with pytest.raises(ConfigError, match=r"input=- cannot contain vectors; set input=<vec"):
        from_input("-", "vectors")


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_table_has_a_column_of_paths(photos: Path, form: str) -> None:
    file = photos / f"list.{form}"
    rows = {"label": ["x", "y"], "Image": ["a/1.jpeg", "b, c/no.png"], "other": ["", ""]}
    if form == "parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table(rows), file)
    else:
        mark = "," if form == "csv" else "\t"
        lines = [
            mark.join(f'"{cell}"' for cell in line) for line in zip(*rows.values(), strict=True)
        ]
        file.write_text("\n".join([mark.join(rows), *lines]))
    found = list(from_input(str(file), "images").samples)
    assert [sample.name for sample in found] == rows["Image"]
    assert [sample.problem for sample in found] == ["", "not found"]
    assert names(from_input(str(file), "images", "label")) == ["x", "y"]
    with pytest.raises(ConfigError, match=r"column=labl is not in input=.*; did you mean 'label'"):
        from_input(str(file), "images", "labl")
    with pytest.raises(
        ConfigError, match=r"has the columns .*, none of them named text, .*; set c"
    ):
        from_input(str(file), "texts")


def test_a_table_may_contain_encoded_images(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    cells = [{"bytes": b"png", "path": "a.png"}, {"bytes": None, "path": ""}, None]
    file = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"image": cells}), file)
    found = list(from_input(str(file), "images").samples)
    assert found[0] == Sample("0", b"png")
    assert [sample.problem for sample in found] == ["", "the path is empty", "the cell is empty"]


def test_damaged_tables_are_an_error(tmp_path: Path) -> None:
    for name, content in (("a.csv", b""), ("b.csv", b"path\n\xff\xfe"), ("c.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=r"input=.*a\.csv is empty; its first line must name the co"
    ):
        from_input(str(tmp_path / "a.csv"), "images")
    with pytest.raises(DataError, match=r"cannot read input=.*b\.csv: .*; save it as UTF-8 CSV"):
        list(from_input(str(tmp_path / "b.csv"), "images").samples)
    pytest.importorskip("pyarrow")
    with pytest.raises(
        DataError, match=r"cannot read input=.*c\.parquet: .*; write the table again"
    ):
        from_input(str(tmp_path / "c.parquet"), "images")


def test_a_table_of_parquet_needs_pyarrow(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"a\.parquet requires the package pyarrow; run pip install"
    ):
        from_input(str(tmp_path / "a.parquet"), "images")


def test_what_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    with pytest.raises(DataError, match=r"input=.*absent not found; set input=<image, folder"):
        from_input(str(tmp_path / "absent"), "images")
    with pytest.raises(DataError, match=r"input=.*list\.txt is empty; set input=<image, folder"):
        from_input(str(tmp_path / "list.txt"), "images")
    with pytest.raises(DataError, match=r"contains no images \(\.bmp, .*\); set input=<image"):
        from_input(str(tmp_path), "images")
    with pytest.raises(ConfigError, match=r"column=path has no effect on input=.*; remove column"):
        from_input(str(tmp_path), "images", "path")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"cannot read input=.*latin\.txt: byte 0xe9 at offset 3"):
        from_input(str(tmp_path / "latin.txt"), "texts")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch) -> None:
    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(DataError, match=r"cannot read the folder .*: Permission denied"):
        from_input(str(tmp_path), "images")


def test_vectors_of_files_and_arrays(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    for inputs in (tmp_path / "a.npy", str(tmp_path / "a.npz"), x, list(x)):
        found = list(from_python(inputs, "vectors").samples)
        assert [sample.name for sample in found] == ["0", "1", "2"]
        assert np.array_equal(np.concatenate([sample.value for sample in found]), x)
    np.save(tmp_path / "a.npy", x[0])
    with pytest.raises(DataError, match=r"must have the shape \(samples, features\), got \(2,\)"):
        from_input(str(tmp_path / "a.npy"), "vectors")
    with pytest.raises(DataError, match=r"vectors must have the shape \(samples, features\), got"):
        from_python(x[0], "vectors")
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy cannot be read as \.npy: Object arrays cannot be"):
        from_input(str(tmp_path / "a.npy"), "vectors")


def test_texts_from_python(tmp_path: Path) -> None:
    assert names(from_python(["a", "b"], "texts")) == ["a", "b"]
    problems = [sample.problem for sample in from_python([3, " "], "texts").samples]
    assert problems == ["a text is expected, got int", "the text is empty"]
    for text in ("what a film", "long " * 1000):
        with pytest.raises(DataError, match=r"is not a file or folder; pass \[text\] for a single"):
            from_python(text, "texts")


def test_what_cannot_be_a_path_is_an_error() -> None:
    for given, reason in (("a" * 300, "File name too long"), ("~nobody-here/x", "home")):
        with pytest.raises(DataError, match=rf"input=.* cannot be read: .*{reason}.*; set input="):
            from_input(given, "images")


def test_vectors_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array([["a", "b"]]))
    with pytest.raises(DataError, match=r"vectors must be numbers, got <U1; set input=<vectors"):
        from_input(str(tmp_path / "names.npy"), "vectors")


def test_a_table_may_have_long_texts(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text(f"text,stars\n{'long ' * 40_000},5\n")
    assert [len(name) for name in names(from_input(str(file), "texts"))] == [200_000]
