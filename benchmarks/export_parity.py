"""Exported models compared with their checkpoints, and the written preprocessing with tl-predict.

    python benchmarks/export_parity.py run <name>=<run folder>[,<folder or file of samples>] ...
    python benchmarks/export_parity.py int8 <name>=<run folder>[,<folder of images>] ...
    python benchmarks/export_parity.py contract <run folder> <folder of images>

``run`` exports in float32 to ONNX and prints, on 200 samples, the largest difference of a
probability, that of a logit or feature as a fraction of their standard deviation, and the share of
samples with the same class; the checkpoint runs in PyTorch, the file in
ONNX Runtime, both on one thread. ``int8`` does the same for a quantised file. ``contract``
classifies 500 images, a tenth each rotated by EXIF, in CMYK, with 16-bit grey values, with a
palette, in grey and with transparency, once as tl-predict does and once with the exported
predict_numpy.py.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tl_lightning.data.io.folders import image_files
from tl_lightning.errors import TransferError
from tl_lightning.inference.export import load_exported
from tl_lightning.inference.export.parity import ratio_of_times
from tl_lightning.inference.export.settings import Settings
from tl_lightning.inference.export.write import export_model
from tl_lightning.inference.predictor import Predictor
from tl_lightning.utils.spread import spread

COUNT, CONTRACT = 200, 500
KINDS = ("as it is", "EXIF rotated", "CMYK", "16-bit grey", "palette", "grey", "transparent")


def exported(name: str, place: str, folder: Path, precision: str, **more: Any) -> dict[str, Any]:
    """Export a run, given as ``<run>[,<samples>]``, and return its description."""
    run, _, samples = place.partition(",")
    settings = Settings(
        folder / name, precision=precision, samples=Path(samples) if samples else None,
        count=COUNT, **more,
    )  # fmt: skip
    return export_model(run, settings)


def speed(name: str, place: str, folder: Path) -> dict[str, Any]:
    """Return samples per second of the checkpoint and of its file, on one thread."""
    predictor = Predictor.open(place.partition(",")[0], device="cpu")
    model = load_exported(folder / name, threads=1)
    rng = np.random.default_rng(0)
    if predictor.kind == "images":
        side = predictor.spec.size
        inputs: Any = rng.integers(0, 256, (16, 3, side, side), dtype=np.uint8)
    elif predictor.kind == "texts":
        inputs = rng.integers(5, 1000, (16, min(128, predictor.spec.max_length)))
    else:
        inputs = rng.random((16, model.description["input"]["shape"][1]), dtype=np.float32)
    own = predictor.vectors(inputs) if predictor.kind == "vectors" else torch.from_numpy(inputs)
    return ratio_of_times(lambda _: predictor.outputs(own)._asdict(), model, inputs)


def runs(pairs: list[str]) -> None:
    """Print a line per run in float32."""
    print("| model | samples | probability | output | same class | PyTorch/s | ONNX Runtime/s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, _, place in (pair.partition("=") for pair in pairs):
            parity = exported(name, place, Path(folder), "float32")["parity"]
            found, fast = parity["float32"], speed(name, place, Path(folder))
            print(
                f"| {name} | {found['samples']} {parity['samples_are']} "
                f"| {found['max_difference_of_probabilities']:.1e} "
                f"| {found['max_relative_difference_of_outputs']:.1e} "
                f"| {100 * found['same_class']:.1f} % | {fast['float32_per_second']:.1f} "
                f"| {fast['per_second']:.1f} |",
                flush=True,
            )


def int8(pairs: list[str]) -> None:
    """Print a line per run in int8; also for those that tl-export would refuse."""
    print("| model | samples | same class | accuracy float32 | accuracy int8 | speed | kept |")
    print("|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, _, place in (pair.partition("=") for pair in pairs):
            found = exported(name, place, Path(folder), "int8", max_loss=1.0)["parity"]["int8"]
            accuracy = [
                f"{100 * found[f'accuracy_of_{one}']:.1f} %"
                if f"accuracy_of_{one}" in found
                else ""
                for one in ("checkpoint", "export")
            ]
            lost = found.get("accuracy_of_checkpoint", 1) - found.get(
                "accuracy_of_export", found["same_class"]
            )
            kept = lost <= (0.02 if accuracy[0] else 0.05)
            print(
                f"| {name} | {found['samples']} | {100 * found['same_class']:.1f} % "
                f"| {accuracy[0]} | {accuracy[1]} | {found['speed']['speed']:.2f} x "
                f"| {'yes' if kept else 'no'} |",
                flush=True,
            )


def variant(file: Path, kind: str, out: Path) -> Path:
    """Write an image in another form, and return its file."""
    if kind == "as it is":
        return file
    image = Image.open(file).convert("RGB")
    made = out / f"{file.parent.name}-{file.stem}"
    if kind == "EXIF rotated":
        exif = Image.Exif()
        exif[0x0112] = 2 + sum(map(ord, file.stem)) % 7
        image.save(made := made.with_suffix(".jpg"), exif=exif, quality=95)
    elif kind == "CMYK":
        image.convert("CMYK").save(made := made.with_suffix(".jpg"), quality=95)
    elif kind == "16-bit grey":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(made := made.with_suffix(".png"))
    elif kind == "palette":
        image.quantize(64).save(made := made.with_suffix(".png"))
    elif kind == "grey":
        image.convert("L").save(made := made.with_suffix(".jpg"), quality=95)
    else:
        alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
        image.putalpha(Image.fromarray(alpha))
        image.save(made := made.with_suffix(".png"))
    return made


def contract(run: str, place: str) -> None:
    """Print the agreement of tl-predict with predict_numpy.py, by kind of image."""
    folders = sorted(path for path in Path(place).rglob("*") if path.is_dir())
    files = [file for folder in (Path(place), *folders) for file in image_files(folder)]
    files = [files[i] for i in spread(len(files), CONTRACT)]
    predictor = Predictor.open(run, device="cpu")
    found: dict[str, list[tuple[bool, float, int]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_model(run, Settings(folder / "model", samples=Path(place), count=32))
        model = load_exported(folder / "model", threads=1)
        (folder / "images").mkdir()
        for number, original in enumerate(files):
            kind = KINDS[0] if number % 10 < 4 else KINDS[number % 10 - 3]
            file = variant(original, kind, folder / "images")
            own, other = predictor.image(file)[None], model.image(file)
            expected = predictor.probabilities(predictor.outputs(own).logits)[0]
            got = model(other)["probabilities"][0]
            levels = int(np.abs(own.numpy().astype(int) - other).max())
            same = int(expected.argmax()) == int(got.argmax())
            found[kind].append((same, float(np.abs(expected - got).max()), levels))
    print(
        "| images | number | same class | probability: mean, 99th percentile, max | pixels, max |"
    )
    print("|---|---:|---:|---:|---:|")
    everything = [row for rows in found.values() for row in rows]
    for kind, rows in {**found, "all": everything}.items():
        same, difference, levels = (np.array(part) for part in zip(*rows, strict=True))
        print(
            f"| {kind} | {len(rows)} | {100 * same.mean():.1f} % | {difference.mean():.1e}, "
            f"{np.quantile(difference, 0.99):.1e}, {difference.max():.1e} | {levels.max()} |"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) < 3 or sys.argv[1] not in ("run", "int8", "contract"):
        sys.exit(__doc__)
    try:
        if sys.argv[1] == "contract":
            contract(*sys.argv[2:4])
        else:
            (runs if sys.argv[1] == "run" else int8)(sys.argv[2:])
    except TransferError as error:
        sys.exit(f"error: {error}")
