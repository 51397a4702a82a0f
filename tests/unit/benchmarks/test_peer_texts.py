"""The comparison of text fine-tuning: files, network, rows."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from conftest import REPO


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPO))
    return import_module("benchmarks.peers.texts")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Return a folder of reviews, and of texts without a label, as IMDb has them."""
    for part in ("train", "test"):
        for name in ("neg", "pos", "unsup"):
            place = tmp_path / "reviews" / part / name
            place.mkdir(parents=True)
            for k in range(20):
                (place / f"{k:02}.txt").write_text(f"{part} {name} {'film ' * k}")
    return tmp_path / "reviews"


def test_texts_of_both_classes_are_written_once(texts, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = texts.write_texts(reviews, out, 16)
    found = {part: sorted((out / part).rglob("*.txt")) for part in ("train", "val", "test")}
    assert {part: len(files) for part, files in found.items()} == {"train": 16, "val": 4, "test": 4}
    assert sorted(file.read_text() for file in found["train"]) == sorted(written)
    assert {file.parent.name for file in found["train"]} == {"neg", "pos"}
    assert not {f.name for f in found["train"]} & {f.name for f in found["val"]}
    assert all(file.read_text().startswith("test") for file in found["test"])


@pytest.mark.slow
def test_our_network_has_the_weights_that_the_peers_load(
    texts, reviews: Path, tmp_path: Path, monkeypatch
) -> None:
    transformers = pytest.importorskip("transformers")
    small = {**texts.TEXT, "layers": 1, "width": 16, "heads": 2, "words": 200, "length": 24}
    monkeypatch.setattr(texts, "TEXT", small)
    folder = tmp_path / "network"
    folder.mkdir()
    texts.vocabulary(["good film", "bad film"] * 4, small["words"], folder)
    texts.network(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokens) <= small["words"]
    from tl_lightning.backbones.text import TextBackbone

    ours = TextBackbone(
        name=str(folder), package=None, pretrained=True, network=None, tokenizer=None,
        pooling="mean", max_length=None, grad_checkpointing=False, lr_factor=0.1,
    )  # fmt: skip
    assert ours.input_spec.max_length == tokens.model_max_length == 24
    pairs = theirs.bert.encoder.state_dict(), ours.net.encoder.state_dict()
    assert pairs[0].keys() == pairs[1].keys()
    assert all(torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[0])
    text = "good film"
    mine = ours.input_spec.tokenizer.encode([text], 24)
    assert [int(k) for k in mine[0][0]] == tokens(text)["input_ids"]


def test_rows_state_both_comparisons_by_processor_time(texts) -> None:
    rounds = import_module("benchmarks.peers.rounds")
    trainer = next(name for name in texts.LOOPS if "Trainer" in name)
    used = {"tl_lightning": 10.0, texts.PADDED: 40.0, texts.DYNAMIC: 32.0, trainer: 16.0}
    found = {n: rounds.Measured([99.0] * 2, [s] * 2) for n, s in used.items()}
    whole, padded = texts.rows_of(found, 64, {})
    assert whole.values["tl_lightning"].median == pytest.approx(6.4)
    assert (whole.best_peer(), whole.ratio()) == (trainer, pytest.approx(1.6))
    assert (padded.best_peer(), padded.ratio()) == (texts.PADDED, pytest.approx(4.0))
    assert (whole.reached(), padded.reached()) == (False, True)
    assert "bf16" in whole.values[trainer].note
    assert "processor time" in whole.how
    found[texts.PADDED] = rounds.Measured(problem="no memory")
    whole, padded = texts.rows_of(found, 64, {"transformers": "not installed"})
    assert padded.best_peer() is None
    assert whole.absent == {"transformers": "not installed", texts.PADDED: "no memory"}


def test_without_texts_nothing_is_measured(texts) -> None:
    setting = import_module("benchmarks.peers.setting").Setting({}, None, 1, 1)
    assert texts.fine_tuning(setting) == []
