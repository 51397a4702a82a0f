"""Exported models: what is in the file, and that it computes what its checkpoint does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from conftest import REPO
from helpers import config, file_config
from layouts import split_folders
from methods import norms_of
from tl_lightning.config.compose import compose
from tl_lightning.data.transforms.vectors import vector_width
from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.inference.export import ExportedModel, describe, formats, load_exported, write
from tl_lightning.inference.export import settings as export_settings
from tl_lightning.inference.export.network import (
    ResizedImages,
    ScaledVectors,
    _merged,
    exported_network,
)
from tl_lightning.inference.export.parity import Agreement, check_loss, check_parity
from tl_lightning.inference.export.settings import Settings, require_packages
from tl_lightning.inference.export.write import export_model
from tl_lightning.inference.predictor import Predictor
from tl_lightning.reliability.assessment import Record
from tl_lightning.tasks.target_outputs import PriorCorrection, Rejection
from tl_lightning.training import fit as training

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="without extra export"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on image files; its backbone has batch norm."""
    folder = tmp_path_factory.mktemp("export")
    split_folders(folder / "data")
    training.fit(file_config(folder / "data"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a discriminator, a teacher and a batch norm for each domain."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    methods = "method=[dann,self_training,dsbn]"
    training.fit(config("model=domain_adaptation", methods, "baselines=[]"), folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run as ONNX."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("onnx") / "model"
    export_model(run, Settings(out, count=20))
    return out


@pytest.fixture(scope="module")
def pt2(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run as a single file of torch.export, which resizes images itself."""
    out = tmp_path_factory.mktemp("pt2") / "m.pt2"
    export_model(run, Settings(out, "torch_export", count=4))
    return out


def noise(predictor: Predictor, count: int = 5) -> torch.Tensor:
    size = predictor.spec.size
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def probabilities(predictor: Predictor, inputs: torch.Tensor) -> Any:
    return predictor.probabilities(predictor.outputs(inputs).logits)


# -- the file -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_onnx_file_computes_what_the_checkpoint_does_in_any_batch(run, exported) -> None:
    predictor, model = Predictor.open(run), load_exported(exported)
    inputs = noise(predictor)
    expected = predictor.outputs(inputs)
    assert model.classes == predictor.classes
    for count in (1, 2, 5):
        found = model(inputs[:count].numpy())
        assert (
            np.abs(found["probabilities"] - probabilities(predictor, inputs[:count])).max() < 1e-5
        )
        assert np.abs(found["logits"] - expected.logits[:count]).max() < 1e-4
        assert np.abs(found["features"] - expected.features[:count]).max() < 1e-4


@pytest.mark.slow
def test_a_description_is_in_the_file_and_beside_it(run, exported) -> None:
    model = ExportedModel.open(exported / "model.onnx")
    beside = json.loads((exported / "model.json").read_text())
    assert model.description == beside
    assert beside["opset"] >= 18
    assert beside["temperature"] == Predictor.open(run).temperature
    assert beside["origin"]["selection"]
    assert beside["origin"]["data_fingerprint"]
    assert beside["pretrained_weights"]["licence"]
    assert beside["parity"]["float32"]["same_class"] == 1.0
    assert "synthetic" not in beside["parity"]["samples_are"]
    assert {item.name for item in exported.iterdir()} == {
        "model.onnx", "model.json", "preprocessing.json", "predict_numpy.py",
    }  # fmt: skip


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_any_file(run, exported, pt2) -> None:
    paths = [str(REPO), str(run.parent), str(Path.home()) + "/", ".venv"]
    for file in (*exported.iterdir(), pt2):
        content = file.read_bytes()
        assert not [path for path in paths if path.encode() in content], file


@pytest.mark.slow
@needs_onnx
def test_discriminator_teacher_and_the_norms_of_the_source_are_left_out(adapted, tmp_path) -> None:
    import onnx

    predictor = Predictor.open(adapted)
    network = exported_network(predictor)
    assert {name.split(".")[0] for name in network.state_dict()} == {
        "prepare", "backbone", "head", "temperature",
    }  # fmt: skip
    export_model(adapted, Settings(tmp_path / "model", count=20))
    stored = onnx.load(str(tmp_path / "model" / "model.onnx"))
    written = sum(int(np.prod(tensor.dims)) for tensor in stored.graph.initializer)
    task = sum(p.numel() for p in predictor.module.task.head.parameters())
    with_norms = sum(p.numel() for p in predictor.module.backbone.parameters())
    rest = sum(p.numel() for p in predictor.module.parameters()) - task - with_norms
    assert rest > task  # of the discriminator and the teacher
    assert written < with_norms + task + 20
    inputs = noise(predictor)
    found = load_exported(tmp_path / "model")(inputs.numpy())["probabilities"]
    assert np.abs(found - probabilities(predictor, inputs)).max() < 1e-5


def test_the_norms_are_those_of_the_target(adapted) -> None:
    predictor = Predictor.open(adapted)
    before = exported_network(predictor)(noise(predictor))["logits"]
    for norm in norms_of(predictor.module):
        norm.get_submodule("source").running_mean.add_(1.0)
    assert torch.equal(exported_network(predictor)(noise(predictor))["logits"], before)
    for norm in norms_of(predictor.module):
        norm.get_submodule("target").running_mean.add_(1.0)
    assert not torch.equal(exported_network(predictor)(noise(predictor))["logits"], before)


@pytest.mark.parametrize(("format", "precision"), [
    ("safetensors", "float32"), ("safetensors", "float16"),
    pytest.param("torch_export", "bfloat16", marks=pytest.mark.slow),
])  # fmt: skip
def test_other_formats_agree(run, tmp_path, format, precision) -> None:
    settings = Settings(tmp_path / "model", format, precision, count=20, max_loss=1.0)
    found = export_model(run, settings)["parity"]
    assert found["float32"]["max_difference_of_probabilities"] < 1e-5
    if precision != "float32":
        assert 0 < found[precision]["max_difference_of_probabilities"] < 0.2
        assert found[precision]["speed"]["speed"] > 0
    file = tmp_path / "model" / f"model{export_settings.SUFFIXES[format]}"
    if format == "safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            description = json.loads(opened.metadata()["tl_lightning"])
            assert opened.get_tensor("temperature").item() > 0
    else:
        extra = {"tl_lightning.json": ""}
        torch.export.load(file, extra_files=extra)
        description = json.loads(extra["tl_lightning.json"])
    assert description["precision"] == precision


@pytest.mark.slow
def test_a_network_that_resizes_agrees_bit_for_bit(run, pt2, tmp_path) -> None:
    assert [item.name for item in pt2.parent.iterdir()] == ["m.pt2"]
    extra = {"tl_lightning.json": ""}
    network = torch.export.load(pt2, extra_files=extra).module()
    assert json.loads(extra["tl_lightning.json"])["file"] == "m.pt2"
    predictor = Predictor.open(run)
    rng = np.random.default_rng(0)
    for height, width in ((40, 60), (61, 33), (17, 17), (9, 30)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        own = exported_network(predictor)(predictor.image(tmp_path / "image.png")[None])
        found = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        assert torch.equal(found["logits"], own["logits"])


@pytest.mark.slow
@needs_onnx
def test_int8_is_calibrated_and_measured(run, tmp_path) -> None:
    settings = Settings(tmp_path / "model", precision="int8", count=6, max_loss=1.0)
    found = export_model(run, settings)["parity"]["int8"]
    assert found["how"].startswith("static (QDQ) from")
    assert found["samples"] >= 1
    assert found["speed"]["per_second"] > 0
    assert {item.name for item in (tmp_path / "model").iterdir()} == {
        "model.onnx", "model.json", "preprocessing.json", "predict_numpy.py",
    }  # fmt: skip


def test_without_the_data_of_the_run_samples_are_synthetic(run, tmp_path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    data = run.parent / "data"
    data.rename(run.parent / "elsewhere")
    try:
        found = export_model(moved, Settings(tmp_path / "m", "safetensors", count=5))
        int8 = Settings(tmp_path / "i", precision="int8")
        with pytest.raises(ConfigError, match=r"int8 needs real samples for calibration, but there "
                                              r"are only 64 synthetic samples"):  # fmt: skip
            export_model(moved, int8)
    finally:
        (run.parent / "elsewhere").rename(data)
    assert found["parity"]["samples_are"].startswith(
        "5 synthetic samples, as the data of the run cannot be read"
    )


def test_given_samples_in_class_folders_have_labels(run, tmp_path) -> None:
    place = run.parent / "data" / "test"
    settings = Settings(tmp_path / "m", "safetensors", "float16", samples=place, max_loss=1.0)
    found = export_model(run, settings)["parity"]["float16"]
    assert 0 <= found["accuracy_of_export"] <= 1


# -- nothing is kept of a file that differs -----------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", pytest.param("onnx", marks=needs_onnx)])
def test_a_wrong_temperature_leaves_no_file(run, tmp_path, monkeypatch, format) -> None:
    def broken(*arguments: Any) -> Any:
        network = exported_network(*arguments)
        network.temperature.mul_(1.5)
        return network

    monkeypatch.setattr(write, "exported_network", broken)
    with pytest.raises(CheckpointError, match=r"nothing was exported: on 9 samples the probabil"):
        export_model(run, Settings(tmp_path / "model", format, count=9))
    assert list(tmp_path.iterdir()) == []


def test_a_description_that_changes_the_file_leaves_no_file(run, tmp_path, monkeypatch) -> None:
    def broken(file: Path, format: str, text: str) -> None:
        from safetensors.torch import load_file, save_file

        save_file({**load_file(file), "temperature": torch.tensor(9.0)}, file)

    monkeypatch.setattr(write, "describe_file", broken)
    with pytest.raises(
        CheckpointError, match=r"adding the description changed what the model.safe"
    ):
        export_model(run, Settings(tmp_path / "model", "safetensors", count=9))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_leaves_no_file(run, tmp_path, monkeypatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(formats, "_write_torch_export", broken)
    text = r"cannot be exported as format=torch_export \(RuntimeError: no such operator\); set"
    with pytest.raises(ConfigError, match=text):
        export_model(run, Settings(tmp_path / "model", "torch_export", count=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("found", "text"), [
    (Agreement(10, 0.2, 0.1, 0.3, 0.8), r"20\.0 % of the predicted classes change on 10 samples "
                                   r"\(at most 5\.0 %.*max_loss=0\.20 to export"),
    (Agreement(10, 0.2, 0.1, 0.3, 0.8, (0.9, 0.87)), r"3\.0 % of the accuracy is lost .* 2\.0 %"),
])  # fmt: skip
def test_a_reduced_precision_that_loses_too_much_is_refused(found: Agreement, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        check_loss(found, "int8", None)
    check_loss(found, "int8", 0.2)


def test_float32_must_agree_on_probabilities_and_classes() -> None:
    check_parity(Agreement(10, 9e-5, 1e-6, 1e-4, 1.0), "onnx")
    for found in (
        Agreement(10, 2e-4, 1e-6, 1e-4, 1.0),
        Agreement(10, 1e-5, 1e-6, 1e-4, 0.9),
        Agreement(10, 1e-5, 1e-6, 0.1, 1.0),  # nearly equal probabilities of another network
    ):
        with pytest.raises(CheckpointError, match=r"on 10 samples the probabilities of the onnx"):
            check_parity(found, "onnx")


def test_a_model_with_own_outputs_is_refused(run, monkeypatch) -> None:
    predictor = Predictor.open(run)

    class Own(type(predictor.module)):  # type: ignore[misc]
        def extract(self, inputs: Any) -> Any:
            return super().extract(inputs) * 2

    predictor.module.__class__ = Own
    with pytest.raises(ConfigError, match=r"Own has a method extract of its own"):
        exported_network(predictor)


# -- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("given", "text"), [
    ({"format": "onn"}, r"format=onn is not supported; did you mean 'onnx'\?"),
    ({"precision": "int8", "format": "safetensors"}, r"int8 is not supported with format=safete"),
    ({"precision": "bfloat16"}, r"bfloat16 is not supported with format=onnx, as ONNX Runtime"),
    ({"resize": "true"}, r"resize=true is not supported with format=onnx, whose resizing"),
    ({"abstain": 1.5}, r"abstain=1.5 is not a fraction between 0 and 1; set abstain=0.95"),
    ({"count": 0}, r"count=0 must be at least 1"),
    ({"max_loss": 2.0}, r"max_loss=2 must be between 0 and 1"),
    ({"out": Path("model.pt2")}, r"out=model.pt2 has the suffix .pt2, but format=onnx is written"),
    ({"out": REPO / "src"}, r"src exists and is not empty; set out=<another folder>"),
])  # fmt: skip
def test_a_wrong_setting_is_named(given: dict[str, Any], text: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match=text):
        Settings(**{"out": tmp_path / "new", **given})


def test_a_file_is_not_replaced(tmp_path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ConfigError, match=r"a\.onnx exists; set out=<another file>"):
        Settings(tmp_path / "a.onnx")


def test_a_missing_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(export_settings, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxscript, onnxruntime; run pip install "
                                          r"'tl_lightning\[export\]'"):  # fmt: skip
        require_packages("onnx")
    require_packages("safetensors")


def test_an_abstention_threshold_is_stored_or_refused(run, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"abstain=0\.999 cannot be assured"):
        export_model(run, Settings(tmp_path / "a", "safetensors", abstain=0.999))
    monkeypatch.setattr(Record, "threshold", lambda self, precision: precision / 2)
    found = export_model(run, Settings(tmp_path / "b", "safetensors", abstain=0.5, count=5))
    assert found["abstain"] == {"precision": 0.5, "threshold": 0.25}


def test_samples_that_cannot_be_used_are_named(run, tmp_path) -> None:
    for place, text in ((tmp_path / "no", "not found"), (tmp_path, "contains no images")):
        with pytest.raises(DataError, match=rf"samples=.* {text}; set samples=<folder"):
            export_model(run, Settings(tmp_path / "m", "safetensors", samples=place))


@pytest.mark.slow
def test_other_files_are_not_read_as_exported_models(run, exported, tmp_path, monkeypatch) -> None:
    (tmp_path / "other.txt").touch()
    with pytest.raises(CheckpointError, match=r"other\.txt is not a model exported by tl-export"):
        load_exported(tmp_path / "other.txt")
    (tmp_path / "broken.onnx").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"broken\.onnx cannot be loaded by ONNX Runtime"):
        load_exported(tmp_path / "broken.onnx")
    import onnx

    plain = onnx.load(str(exported / "model.onnx"))
    del plain.metadata_props[:]
    onnx.save(plain, str(tmp_path / "plain.onnx"))
    with pytest.raises(CheckpointError, match=r"plain\.onnx was not written by tl-export"):
        load_exported(tmp_path / "plain.onnx")
    model = load_exported(exported)
    model.description["input"] = {"kind": "texts"}
    with pytest.raises(DataError, match=r"the exported model classifies texts, not images"):
        model.image(tmp_path / "other.txt")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ConfigError, match=r"reading model\.onnx requires onnxruntime .*pip install"
    ):
        load_exported(exported)


# -- vectors and LoRA ---------------------------------------------------------------------------
def raw_rows(count: int = 4) -> torch.Tensor:
    return torch.rand((count, 6), generator=torch.Generator().manual_seed(0)) - 0.3


@pytest.mark.parametrize("state", [
    {"scale": "none", "columns": [1, 4], "width": 6},
    {"scale": "l2", "columns": None, "width": 6},
    {"scale": "standard", "columns": [0, 2, 5], "mean": [0.1, 0.2, 0.3], "std": [1.0, 0.0, 2.0]},
])  # fmt: skip
def test_vectors_are_scaled_as_by_the_data_module(state: dict[str, Any]) -> None:
    from tl_lightning.data.transforms.vectors import network_rows

    rows = raw_rows()
    rows[1] = 0.0
    found = ScaledVectors(state)(rows)
    assert np.allclose(found.numpy(), network_rows(rows.numpy(), state), atol=1e-6)
    assert vector_width({"width": 7, "first": True}, 3) == 6


def test_lora_is_added_to_the_weights() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4)))
    settings = peft.LoraConfig(r=2, target_modules=["0", "2.0"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, network)
    network.eval()
    x = torch.rand(3, 6)
    expected = network(x)
    merged = _merged(network)
    assert torch.allclose(merged(x), expected, atol=1e-6)
    assert not [name for name in merged.state_dict() if "lora" in name]


def test_the_size_after_resizing_is_that_of_training() -> None:
    from tl_lightning.types import InputSpec

    spec = InputSpec(8, (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)
    rng = np.random.default_rng(0)
    sizes: Sequence[Any] = rng.integers(2, 40, (30, 2))
    for height, width in sizes:
        image = torch.from_numpy(rng.integers(0, 256, (1, 3, height, width), dtype=np.uint8))
        assert ResizedImages(spec)(image).shape == (1, 3, 8, 8)


# -- real networks ------------------------------------------------------------------------------
@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("backbone", [
    ["backbone=mobilenet_v2", "backbone.size=64"],
    ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.size=32",
     "backbone.lora.rank=2", "backbone.lr_factor=1"],
])  # fmt: skip
def test_a_real_network_is_exported_in_every_format(run, backbone, tmp_path) -> None:
    if "backbone.lora.rank=2" in backbone:
        pytest.importorskip("peft")
    settings = file_config(run.parent / "data")
    composed = compose([*backbone, "backbone.pretrained=false"]).backbone
    settings["backbone"] = OmegaConf.to_container(composed, resolve=True)
    training.fit(settings, tmp_path / "run")
    predictor = Predictor.open(tmp_path / "run")
    inputs = noise(predictor)
    for format, suffix in export_settings.SUFFIXES.items():
        found = export_model(tmp_path / "run", Settings(tmp_path / format, format, count=9))
        assert found["parity"]["float32"]["max_difference_of_probabilities"] < 1e-4
        assert (tmp_path / format / f"model{suffix}").stat().st_size > 1e6
    out = load_exported(tmp_path / "onnx")(inputs.numpy())["probabilities"]
    assert np.abs(out - probabilities(predictor, inputs)).max() < 1e-4
    names = exported_network(predictor).state_dict()
    assert not [name for name in names if "lora" in name]


def test_a_shift_of_the_logits_is_exported(run, tmp_path) -> None:
    predictor = Predictor.open(run, device="cpu")
    prior = PriorCorrection(len(predictor.classes))
    prior.shift.copy_(torch.linspace(-1.0, 2.0, len(predictor.classes)))
    plain = probabilities(predictor, noise(predictor))
    predictor.module.task.prior = prior
    predictor.module.eval()
    expected = probabilities(predictor, noise(predictor))
    assert not np.allclose(plain, expected, atol=0.01)
    found = exported_network(predictor)(noise(predictor))
    assert np.allclose(found["probabilities"], expected, atol=1e-5)


def test_a_rejection_that_was_not_fitted_is_none(run) -> None:
    predictor = Predictor.open(run, device="cpu")
    assert describe.rejection(predictor) is None
    predictor.module.task.rejection = Rejection("entropy")
    assert describe.rejection(predictor) is None
    assert predictor.unknown(predictor.outputs(noise(predictor))) is None
    predictor.module.task.rejection.threshold.fill_(0.5)
    assert describe.rejection(predictor)["threshold"] == 0.5
