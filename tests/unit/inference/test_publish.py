"""Publishing: the same predictions, nothing of this machine, and the report's figures."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from helpers import config
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.api.run import evaluate, load
from tl_lightning.checkpoints.published import NEEDED, is_published, read_published
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.cli import publish as cli
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.inference import model_card
from tl_lightning.inference import publish as publishing
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.private import without_places
from tl_lightning.inference.publish import publish, push_folder
from tl_lightning.training import fit as training
from tl_lightning.utils.text import flatten

SECRET = "s3cr3t-0123456789"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapted run with a baseline, in a folder whose name is to be found again."""
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    training.fit(config("model=dann", "tags=[private-tag]"), folder)
    training.fit(config("model=source_only"), folder / "baselines" / "source_only")
    return folder


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(run, tmp_path_factory.mktemp("out") / "digits", license="mit")


def vectors(root: Path) -> dict[str, Any]:
    """Return the configuration of a run on vectors that are standardised."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    for name in ("source", "target"):
        np.savez(root / f"{name}.npz", x=rng.normal(2, 3, size=(60, 6)) + 3 * y[:, None], y=y)
    from omegaconf import OmegaConf

    from tl_lightning.config.compose import compose

    arguments = [f"data.{name}.train={root / name}.npz" for name in ("source", "target")]
    found: Any = OmegaConf.to_container(
        compose(["data=vectors", "data.batch_size=16", "trainer.max_epochs=1", "model=dann",
                 *arguments]), resolve=True)  # fmt: skip
    plain = config()
    found |= {key: plain[key] for key in ("callbacks", "report", "checkpointing", "selection")}
    found["trainer"] |= {"accelerator": "cpu", "precision": "32-true"}
    return found | {"baselines": []}


def texts(root: Path) -> dict[str, Any]:
    """Return the configuration of a run on texts with an encoder in a folder of this machine."""
    tiny_bert(root / "bert")
    reviews(root / "texts", 14)
    return text_config(root / "bert", "data=text_folder", f"data.root={root / 'texts'}",
                       "model=fine_tuning")  # fmt: skip


def probe(root: Path) -> dict[str, Any]:
    """Return the configuration of a run whose learning rates depend on the data."""
    training.fit(config("model=source_only"), root / "first")
    return config("model=source_only", "head_init=probe", f"backbone.checkpoint={root / 'first'}",
                  "reference_batch_size=64")  # fmt: skip


KINDS = {
    "self_training": lambda root: config("model=self_training"),
    "prior": lambda root: config("model=mcc", "label_shift=prior"),
    "probe": probe,
    "dsbn": lambda root: config("model=domain_adaptation", "method=[dsbn]"),
    "vectors": vectors,
    "texts": texts,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_predicts_the_same(kind: str, tmp_path: Path) -> None:
    training.fit(KINDS[kind](tmp_path), tmp_path / "run")
    out = publish(tmp_path / "run", tmp_path / "out")
    before, after = Predictor.open(tmp_path / "run"), Predictor.open(out)
    inputs = publishing._any_inputs(before)
    assert torch.equal(inputs, publishing._any_inputs(after))
    for one, other in zip(before.outputs(inputs), after.outputs(inputs), strict=True):
        assert np.array_equal(one, other)
    assert before.temperature == after.temperature
    assert before.stored.input_state == after.stored.input_state
    assert before.record is not None
    assert after.record is not None
    for name in ("logits", "labels", "features"):
        assert np.array_equal(getattr(before.record, name), getattr(after.record, name))
    assert str(tmp_path) not in (out / "config.json").read_text()
    if kind == "self_training":
        assert any(key.startswith("teacher.") for key in before.stored.state_dict)


@pytest.mark.slow
def test_only_weights_that_predictions_need_are_published(run: Path, folder: Path) -> None:
    state = torch.load(checkpoint_of(run), weights_only=True)["state_dict"]
    assert any(key.startswith("methods.dann.") for key in state)
    found = read_published(folder).state_dict
    assert found.keys() == {key for key in state if key.startswith(NEEDED)}
    assert all(torch.equal(found[key], state[key]) for key in found)


def test_a_published_folder_is_loaded_from_python(run: Path, folder: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load(folder)(images), load(run)(images))
    assert is_published(folder)
    assert not is_published(run)


def test_nothing_of_this_machine_is_published(run: Path, tmp_path: Path, monkeypatch) -> None:
    """Planted: settings with paths, addresses and secrets, in a checkpoint and in its report."""
    stored = torch.load(checkpoint_of(run), weights_only=True)
    own = stored["hyper_parameters"]["config"]
    own["backbone"]["checkpoint"] = f"{Path.home()}/models/old.ckpt"
    own["data"]["root"] = "/mnt/patients"
    own["cache"]["dir"] = r"\\server\share\cache"
    own["logger"]["own"] = {"uri": "https://host-a.example/x", "api_key": SECRET}
    own["init"] = str(run)
    place = tmp_path / "run" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(stored, place / checkpoint_of(run).name)
    report = json.loads((run / "report.json").read_text())
    report["notes"] = [f"the backbone starts from {run}/x", "samples are in anna.png", "12 of 30"]
    (place.parent / "report.json").write_text(json.dumps(report))
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    out = publish(place.parent, tmp_path / "out")
    text = "".join((out / name).read_text() for name in ("README.md", "config.json"))
    for word in (str(Path.home()) + "/", str(run), run.parent.name, SECRET, "/mnt", "patients",
                 "host-a", "server", "private-tag", socket.gethostname(), "anna.png"):  # fmt: skip
        assert word not in text, word
    assert "12 of 30" in text
    for value in flatten(json.loads((out / "config.json").read_text())["config"]).values():
        assert not re.search(r"[/\\~]|://", str(value)), value


def test_places_are_left_out_of_settings() -> None:
    assert without_places({"a": ["/x/y", "s3://b/c", 1], "checkpoint": "../last.ckpt"}) == {
        "a": ["y", "c", 1], "checkpoint": None,
    }  # fmt: skip
    assert without_places({"name": "org/net", "other": "org/net"}) == {
        "name": "org/net", "other": "net",
    }  # fmt: skip
    assert without_places({"name": str(Path.home())}) == {"name": ""}


@pytest.mark.parametrize("planted", [SECRET, "home"])
def test_a_secret_that_remains_is_an_error_and_nothing_is_written(
    planted: str, run: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "anna"))
    author = SECRET if planted == SECRET else f"{tmp_path}/home/anna"
    words = "variable MY_API_TOKEN" if planted == SECRET else "the home folder"
    with pytest.raises(
        DataError, match=rf"nothing is published: README\.md would contain .*{words}"
    ):
        publish(run, tmp_path / "out", authors=[author])
    assert not list(tmp_path.iterdir())


def test_the_card_has_the_figures_of_the_report(run: Path, folder: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    card = ModelCard.load(folder / "README.md")
    found = {(one.dataset_config, one.metric_type): one.metric_value
             for one in card.data.eval_results}  # fmt: skip
    expected = {
        (domain, model_card.METRICS[metric]): report["metrics"][f"{domain}/test/{metric}"]
        for domain in ("source", "target") for metric in model_card.METRICS
    }  # fmt: skip
    assert found == expected
    assert card.data.license == "mit"
    assert card.data.library_name == "tl_lightning"
    assert card.data.pipeline_tag == "image-classification"
    text = card.text
    for domain in ("target", "source"):
        assert f"{100 * report['metrics'][f'{domain}/test/acc']:.1f} %" in text
    estimate = report["estimated_accuracy"]
    assert f"{100 * estimate['value']:.0f} % ({100 * estimate['low']:.0f} to" in text
    base = json.loads((run / "baselines" / "source_only" / "report.json").read_text())
    assert re.search(rf"\| source-only \| {100 * base['metrics']['target/test/acc']:.1f} %", text)
    assert f"seed {report['seed']}" in text
    assert f"`{report['selection']['rule']}`" in text
    assert "Pretraining overlap" in text
    assert not re.search(r"\{\{|\{%|None\b", text)


def test_a_checkpoint_that_was_not_selected_has_no_figures(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run" / "checkpoints"
    other.mkdir(parents=True)
    (other / "other.ckpt").write_bytes(checkpoint_of(run).read_bytes())
    card = ModelCard.load(publish(other / "other.ckpt", tmp_path / "out") / "README.md")
    assert card.data.eval_results is None
    assert "no figures are known for it" in card.text


def test_text_of_others_means_nothing_in_the_card() -> None:
    assert model_card.plain("<script>`x`|*a*\x1b[2J\nb") == (
        "&lt;script>\\`x\\`\\|\\*a\\*\\\\x1b\\[2J b"
    )


def test_without_source_outputs_predictions_are_the_same(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    out = publish(run, tmp_path / "out", source_outputs=False)
    assert (folder / "validation.safetensors").is_file()
    assert not (out / "validation.safetensors").exists()
    predictor, full = Predictor.open(out), Predictor.open(run)
    assert predictor.record is None
    assert predictor.temperature == full.temperature != 1.0
    assert "are not published" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["thresholds"].keys() == {
        "0.8", "0.9", "0.95", "0.99"
    }  # fmt: skip


def test_published_models_are_tested_on_data_that_are_given(run: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"published without the settings of its data; set data="):
        evaluate(folder)
    with pytest.raises(ConfigError, match=r"published without the settings of its data"):
        evaluate(folder, ["data.root=/x"])
    node = [one for one in config_of_data() if one.startswith("data")]
    found = evaluate(folder, node)["metrics"]
    report = json.loads((run / "report.json").read_text())
    assert found == {k: v for k, v in report["metrics"].items() if "/test/" in k}


def config_of_data() -> list[str]:
    from conftest import TINY

    return list(TINY)


def test_a_run_starts_from_a_published_model(folder: Path, tmp_path: Path) -> None:
    report = training.fit(config("model=source_only", f"init={folder}"), tmp_path / "run")
    assert report["metrics"]["source/test/acc"] > 0
    assert report["config"]["init"] == str(folder)


# -- errors --------------------------------------------------------------------------------------
def test_out_is_a_new_folder(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match=r"out=.*full exists and is not an empty folder"):
        publish(run, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert is_published(publish(run, tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"is published already; set push=true to upload it"):
        publish(folder, tmp_path / "new")
    with pytest.raises(DataError, match=r"cannot write out=.*: Not a directory; set out=<"):
        publish(run, tmp_path / "full" / "x" / "y")


def test_a_folder_that_predicts_otherwise_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch
) -> None:
    original = publishing.publishable

    def changed(*arguments: Any) -> Any:
        model = original(*arguments)
        model.state_dict["backbone.blocks.0.0.weight"].mul_(1.01)
        return model

    monkeypatch.setattr(publishing, "publishable", changed)
    with pytest.raises(CheckpointError, match=r"the published form of .* would give other outputs"):
        publish(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "config.json": r"is not a published model|was edited or written by another version",
    "model.safetensors": r"is damaged: its content does not match the checksum",
    "validation.safetensors": r"is damaged",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\0" * 40
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=DAMAGE[name]):
        read_published(tmp_path)
    if name != "config.json":
        (tmp_path / name).unlink()
        with pytest.raises(CheckpointError, match=rf"has no {name}; copy or download all of"):
            read_published(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"format": "other"}, r"is not a model published by tl_lightning, since its config\.json has"),
    ({"version": 9}, r"has version 9 of the format, .* install tl_lightning"),
    ({"classes": 3}, r"was edited or written by another version"),
    ({"config": []}, r"was edited or written by another version \(TypeError: config is not"),
    ({"sha256": {"../../x": ""}}, r"'../../x' is not a file of a published model"),
    ({"sha256": {}}, r"was edited or written by another version \(KeyError"),
])  # fmt: skip
def test_an_edited_config_is_an_error(
    change: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    found = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(found | change))
    with pytest.raises(CheckpointError, match=words):
        read_published(tmp_path)


def test_weights_that_are_no_safetensors(folder: Path, tmp_path: Path) -> None:
    import hashlib

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    found = json.loads((tmp_path / "config.json").read_text())
    found["sha256"]["model.safetensors"] = hashlib.sha256(b"no tensors").hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        read_published(tmp_path)


# -- upload --------------------------------------------------------------------------------------
class Hub:
    """Takes the place of huggingface_hub.HfApi and records what is asked of it."""

    public, fails = False, False
    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        Hub.calls = []

    def create_repo(self, repo: str, **options: Any) -> None:
        """Record a call."""
        self.calls.append(("create_repo", {"repo": repo, **options}))

    def repo_info(self, repo: str) -> Any:
        """Return whether the model is private."""
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **options: Any) -> Any:
        """Record a call, or fail as without a network."""
        if self.fails:
            raise OSError("no route to host")
        self.calls.append(("upload_folder", options))
        return SimpleNamespace(repo_url="https://hub.example/me/digits")


@pytest.fixture
def hub(monkeypatch) -> type[Hub]:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    monkeypatch.setattr(Hub, "public", False)
    monkeypatch.setattr(Hub, "fails", False)
    return Hub


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["tl-publish", *arguments])
    cli.publish()


def test_a_folder_is_uploaded_on_demand(folder: Path, hub, monkeypatch, capsys) -> None:
    command(monkeypatch, f"checkpoint={folder}", "repo=me/digits", "push=true")
    (created, first), (uploaded, second) = hub.calls
    assert (created, uploaded) == ("create_repo", "upload_folder")
    assert first == {"repo": "me/digits", "private": True, "exist_ok": True}
    assert second["folder_path"] == folder
    assert set(second["allow_patterns"]) >= {file.name for file in folder.iterdir()}
    assert "uploaded: https://hub.example/me/digits" in capsys.readouterr().out


def test_nothing_is_uploaded_unless_asked_for(
    run: Path, hub, monkeypatch, tmp_path, capsys
) -> None:
    hub()
    command(monkeypatch, f"checkpoint={run}", f"out={tmp_path / 'out'}", "repo=me/digits")
    assert hub.calls == []
    assert "not uploaded; set push=true" in capsys.readouterr().out


def test_a_private_model_is_not_pushed_to_a_public_one(folder: Path, hub, monkeypatch) -> None:
    monkeypatch.setattr(hub, "public", True)
    with pytest.raises(ConfigError, match=r"repo=me/x exists and is public, but private=true"):
        push_folder(folder, "me/x", private=True)
    push_folder(folder, "me/x", private=False)


def test_an_upload_that_fails_leaves_the_folder(folder: Path, hub, monkeypatch) -> None:
    monkeypatch.setattr(hub, "fails", True)
    with pytest.raises(
        DataError, match=r"upload to repo=me/x failed \(OSError: no route to host\)"
    ):
        push_folder(folder, "me/x", private=True)
    assert is_published(folder)


@pytest.mark.parametrize(("arguments", "words"), [
    (["checkpoint={run}"], "out is missing; set out=<new folder>"),
    (["out=x"], "checkpoint is missing"),
    (["checkpoint={run}", "outt=x"], "outt is not an option; did you mean 'out'?"),
    (["checkpoint={run}", "out=x", "push=yes"], "push=yes is not true or false"),
    (["checkpoint={run}", "out=x", "push=true"], "needs a name on the hub, got repo=None"),
    (["checkpoint={run}", "out=x", "push=true", "repo=me"], "needs a name on the hub, got repo=me"),
    (["checkpoint={run}", "out=x", "push=true", "repo=a/b"], "and this machine has none; run"),
    (["checkpoint={run}/none", "out=x"], "is neither a checkpoint nor the folder of a run"),
])  # fmt: skip
def test_options_are_checked_before_work_starts(
    arguments: list[str], words: str, run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, *(one.format(run=run) for one in arguments))
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_published_folder_is_not_published_again(folder: Path, hub, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, f"checkpoint={folder}", "repo=a/b", "push=true", "out=x")
    assert "out=x has no effect" in capsys.readouterr().err
