"""Parts created from Python have the defaults of conf/, and clear errors."""

from __future__ import annotations

import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import tl_lightning as tl
from tl_lightning.errors import CheckpointError, ConfigError, DataError, TransferError

#: Warnings of a plain trainer, about loaders without workers and the like.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def network() -> nn.Module:
    """Return a small network without an input specification, always with the same weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    net.out_features = 4  # type: ignore[assignment]
    return net


def loader(count: int = 16, labelled: bool = True) -> DataLoader:
    """Return a loader of random pairs."""
    torch.manual_seed(0)
    tensors = [torch.randn(count, 2), *([torch.arange(count) % 2] if labelled else [])]
    return DataLoader(TensorDataset(*tensors), batch_size=8)


def trainer(**kwargs: object) -> L.Trainer:
    """Return a quiet trainer of one epoch on the CPU."""
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, **{**settings, **kwargs}
    )


def test_import_is_lazy_and_quick() -> None:
    """torch is only imported when a part is first used."""
    code = (
        "import sys, time; start = time.perf_counter(); import tl_lightning as tl; "
        "print(time.perf_counter() - start, 'torch' in sys.modules, 'create' in dir(tl))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_imported, listed = out.stdout.split()
    assert float(seconds) < 0.2
    assert (torch_imported, listed) == ("False", "True")
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        tl.fitt  # noqa: B018


def test_a_method_has_the_defaults_of_its_file() -> None:
    dann = tl.create("method", "dann", in_features=512, num_classes=31)
    assert (dann.in_features, dann.num_classes, dann.max_lambda) == (512, 31, 0.3)
    assert (
        tl.create("method", "dann", in_features=8, num_classes=2, max_lambda=0.5).max_lambda == 0.5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metod", "dann"), "'metod' is not a group of conf/; did you mean 'method'?"),
        (("method", "danns"), "method=danns is not a choice; did you mean 'dann'?"),
        (("optimizer", "adam", "x"), "x is not a setting of optimizer=adam"),
        (("trainer", "ddp"), "'trainer' is not a group of conf/"),
        (("callbacks", "default"), "callbacks=default names no class that could be created"),
        (("study", "dann"), "'study' is not a group of conf/; valid: aux_task, backbone"),
        (("head", "linear", "in_featurs"), "in_featurs is not a setting of head=linear; did you"),
        (("model", "dann"), r"model=dann needs data=<data module> or classes=<names or number>"),
    ],
)
def test_what_cannot_be_created(arguments, message) -> None:
    group, name, *unknown = arguments
    with pytest.raises(ConfigError, match=message):
        tl.create(group, name, **dict.fromkeys(unknown, 1))


def test_a_setting_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.dann\.max_lambda=high is not a number"):
        tl.create("method", "dann", in_features=8, num_classes=2, max_lambda="high")


def test_a_setting_that_only_a_model_applies_is_refused() -> None:
    with pytest.raises(ConfigError, match="checkpoint of backbone=resnet18 is applied when"):
        tl.create("backbone", "resnet18", checkpoint="outputs/run")


def test_settings_that_are_auto_in_conf_are_resolved() -> None:
    assert tl.create("data", "digits").pin_memory is torch.cuda.is_available()
    layer = nn.Linear(2, 2)
    assert (
        tl.create("optimizer", "adam", params=layer.parameters()).defaults["fused"]
        is torch.cuda.is_available()
    )


def test_settings_of_a_run_have_no_effect_on_a_model() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=3 has no effect on a model; pass"):
        tl.create("model", "dann", classes=2, overrides=["trainer.max_epochs=3"])


def test_overrides_must_be_a_list() -> None:
    with pytest.raises(ConfigError, match=r"must be a list of settings, not a string; pass \['mod"):
        tl.fit("model=dann")


def test_unknown_part_of_a_model() -> None:
    with pytest.raises(ConfigError, match="losss is not a part of a model; did you mean 'loss'"):
        tl.create("model", "dann", classes=2, backbone=network(), losss=nn.CrossEntropyLoss())


def test_own_loaders_train_and_the_labels_of_the_target_have_no_influence() -> None:
    """The same weights result from a labelled, a wrongly labelled and an unlabelled target."""
    results = []
    for labelled in (True, False):
        model = tl.create("model", "dann", classes=2, backbone=network())
        start = {name: value.clone() for name, value in model.state_dict().items()}
        run, target = trainer(), loader(labelled=labelled)
        run.fit(model, {"source": loader(), "target": target}, [loader(), target])
        assert "target/val/acc" not in run.callback_metrics
        results.append(model.state_dict())
        assert any(not torch.equal(start[name], results[-1][name]) for name in start)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    metrics = trainer().test(model, [loader(), loader()], verbose=False)[0]
    assert {"source/test/acc", "target/test/acc"} <= {k.split("/dataloader")[0] for k in metrics}


def test_missing_target_loader_is_one_sentence() -> None:
    model = tl.create("model", "dann", classes=["a", "b"], backbone=network())
    with pytest.raises(DataError, match="a training batch must have the keys source, target; got"):
        trainer().fit(model, loader())
    with pytest.raises(DataError, match="a training batch has no key target; got source, targe;"):
        trainer().fit(model, {"source": loader(), "targe": loader()})


@pytest.mark.slow
def test_batch_of_another_form() -> None:
    model = tl.create("model", "source_only", classes=2, backbone=network())
    three = DataLoader(TensorDataset(torch.zeros(8, 2), torch.zeros(8), torch.zeros(8)))
    with pytest.raises(DataError, match=r"a pair \(inputs, labels\), or a mapping.*a list of 3"):
        trainer().fit(model, three)


def test_methods_that_need_our_data_say_so() -> None:
    model = tl.create(
        "model", "domain_adaptation", classes=2, backbone=network(),
        overrides=["method=[self_training]"],
    )  # fmt: skip
    with pytest.raises(TransferError, match="strongly augmented target images"):
        trainer().fit(model, {"source": loader(), "target": loader()})


def test_a_network_without_input_spec_needs_own_loaders() -> None:
    data = tl.create("data", "digits", steps_per_epoch=1, target_copies=1)
    model = tl.create("model", "dann", data=data, backbone=network())
    with pytest.raises(ConfigError, match="Sequential has no attribute input_spec"):
        trainer().fit(model, datamodule=data)


def test_a_backbone_without_out_features() -> None:
    with pytest.raises(ConfigError, match="ReLU has no attribute out_features"):
        tl.create("model", "dann", classes=2, backbone=nn.ReLU())


@pytest.mark.slow
def test_load_from_checkpoint(tmp_path) -> None:
    data = tl.create("data", "digits", steps_per_epoch=1, target_copies=1)
    model = tl.create("model", "dann", data=data, backbone="tiny_cnn")
    run = trainer()
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = model.eval()(images)
    loaded = type(model).load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded(images), expected)
    assert torch.equal(tl.load(tmp_path / "a.ckpt")(images), expected)
    from tl_lightning.models.supervised import FineTuning

    with pytest.raises(TypeError, match=r"contains a DomainAdaptation, which is not a FineTuning"):
        FineTuning.load_from_checkpoint(tmp_path / "a.ckpt")


def digits() -> tl.TransferDataModule:
    """Return the digits, with one small batch per epoch."""
    return tl.create("data", "digits", steps_per_epoch=1, target_copies=1)


@pytest.mark.slow
def test_a_data_module_is_prepared_for_each_model_in_turn() -> None:
    """Input size, domains and labels are those that the trained model asks for."""
    data = digits()
    first = tl.create("model", "source_only", data=data, backbone="tiny_cnn")
    trainer().fit(first, datamodule=data)
    assert data.prepared.train_on == ("source",)
    other = tl.create("model", "dann", data=data, backbone="small_cnn")
    trainer().fit(other, datamodule=data)
    assert data.prepared.train_on == ("source", "target")
    assert data.prepared.input_spec == other.input_spec != first.input_spec
    oracle = tl.create("model", "oracle", data=data, backbone="tiny_cnn")
    trainer().fit(oracle, datamodule=data)
    assert (data.learn_from, data.prepared.val_labels) == ("target", ("source", "target"))
    trainer().fit(first, datamodule=data)
    assert (data.learn_from, data.prepared.val_labels) == ("source", ("source",))


def test_a_model_of_vectors_has_their_width(tmp_path) -> None:
    x = torch.randn(200, 5)
    np.savez(tmp_path / "x.npz", x=x.numpy(), y=(x[:, 0] > 0).long().numpy())
    data = tl.create("data", "vectors", source={"train": str(tmp_path / "x.npz")}, batch_size=16)
    model = tl.create("model", "source_only", data=data)
    trainer().fit(model, datamodule=data)
    assert model.hparams["config"]["backbone"]["in_features"] == 5


def test_inputs_that_a_model_cannot_take() -> None:
    model = tl.create("model", "source_only", classes=2, backbone="tiny_cnn")
    pixels, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 2
    with pytest.raises(DataError, match=r"images must be uint8 \(B, 3, H, W\), got torch.float32"):
        trainer().fit(model, DataLoader(TensorDataset(pixels, labels), batch_size=8))

    class Endless(IterableDataset):
        def __iter__(self):
            yield from zip((255 * pixels).to(torch.uint8), labels, strict=True)

    with pytest.raises(DataError, match="the training loader has no length, which schedules need"):
        trainer().fit(model, DataLoader(Endless(), batch_size=8))
    trainer(limit_train_batches=2).fit(model, DataLoader(Endless(), batch_size=8))


@pytest.mark.parametrize(("settings", "message"), [
    ({"classes": 0}, "classes=0 must be two or more names, or their number"),
    ({"classes": "ab"}, "classes='ab' must be two or more names"),
    ({"classes": 2, "backbone": nn.ReLU}, "backbone is a type, not a module|no attribute"),
    ({"classes": 2, "loss": "focal"}, "loss is a str, not a module; see docs/bring_your_own.md"),
    ({"data": L.LightningDataModule()}, "data is a LightningDataModule, not a tl_lightning.Trans"),
    ({"classes": 2, "overrides": ["phases=head_first"]}, "phases need the callbacks of"),
])  # fmt: skip
def test_parts_of_a_model_that_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        tl.create("model", "source_only", **settings)


def test_settings_that_would_have_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"data\.augment=none has no effect on data=<"):
        tl.create("model", "source_only", data=digits(), overrides=["data.augment=none"])
    with pytest.raises(ConfigError, match=r"optimizer\.lr=1 has no effect; set data, trainer"):
        tl.evaluate("run", ["optimizer.lr=1"])


def test_own_network_is_loaded_with_its_object(tmp_path) -> None:
    net = network()
    model = tl.create("model", "source_only", classes=2, backbone=net)
    run = trainer()
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="pass the parts of your own that the model was"):
        tl.load(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="bakbone is not a part of a model; did you mean 'backb"):
        tl.load(tmp_path / "a.ckpt", bakbone=network())
    loaded = tl.load(tmp_path / "a.ckpt", backbone=network())
    x = torch.randn(5, 2)
    assert torch.equal(loaded(x), model.eval()(x))


def test_an_unknown_option_of_predict_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tops is not an option of predict; did you mean 'top'"):
        tl.predict("run", [], tops=3)
