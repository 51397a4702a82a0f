"""Labels of main tasks that are not classes: what is read, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tl_lightning.config.schema import TaskConfig
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.encoding import encoded
from tl_lightning.errors import DataError
from tl_lightning.tasks.encoding import LabelSets, Levels, Numbers, encoding_of


def cells(*rows: list[str]) -> np.ndarray:
    return np.array(rows, dtype=np.str_)


def test_numbers_are_standardised_by_the_training_labels() -> None:
    kind = Numbers()
    learned = kind.fit(cells(["1", "5.5"], ["3", "6.5"]), ["age", "size"], "columns")
    assert learned["columns"] == [{"mean": 2.0, "std": 1.0}, {"mean": 6.0, "std": 0.5}]
    values, invalid = kind.encode(cells(["1e2", "-0.5"]), learned)
    assert values.tolist() == [[100.0, -0.5]]
    assert values.dtype == np.float32
    assert invalid == [""]


@pytest.mark.parametrize(("row", "words"), [
    (["12", "abc"], "not a finite number"), (["1,5", "2"], "with a decimal point"),
    (["inf", "1"], "not a finite number"), (["1", ""], "only some of the numbers"),
    (["", "nan"], ""), (["1", "2"], ""), (["1e39", "2"], "a label beyond 3e+38"),
])  # fmt: skip
def test_rows_that_are_not_numbers(row: list[str], words: str) -> None:
    problem = Numbers().problem(row, ["age", "size"])
    assert words in problem
    assert bool(words) == bool(problem)


def test_missing_numbers() -> None:
    assert Numbers().is_missing(["", " NaN "])
    assert not Numbers().is_missing(["", "1"])


def test_equal_numbers_are_nothing_to_learn() -> None:
    with pytest.raises(DataError, match=r"table: age is 7 for all training samples.*use another"):
        Numbers().fit(cells(["7"], ["7"]), ["age"], "table")


@pytest.mark.parametrize(("numbers", "words"), [
    (["1700000000", "1700000900"], r"1\.70000045e\+09, .*subtract a constant such as 1\.7e\+09"),
    (["0", "1e-50"], r"standard deviation of 5e-51, outside of 1e-30 to 1e\+30"),
    (["0", "1e38"], r"standard deviation of 5e\+37, .* for float32; change the unit"),
])  # fmt: skip
def test_numbers_that_float32_cannot_hold(numbers: list[str], words: str) -> None:
    with pytest.raises(DataError, match=rf"table: date has a .*{words}"):
        Numbers().fit(cells(*([one] for one in numbers)), ["date"], "table")


@pytest.mark.parametrize("names", [
    ["error", "age"], ["age", "age"], ["embedding", "age"], ["label age", "age"], ["a/b", "a_b"],
])  # fmt: skip
def test_outputs_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(DataError, match=r"an output is named .* rename it"):
        Numbers().fit(cells(["7", "1"], ["8", "2"]), names, "table")


def test_labels_of_one_column() -> None:
    kind = LabelSets()
    learned = kind.fit(cells(["a;b"], [";"], ["b"]), ["tags"], "table")
    assert learned["names"] == ["a", "b"]
    values, invalid = kind.encode(cells(["b;a"], [";"], ["c"]), learned)
    assert values[:2].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert "'c' is not one of the source's training labels" in invalid[2]


def test_labels_of_several_columns() -> None:
    kind = LabelSets()
    learned = kind.fit(cells(["1", "0"], ["0", "1.0"]), ["dog", "cat"], "table")
    assert learned["names"] == ["dog", "cat"]
    assert kind.encode(cells(["1", "1"]), learned)[0].tolist() == [[1.0, 1.0]]
    booleans = cells(["False", "True"])
    assert not kind.problem(booleans[0].tolist(), ["dog", "cat"])
    assert kind.encode(booleans, learned)[0].tolist() == [[0.0, 1.0]]
    assert "neither 0 nor 1" in kind.problem(["2", "0"], ["dog", "cat"])
    with pytest.raises(DataError, match=r"cat is 0 for all training samples"):
        kind.fit(cells(["1", "0"], ["0", "0"]), ["dog", "cat"], "table")


def test_levels() -> None:
    learned = Levels(["low", "high"]).fit(cells(["low"]), ["high", "low"], "data")
    values, _ = Levels(None).encode(cells(["low"], ["high"]), learned)
    assert values.tolist() == [0, 1]
    assert Levels(None).fit(cells(["2"]), ["1", "10", "-2", "2"], "data")["names"] == [
        "-2", "1", "2", "10",
    ]  # fmt: skip


@pytest.mark.parametrize(("levels", "classes", "words"), [
    (None, ["low", "high"], r"task.levels=null needs integers.*set task.levels=\[low,high\]"),
    (None, ["1", "2", "01"], r"data has the classes '1' and '01', which are the same integer"),
    (["low", "high"], ["low", "hihg"], r"has the class 'hihg'.*did you mean 'high'"),
    (["low", "middle", "high"], ["low", "high"], r"task.levels contains middle"),
])  # fmt: skip
def test_levels_that_do_not_fit(levels, classes, words) -> None:
    with pytest.raises(DataError, match=words):
        Levels(levels).fit(cells(["low"]), classes, "data")


# -- columns in another order ----------------------------------------------------------------
def read(kind: Any, given: list[str], rows: np.ndarray, trained: list[str], **own: Any) -> Any:
    """Return the labels of samples as :func:`encoded` reads them for a trained model."""
    split = Split([], np.zeros(len(rows), np.int64), ["a", "b"], cells=rows)
    data = SimpleNamespace(
        name="csv", encoding=kind, learn_from="source", input_state={"labels": {"names": trained}},
        label_source=lambda: (given, "data.columns.label"), **own,
    )  # fmt: skip
    found = {"source": Domain("day", ("labelled",), split, split, split)}
    return encoded(data, found)["source"].test.labels.tolist()


@pytest.mark.parametrize("kind", [Numbers(), LabelSets()])
def test_columns_are_found_by_name(kind: Any) -> None:
    rows = cells(["0", "1"], ["1", "1"])
    table = {"columns": {"label": []}}
    assert read(kind, ["a", "b"], rows, ["a", "b"], **table) == [[0.0, 1.0], [1.0, 1.0]]
    assert read(kind, ["b", "a"], rows, ["a", "b"], **table) == [[1.0, 0.0], [1.0, 1.0]]
    words = (
        r"trained on the 2 label\(s\) a,b, but these data have a,c; set data.columns.label=\[a,b\]"
    )
    with pytest.raises(DataError, match=words):
        read(kind, ["a", "c"], rows, ["a", "b"], **table)


def test_number_of_columns_is_that_of_training() -> None:
    table = {"columns": {"label": []}}
    with pytest.raises(DataError, match=r"the 2 label\(s\) a,b, but these data have a; set"):
        read(Numbers(), ["a"], cells(["1"], ["2"]), ["a", "b"], **table)
    with pytest.raises(DataError, match=r"but these data have y; use an array y with 2 column"):
        read(Numbers(), ["y"], cells(["1"], ["2"]), ["y1", "y2"])
    assert read(Numbers(), ["y"], cells(["1"], ["2"]), ["age"]) == [[1.0], [2.0]]
    # One column contains the names of the labels, whatever its own name is.
    assert read(LabelSets(), ["tags"], cells(["b"], [";"]), ["a", "b"]) == [[0.0, 1.0], [0.0, 0.0]]


def test_classes_need_no_encoding() -> None:
    assert encoding_of(TaskConfig("classification")) is None
    kinds = ("regression", "ordinal", "multi_label")
    assert [encoding_of(TaskConfig(kind)).kind for kind in kinds] == list(kinds)
