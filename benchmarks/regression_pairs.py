"""Adaptation of regression on two synthetic pairs of domains.

    python benchmarks/regression_pairs.py out=/tmp/regression [pairs=rotation,vectors] [seeds=0,1,2]
        ["models=dann;rsd"] [-- <overrides>]

writes the data, trains what is missing (``out/results.jsonl`` has one line per run) and prints a
table. Only the test uses labels of the target, and the oracles.

``rotation`` is the angle, in [-45, 45] degrees, of scikit-learn's digits of 16 x 16 pixels: grey on
black in the source, other digits blended with photographs in the target, as in ``data=digits``.
Every digit has four angles, all in the same split. The classes of the digits are not used. Digits
are written with different slants, so that the angle of a single one is not exact.

``vectors`` has two numbers that depend on four latent variables, ``y1 = z1 + z2^2 / 2`` and
``y2 = sin(z3) + z4 / 2``, with noise of 0.1. A vector consists of 20 values ``tanh(z W)`` and ten
values of noise, mixed by an orthogonal matrix. In the target, the mixture is turned by at most 0.6
radians in every plane and shifted, and the mean of ``z1`` is 0.3 instead of 0 (covariate shift, so
that the labels are distributed differently, too). W, mixtures and samples are drawn from fixed
seeds, which are not those of the runs.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from resumable import Results, arguments_of, lines_of

SEED = 20230101
COPIES, SIZE, DEGREES = 4, 16, 45.0
SAMPLES, TEST = 3000, 2000
MODELS = ("source_only", "dann", "coral", "mmd", "rsd", "dare_gram", "oracle")
COMMON = (
    "task=regression", "trainer.accelerator=cpu", "optimizer.lr=1e-3", "data.batch_size=32",
    "head.bottleneck=128", "report.samples=20", "report.examples=0", "baselines=[]",
    "track_target=true", "data.num_workers=0",
)  # fmt: skip
SHOWN = ("mae", "rmse", "r2")


def main(arguments: list[str]) -> None:
    """Run what is missing, and print the tables."""
    given, extra = arguments_of(arguments)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    pairs = given.get("pairs", ",".join(PAIRS)).split(",")
    models = given["models"].split(";") if "models" in given else MODELS
    results = Results(out / "results.jsonl")
    for seed in map(int, given.get("seeds", "0,1,2").split(",")):
        for pair in pairs:
            data = PAIRS[pair](out / pair)
            for name in models:
                settings = [*COMMON, *data, *_model(name), f"seed={seed}", *extra]
                about = {"pair": pair, "model": name, "seed": seed, "extra": extra}
                results.run(settings, about, _figures)
    for pair in pairs:
        _print(pair, [line for line in lines_of(results.path) if line["pair"] == pair])


def _model(name: str) -> tuple[str, ...]:
    """Return the settings of a model: a baseline, or methods such as ``dann`` and settings."""
    if name in ("source_only", "joint_bn", "oracle"):
        return (f"model={name}",)
    methods, *settings = name.split(" ")
    return ("model=domain_adaptation", f"method=[{methods.replace('+', ',')}]", *settings)


def write_rotation(folder: Path) -> list[str]:
    """Write images and a table of their angles; return the settings of the data."""
    from PIL import Image
    from scipy.ndimage import rotate
    from sklearn.datasets import load_digits, load_sample_images

    from tl_lightning.data.datamodules.mnistm import blend, enlarge

    table = folder / "table.csv"
    if not table.is_file():
        rng = np.random.default_rng(SEED)
        raw = load_digits().images
        digits = enlarge(raw, size=SIZE, sharpness=2.0)
        order = rng.permutation(len(digits))
        rows = []
        for number, domain in enumerate(("source", "target")):
            own = order[number::2]
            for copy in range(COPIES):
                angles = rng.uniform(-DEGREES, DEGREES, len(own)).round(2)
                turned = np.stack([
                    rotate(digits[index], angle, reshape=False, order=1)
                    for index, angle in zip(own, angles, strict=True)
                ])  # fmt: skip
                images = np.repeat(turned[..., None], 3, axis=3)
                if domain == "target":
                    images = blend(turned, load_sample_images().images, seed=SEED + copy)
                for place, (angle, image) in enumerate(zip(angles, images, strict=True)):
                    path = folder / domain / f"{place:04d}_{copy}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
                    part = ("train", "train", "train", "val", "test")[place % 5]
                    rows.append((path.relative_to(folder), angle, domain, part))
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "angle", "domain", "split"), *rows])
    return [
        "data=csv", f"data.table={table}", "data.columns.label=angle", "data.source.domain=source",
        "data.target.domain=target", "data.augment=none", "backbone=tiny_cnn",
        f"backbone.size={SIZE}", "backbone.widths=[16,32]",
        "data.steps_per_epoch=150", "trainer.max_epochs=4",
    ]  # fmt: skip


def write_vectors(folder: Path) -> list[str]:
    """Write files of vectors with two numbers each; return the settings of the data."""
    from scipy.linalg import expm

    rng = np.random.default_rng(SEED)
    weights = rng.normal(size=(4, 20))
    mixture = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    skew = rng.normal(size=(30, 30))
    skew = skew - skew.T
    turned = mixture @ expm(0.6 * skew / np.linalg.norm(skew, 2))
    offset = 0.2 * rng.normal(size=30)

    def draw(number: int, target: bool) -> dict[str, Any]:
        z = rng.normal(size=(number, 4)) + (np.array([0.3, 0, 0, 0]) if target else 0.0)
        signal = np.concatenate([np.tanh(z @ weights), rng.normal(size=(number, 10))], 1)
        y = np.stack([z[:, 0] + z[:, 1] ** 2 / 2, np.sin(z[:, 2]) + z[:, 3] / 2], 1)
        x = signal @ turned + offset if target else signal @ mixture
        return {"x": np.float32(x), "y": np.float32(y + 0.1 * rng.normal(size=y.shape))}

    folder.mkdir(parents=True, exist_ok=True)
    for target in (False, True):
        for part, number in (("train", SAMPLES), ("test", TEST)):
            name = "target" if target else "source"
            np.savez(folder / f"{name}_{part}.npz", **draw(number, target))
    files = [f"data.{d}.{p}={folder / f'{d}_{p}.npz'}"
             for d in ("source", "target") for p in ("train", "test")]  # fmt: skip
    return ["data=vectors", *files, "backbone.widths=[128]", "data.steps_per_epoch=150",
            "trainer.max_epochs=4"]  # fmt: skip


PAIRS = {"rotation": write_rotation, "vectors": write_vectors}


def _figures(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"metrics": report["metrics"], "rule": report["selection"]["rule"],
            "epoch": report["selection"]["epoch"], "seconds": report["timing"]["fit_s"],
            "epochs": _epochs(folder / "metrics.csv")}  # fmt: skip


def _epochs(path: Path) -> list[dict[str, float]]:
    """Return the validation metrics of every epoch."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    wanted = ("source/val/", "target/val/", "validator/")
    return [
        {key: float(value) for key, value in row.items() if key.startswith(wanted) and value}
        for row in rows
        if row.get("source/val/loss")
    ]


