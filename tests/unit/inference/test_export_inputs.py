"""What goes into an exported model: image files, texts and vectors, as in tl-predict."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from helpers import config
from tiny_texts import imdb, sentence, text_config, tiny_bert
from tl_lightning.config.compose import compose
from tl_lightning.data.io.images import fitted, open_image, shorter_side
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.inference.export import load_exported
from tl_lightning.inference.export.describe import _without_path
from tl_lightning.inference.export.predict_numpy import prepared
from tl_lightning.inference.export.settings import Settings
from tl_lightning.inference.export.write import export_model
from tl_lightning.inference.predictor import Predictor
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="without extra export"
)


# -- image files --------------------------------------------------------------------------------
def pixels(height: int, width: int) -> Any:
    """Return a smooth colourful image with an asymmetric pattern."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / 9 + 2), 255 * y / height, 128 + 90 * np.cos((x + y) / 7)]
    found = np.stack(waves, axis=2)
    found[: height // 4, : width // 3] = (250, 20, 90)
    return found.clip(0, 255).astype(np.uint8)


def plain(file: Path) -> Path:
    Image.fromarray(pixels(90, 130)).save(file := file.with_suffix(".png"))
    return file


def small(file: Path) -> Path:
    Image.fromarray(pixels(17, 30)).save(file := file.with_suffix(".png"))
    return file


def large_jpeg(file: Path) -> Path:
    Image.fromarray(pixels(700, 500)).save(file := file.with_suffix(".jpg"), quality=90)
    return file


def turned(orientation: int) -> Callable[[Path], Path]:
    def write(file: Path) -> Path:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels(80, 120)).save(
            file := file.with_suffix(".jpg"), exif=exif, quality=95
        )
        return file

    return write


def cmyk(file: Path) -> Path:
    Image.fromarray(pixels(80, 70)).convert("CMYK").save(file := file.with_suffix(".jpg"))
    return file


def deep(file: Path) -> Path:
    grey = pixels(80, 70)[:, :, 2].astype(np.uint16) * 200 + 13
    Image.fromarray(grey).save(file := file.with_suffix(".png"))
    return file


def float_tiff(file: Path) -> Path:
    Image.fromarray(pixels(80, 70)[:, :, 2].astype(np.float32)).save(
        file := file.with_suffix(".tiff")
    )
    return file


def palette(file: Path) -> Path:
    Image.fromarray(pixels(80, 70)).quantize(32).save(file := file.with_suffix(".gif"))
    return file


def transparent(file: Path) -> Path:
    image = Image.fromarray(pixels(80, 70))
    image.putalpha(Image.fromarray(pixels(80, 70)[:, :, 1]))
    image.save(file := file.with_suffix(".png"))
    return file


def transparent_colour(file: Path) -> Path:
    image = Image.fromarray(pixels(80, 70)).quantize(8)
    image.save(file := file.with_suffix(".png"), transparency=3)
    return file


def grey(file: Path) -> Path:
    Image.fromarray(pixels(80, 70)).convert("L").save(file := file.with_suffix(".jpg"))
    return file


def bits(file: Path) -> Path:
    Image.fromarray(pixels(80, 70)).convert("1").save(file := file.with_suffix(".png"))
    return file


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("write", [
    plain, small, large_jpeg, cmyk, deep, float_tiff, palette, transparent, transparent_colour,
    grey, bits, *(turned(orientation) for orientation in range(1, 9)),
])  # fmt: skip
def test_the_reference_prepares_an_image_as_evaluation_does(
    write: Callable[[Path], Path], interpolation: str, tmp_path: Path
) -> None:
    spec = InputSpec(32, (0.5,) * 3, (0.5,) * 3, interpolation, 0.875)
    rules = {
        "shorter_side": shorter_side(spec), "crop": 32, "interpolation": interpolation,
        "white": None, "formats": ["JPEG", "PNG", "GIF", "TIFF"],
    }  # fmt: skip
    file = write(tmp_path / "image")
    out = torch.empty((1, 32, 32, 3), dtype=torch.uint8)
    Centre(spec)([fitted(open_image(file, rules["shorter_side"]), 37, spec)], [0], out)
    found = prepared(file, rules)
    assert found.shape == (1, 3, 32, 32)
    assert found.dtype == np.uint8
    difference = np.abs(found[0].transpose(1, 2, 0).astype(int) - out[0].numpy())
    assert difference.max() <= (1 if interpolation == "bilinear" else 3)
    assert difference.mean() < 0.05


