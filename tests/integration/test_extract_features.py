"""tl-extract-features: stored features, manifest and error messages."""

from __future__ import annotations

import json
import os
import signal
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
from tl_lightning.utils.files import run_lock
from tl_lightning.utils.owned import MARK, is_owned, remove_drafts


@pytest.mark.slow
def test_features_labels_and_manifest(tmp_path) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    done = command("extract_features", [*TINY, cache, "out=made/features"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"features: {tmp_path / 'made' / 'features'}"
    out = tmp_path / "made" / "features"
    manifest = json.loads((out / "manifest.json").read_text())
    assert [path.name for path in out.parent.iterdir()] == ["features"], "a draft was left behind"
    assert manifest["classes"] == list("0123456789")
    parts = training.build(validation.check(config("model=feature_extraction")), tmp_path)
    assert manifest["names"].keys() == parts.data.counts().keys()
    for key, names in manifest["names"].items():
        domain, _, name = key.partition("/")
        split = parts.data.found[domain].splits()[name]
        stored = load_file(out / domain / f"{name}.safetensors")
        assert names == list(split.names)
        assert np.array_equal(stored["labels"].numpy(), split.labels)
        images = parts.data.dataset(domain, split, train=False)
        assert isinstance(images, ArrayDataset)
        expected = parts.module.eval().extract(images.inputs)
        assert stored["features"].dtype == torch.float32
        assert torch.allclose(stored["features"], expected, atol=1e-5)
    again = command("extract_features", [*TINY, cache, "out=made/features"], tmp_path)
    assert again.returncode == 2
    assert "exists and is not empty; set out=<another folder>" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=digits"], "out is missing; set out=<folder for the features>"),
        (["out=x", "dtype=int8"], "dtype=int8 must be float32 or stored; set dtype=float32"),
        (["out=x", "model=dann"], "model=dann is not supported by .*; omit model"),
        (["out=x", "outt=3"], "outt is not a setting; did you mean 'out'"),
    ],
)
def test_invalid_arguments(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        extract_features._extract(arguments)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_output_files(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["extract_features.py", "--help"])
    with pytest.raises(SystemExit) as end:
        extract_features.extract()
    assert end.value.code == 0
    assert "<out>/<domain>/{train,val,test}.safetensors" in capsys.readouterr().out


def test_augmentation_is_disabled_only_for_data_that_have_it(tmp_path, monkeypatch) -> None:
    """Texts were once refused because of data.augment, which the user had not set."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def stop(run, draft):
        seen.append(run.section("data"))
        raise ConfigError("stopped before extraction")

    monkeypatch.setattr("tl_lightning.training.fit.extract", stop)
    for name in ("text_csv", "dogs"):
        with pytest.raises(ConfigError, match="stopped before extraction"):
            extract_features._extract([f"data={name}", "out=made"])
    assert "augment" not in seen[0]
    assert seen[1]["augment"] == "none"
    with pytest.raises(ConfigError, match=r"data=vectors is not supported: vectors are features a"):
        extract_features._extract(["data=vectors", "out=made"])


def test_drafts_of_killed_extractions_are_removed(tmp_path) -> None:
    left, running, foreign = (tmp_path / f".features.{name}.tmp" for name in "abc")
    for folder in (left, running, foreign):
        (folder / "source").mkdir(parents=True)
    for folder in (left, running):
        (folder / MARK).touch()
    with run_lock(running):
        remove_drafts(tmp_path / "features")
    assert sorted(tmp_path.iterdir()) == [running, foreign]


@pytest.mark.slow
def test_killed_extraction_is_repeated(tmp_path, monkeypatch) -> None:
    arguments = [*TINY, f"cache.dir={tmp_path / 'cache'}", f"out={tmp_path / 'made' / 'features'}"]
    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(
                extract_features, "_write", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            )
            extract_features._extract(arguments)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = (tmp_path / "made").iterdir()
    assert is_owned(left)
    extract_features._extract(arguments)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["features"]
    found = sorted(path.name for path in (tmp_path / "made" / "features").iterdir())
    assert found == ["manifest.json", "source", "target"]
