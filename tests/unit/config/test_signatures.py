"""Check of a configuration: all problems are reported at once, with the nearest valid names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import pytest
import torch
from hydra.errors import HydraException

from config_values import _REQUIRES
from conftest import REPO
from helpers import config, plain_config
from tl_lightning.config.compose import compose
from tl_lightning.config.hints import describe, fits
from tl_lightning.config.instantiate import ALLOWED, find_class, nodes_of
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


def problems(*overrides: str, **changes) -> str:
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
    ("value", "hint", "expected"),
    [
        (1, float, True), ("abc", float, False), (True, float, False), (1.5, int, False),
        (None, int | None, True), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        (True, Literal[1], False), ([1, 2], list[int], True), (["x"], Sequence[int], False),
        ("x", Sequence[int], False), ({}, Mapping[str, int], True), ([], Mapping, False),
        ("x", float | torch.Tensor, False), ({"_target_": "x"}, int, True), ("x", str, True),
    ],
)  # fmt: skip
def test_fits(value, hint, expected) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "description"),
    [
        (Sequence[int], "a list of integers"),
        (Sequence[Mapping[str, int]], "a list of mappings"),
        (list[str | int] | None, "a list (each item a string or an integer) or null"),
        (Literal["auto"] | bool, "auto, true or false"),
        (Literal[32, 16] | Literal["16", "bf16"] | None, "32, 16, bf16 or null"),
    ],
)
def test_description_of_a_type_hint(hint, description) -> None:
    assert describe(hint) == description


def test_string_instead_of_a_number() -> None:
    assert "optimizer.lr=abc is not a number" in problems(optimizer__lr="abc")


def test_all_problems_are_reported_at_once() -> None:
    message = problems(optimizer__lr="abc", head__dropout="no", seed="x", selection="sorce_val")
    assert message.count("\n") == 3
    assert "head.dropout=no is not a number" in message
    assert "optimizer.lr=abc is not a number" in message
    assert "seed=x is not an integer in [0, 4294967295]; set seed=<value>" in message
    assert "selection=sorce_val is not a selection rule; did you mean 'source_val'?" in message


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
    with pytest.raises(ConfigError, match=r"head.dropout is missing, but Head requires it; set h"):
        validation.check(cfg)


def test_adaptation_without_a_target() -> None:
    assert (
        "model=dann adapts to a target, but data.target=null; set data.target.root=<folder>, or "
        "keep the dataset's default data.target, or set model=source_only"
    ) in problems("data.target=null")
    source_free = problems("data.target=null", "model=source_free", "method=[shot]", "init=x")
    assert (
        "model=shot adapts to a target, but data.target=null; set data.target.root=<folder>, or "
        "keep the dataset's default data.target"
    ) in source_free


def test_selection_without_a_target() -> None:
    message = problems("data.target=null", "model=source_only", "selection=im")
    assert "selection=im scores target samples, but data.target=null" in message


def test_method_on_a_model_without_adaptation() -> None:
    message = problems("model=source_only", "method=[dann]")
    assert "model=source_only does not support adaptation methods, got method=[dann]" in message


def test_gpu_on_a_machine_without() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = problems("trainer=gpu", "trainer.devices=7")
    assert "trainer.devices=7, but this machine has no GPU" in message


def test_invalid_baselines() -> None:
    for wrong in ("[target]", "yes_please", "[[oracle]]"):
        message = problems(f"baselines={wrong}")
        assert "is not auto, true, false or a list (each item one of" in message
        assert "source_only, joint_bn, oracle); set baselines=<value>" in message


def test_unknown_setting_is_refused() -> None:
    assert "seeds is not a setting; did you mean 'seed'?" in problems("+seeds=3")
    message = problems("+checkpointing.keep=3", "+trainer_max_epochs=3")
    assert "checkpointing.keep is not a setting; did you mean 'keep_last'?" in message
    assert "trainer_max_epochs is not a setting" in message
    assert "must start with an underscore: _trainer_max_epochs" in message


def test_names_starting_with_an_underscore_are_allowed() -> None:
    checked = validation.check(config("+_rate=0.25", "optimizer.lr=${_rate}"))
    assert checked.lr == 0.25


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("cache=off", "set cache.images=<value>, cache.features=<value>"),
        ("report=false", "set report.samples=<value>"),
        ("checkpointing=a.ckpt", "set resume=<run folder or .ckpt>"),
    ],
)
def test_single_value_for_a_node(override: str, hint: str) -> None:
    message = problems(override)
    key, _, value = override.partition("=")
    assert f"{key}={value.replace('false', 'False')} is a single value for a group of" in message
    assert hint in message


@pytest.mark.parametrize(
    "override",
    [
        "data.batch_size=0", "data.eval_batch_size=0", "data.steps_per_epoch=0",
        "data.num_workers=-1", "trainer.max_epochs=0", "trainer.max_epochs=-2",
        "trainer.accumulate_grad_batches=0", "trainer.check_val_every_n_epoch=0",
        "trainer.log_every_n_steps=-1", "trainer.gradient_clip_val=-1", "optimizer.lr=-1",
        "optimizer.weight_decay=-0.1", "++optimizer.momentum=-0.1",
    ],
)  # fmt: skip
def test_number_below_its_minimum(override: str) -> None:
    key, value = override.lstrip("+").split("=")
    message = problems(override)
    assert f"{key}={value} " in message
    assert re.search("(is not (an integer|a number) of|must be) at least -?[01]", message)
    assert f"; set {key}=" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("++backbone.lora=5", "a mapping or null"),
        ("++scheduler.interval=hour", "one of epoch, step"),
        ("trainer.precision=half", "64, 32, 16, transformer-engine"),
        ("compile=fast", "inductor, cudagraphs, aot_eager, eager, true or false"),
        ("layer_decay=0", "a number in (0, 1]"),
        ("track_target=1", "true or false"),
    ],
)
def test_setting_of_the_wrong_type(override: str, expected: str) -> None:
    assert f"{override.lstrip('+')} is not {expected}" in problems(override)


@pytest.mark.parametrize("key", ["trainer.max_epochs", "report.samples", "optimizer.lr"])
def test_removed_setting_is_reported(key: str) -> None:
    assert f"; set {key}=<value>" in problems(f"~{key}")


@pytest.mark.parametrize("override", ["+method.mcc.weight=1", "+logger.x=3", "method.dann=3"])
def test_member_of_a_group_without_a_class(override: str) -> None:
    key = ".".join(override.lstrip("+").split("=")[0].split(".")[:2])
    message = problems(override)
    assert message.startswith(f"{key}=")
    assert f" does not define a part; set +{key}._target_=<class>" in message


def test_member_of_a_group_may_be_null() -> None:
    checked = validation.check(config("method.dann=null", "callbacks.validators=null"))
    assert checked.methods == {}
    assert "validators" not in checked.group("callbacks")


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=tl_lightning.methods.dann.DANN",
        "data._target_=tl_lightning.tasks.head.Head",
        "method.dann._target_=tl_lightning.models.FineTuning",
        "optimizer._target_=torch.nn.Linear",
    ],
)
def test_class_of_another_kind_is_one_problem(override: str) -> None:
    message = problems(override)
    assert re.search("is not a subclass of .*; see docs/bring_your_own.md#", message)
    assert "requires it" not in message


def test_invalid_channels_last() -> None:
    assert "channels_last=7 is not auto, true or false; set channels_last=<value>" in problems(
        channels_last=7
    )


@pytest.mark.parametrize("target", ["os.system", "builtins.open", "subprocess.run"])
def test_classes_outside_the_allowed_packages_are_refused(target: str) -> None:
    found, problem = find_class(target, "model")
    assert found is None
    assert "is outside the allowed packages" in problem


@pytest.mark.parametrize("target", ["torch.load", "torch.hub.load", "torch.nope"])
def test_target_that_is_not_a_class_is_refused(target: str) -> None:
    assert "is not a class" in find_class(target, "model")[1]


def test_module_that_cannot_be_imported() -> None:
    assert "cannot be imported" in find_class("torch.nn.nope.Nope", "model")[1]


def test_allowed_package() -> None:
    node = {"x": {"_target_": "collections.Counter"}}
    found, (problem,) = nodes_of(node)
    assert "allow=[collections.Counter]" in problem
    assert found == {}
    found, problems = nodes_of(node, [*ALLOWED, "collections"])
    assert problems == []
    assert found["x"].build() == Counter()


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (REPO / "conf" / group).glob("[!_]*.yaml"))


@pytest.mark.slow
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
        if (group, name) != ("model", "custom")  # for a class of the user
    ]
    + [f"regularizer=[{name}]" for name in choices("regularizer")]
    + ["trainer=cpu", "trainer=ddp", "logger=csv", "logger=tensorboard"],
)
def test_every_choice_in_conf_passes_the_check(override: str) -> None:
    # Adaptation models refuse datasets whose default has no target.
    more = ["model=source_only"] if override.startswith("data=") else []
    more += ["init=run"] if override == "model=source_free" else []
    more += ["backbone=mobilenet_v2"] if override in ("model=auto", "model=align") else []
    # Text and vector backbones need data of their kind.
    kinds = {"hf": "imdb", "bert_base": "imdb", "minilm": "imdb", "vector_net": "vectors"}
    if override.startswith("backbone=") and override.partition("=")[2] in kinds:
        more += [f"data={kinds[override.partition('=')[2]]}", "model=source_only"]
    if override == "logger=tensorboard":
        pytest.importorskip("tensorboard")
    if override.startswith("loss="):  # losses of other kinds of labels
        more += [
            text for key, texts in _REQUIRES.items() if re.match(key, override) for text in texts
        ]
    plain = plain_config(override, *more)
    validation.check(plain)


def test_auto_is_resolved() -> None:
    from omegaconf import OmegaConf

    checked = validation.check(OmegaConf.to_container(compose([]), resolve=True))
    assert checked.trainer.precision != "auto"
    assert checked.trainer.accelerator in ("cpu", "gpu")
    assert checked.channels_last in (True, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "fused"),
    [
        ((), True),
        (("trainer.precision=bf16-mixed",), True),
        (("trainer.gradient_clip_val=1",), True),
        (("trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed"), False),
    ],
)
def test_optimizer_is_fused_unless_gradients_could_not_be_clipped(
    overrides, fused, tmp_path
) -> None:
    settings = config("model=source_only", "trainer.max_epochs=1", *overrides)
    assert validation.check(settings).optimizer.params["fused"] is fused
    training.fit(settings, tmp_path)


def test_optimizer_is_not_fused_with_loss_scaling() -> None:
    """A fused optimizer unscales in its step: gradient norms were logged 65,536 times too large."""
    settings = config("model=source_only", "trainer.precision=16-mixed")
    assert validation.check(settings).optimizer.params["fused"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_passes_the_check(name: str) -> None:
    # There is no default path for vectors.
    files = ["data.target.train=kitchen.svmlight"] if name == "dann_amazon" else []
    validation.check(compose([f"experiment={name}", "trainer=cpu", *files]))


def test_missing_experiment_is_an_error() -> None:
    with pytest.raises(HydraException, match=r"Could not find 'experiment/lineer_probe'"):
        compose(["experiment=lineer_probe"])
