"""A stored configuration builds only the classes named in conf/."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from conftest import REPO
from helpers import config
from tl_lightning.config.allowlist import named, stored_problems
from tl_lightning.config.compose import compose
from tl_lightning.config.instantiate import Node, find_class
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.evaluation.nodes import stored_node
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
@pytest.mark.parametrize("place", ["head", "backbone", "optimizer", "method.dann"])
def test_class_not_named_in_the_config_group_is_refused(target, place) -> None:
    assert target not in named(place.split(".")[0])
    if place == "method.dann":
        problems = stored_problems({"method": {"dann": {"_target_": target}}})
    else:
        problems = stored_problems({place: {"_target_": target, "path": "x"}})
    assert len(problems) == 1
    message = f"{place}._target_={target} is not a class named in conf/{place.split('.')[0]}/"
    assert problems[0].startswith(message)
    assert f"set allow=[{target}] if you trust it" in problems[0]


def test_refused_class_is_not_imported() -> None:
    before = set(sys.modules)
    stored_problems({"head": {"_target_": "antigravity.Thing"}, "data": {"_target_": "this.That"}})
    assert not {"antigravity", "this"} & (set(sys.modules) - before)


def test_nested_nodes_are_checked() -> None:
    node = {"_target_": "lightning.Trainer", "callbacks": [{"_target_": "os.system"}]}
    assert "trainer.callbacks.0._target_=os.system" in stored_problems({"trainer": node})[0]
    lora = {"_target_": "lightning.pytorch.loggers.WandbLogger"}
    backbone = {"_target_": "tl_lightning.backbones.small.ConvNet", "lora": lora}
    assert "backbone.lora._target_=" in stored_problems({"backbone": backbone})[0]


def test_class_allowed_by_its_full_name_may_be_built() -> None:
    node = {"head": {"_target_": "torch.nn.Linear"}}
    assert not stored_problems(node, ["torch.nn.Linear"])
    assert stored_problems(node, ["torch"]), "the package alone must not be enough"
    assert find_class("collections.OrderedDict", "head", ["collections.OrderedDict"])[1] == ""
    assert find_class("collections.Counter", "head", ["collections.OrderedDict"])[1]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "adamw.AdamW"])
def test_optimizers_of_torch_may_be_built(name) -> None:
    assert not stored_problems({"optimizer": {"_target_": f"torch.optim.{name}"}})


@pytest.mark.slow
def test_every_choice_in_conf_can_be_loaded_from_a_checkpoint() -> None:
    from omegaconf import OmegaConf

    for group in ("backbone", "head", "loss", "optimizer", "scheduler", "model", "logger"):
        for path in sorted((REPO / "conf" / group).glob("*.yaml")):
            found = OmegaConf.to_container(compose([f"{group}={path.stem}"]), resolve=True)
            assert not stored_problems(found), path.name


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


def test_malicious_checkpoint_is_refused_and_its_payload_not_executed(trained, tmp_path) -> None:
    mark = tmp_path / "mark"
    node = {"_target_": "subprocess.Popen", "args": ["touch", str(mark)]}
    path = tampered(trained, tmp_path, "head", node, allow=["subprocess", "subprocess.Popen"])
    for use in (loading.load, lambda p: evaluation.evaluate(p, None, None)):
        with pytest.raises(ConfigError, match=r"head\._target_=subprocess\.Popen is not a class n"):
            use(path)
    assert not mark.exists()


def test_classes_that_a_checkpoint_allows_itself_are_not_imported(trained, tmp_path) -> None:
    """``allow`` is not checked as a node, so its own nodes must not be looked up."""
    allow = ["this.That", {"_target_": "this.That"}]
    path = tampered(trained, tmp_path, "tags", [], allow=allow)
    evaluation.evaluate(path)
    assert "this" not in sys.modules


def test_function_is_refused_even_if_allowed(trained, tmp_path) -> None:
    path = tampered(trained, tmp_path, "head", {"_target_": "os.system", "command": "true"})
    with pytest.raises(ConfigError, match=r"os\.system is not a class"):
        loading.load(path, allow=["os.system"])


def test_nodes_that_adapt_and_evaluate_reuse_are_checked(trained, tmp_path) -> None:
    path = tampered(trained, tmp_path, "trainer", {"_target_": "torch.hub.load", "max_epochs": 1})
    with pytest.raises(ConfigError, match=r"trainer\._target_=torch\.hub\.load is not a class n"):
        stored_node("trainer", str(path), [], whole=True)


def test_loading_a_checkpoint_downloads_nothing(trained, tmp_path, monkeypatch) -> None:
    """A stored URL of weights is ignored, as all weights are in the file."""
    stored = torch.load(trained, weights_only=True)
    node = stored["hyper_parameters"]["config"]["backbone"]
    monkeypatch.setattr("urllib.request.urlopen", None)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    path = tampered(trained, tmp_path, "backbone", node, init="http://localhost/x.ckpt")
    loading.load(path)


def test_restored_backbone_settings_must_not_contain_classes(trained, tmp_path) -> None:
    """These settings are not part of the configuration and are checked separately."""
    stored = torch.load(trained, weights_only=True)
    stored["restored_by"] = {"network": {"_target_": "torch.nn.Linear", "in_features": 1}}
    torch.save(stored, tmp_path / "tampered.ckpt")
    with pytest.raises(ConfigError, match=r"restored_by\.network\._target_=torch\.nn\.Linear"):
        loading.load(tmp_path / "tampered.ckpt")


def test_warm_start_downloads_nothing(trained, monkeypatch) -> None:
    """adapt.py downloads nothing for the checkpoint that it adapts."""
    made: list[Node] = []
    monkeypatch.setattr(Node, "build", lambda node, **given: made.append(node))
    run = check(config())
    params = {"name": "resnet18", "pretrained": True, "weights": "http://x"}
    nodes = {**run.nodes, "backbone": replace(run.backbone, params=params)}
    building._backbone(replace(run, init=str(trained), nodes=nodes), True, {})
    assert (made[0].params["pretrained"], made[0].params["weights"]) == (False, None)
    building._backbone(replace(run, init=None, nodes=nodes), True, {})
    assert made[1].params["pretrained"] is True
    assert made[1].params["weights"] == "http://x"
