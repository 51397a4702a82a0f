"""Phases: what is frozen stays, what thaws moves, and every rate is the one computed by hand."""

from __future__ import annotations

import re
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config, same, weights
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.evaluation import load as loading
from tl_lightning.models import base
from tl_lightning.models.phases import Phases
from tl_lightning.training import build as building
from tl_lightning.training import fit as training

TEN = tuple("0123456789")
#: Two blocks and a last layer; each phase lasts one epoch; the third freezes again.
THREE = (
    "phases.steps=[{from:0,train:[head]},{from:1,train:[head,last:2],lr_factor:0.5},"
    "{from:2,train:[neck,block0],lr:0.02}]"
)
MODELS = ["source_only", "dann"]


class Watch(L.Callback):
    """Keeps what each epoch began and ended with, and the rates of each optimizer step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.held: list[set[str]] = []
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
        held = trainer.optimizers[0].state
        self.held.append({names[id(p)] for p, state in held.items() if state})

    def moved(self, epoch: int) -> set[str]:
        before, after = self.states[epoch : epoch + 2]
        return {name for name in before if not torch.equal(before[name], after[name])}


def fitted(monkeypatch, folder, *overrides: str) -> Watch:
    watch = Watch()
    honest: Any = training.build

    def build(*arguments):
        parts = honest(*arguments)
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
    """Name the parts that the given weights and buffers lie in."""
    known = {"backbone.blocks.0": "block0", "backbone.blocks.1": "block1", "backbone.neck": "neck"}
    return {next((p for k, p in known.items() if n.startswith(k)), "head") for n in names}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_only_what_a_phase_names_moves(model, optimizer, tmp_path, monkeypatch) -> None:
    """Buffers, momentum and weight decay included, and what froze again stays where it is."""
    settings = (f"model={model}", f"optimizer={optimizer}", "optimizer.weight_decay=0.1")
    watch = fitted(monkeypatch, tmp_path, THREE, *settings, "trainer.max_epochs=3")
    assert parts(watch.moved(0)) == {"head"}
    assert parts(watch.moved(1)) == {"head", "block1", "neck"}
    assert parts(watch.moved(2)) == {"block0", "neck"}
    moved = [{n for n in watch.moved(e) if "num_batches" not in n} for e in range(3)]
    assert "backbone.blocks.1.1.running_mean" in moved[1] - moved[0] - moved[2]
    weights_of = {n for n in watch.states[0] if re.search(r"(weight|bias)$", n)}
    assert {n for n in weights_of if parts({n}) <= {"head", "block1", "neck"}} <= moved[1]
    assert [parts(held) for held in watch.held] == [
        {"head"}, {"head", "block1", "neck"}, {"head", "block0", "block1", "neck"},
    ]  # fmt: skip
    assert [parts(watch.gradients[3 * e]) for e in range(3)] == [
        {"head"}, {"head", "block1", "neck"}, {"block0", "neck"},
    ]  # fmt: skip


def test_separate_forwards_keep_frozen_buffers_too(tmp_path, monkeypatch) -> None:
    watch = fitted(monkeypatch, tmp_path, THREE, "model.forward=separate", "trainer.max_epochs=3")
    assert parts(watch.moved(0)) == {"head"}


def test_features_of_a_frozen_backbone_are_those_of_evaluation() -> None:
    module = entered(0, THREE, "backbone.channel_dropout=0.5")
    x = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    features = [module.train(mode).extract(x) for mode in (True, False, True)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    assert not features[0].requires_grad
    thawed = entered(1, THREE, "backbone.channel_dropout=0.5")
    assert not torch.equal(thawed.train().extract(x), thawed.eval().extract(x))


def test_a_frozen_head_rests_too() -> None:
    module = entered(2, THREE, "head.dropout=0.5")
    assert not module.task.training
    assert not any(p.requires_grad for p in module.task.parameters())
    assert module.backbone.blocks[0].training  # type: ignore[index]
    assert entered(1, THREE).task.training


def test_what_was_fixed_from_the_start_stays_fixed() -> None:
    module = net("model=source_only", THREE, "trainer.max_epochs=3")
    fixed = module.backbone.blocks[0][0].weight  # type: ignore[index]
    fixed.requires_grad_(False)
    groups = module.configure_optimizers()["optimizer"].param_groups
    for epoch in range(3):
        module.enter_phase(epoch, groups)
        assert not fixed.requires_grad


@pytest.mark.parametrize("schedule", ["phase", "run"])
@pytest.mark.parametrize("together", [1, 2])
def test_rates_are_those_computed_by_hand(schedule, together, tmp_path, monkeypatch) -> None:
    """Warm-up over half of a phase (or of the run), then constant; three batches an epoch."""
    settings = ("optimizer.lr=0.1", "backbone.lr_factor=0.1", "layer_decay=0.5",
                "scheduler=constant", "scheduler.warmup=0.5", f"phases.schedule={schedule}",
                f"trainer.accumulate_grad_batches={together}", "trainer.max_epochs=4",
                "phases.steps=[{from:0,train:[head]},{from:0.25,train:[head,last:2],lr:0.03},"
                "{from:3,train:[block0,head],lr_factor:0.5}]")  # fmt: skip
    watch = fitted(monkeypatch, tmp_path, *settings)
    per_epoch = {1: 3, 2: 2}[together]  # the last batch of an epoch steps by itself
    assert len(watch.rates) == 4 * per_epoch
    spans = {"phase": [(0, 1), (1, 3), (3, 4)], "run": [(0, 4)] * 3}[schedule]
    rates = [0.1, 0.03, 0.05]
    learns: list[dict[str, float]] = [
        {"head": 1.0},
        {"head": 1.0, "backbone.block1": 0.1 * 0.5, "backbone.neck": 0.1},
        {"head": 1.0, "backbone.block0": 0.1 * 0.25},
    ]
    names = ["backbone.block0", "backbone.block1", "backbone.neck", "head", "dann"]
    for step, shown in enumerate(watch.rates):
        phase = [0, 1, 1, 2][step // per_epoch]
        begin, end = (epoch * per_epoch for epoch in spans[phase])
        warm = min(1.0, (step - begin) / (end - begin) / 0.5)
        hand = {n: rates[phase] * warm * learns[phase].get(n, 0.0) for n in names}
        hand["dann"] = hand["head"]
        assert shown == pytest.approx(hand), step


def test_layer_decay_counts_from_the_output() -> None:
    groups = net("layer_decay=0.5", "backbone.lr_factor=0.1").parameter_groups()
    assert {name: factor for name, (_, factor) in groups.items()} == pytest.approx({
        "backbone.block0": 0.025, "backbone.block1": 0.05, "backbone.neck": 0.1, "head": 1.0,
        "dann": 1.0,
    })  # fmt: skip
    # A group without parameters does not count.
    groups = net("layer_decay=0.5", "backbone.features=null").parameter_groups()
    assert groups["backbone.block1"][1] == net().backbone.lr_factor


@pytest.mark.parametrize("override", ["layer_decay=0.5", "phases=gradual"])
def test_every_parameter_is_in_one_group(override: str) -> None:
    module = net(override)
    grouped = [p for parameters, _ in module.parameter_groups().values() for p in parameters]
    assert len(grouped) == len(list(module.parameters()))
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters()}


def test_no_phases_and_one_phase_of_everything_are_the_same_run(tmp_path, monkeypatch) -> None:
    """So phases cost nothing but the names of the groups."""
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
def test_frozen_depth_is_what_no_phase_lets_learn(steps: str, depth: int) -> None:
    assert net(f"phases.steps={steps}").frozen_depth() == depth


def test_a_group_without_parameters_goes_with_the_one_before() -> None:
    groups = net("backbone.features=null").backbone.layer_groups()
    steps = [{"from": 0, "train": ["head"]}, {"from": 1, "train": ["last:1"]}]
    found = Phases(schedule="run", steps=steps).learning(groups)
    assert found == [{"head"}, {"block1", "neck"}]


@pytest.mark.parametrize("preset", ["head_first", "gradual"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 30])
def test_presets_fit_any_number_of_epochs(preset: str, epochs: int) -> None:
    checked = validation.check(config(f"phases={preset}", f"trainer.max_epochs={epochs}"))
    steps = checked["phases"]["steps"]
    starts = [step["from"] for step in steps]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] < epochs
    assert steps[0]["train"] == ["head"]
    assert epochs == 1 or steps[-1]["train"][-1] in ("last:3", "backbone")
    assert validation.check(checked)["phases"] == checked["phases"]
    if epochs == 10:
        assert starts == {"head_first": [0, 3], "gradual": [0, 1, 2, 3, 4]}[preset]


def test_each_phase_is_said_once(tmp_path, capsys) -> None:
    training.fit(config("model=source_only", THREE, "trainer.max_epochs=4"), tmp_path)
    said = [x for x in capsys.readouterr().out.splitlines() if x.startswith("phase ")]
    # 108 + 8 in block0, 288 + 16 in block1, 2064 in the neck, 170 in the head.
    assert said == [
        "phase 1 of 3 from epoch 0: head learns (170 of 2.7 k parameters)",
        "phase 2 of 3 from epoch 1: head, block1, neck learn (2.5 k of 2.7 k parameters)",
        "phase 3 of 3 from epoch 2: block0, neck learn (2.2 k of 2.7 k parameters)",
    ]


def test_the_checkpoint_of_a_run_in_phases_loads_and_evaluates(tmp_path) -> None:
    report = training.fit(config(THREE, "trainer.max_epochs=3"), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    module = loading.load(last)
    assert not any(m.training for m in module.modules())
    # Of a trainer with fewer epochs than the last phase's start.
    found = evaluation.evaluate(last, None, config("trainer.max_epochs=1")["trainer"])
    assert found["metrics"]["target/test/acc"] == report["metrics"]["target/test/acc"]


def test_a_checkpoint_from_before_phases_loads(tmp_path) -> None:
    training.fit(config(), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    for key in ("phases", "layer_decay"):
        del stored["hyper_parameters"]["config"][key]
    torch.save(stored, last)
    assert same(loading.load(last).state_dict(), stored["state_dict"])
    assert evaluation.evaluate(last, None, None)["metrics"]


def test_ddp_learns_to_wait_for_nobody() -> None:
    steps = "phases.steps=[{from:0,train:[head]}]"
    for strategy in ("ddp", "ddp_find_unused_parameters_true"):
        checked = validation.check(config(steps, f"trainer.strategy={strategy}"))
        assert checked["trainer"]["strategy"] == "ddp_find_unused_parameters_true"
    assert validation.check(config("trainer.strategy=ddp"))["trainer"]["strategy"] == "ddp"
    assert validation.check(config(steps))["trainer"]["strategy"] == "auto"
    several = validation.check(config(steps, "trainer.devices=2"))["trainer"]
    assert several["strategy"] == "ddp_find_unused_parameters_true"


def step(**second: Any) -> str:
    pairs = ",".join(f"{key.rstrip('_')}:{value}" for key, value in second.items())
    return f"phases.steps=[{{from:0,train:[head]}},{{{pairs}}}]"


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validation.check(config("trainer.max_epochs=4", *overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("phases.steps=[{from:1,train:[head]}]",
         "phases.steps[0].from=1, but a run starts at epoch 0; type from:0"),
        (step(from_=0, train="[head]"), "from=0 (epoch 0) does not come after the step before it"),
        (step(from_=4, train="[head]"), "from=4 would never come with trainer.max_epochs=4; type "
         "from:3 or less, or trainer.max_epochs=5"),
        (step(from_=1.5, train="[head]"), "from=1.5 is neither an epoch nor a fraction of the run"),
        (step(from_="true", train="[head]"), "from=True is neither an epoch nor a fraction"),
        (step(train="[head]"), "phases.steps[1].from=None is neither an epoch nor a fraction"),
        (step(from_=-1, train="[head]"), "from=-1 is neither an epoch nor a fraction"),
        (step(from_=2, train="head"), "phases.steps[1].train=head is not a list of names; type"),
        (step(from_=2, train="[]"), "phases.steps[1].train=[] is not a list of names; type"),
        (step(from_=2, train="[head]", lr=0.1, lr_factor=2),
         "phases.steps[1] has both lr=0.1 and lr_factor=2; keep one"),
        (step(from_=2, train="[head]", lr=0), "phases.steps[1].lr=0 is not a positive number"),
        (step(from_=2, train="[head]", lr_factor="x"), "lr_factor=x is not a positive number"),
        (step(from_=2, train="[head]", lr_facter=2),
         "phases.steps[1].lr_facter is no key of a step; did you mean 'lr_factor'?"),
        ("phases.steps=[{from:0,train:[head]},{from:2,train:[head]},{from:0.25,train:[head]}]",
         "phases.steps[2].from=0.25 (epoch 1) does not come after the step before it, from=2"),
        ("phases.steps=7", "phases.steps=7 is not a list of a mapping"),
        ("phases.schedule=phases", "phases.schedule=phases is not one of phase, run"),
        ("layer_decay=1.5", "layer_decay=1.5 is not in (0, 1]; type layer_decay=0.75"),
        ("layer_decay=0", "layer_decay=0 is not in (0, 1]"),
    ],
)  # fmt: skip
def test_faults_of_steps(override: str, words: str) -> None:
    assert words in refused(override)


def test_all_faults_of_steps_at_once() -> None:
    found = refused("phases.steps=[{from:1,train:[]},{from:9,train:[head],lr:-1}]")
    assert found.count("\n") == 2


def test_faults_between_phases_and_the_rest() -> None:
    good = step(from_=1, train="[head]")
    found = refused(good, "model=feature_extraction")
    assert "model=feature_extraction never lets its backbone learn, but phases.steps has 2" in found
    for strategy in ("fsdp", "deepspeed_stage_2", "ddp_find_unused_parameters_false"):
        found = refused(good, f"trainer.strategy={strategy}")
        assert f"trainer.strategy={strategy} cannot follow phases" in found
        assert "type trainer.strategy=ddp" in found
    found = refused(good, "trainer.max_epochs=null")
    assert "phases count epochs, but trainer.max_epochs=None; type trainer.max_epochs=10" in found
    found = refused(step(from_=1, train="[head]", lr=0.1), "optimizer.lr=0")
    assert "phases.steps[1].lr=0.1 replaces optimizer.lr=0" in found


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("[head,blok1]", "phases.steps[1].train has 'blok1', which is no layer group; did you "
         "mean 'block1'? This backbone's are block0, block1, neck. Type a name, head, backbone"),
        ("[zzz]", "valid: backbone, block0, block1, head, neck"),
        ("[last:0]", "phases.steps[1].train has 'last:0'"),
        ("[last:x]", "phases.steps[1].train has 'last:x'"),
    ],
)  # fmt: skip
def test_unknown_layers_are_named(train: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        net(step(from_=1, train=train))


def test_a_phase_in_which_nothing_learns() -> None:
    words = r"train=\[neck\] holds no parameters, so nothing would learn; type head, or one of b"
    with pytest.raises(ConfigError, match=words):
        net("backbone.features=null", "phases.steps=[{from:0,train:[neck]}]")
