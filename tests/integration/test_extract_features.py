"""Features for other tools."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import TINY
from helpers import command, config
from tl_lightning.cli import extract_features
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datasets import ArrayDataset
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


@pytest.mark.slow
def test_features_are_written_for_others(tmp_path) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    done = command("extract", [*TINY, cache, "out=made/features"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"features: {tmp_path / 'made' / 'features'}"
    out = tmp_path / "made" / "features"
    about = json.loads((out / "manifest.json").read_text())
    assert [path.name for path in out.parent.iterdir()] == ["features"], "no draft is left"
    assert about["classes"] == list("0123456789")
    parts = training.build(validation.check(config("model=feature_extraction")), tmp_path)
    assert about["names"].keys() == parts.data.counts().keys()
    for key, names in about["names"].items():
        role, _, name = key.partition("/")
        split = getattr(parts.data.found[role], name)
        stored = load_file(out / role / f"{name}.safetensors")
        assert names == list(split.names)
        assert np.array_equal(stored["labels"].numpy(), split.labels)
        pictures = parts.data._dataset(role, split, train=False)
        assert isinstance(pictures, ArrayDataset)
        wanted = parts.module.eval().extract(pictures.inputs)
        assert stored["features"].dtype == torch.float32
        assert torch.allclose(stored["features"], wanted, atol=1e-5)
    again = command("extract", [*TINY, cache, "out=made/features"], tmp_path)
    assert again.returncode == 2
    assert "is there already and not empty; type another folder" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=digits"], "out is missing; type out=/a/folder/for/the/features"),
        (["out=x", "dtype=int8"], "dtype=int8 is neither float32 nor stored; type dtype=float32"),
        (["out=x", "model=dann"], "model=dann has no place here: .* leave model out"),
        (["out=x", "outt=3"], "outt is no setting; did you mean 'out'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        extract_features._extract(arguments)
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_it_writes(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["extract.py", "--help"])
    with pytest.raises(SystemExit) as end:
        extract_features.extract()
    assert end.value.code == 0
    assert "<out>/<domain>/{train,val,test}.safetensors" in capsys.readouterr().out


def test_what_has_no_augmentation_is_not_told_to_switch_it_off(tmp_path, monkeypatch) -> None:
    """Texts were once refused over a key that nobody had typed."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def stop(found, draft):
        seen.append(found)
        raise ConfigError("far enough")

    monkeypatch.setattr("tl_lightning.training.fit.stored", stop)
    for name in ("text_csv", "dogs"):
        with pytest.raises(ConfigError, match="far enough"):
            extract_features._extract([f"data={name}", "out=made"])
    assert "augment" not in seen[0]["data"]
    assert seen[1]["data"]["augment"] == "none"
    with pytest.raises(ConfigError, match=r"data=vectors has no place .* vectors are features alr"):
        extract_features._extract(["data=vectors", "out=made"])
