"""What is read from a file builds the classes that conf/ names, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from conftest import REPO
from helpers import config
from tl_lightning.cli.common import part_of
from tl_lightning.config.allowlist import named, stored_faults
from tl_lightning.config.compose import compose
from tl_lightning.config.instantiate import find_class
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

HOSTILE = [
    "torch.load", "torch.serialization.load", "torch.hub.load", "torch.utils.model_zoo.load_url",
    "torch.utils.cpp_extension.BuildExtension", "torch.utils.data.DataLoader", "torch.nn.Linear",
    "torch.optim.Optimizer.load_state_dict", "torch.optim.os.system",
    "torch.optim.lr_scheduler.StepLR",
    "os.system", "builtins.open", "builtins.exec", "subprocess.Popen", "lightning.Trainer",
    "lightning.pytorch.cli.LightningCLI", "tl_lightning.cli.Path", "tl_lightning.cli.train.train",
    "tl_lightning.models.FineTuning", "antigravity.Thing", "",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("place", ["head", "backbone", "optimizer", "adapter.dann"])
def test_what_conf_does_not_name_for_a_place_is_refused(target, place) -> None:
    assert target not in named(place.split(".")[0])
    if place == "adapter.dann":
        faults = stored_faults({"adapter": {"dann": {"_target_": target}}})
    else:
        faults = stored_faults({place: {"_target_": target, "path": "x"}})
    assert len(faults) == 1
    words = f"{place}._target_={target} is no class that conf/{place.split('.')[0]}/ names"
    assert faults[0].startswith(words)
    assert f"type allow=[{target}] if you trust it" in faults[0]


def test_nothing_is_imported_to_refuse_it() -> None:
    before = set(sys.modules)
    stored_faults({"head": {"_target_": "antigravity.Thing"}, "data": {"_target_": "this.That"}})
    assert not {"antigravity", "this"} & (set(sys.modules) - before)


def test_nodes_deep_down_are_seen() -> None:
    node = {"_target_": "lightning.Trainer", "callbacks": [{"_target_": "os.system"}]}
    assert "trainer.callbacks.0._target_=os.system" in stored_faults({"trainer": node})[0]
    lora = {"_target_": "lightning.pytorch.loggers.WandbLogger"}
    backbone = {"_target_": "tl_lightning.backbones.small.ConvNet", "lora": lora}
    assert "backbone.lora._target_=" in stored_faults({"backbone": backbone})[0]


def test_what_the_user_names_in_full_may_be_built() -> None:
    node = {"head": {"_target_": "torch.nn.Linear"}}
    assert not stored_faults(node, ["torch.nn.Linear"])
    assert stored_faults(node, ["torch"]), "a package is no full name"
    assert find_class("collections.OrderedDict", "head", ["collections.OrderedDict"])[1] == ""
    assert find_class("collections.Counter", "head", ["collections.OrderedDict"])[1]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "adamw.AdamW"])
def test_every_optimizer_of_torch_may_be_built(name) -> None:
    assert not stored_faults({"optimizer": {"_target_": f"torch.optim.{name}"}})


def test_everything_that_a_run_can_choose_can_be_loaded_again() -> None:
    """Each group's choices, composed, pass: else a run could not read its own checkpoint."""
    from omegaconf import OmegaConf

    for group in ("backbone", "head", "loss", "optimizer", "scheduler", "model", "logger"):
        for path in sorted((REPO / "conf" / group).glob("*.yaml")):
            found = OmegaConf.to_container(compose([f"{group}={path.stem}"]), resolve=True)
            assert not stored_faults(found), path.name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    report = training.fit(config("trainer.max_epochs=1"), folder)
    return folder / report["selection"]["checkpoint"]


def tampered(trained, tmp_path, group: str, node: dict, **top):
    stored = torch.load(trained, weights_only=True)
    stored["hyper_parameters"]["config"][group] = node
    stored["hyper_parameters"]["config"].update(top)
    path = tmp_path / "tampered.ckpt"
    torch.save(stored, path)
    return path


def test_a_hostile_checkpoint_is_refused_and_its_payload_not_run(trained, tmp_path) -> None:
    mark = tmp_path / "mark"
    node = {"_target_": "subprocess.Popen", "args": ["touch", str(mark)]}
    path = tampered(trained, tmp_path, "head", node, allow=["subprocess", "subprocess.Popen"])
    for use in (loading.load, lambda p: evaluation.evaluate(p, None, None)):
        with pytest.raises(ConfigError, match=r"head\._target_=subprocess\.Popen is no class that"):
            use(path)
    assert not mark.exists()


def test_a_function_is_refused_even_if_it_is_allowed(trained, tmp_path) -> None:
    path = tampered(trained, tmp_path, "head", {"_target_": "os.system", "command": "true"})
    with pytest.raises(ConfigError, match=r"os\.system is no class"):
        loading.load(path, allow=["os.system"])


def test_the_nodes_that_adapt_and_evaluate_take_over_are_judged_too(trained, tmp_path) -> None:
    path = tampered(trained, tmp_path, "trainer", {"_target_": "torch.hub.load", "max_epochs": 1})
    with pytest.raises(ConfigError, match=r"trainer\._target_=torch\.hub\.load is no class that"):
        part_of("trainer", str(path), [], whole=True)


def test_nothing_is_fetched_for_a_checkpoint(trained, tmp_path, monkeypatch) -> None:
    """A stored address of weights is not followed: all weights are in the file."""
    stored = torch.load(trained, weights_only=True)
    node = stored["hyper_parameters"]["config"]["backbone"]
    monkeypatch.setattr("urllib.request.urlopen", None)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    path = tampered(trained, tmp_path, "backbone", node, init="http://localhost/x.ckpt")
    loading.load(path)


def test_what_a_checkpoint_says_anew_of_its_backbone_builds_nothing(trained, tmp_path) -> None:
    """It takes another way than the configuration does, past what judges that."""
    stored = torch.load(trained, weights_only=True)
    stored["restored_by"] = {"network": {"_target_": "torch.nn.Linear", "in_features": 1}}
    torch.save(stored, tmp_path / "tampered.ckpt")
    with pytest.raises(ConfigError, match=r"restored_by\.network\._target_=torch\.nn\.Linear"):
        loading.load(tmp_path / "tampered.ckpt")


def test_nor_for_a_run_that_starts_from_one(trained, monkeypatch) -> None:
    """So adapt.py fetches nothing for the checkpoint that it adapts."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(building, "make", lambda node, config, **given: made.append(node))
    node = {"_target_": "x", "name": "resnet18", "pretrained": True, "weights": "http://x"}
    building._backbone({"backbone": node, "init": str(trained)}, True, {})
    assert (made[0]["pretrained"], made[0]["weights"]) == (False, None)
    building._backbone({"backbone": node, "init": None}, True, {})
    assert made[1]["pretrained"] is True