def _print(pair: str, lines: list[dict[str, Any]]) -> None:
    print(f"\n{pair}\n| model | target {' | target '.join(SHOWN)} | source mae | seconds |")
    print("|---|" + "---:|" * (len(SHOWN) + 2))
    for name in dict.fromkeys(line["model"] for line in lines):
        rows = [line for line in lines if line["model"] == name]
        keys = [*(f"target/test/{key}" for key in SHOWN), "source/test/mae"]
        cells = [_mean([row["metrics"][key] for row in rows]) for key in keys]
        cells.append(f"{np.mean([row['seconds'] for row in rows]):.0f}")
        print(f"| {name} | {' | '.join(cells)} |")
    _print_rules(lines)


def _print_rules(lines: list[dict[str, Any]]) -> None:
    """Print by selection rule the error on target validation of the epochs that it selects."""
    lines = [line for line in lines if line["model"] != "oracle" and line["epochs"]]
    rules = {"source_val": ("source/val/loss", min), "last": ("", max)}
    rules |= {name: (f"validator/floored/{name}", max) for name in ("iwcv", "dev", "distance")}
    rules["oracle"] = ("target/val/mae", min)
    for name, (key, best) in rules.items():
        chosen = []
        for line in lines:
            epochs = line["epochs"]
            if key and not all(key in epoch for epoch in epochs):
                break
            own = best(epochs, key=lambda epoch: epoch[key]) if key else epochs[-1]
            lowest = min(epoch["target/val/mae"] for epoch in epochs)
            chosen.append((own["target/val/mae"], own["target/val/mae"] - lowest))
        if chosen:
            errors, regrets = np.array(chosen).T
            print(f"{name}: mae on target validation {errors.mean():.3g}, above that of the best "
                  f"epoch by {regrets.mean():.3g} (at most {regrets.max():.3g}), {len(chosen)} runs"
                  )  # fmt: skip


def _mean(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.3g}{spread}"


if __name__ == "__main__":
    main(sys.argv[1:])
