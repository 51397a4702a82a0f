"""Texts from folders, domains, tables and the IMDb archive."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from layouts import archive, served
from tiny_texts import backbone, imdb, reviews, tiny_bert
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules import imdb as module
from tl_lightning.data.datamodules.imdb import IMDbDataModule
from tl_lightning.data.datamodules.text_folders import TextDomainsDataModule, TextFoldersDataModule
from tl_lightning.data.datamodules.text_table import TextTableDataModule
from tl_lightning.data.io.texts import read_text
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import TextSpec


def settings(root, **changed):
    plain = {
        "name": "tiny",
        "batch_size": 2,
        "eval_batch_size": 4,
        "steps_per_epoch": None,
        "sampling": "uniform",
        "target_sampling": "uniform",
        "num_workers": 0,
        "seed": 0,
        "pin_memory": False,
        "root": str(root),
        "val_fraction": 0.25,
        "test_fraction": 0.25,
        "test_split": "auto",
        "classes": None,
        "transductive": False,
        "too_long": "truncate",
        "bucket": 3,
        "source": {"root": None, "domain": None},
        "target": None,
    }
    return {**plain, **changed}


def found(cls, root, **changed):
    data = cls(**settings(root, **changed))
    data.discover()
    return data


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


# -- folders -----------------------------------------------------------------------------------
def test_class_folders_are_split_by_hash(tmp_path) -> None:
    reviews(tmp_path)
    source = found(TextFoldersDataModule, tmp_path).found["source"]
    assert source.classes == ("neg", "pos")
    assert sizes(source) == (12, 6, 6)
    assert source.note.startswith("no official split was found")
    for split in source.splits().values():
        for text, label, name in zip(split.samples, split.labels, split.names, strict=True):
            assert (tmp_path / name).read_text() == text
            assert name.startswith(source.classes[label])


def test_split_folders_are_used(tmp_path) -> None:
    for split, number in (("train", 6), ("valid", 3), ("test", 4)):
        reviews(tmp_path / split, number)
    assert sizes(found(TextFoldersDataModule, tmp_path).found["source"]) == (12, 6, 8)


def test_classes_of_two_folders_are_matched_by_name(tmp_path) -> None:
    reviews(tmp_path / "a")
    reviews(tmp_path / "b", 8, seed=90)
    target = {"root": str(tmp_path / "b"), "domain": None, "labelled_per_class": 2}
    data = found(TextFoldersDataModule, tmp_path / "a", target=target)
    assert data.found["target"].classes == ("neg", "pos")
    assert len(data.found["target"].labelled) == 4
    (tmp_path / "b" / "neg").rename(tmp_path / "b" / "negative")
    with pytest.raises(
        DataError, match=r"extra: negative .did you mean neg.*; rename or remove folders"
    ):
        found(TextFoldersDataModule, tmp_path / "a", target=target)


def test_same_texts_in_both_domains_are_an_error(tmp_path) -> None:
    reviews(tmp_path / "a")
    reviews(tmp_path / "b")
    with pytest.raises(DataError, match=r"contain the same texts; set another data.target.root"):
        found(TextFoldersDataModule, tmp_path / "a", target={"root": str(tmp_path / "b")})


def test_domain_folders(tmp_path) -> None:
    for k, name in enumerate(("books", "dvd", "electronics")):
        reviews(tmp_path / name, 8, seed=100 * k)
    sides = {"source": {"domain": ["books", "dvd"]}, "target": {"domain": "electronics"}}
    data = found(TextDomainsDataModule, tmp_path, **sides)
    assert [domain.name for domain in data.found.values()] == ["books+dvd", "electronics"]
    assert [len(domain.whole()) for domain in data.found.values()] == [32, 16]
    assert {name.split("/")[0] for name in data.found["source"].train.names} == {"books", "dvd"}
    with pytest.raises(DataError, match=r"domain books is in both data.source.domain and data.t"):
        found(
            TextDomainsDataModule, tmp_path, source={"domain": "books"}, target={"domain": "books"}
        )
    with pytest.raises(DataError, match=r"data.source.domain=bookz is not a domain of .* 'books'"):
        found(TextDomainsDataModule, tmp_path, source={"domain": "bookz"})
    with pytest.raises(
        DataError, match=r"contains no domains; expected .*/<domain>/<class>/<text>"
    ):
        found(TextDomainsDataModule, tmp_path / "books" / "neg", source={"domain": "x"})
    with pytest.raises(DataError, match=r"but no target; set data.target.domain=<name>"):
        found(
            TextDomainsDataModule,
            tmp_path,
            source={"domain": "dvd"},
            target={"labelled_per_class": 2},
        )


def test_training_split_of_the_target_has_no_labels(tmp_path) -> None:
    reviews(tmp_path / "a")
    reviews(tmp_path / "b", 8, seed=90)
    data = found(TextFoldersDataModule, tmp_path / "a", target={"root": str(tmp_path / "b")})
    no_tokenizer: Any = None
    data.prepare(ModelNeeds(TextSpec(8, no_tokenizer)))
    assert data.training_splits()["source"].labels is not None
    assert data.training_splits()["target"].labels is None


def test_model_must_state_its_tokenizer(tmp_path) -> None:
    data = found(TextFoldersDataModule, reviews(tmp_path))
    with pytest.raises(
        ConfigError, match="data=tiny cannot be used without an input specification"
    ):
        data.prepare()


# -- errors ------------------------------------------------------------------------------------
def test_invalid_texts_are_listed_with_their_problems(tmp_path) -> None:
    reviews(tmp_path)
    (tmp_path / "neg" / "bytes.txt").write_bytes(b"gut, sch" + b"\xf6n")
    (tmp_path / "pos" / "nothing.txt").write_text(" \n ")
    message = (
        r"2 of \d+ texts cannot be used: \S+neg/bytes.txt \(byte 0xf6 at offset 8 is not UTF-8\), "
        r"\S+pos/nothing.txt \(empty\); fix or remove them"
    )
    with pytest.raises(DataError, match=message):
        found(TextFoldersDataModule, tmp_path, test_fraction=0.01, val_fraction=0.01)


def test_byte_order_mark_is_removed(tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgood")
    assert read_text(tmp_path / "a.txt") == "good"
    with pytest.raises(ValueError, match="No such file"):
        read_text(tmp_path / "b.txt")


def test_missing_classes_are_errors(tmp_path) -> None:
    with pytest.raises(DataError, match=r"is not a folder; set data.root=/my/texts"):
        found(TextFoldersDataModule, tmp_path / "gone")
    with pytest.raises(DataError, match=r"contains no class folders; exp.*<class>/<text>.txt"):
        found(TextFoldersDataModule, tmp_path)
    reviews(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"1 of 3 class folders in .* contain no texts \(\*.txt\):"):
        found(TextFoldersDataModule, tmp_path)
    (tmp_path / "empty").rmdir()
    for path in (tmp_path / "neg").iterdir():
        path.unlink()
    (tmp_path / "neg").rmdir()
    with pytest.raises(DataError, match=r"only one class folder, 'pos'"):
        found(TextFoldersDataModule, tmp_path)


def test_invalid_settings_are_errors(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"data.bucket=0 is not an integer of at least 1; set d"):
        validation.check(compose(["data=text_folder", "data.bucket=0"]))
    with pytest.raises(DataError, match=r"data=tiny has one domain; .*data=text_domains for fol"):
        TextFoldersDataModule(**settings(tmp_path, source={"domain": "books"}))
    with pytest.raises(DataError, match=r"data.target has no key 'shift'"):
        TextFoldersDataModule(**settings(tmp_path, target={"shift": {}}))
    with pytest.raises(
        DataError, match=r"data=tiny contains texts, but this command checks images"
    ):
        TextFoldersDataModule(**settings(tmp_path)).check_browsable()


# -- tokens ------------------------------------------------------------------------------------
def attached(tmp_path, length=None, **changed):
    net = backbone(tiny_bert(tmp_path / "bert"), max_length=length)
    data = found(TextFoldersDataModule, tmp_path / "texts", **changed)
    data.token_root = tmp_path / "cache"
    data.prepare(ModelNeeds(net.input_spec, train_on=("source",)))
    return data


def test_long_texts_are_truncated_or_an_error(tmp_path) -> None:
    reviews(tmp_path / "texts", most=30)
    data = attached(tmp_path, 8)
    long = [len(str(t).split()) > 6 for t in data.found["source"].whole().samples]
    assert 0 < sum(long) < len(long)
    message = f"source: {sum(long)} of {len(long)} texts have more than 8 tokens and were truncated"
    assert any(note.startswith(message) for note in data.notes(pretrained=True))
    assert data.tokens["source"].lengths.max() == 8
    strict = attached(tmp_path, 8, too_long="error")
    with pytest.raises(
        DataError,
        match=rf"{sum(long)} of {len(long)} texts of the source have more than "
        r"backbone.max_length=8 tokens: .*\.txt \(\d+\).* set data.too_long=truncate",
    ):
        strict.cached("source")
    assert attached(tmp_path, 24, too_long="truncate").tokens == {}


def test_batches_contain_the_tokens_of_their_texts(tmp_path) -> None:
    reviews(tmp_path / "texts")
    data = attached(tmp_path)
    for split in data.found["source"].splits().values():
        dataset = data.dataset("source", split, train=False)
        batch = dataset.__getitems__([(k, 0) for k in range(len(split))])
        for row, text in zip(batch["inputs"], split.samples, strict=True):
            ids = data.form.tokenizer.encode([str(text)], 24)[0][0]
            assert row[row >= 0].tolist() == ids
        assert batch["labels"].tolist() == split.labels.tolist()


def test_duplicates_in_training_and_test_splits_are_noted(tmp_path) -> None:
    for split in ("train", "test"):
        reviews(tmp_path / "texts" / split, 4)
    data = attached(tmp_path)
    texts = data.found["source"]
    twice = sum(text in set(texts.train.samples) for text in texts.test.samples)
    assert twice
    assert f"source: {twice} of 8 test texts are identical to training texts" in " ".join(
        data.notes(False)
    )


def test_fingerprint_depends_on_contents_not_on_the_folder(tmp_path) -> None:
    reviews(tmp_path / "a")
    reviews(tmp_path / "b")
    prints = [found(TextFoldersDataModule, tmp_path / name).fingerprint() for name in "ab"]
    assert prints[0] == prints[1]
    data = found(TextFoldersDataModule, tmp_path / "b")
    file = tmp_path / "b" / data.found["source"].test.names[0]
    file.write_text("another text")
    assert found(TextFoldersDataModule, tmp_path / "b").fingerprint() != prints[0]


def test_excerpts_are_short_and_on_one_line(tmp_path) -> None:
    reviews(tmp_path)
    data = found(TextFoldersDataModule, tmp_path)
    data.found["source"].test.samples[0] = "good\n" * 400
    (text,) = data.excerpts("source", [0])
    assert len(text) == 200
    assert text.startswith("good good good")


# -- IMDb --------------------------------------------------------------------------------------
@pytest.mark.parametrize("inside", ["", "aclImdb"])
def test_imdb_is_found_in_its_folder_or_the_parent(tmp_path, inside) -> None:
    imdb(tmp_path)
    source = found(IMDbDataModule, tmp_path / inside, download=False).found["source"]
    assert (source.name, source.classes, source.note) == ("imdb", ("neg", "pos"), "")
    assert sizes(source) == (24, 8, 16)
    assert not any("unsup" in name for split in source.splits().values() for name in split.names)


def test_imdb_with_a_target_folder(tmp_path) -> None:
    imdb(tmp_path)
    reviews(tmp_path / "shop", 8, seed=9)
    target = {"root": str(tmp_path / "shop")}
    data = found(IMDbDataModule, tmp_path, download=False, target=target)
    assert data.found["target"].name == "shop"


def test_missing_imdb_suggests_the_download(tmp_path) -> None:
    with pytest.raises(DataError, match=r"IMDb reviews .* not found .* data.download=true to fet"):
        found(IMDbDataModule, tmp_path, download=False)


def test_imdb_is_downloaded_and_verified(tmp_path, monkeypatch) -> None:
    imdb(tmp_path / "made")
    packed = archive(tmp_path / "made" / "aclImdb")
    with served({"aclImdb_v1.tar.gz": packed}) as address:
        monkeypatch.setattr(module, "URL", f"{address}/aclImdb_v1.tar.gz")
        with pytest.raises(DataError, match="is not the expected file: md5"):
            found(IMDbDataModule, tmp_path / "data", download=True)
        monkeypatch.setattr(module, "CHECKSUM", f"md5:{hashlib.md5(packed).hexdigest()}")
        data = found(IMDbDataModule, tmp_path / "data", download=True)
    assert sizes(data.found["source"]) == (24, 8, 16)
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/gone")
    assert (
        found(IMDbDataModule, tmp_path / "data", download=True).fingerprint() == data.fingerprint()
    )


# -- tables ------------------------------------------------------------------------------------
def table(tmp_path, text: str, **changed):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    plain = {
        "table": str(tmp_path / "list.csv"),
        "delimiter": None,
        "columns": {"text": "text", "label": "label", "domain": "domain", "split": "split"},
        "val_fraction": 0.3,
        "test_fraction": 0.3,
        "test_split": "auto",
    }
    return found(TextTableDataModule, tmp_path, **{**plain, **changed})


ROWS = "".join(f'"good, {k}",pos\n"bad\n{k}",neg\n' for k in range(8))


def test_table_with_quotes_newlines_and_long_cells(tmp_path) -> None:
    data = table(tmp_path, "\ufefftext,label\n\n" + ROWS + '"' + "long " * 40_000 + '",pos\n')
    source = data.found["source"]
    assert source.classes == ("neg", "pos")
    assert sum(sizes(source)) == 17
    whole = source.whole()
    assert "good, 3" in whole.samples
    assert "bad\n3" in whole.samples
    assert all(name.startswith("list.csv/line ") for name in whole.names)


def test_table_with_splits_and_domains(tmp_path) -> None:
    rows = [
        f"{word} {domain} {split} {k};{label};{domain};{split}\n"
        for domain in ("books", "dvd")
        for split in ("train", "valid", "test")
        for label, word in (("0", "bad"), ("1", "good"))
        for k in range(3)
    ]
    sides = {"source": {"domain": "books"}, "target": {"domain": "dvd"}}
    data = table(tmp_path, "text;label;domain;split\n" + "".join(rows), **sides)
    assert sizes(data.found["source"]) == (6, 6, 6)
    assert all("dvd" in text for text in data.found["target"].test.samples)
    assert data.found["source"].classes == ("0", "1")
    with pytest.raises(DataError, match=r"data.source.domain=null selects no domain"):
        table(tmp_path, "text;label;domain;split\n" + "".join(rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (" ,pos", r"1 row\(s\) with an empty text: line \d+; fix"),
        ("fine,", r"1 row\(s\) with an empty label"),
        ("fine,nan", r"a label that is neither a name nor an integer: line \d+ 'nan'"),
        ("fine,1.0", r"neither a name nor an integer: line \d+ '1.0'"),
        ("fine,pos,again", r"has 3 cells, but line 1 names 2"),
    ],
)
def test_invalid_rows_are_reported(tmp_path, row, message) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, f"text,label\n{ROWS}{row}\n")


def test_invalid_tables_are_errors(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no column 'text' .*set data.columns.text=<the"):
        table(tmp_path, "review,label\n" + ROWS)
    with pytest.raises(DataError, match=r"unknown split: line 2 'tset' \(did you mean 'test'"):
        table(tmp_path, "text,label,split\na,b,tset\n")
    with pytest.raises(DataError, match="has no rows below its header; add some texts"):
        table(tmp_path, "text,label\n")
    with pytest.raises(DataError, match=r"needs a table, but data.table=null"):
        table(tmp_path, "", table=None)
    with pytest.raises(DataError, match=r"data.columns has no key 'path'"):
        table(tmp_path, "", columns={"path": "x"})
    with pytest.raises(
        DataError, match=r"data.columns.label=null, but a table must contain the label"
    ):
        table(tmp_path, "", columns={"text": "text", "label": None})
    with pytest.raises(DataError, match=r"data.source.domain=a, but .* has no column 'domain'"):
        table(tmp_path, "text,label\n" + ROWS, source={"domain": "a"})
    (tmp_path / "list.csv").write_bytes(b"text,label\nsch\xf6n,pos\n")
    with pytest.raises(DataError, match=r"cannot read the table .*0xf6 in position 14"):
        found(
            TextTableDataModule,
            tmp_path,
            table=str(tmp_path / "list.csv"),
            delimiter=None,
            columns={"text": "text", "label": "label"},
        )


def test_csv_field_size_limit_is_restored(tmp_path) -> None:
    import csv

    before = csv.field_size_limit()
    table(tmp_path, "text,label\n" + ROWS)
    assert csv.field_size_limit() == before


def test_test_texts_of_the_target_in_the_source_are_noted(tmp_path) -> None:
    """Their labels were seen in training, although the target is tested on them."""
    for number, folder in enumerate(("texts/train", "texts/test", "other/train", "other/test")):
        reviews(tmp_path / folder, 4, seed=100 * number)
    for file in sorted((tmp_path / "other" / "test" / "neg").glob("*.txt"))[:3]:
        file.write_text(next((tmp_path / "texts" / "train" / "pos").glob("*.txt")).read_text())
    data = attached(tmp_path, target={"root": str(tmp_path / "other")})
    source, test = data.found["source"].train, data.found["target"].test
    both = sum(text in set(source.samples) for text in test.samples)
    assert both >= 3
    assert (
        f"target: {both} of 8 test texts are identical to labelled training texts of the source"
    ) in data.notes(False)
