"""A linear head trained by tl_lightning compared with LogisticRegression on the same features.

    python benchmarks/linear_probe.py /data/dogs backbone=mobilenet_v2 data=dogs
    python benchmarks/linear_probe.py /data/cifar10 backbone=tf_efficientnet_lite0 data=cifar10

All other arguments are settings of `train.py`. The features are computed by
`scripts/extract_features.py`; the head is trained by `scripts/train.py experiment=linear_probe`
with seeds 0, 1, 2. The penalty of scikit-learn's LogisticRegression is chosen by accuracy on the
validation split, which makes it a strong baseline. Test labels are not used for any choice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import mean

from safetensors.torch import load_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)


def run(script: str, arguments: list[str], cache: str) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *arguments]
    done = subprocess.run(
        command, env={**os.environ, "TL_CACHE": cache}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])


def reference(folder: Path) -> tuple[float, float]:
    """Return the inverse penalty C chosen on the validation split, and its test accuracy."""
    parts = {}
    for split in ("train", "val", "test"):
        tensors = load_file(folder / "source" / f"{split}.safetensors")
        parts[split] = (tensors["features"].float().numpy(), tensors["labels"].numpy())
    best = (0.0, 0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=500).fit(*parts["train"])
            best = max(best, (model.score(*parts["val"]), penalty, model.score(*parts["test"])))
    return best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    settings = [*args.settings, f"data.root={args.root.resolve()}"]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        run("extract_features", [*settings, f"out={folder / 'features'}"], f"{folder}/cache")
        penalty, baseline = reference(folder / "features")
        accuracies = []
        for seed in range(args.seeds):
            run_dir = folder / str(seed)
            extra = ["experiment=linear_probe", f"seed={seed}", f"hydra.run.dir={run_dir}"]
            run("train", [*settings, *extra], f"{folder}/cache")
            report = json.loads((run_dir / "report.json").read_text())
            accuracies.append(report["metrics"]["source/test/acc"])
    mean_accuracy = mean(accuracies)
    values = ", ".join(f"{100 * value:.2f}" for value in accuracies)
    print(f"{' '.join(args.settings)}")
    print(f"  LogisticRegression(C={penalty:g}) {100 * baseline:.2f}")
    difference = 100 * (mean_accuracy - baseline)
    print(f"  linear head {100 * mean_accuracy:.2f} ({values}): {difference:+.2f}")


if __name__ == "__main__":
    main()
