"""Phases: frozen and trained layers, learning rates and configuration errors."""

from __future__ import annotations

import re
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import CheckpointError, ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.models import base
from tl_lightning.models.phases import Phases
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

TEN = tuple("0123456789")
#: Three phases of one epoch each on a network of two blocks and a neck; the third freezes layers.
THREE = (
    "phases.steps=[{from:0,train:[head]},{from:1,train:[head,last:2],lr_factor:0.5},"
    "{from:2,train:[neck,block0],lr:0.02}]"
)
MODELS = ["source_only", "dann"]


class Watch(L.Callback):
    """Records state dicts and optimizer state per epoch, and learning rates per step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.with_state: list[set[str]] = []
        self.rates: list[dict[str, float]] = []
        self.gradients: list[set[str]] = []

    def on_train_epoch_start(self, trainer, module) -> None:
        if not self.states:
            self.states.append({k: v.clone() for k, v in module.state_dict().items()})

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.rates.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        self.gradients.append({n for n, p in module.named_parameters() if p.grad is not None})

    def on_train_epoch_end(self, trainer, module) -> None:
        self.states.append({k: v.clone() for k, v in module.state_dict().items()})
        names = {id(p): n for n, p in module.named_parameters()}
        states = trainer.optimizers[0].state
        self.with_state.append({names[id(p)] for p, state in states.items() if state})

    def changed(self, epoch: int) -> set[str]:
        before, after = self.states[epoch : epoch + 2]
        return {name for name in before if not torch.equal(before[name], after[name])}


def fitted(monkeypatch, folder, *overrides: str) -> Watch:
    watch = Watch()
    original: Any = training.build

    def build(*arguments):
        parts = original(*arguments)
        parts.trainer.callbacks.append(watch)
        return parts

    monkeypatch.setattr(training, "build", build)
    training.fit(config(*overrides), folder)
    return watch


def net(*overrides: str) -> base.TransferModule:
    return building.build_module(validation.check(config(*overrides)), TEN)


def entered(epoch: int, *overrides: str) -> base.TransferModule:
    module = net("model=source_only", "trainer.max_epochs=3", *overrides)
    groups = [{"name": n, "params": p} for n, (p, _) in module.parameter_groups().items()]
    module.enter_phase(epoch, groups)
    return module


def parts(names: set[str]) -> set[str]:
    """Return the layer groups of the given parameters and buffers."""
    prefixes = {
        "backbone.blocks.0": "block0",
        "backbone.blocks.1": "block1",
        "backbone.neck": "neck",
    }
    return {next((p for k, p in prefixes.items() if n.startswith(k)), "head") for n in names}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_phase_changes_only_its_layers(model, optimizer, tmp_path, monkeypatch) -> None:
    """Including buffers, momentum and weight decay, and layers that are frozen again."""
    settings = (f"model={model}", f"optimizer={optimizer}", "optimizer.weight_decay=0.1")
    watch = fitted(monkeypatch, tmp_path, THREE, *settings, "trainer.max_epochs=3")
    assert parts(watch.changed(0)) == {"head"}
    assert parts(watch.changed(1)) == {"head", "block1", "neck"}
    assert parts(watch.changed(2)) == {"block0", "neck"}
    changed = [{n for n in watch.changed(e) if "num_batches" not in n} for e in range(3)]
    assert "backbone.blocks.1.1.running_mean" in changed[1] - changed[0] - changed[2]
    params = {n for n in watch.states[0] if re.search(r"(weight|bias)$", n)}
    assert {n for n in params if parts({n}) <= {"head", "block1", "neck"}} <= changed[1]
    assert [parts(names) for names in watch.with_state] == [
        {"head"}, {"head", "block1", "neck"}, {"head", "block0", "block1", "neck"},
    ]  # fmt: skip
    assert [parts(watch.gradients[3 * e]) for e in range(3)] == [
        {"head"}, {"head", "block1", "neck"}, {"block0", "neck"},
    ]  # fmt: skip


@pytest.mark.slow
def test_separate_forward_passes_keep_frozen_buffers(tmp_path, monkeypatch) -> None:
    watch = fitted(monkeypatch, tmp_path, THREE, "model.forward=separate", "trainer.max_epochs=3")
    assert parts(watch.changed(0)) == {"head"}


def test_a_frozen_backbone_is_in_evaluation_mode() -> None:
    module = entered(0, THREE, "backbone.channel_dropout=0.5")
    x = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    features = [module.train(mode).extract(x) for mode in (True, False, True)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    assert not features[0].requires_grad
    unfrozen = entered(1, THREE, "backbone.channel_dropout=0.5")
    assert not torch.equal(unfrozen.train().extract(x), unfrozen.eval().extract(x))


def test_a_frozen_head_is_in_evaluation_mode() -> None:
    module = entered(2, THREE, "head.dropout=0.5")
    assert not module.task.training
    assert not any(p.requires_grad for p in module.task.parameters())
    assert module.backbone.blocks[0].training  # type: ignore[index]
    assert entered(1, THREE).task.training


def test_parameters_outside_the_optimizer_stay_frozen() -> None:
    module = net("model=source_only", THREE, "trainer.max_epochs=3")
    fixed = module.backbone.blocks[0][0].weight  # type: ignore[index]
    fixed.requires_grad_(False)
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    groups = module.configure_optimizers()["optimizer"].param_groups
    for epoch in range(3):
        module.enter_phase(epoch, groups)
        assert not fixed.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["phase", "run"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_learning_rates_in_phases(schedule, accumulate, tmp_path, monkeypatch) -> None:
    """Warm-up over half of a phase (or of the run), then constant; three batches per epoch."""
    settings = ("optimizer.lr=0.1", "backbone.lr_factor=0.1", "layer_decay=0.5",
                "scheduler=constant", "scheduler.warmup=0.5", f"phases.schedule={schedule}",
                f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_epochs=4",
                "phases.steps=[{from:0,train:[head]},{from:0.25,train:[head,last:2],lr:0.03},"
                "{from:3,train:[block0,head],lr_factor:0.5}]")  # fmt: skip
    watch = fitted(monkeypatch, tmp_path, *settings)
    per_epoch = {1: 3, 2: 2}[accumulate]  # the last batch of an epoch always steps
    assert len(watch.rates) == 4 * per_epoch
    spans = {"phase": [(0, 1), (1, 3), (3, 4)], "run": [(0, 4)] * 3}[schedule]
    rates = [0.1, 0.03, 0.05]
    factors: list[dict[str, float]] = [
        {"head": 1.0},
        {"head": 1.0, "backbone.block1": 0.1 * 0.5, "backbone.neck": 0.1},
        {"head": 1.0, "backbone.block0": 0.1 * 0.25},
    ]
    names = ["backbone.block0", "backbone.block1", "backbone.neck", "head", "dann"]
    for step, logged in enumerate(watch.rates):
        phase = [0, 1, 1, 2][step // per_epoch]
        begin, end = (epoch * per_epoch for epoch in spans[phase])
        warm = min(1.0, (step - begin) / (end - begin) / 0.5)
        expected = {n: rates[phase] * warm * factors[phase].get(n, 0.0) for n in names}
        expected["dann"] = expected["head"]
        assert logged == pytest.approx(expected), step


def test_layer_decay_counts_from_the_output() -> None:
    groups = net("layer_decay=0.5", "backbone.lr_factor=0.1").parameter_groups()
    assert {name: factor for name, (_, factor) in groups.items()} == pytest.approx({
        "backbone.block0": 0.025, "backbone.block1": 0.05, "backbone.neck": 0.1, "head": 1.0,
        "dann": 1.0,
    })  # fmt: skip
    # Groups without parameters are not counted.
    groups = net("layer_decay=0.5", "backbone.features=null").parameter_groups()
    assert groups["backbone.block1"][1] == net().backbone.lr_factor


@pytest.mark.parametrize("override", ["layer_decay=0.5", "phases=gradual"])
def test_every_parameter_is_in_exactly_one_group(override: str) -> None:
    module = net(override)
    grouped = [p for parameters, _ in module.parameter_groups().values() for p in parameters]
    assert len(grouped) == len(list(module.parameters()))
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters()}


@pytest.mark.slow
def test_one_phase_with_all_layers_equals_no_phases(tmp_path, monkeypatch) -> None:
    """Bit for bit; only the names of the parameter groups differ."""
    one = fitted(monkeypatch, tmp_path / "one", "phases.steps=[{from:0,train:[head,backbone]}]")
    monkeypatch.undo()
    none = fitted(monkeypatch, tmp_path / "none", "phases=none")
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "one" / last), weights(tmp_path / "none" / last))
    assert list(none.rates[0]) == ["backbone", "head", "dann"]
    assert [r["backbone"] for r in none.rates] == [r["backbone.block0"] for r in one.rates]


@pytest.mark.parametrize(
    ("steps", "depth"),
    [
        ("[]", 0), ("[{from:0,train:[head]}]", 3),
        ("[{from:0,train:[head]},{from:1,train:[head,last:1]}]", 2),
        ("[{from:0,train:[block1]},{from:1,train:[head]}]", 1),
        ("[{from:0,train:[block0,head]},{from:1,train:[head]}]", 0),
        ("[{from:0,train:[head,last:9]}]", 0),
    ],
)  # fmt: skip
def test_frozen_depth_counts_layers_that_no_phase_trains(steps: str, depth: int) -> None:
    assert net(f"phases.steps={steps}").frozen_depth() == depth


def test_a_group_without_parameters_follows_the_previous_group() -> None:
    groups = net("backbone.features=null").backbone.layer_groups()
    steps = [{"from": 0, "train": ["head"]}, {"from": 1, "train": ["last:1"]}]
    result = Phases(schedule="run", steps=steps).learning(groups)
    assert result == [{"head"}, {"block1", "neck"}]


@pytest.mark.parametrize("preset", ["head_first", "gradual"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 30])
def test_presets_fit_any_number_of_epochs(preset: str, epochs: int) -> None:
    checked = validation.check(config(f"phases={preset}", f"trainer.max_epochs={epochs}"))
    steps = checked.steps
    starts = [step["from"] for step in steps]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] < epochs
    assert steps[0]["train"] == ["head"]
    assert epochs == 1 or steps[-1]["train"][-1] in ("last:3", "backbone")
    assert validation.check(checked.plain).steps == steps
    if epochs == 10:
        assert starts == {"head_first": [0, 3], "gradual": [0, 1, 2, 3, 4]}[preset]


@pytest.mark.slow
def test_each_phase_is_printed_once(tmp_path, capsys) -> None:
    training.fit(config("model=source_only", THREE, "trainer.max_epochs=4"), tmp_path)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("phase ")]
    # 108 + 8 in block0, 288 + 16 in block1, 2064 in the neck, 170 in the head.
    assert lines == [
        "phase 1 of 3 from epoch 0: training head (170 of 2.7 k parameters)",
        "phase 2 of 3 from epoch 1: training head, block1, neck (2.5 k of 2.7 k parameters)",
        "phase 3 of 3 from epoch 2: training block0, neck (2.2 k of 2.7 k parameters)",
    ]


@pytest.mark.slow
def test_a_checkpoint_of_a_run_with_phases_is_loaded_and_evaluated(tmp_path) -> None:
    report = training.fit(config(THREE, "trainer.max_epochs=3"), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    module = loading.load(last)
    assert not any(m.training for m in module.modules())
    # With a trainer whose max_epochs is less than the start of the last phase.
    result = evaluation.evaluate(last, None, config("trainer.max_epochs=1")["trainer"])
    assert result["metrics"]["target/test/acc"] == report["metrics"]["target/test/acc"]


@pytest.mark.slow
def test_a_checkpoint_without_a_later_setting_of_training_is_evaluated(tmp_path) -> None:
    report = training.fit(config("trainer.max_epochs=1"), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    del stored["hyper_parameters"]["config"]["interpolation"]
    torch.save(stored, last)
    result = evaluation.evaluate(last)
    assert result["metrics"]["target/test/acc"] == report["metrics"]["target/test/acc"]


@pytest.mark.slow
def test_error_for_a_checkpoint_of_another_version(tmp_path) -> None:
    training.fit(config("trainer.max_epochs=1"), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    for key in ("phases", "layer_decay", "loss"):
        del stored["hyper_parameters"]["config"][key]
    torch.save(stored, last)
    message = r"last.ckpt has no setting of (layer_decay|loss|phases), .*another version"
    for read in (loading.load, evaluation.evaluate):
        with pytest.raises(CheckpointError, match=message):
            read(last)
    del stored["input_state"]
    torch.save(stored, last)
    with pytest.raises(CheckpointError, match=r"last.ckpt was written by another version .*input_"):
        loading.load(last)


def test_phases_with_ddp_use_find_unused_parameters() -> None:
    steps = "phases.steps=[{from:0,train:[head]}]"
    for strategy in ("ddp", "ddp_find_unused_parameters_true"):
        checked = validation.check(config(steps, f"trainer.strategy={strategy}"))
        assert checked.trainer.strategy == "ddp_find_unused_parameters_true"
    assert validation.check(config("trainer.strategy=ddp")).trainer.strategy == "ddp"
    assert validation.check(config(steps)).trainer.strategy == "auto"
    several = validation.check(config(steps, "trainer.devices=2")).trainer
    assert several.strategy == "ddp_find_unused_parameters_true"


def step(**second: Any) -> str:
    pairs = ",".join(f"{key.rstrip('_')}:{value}" for key, value in second.items())
    return f"phases.steps=[{{from:0,train:[head]}},{{{pairs}}}]"


def error(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validation.check(config("trainer.max_epochs=4", *overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases.steps=[{from:1,train:[head]}]",
         "phases.steps[0].from=1, but the first step must start at epoch 0; set from:0"),
        (step(from_=0, train="[head]"), "from=0 (epoch 0) is not after the previous step"),
        (step(from_=4, train="[head]"), "from=4 is never reached with trainer.max_epochs=4; set "
         "from:3 or less, or trainer.max_epochs=5"),
        (step(from_=1.5, train="[head]"), "from=1.5 is neither an epoch nor a fraction of the run"),
        (step(from_="true", train="[head]"), "from=True is neither an epoch nor a fraction"),
        (step(train="[head]"), "phases.steps[1].from=None is neither an epoch nor a fraction"),
        (step(from_=-1, train="[head]"), "from=-1 is neither an epoch nor a fraction"),
        (step(from_=2, train="head"), "steps[1].train=head is not a list of layer groups; set"),
        (step(from_=2, train="[]"), "steps[1].train=[] is not a list of layer groups; set"),
        (step(from_=2, train="[head]", lr=0.1, lr_factor=2),
         "phases.steps[1] has both lr=0.1 and lr_factor=2; keep only one"),
        (step(from_=2, train="[head]", lr=0), "phases.steps[1].lr=0 is not a positive number"),
        (step(from_=2, train="[head]", lr_factor="x"), "lr_factor=x is not a positive number"),
        (step(from_=2, train="[head]", lr_facter=2),
         "phases.steps[1].lr_facter is not a key of a step; did you mean 'lr_factor'?"),
        ("phases.steps=[{from:0,train:[head]},{from:2,train:[head]},{from:0.25,train:[head]}]",
         "phases.steps[2].from=0.25 (epoch 1) is not after the previous step, from=2"),
        ("phases.steps=7", "phases.steps=7 is not a list of mappings"),
        ("phases.schedule=phases", "phases.schedule=phases is not one of phase, run"),
        ("layer_decay=1.5", "layer_decay=1.5 is not a number in (0, 1]; set layer_decay="),
        ("layer_decay=0", "layer_decay=0 is not a number in (0, 1]"),
    ],
)  # fmt: skip
def test_problems_of_steps(override: str, message: str) -> None:
    assert message in error(override)


def test_all_problems_of_steps_at_once() -> None:
    result = error("phases.steps=[{from:1,train:[]},{from:9,train:[head],lr:-1}]")
    assert result.count("\n") == 2


def test_problems_of_phases_with_other_settings() -> None:
    good = step(from_=1, train="[head]")
    result = error(good, "model=feature_extraction")
    assert "model=feature_extraction never trains its backbone, but phases.steps has 2" in result
    for strategy in ("fsdp", "deepspeed_stage_2", "ddp_find_unused_parameters_false"):
        result = error(good, f"trainer.strategy={strategy}")
        assert f"trainer.strategy={strategy} is not supported with phases" in result
        assert "set trainer.strategy=ddp" in result
    result = error(good, "trainer.max_epochs=null")
    message = (
        "need a fixed number of epochs, but trainer.max_epochs=None; set trainer.max_epochs=10"
    )
    assert message in result
    result = error(step(from_=1, train="[head]", lr=0.1), "optimizer.lr=0")
    assert "phases.steps[1].lr=0.1 cannot replace optimizer.lr=0" in result


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[head,blok1]", "phases.steps[1].train: 'blok1' is not a layer group of this backbone; "
         "did you mean 'block1'? (layer groups: block0, block1, neck); use layer group names, "
         "head, backbone or last:N"),
        ("[zzz]", "valid: backbone, block0, block1, head, neck; use layer group names, head"),
        ("[last:0]", "phases.steps[1].train: 'last:0' is not a layer group"),
        ("[last:x]", "phases.steps[1].train: 'last:x' is not a layer group"),
    ],
)  # fmt: skip
def test_unknown_layer_groups(train: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        net(step(from_=1, train=train))


def test_a_phase_without_trainable_parameters() -> None:
    message = r"train=\[neck\] has no parameters, so nothing would be trained; use head, or one of"
    with pytest.raises(ConfigError, match=message):
        net("backbone.features=null", "phases.steps=[{from:0,train:[neck]}]")
