"""Labels of main tasks that are not classes: what is read, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tl_lightning.config.schema import TaskConfig
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
    (["", "nan"], ""), (["1", "2"], ""),
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


@pytest.mark.parametrize("names", [["error", "age"], ["age", "age"]])
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
    assert "neither 0 nor 1" in kind.problem(["2", "0"], ["dog", "cat"])
    with pytest.raises(DataError, match=r"cat is 0 for all training samples"):
        kind.fit(cells(["1", "0"], ["0", "0"]), ["dog", "cat"], "table")


def test_levels() -> None:
    learned = Levels(["low", "high"]).fit(cells(["low"]), ["high", "low"], "data")
    values, _ = Levels(None).encode(cells(["low"], ["high"]), learned)
    assert values.tolist() == [0, 1]
    assert Levels(None).fit(cells(["2"]), ["2", "10"], "data")["names"] == ["2", "10"]


@pytest.mark.parametrize(("levels", "classes", "words"), [
    (None, ["low", "high"], r"task.levels=null needs integers.*set task.levels=\[low,high\]"),
    (["low", "high"], ["low", "hihg"], r"has the class 'hihg'.*did you mean 'high'"),
    (["low", "middle", "high"], ["low", "high"], r"task.levels contains middle"),
])  # fmt: skip
def test_levels_that_do_not_fit(levels, classes, words) -> None:
    with pytest.raises(DataError, match=words):
        Levels(levels).fit(cells(["low"]), classes, "data")


def test_classes_need_no_encoding() -> None:
    assert encoding_of(TaskConfig("classification")) is None
    kinds = ("regression", "ordinal", "multi_label")
    assert [encoding_of(TaskConfig(kind)).kind for kind in kinds] == list(kinds)