def test_a_given_value_of_white_is_used(tmp_path: Path) -> None:
    spec = InputSpec(32, (0.5,) * 3, (0.5,) * 3)
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 40), 2048, dtype=np.uint16)).save(file)
    rules = {"shorter_side": 37, "crop": 32, "interpolation": "bilinear", "white": 4095.0,
             "formats": ["PNG"]}  # fmt: skip
    assert (prepared(file, rules) == 128).all()
    assert (open_image(file, shorter_side(spec), 4095.0) == 128).all()


@pytest.mark.slow
@needs_onnx
def test_the_program_beside_the_file_prints_the_prediction(tmp_path, capsys, monkeypatch) -> None:
    run = tmp_path / "run"
    training.fit(config("model=source_only", "baselines=[]", "trainer.max_epochs=1"), run)
    found = export_model(run, Settings(tmp_path / "model", count=10))
    assert "synthetic" not in found["parity"]["samples_are"]
    file = plain(tmp_path / "image")
    monkeypatch.setattr(sys, "argv", ["predict_numpy.py", str(file)])
    capsys.readouterr()
    runpy.run_path(str(tmp_path / "model" / "predict_numpy.py"), run_name="__main__")
    name, label, probability = capsys.readouterr().out.strip().split("\t")
    predictor = Predictor.open(run)
    expected = predictor.probabilities(predictor.outputs(predictor.image(file)[None]).logits)[0]
    assert name == str(file)
    assert label == predictor.classes[expected.argmax()]
    assert float(probability) == pytest.approx(expected.max(), abs=0.02)
    inputs = load_exported(tmp_path / "model").image(file)
    assert np.abs(inputs[0].astype(int) - predictor.image(file).numpy()).max() <= 1


# -- texts --------------------------------------------------------------------------------------
@pytest.mark.slow
@needs_onnx
def test_texts_have_their_tokenizer_beside_the_file(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert", weights=True)
    imdb(tmp_path / "data", train=8, test=4)
    run = tmp_path / "run"
    training.fit(
        text_config(bert, "data=imdb", "model=fine_tuning", f"data.root={tmp_path / 'data'}"), run
    )
    found = export_model(run, Settings(tmp_path / "model", count=8))
    assert found["parity"]["samples_are"].startswith("validation samples of the run's source")
    assert found["input"]["max_length"] == 24
    shutil.rmtree(bert)

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(found["input"]["max_length"])
    texts = [sentence(("good", "bad"), seed, most=40) for seed in range(6)]
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ids = np.full((len(rows), max(map(len, rows))), found["input"]["padding"], dtype=np.int64)
    for row, one in zip(ids, rows, strict=True):
        row[: len(one)] = one
    predictor, model = Predictor.open(run), load_exported(tmp_path / "model")
    tokens = predictor.tokens(texts)[0]
    assert np.array_equal(tokens.numpy(), ids)
    expected = predictor.probabilities(predictor.outputs(tokens).logits)
    assert np.abs(model(ids)["probabilities"] - expected).max() < 1e-5
    alone = model(ids[:1, : len(rows[0])])["probabilities"]
    assert np.abs(alone - expected[:1]).max() < 1e-5


# -- vectors ------------------------------------------------------------------------------------
@pytest.mark.slow
@needs_onnx
def test_vectors_are_taken_as_they_are_in_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (60, 8)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, 0] > 3).astype(int))
    run = tmp_path / "run"
    made: Any = OmegaConf.to_container(compose([
        "data=vectors", f"data.source.train={tmp_path / 'a.npz'}", "data.scale=standard",
        "data.max_features=5", "data.batch_size=8", "model=source_only", "baselines=[]",
    ]), resolve=True)  # fmt: skip
    shared = {key: config()[key] for key in ("trainer", "callbacks", "report", "checkpointing")}
    training.fit({**made, **shared}, run)
    found = export_model(run, Settings(tmp_path / "model", count=20))
    assert found["input"]["shape"] == ["batch", 8]
    assert found["parity"]["samples_are"] == "vectors of the run's source"
    predictor = Predictor.open(run)
    expected = predictor.probabilities(predictor.outputs(predictor.vectors(x)).logits)
    assert np.abs(load_exported(tmp_path / "model")(x)["probabilities"] - expected).max() < 1e-5


# -- what is said of the origin -----------------------------------------------------------------
@pytest.mark.parametrize(("value", "expected"), [
    ("/home/me/weights.pth", "weights.pth"), ("~/nets/bert/", "bert"), ("C:\\nets\\a", "a"),
    ("../a/b", "b"), ("org/name", "org/name"), (0.5, 0.5), (["/a/b"], ["b"]),
])  # fmt: skip
def test_paths_are_left_out(value: Any, expected: Any) -> None:
    assert _without_path(value) == expected
    assert json.dumps(_without_path(value))


def test_reading_an_exported_model_does_not_import_torch() -> None:
    code = (
        "import sys; from tl_lightning.inference.export import load_exported; "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
