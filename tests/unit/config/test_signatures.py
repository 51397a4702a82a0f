"""The check of a configuration: every fault at once, with the nearest valid names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest
import torch
from hydra.errors import HydraException

from conftest import REPO
from helpers import config
from tl_lightning.config.compose import compose
from tl_lightning.config.instantiate import ALLOWED, find_class
from tl_lightning.config.signatures import check_nodes, fits
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


def faults(*overrides: str, **changes) -> str:
    cfg = config(*overrides)
    for path, value in changes.items():
        node = cfg
        *parents, last = path.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    with pytest.raises(ConfigError) as caught:
        validation.check(cfg)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "hint", "fine"),
    [
        (1, float, True), ("abc", float, False), (True, float, False), (1.5, int, False),
        (None, int | None, True), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        (True, Literal[1], False), ([1, 2], list[int], True), (["x"], Sequence[int], False),
        ("x", Sequence[int], False), ({}, Mapping[str, int], True), ([], Mapping, False),
        ("x", float | torch.Tensor, False), ({"_target_": "x"}, int, True), ("x", str, True),
    ],
)  # fmt: skip
def test_fits(value, hint, fine) -> None:
    assert fits(value, hint) is fine


def test_a_text_for_a_number_is_named() -> None:
    assert "optimizer.lr=abc is not a number" in faults(optimizer__lr="abc")


def test_all_faults_at_once() -> None:
    words = faults(optimizer__lr="abc", head__dropout="no", seed="x", selection="sorce_val")
    assert words.count("\n") == 3
    assert "head.dropout=no is not a number" in words
    assert "seed=x is not a whole number; type seed=0" in words
    assert "did you mean 'source_val'?" in words


def test_unknown_setting_names_the_nearest() -> None:
    cfg = config()
    cfg["head"]["dropuot"] = 0.1
    with pytest.raises(
        ConfigError, match=r"head.dropuot is not a setting of Head; did you mean 'drop"
    ):
        validation.check(cfg)


def test_missing_setting() -> None:
    cfg = config()
    del cfg["head"]["dropout"]
    with pytest.raises(ConfigError, match=r"head.dropout is missing; Head needs it"):
        validation.check(cfg)


def test_dann_without_a_target_stops_before_data() -> None:
    assert "model=dann adapts to a target, but data.target=null" in faults("data.target=null")


def test_selection_without_a_target() -> None:
    words = faults("data.target=null", "model=source_only", "selection=im")
    assert "selection=im scores target pictures, but data.target=null" in words


def test_adapter_on_a_model_that_takes_none() -> None:
    words = faults("model=source_only", "adapter=[dann]")
    assert "model=source_only takes no adapter, got [dann]" in words


def test_gpu_on_a_machine_without() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = faults("trainer=gpu", "trainer.devices=7")
    assert "trainer.devices=7, but this machine has no GPU" in words


def test_bracket_words() -> None:
    for wrong in ("[target]", "yes_please", "[[oracle]]"):
        words = faults(f"bracket={wrong}")
        assert "is neither auto, true or false nor a list of baselines; type bracket=true" in words
        assert "or bracket=[source_only,joint_bn,oracle]" in words


def test_a_setting_that_nothing_reads_is_refused() -> None:
    assert "seeds is no setting; did you mean 'seed'?" in faults("+seeds=3")
    words = faults("+checkpoint.keep=3", "+trainer_max_epochs=3")
    assert "checkpoint.keep is no setting; did you mean 'keep_last'?" in words
    assert "trainer_max_epochs is no setting" in words
    assert "interpolation: _trainer_max_epochs" in words


def test_names_that_begin_with_an_underscore_are_the_users_own() -> None:
    checked = validation.check(config("+_rate=0.25", "optimizer.lr=${_rate}"))
    assert checked["optimizer"]["lr"] == 0.25


@pytest.mark.parametrize(
    ("typed", "way"),
    [
        ("cache=off", "type cache.images=<value>, cache.features=<value>"),
        ("report=false", "type report.samples=<value>"),
        ("checkpoint=a.ckpt", "type resume=<run folder or .ckpt>"),
    ],
)
def test_one_value_for_a_whole_node_is_a_sentence(typed: str, way: str) -> None:
    words = faults(typed)
    assert "is one value for several settings" in words
    assert way in words


@pytest.mark.parametrize(
    "typed",
    [
        "data.batch_size=0", "data.eval_batch_size=0", "data.steps_per_epoch=0",
        "data.num_workers=-1", "trainer.max_epochs=0", "trainer.max_epochs=-2",
        "trainer.accumulate_grad_batches=0", "optimizer.lr=-1",
        "+optimizer.weight_decay=-0.1",
    ],
)  # fmt: skip
def test_numbers_that_no_run_can_have_are_named(typed: str) -> None:
    key, value = typed.lstrip("+").split("=")
    words = faults(typed.replace("+", "++"))
    assert f"{key}={value}" in words
    assert f"; type {key}=" in words


def test_channels_last_words() -> None:
    assert "channels_last=7 is neither auto nor true or false" in faults(channels_last=7)


@pytest.mark.parametrize("target", ["os.system", "builtins.open", "subprocess.run"])
def test_classes_outside_the_allowed_packages_are_refused(target: str) -> None:
    found, fault = find_class(target, "model")
    assert found is None
    assert "is outside the allowed packages" in fault


@pytest.mark.parametrize("target", ["torch.load", "torch.hub.load", "torch.nope"])
def test_what_is_no_class_is_refused(target: str) -> None:
    assert "is no class" in find_class(target, "model")[1]


def test_module_that_cannot_be_imported() -> None:
    assert "cannot be imported" in find_class("torch.nn.nope.Nope", "model")[1]


def test_allowing_a_package() -> None:
    node = {"x": {"_target_": "collections.Counter"}}
    assert "allow=[collections.Counter]" in check_nodes(node, {})[0]
    assert check_nodes(node, {}, [*ALLOWED, "collections"]) == []


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (REPO / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={name}"
        for group in (
            "backbone",
            "head",
            "loss",
            "model",
            "optimizer",
            "phases",
            "scheduler",
            "callbacks",
            "data",
        )
        for name in choices(group)
    ]
    + [f"regularizer=[{name}]" for name in choices("regularizer")]
    + ["trainer=cpu", "trainer=ddp", "logger=csv", "logger=tensorboard"],
)
def test_every_choice_in_conf_passes_the_check(override: str) -> None:
    from omegaconf import OmegaConf

    # Data sets that start without a target are refused by models that adapt.
    more = ["model=source_only"] if override.startswith("data=") else []
    more += ["init=run"] if override == "model=source_free" else []
    # Backbones stand behind data of their kind.
    kinds = {"hf": "imdb", "bert_base": "imdb", "minilm": "imdb", "vector_net": "vectors"}
    if override.startswith("backbone=") and override.partition("=")[2] in kinds:
        more += [f"data={kinds[override.partition('=')[2]]}", "model=source_only"]
    plain = OmegaConf.to_container(compose([override, *more]), resolve=True)
    validation.check(plain)


def test_auto_is_resolved_to_what_was_run() -> None:
    from omegaconf import OmegaConf

    checked = validation.check(OmegaConf.to_container(compose([]), resolve=True))
    assert checked["trainer"]["precision"] != "auto"
    assert checked["trainer"]["accelerator"] in ("cpu", "gpu")
    assert checked["channels_last"] in (True, False)


@pytest.mark.parametrize(
    ("overrides", "fused"),
    [
        ((), True),
        (("trainer.precision=bf16-mixed",), True),
        (("trainer.gradient_clip_val=1",), True),
        (("trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed"), False),
    ],
)
def test_fused_where_gradients_can_still_be_clipped(overrides, fused, tmp_path) -> None:
    settings = config("model=source_only", "trainer.max_epochs=1", *overrides)
    assert validation.check(settings)["optimizer"]["fused"] is fused
    training.fit(settings, tmp_path)


def test_scaled_gradients_are_unscaled_before_anything_looks_at_them() -> None:
    """A fused optimizer does so within its step: norms of gradients were logged 65,536 times."""
    settings = config("model=source_only", "trainer.precision=16-mixed")
    assert validation.check(settings)["optimizer"]["fused"] is False


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_recipe_passes_the_check(name: str) -> None:
    # Vectors have no place where they usually lie.
    files = ["data.target.train=kitchen.svmlight"] if name == "dann_amazon" else []
    validation.check(compose([f"experiment={name}", "trainer=cpu", *files]))


def test_a_recipe_that_is_not_there_is_no_recipe_left_out() -> None:
    with pytest.raises(HydraException, match=r"Could not find 'experiment/lineer_probe'"):
        compose(["experiment=lineer_probe"])
