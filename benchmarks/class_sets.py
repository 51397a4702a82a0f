"""Targets with other classes or proportions than the source: PACS from photo, in four forms.

    python scripts/extract_features.py data=pacs data.root=/data data.target.domain=sketch
        backbone=mobilenet_v2 out=/features/sketch
    python benchmarks/class_sets.py features=/features out=/tmp/class_sets [forms=partial,open]
        [targets=sketch,art_painting] [seeds=0,1,2] ["models=dann;ovanet"] [-- <overrides>]

makes the targets from the features of a frozen network (at most 160 images of each class and
domain, spread evenly), trains small heads on them (``out/results.jsonl`` has one line per run; runs
that are done are skipped) and prints a table. Only the test uses labels of the target.

Forms of a target: ``partial`` has dog, elephant and giraffe; ``open`` has all classes, of which the
source lacks house and person; ``proportions`` has all classes, in proportions from 20 to 1; ``all``
has dog, elephant and giraffe, as well as house and person, which the source lacks, in such
proportions.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tl_lightning.config.compose import as_dict, composed
from tl_lightning.training.fit import fit
from tl_lightning.training.linear_probe import fit_probe

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PARTIAL, UNKNOWN = CLASSES[:3], CLASSES[5:]
#: Of each form: the classes of the target, those the source lacks, the most frequent class divided
#: by the least frequent one, ``data.target.classes``, and the models to compare.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float, str, tuple[str, ...]]] = {
    "partial": (PARTIAL, (), 1, "subset",
                ("source_only", "dann", "bnm", "mcc", "class_weights+dann", "class_weights+mcc")),
    "open": (CLASSES, UNKNOWN, 1, "open",
             ("source_only", "dann", "ovanet")),
    "proportions": (CLASSES, (), 20, "same",
                    ("source_only", "source_only, prior", "dann", "bnm", "class_weights+dann")),
    "all": ((*PARTIAL, *UNKNOWN), UNKNOWN, 20, "universal",
            ("source_only", "dann", "ovanet", "class_weights+ovanet")),
}  # fmt: skip
ADAPTED = "model=domain_adaptation"
BALANCED = ("data.sampling=class_balanced", "data.target_sampling=pseudo_balanced")
#: Settings by name; a name without an entry is a list of methods.
MODELS: dict[str, tuple[str, ...]] = {
    "source_only": ("model=source_only",),
    "source_only, prior": ("model=source_only", "label_shift=prior"),
    "balanced+dann, prior": (ADAPTED, "method=[dann]", "label_shift=prior", *BALANCED),
}
#: A bottleneck is trained on fixed features, with the discriminator of DANN on vectors.
COMMON = (
    "data=vectors", "backbone.widths=[]", "head.bottleneck=64", "data.batch_size=64",
    "data.steps_per_epoch=100", "trainer.max_epochs=2", "optimizer.lr=1e-3", "report.samples=20",
    "trainer.accelerator=cpu",
)  # fmt: skip
SHOWN = ("acc", "known_acc", "known_class_acc", "unknown_recall", "h_score")
LARGEST = 160


def main(arguments: list[str]) -> None:
    """Run what is missing, and print the table."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    given = dict(item.split("=", 1) for item in arguments[:split])
    extra, out = arguments[split + 1 :], Path(given["out"])
    forms = given.get("forms", ",".join(FORMS)).split(",")
    targets = given.get("targets", "sketch,art_painting").split(",")
    seeds = [int(seed) for seed in given.get("seeds", "0,1,2").split(",")]
    results = out / "results.jsonl"
    done = {line["key"] for line in _lines(results)}
    for seed in seeds:
        for form in forms:
            for target in targets:
                data, probe = _prepared(Path(given["features"]) / target, out, form)
                names = given["models"].split(";") if "models" in given else FORMS[form][-1]
                for name in names:
                    settings = [*COMMON, *data, *_settings(name), f"seed={seed}", *extra]
                    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
                    if key in done:
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        report = fit(as_dict(composed(settings, ())), Path(folder))
                    line = {"key": key, "form": form, "target": target, "model": name,
                            "seed": seed, "probe": probe, **_figures(report)}  # fmt: skip
                    with results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    for form in forms:
        _print(form, [line for line in _lines(results) if line["form"] == form])


def _settings(name: str) -> tuple[str, ...]:
    if name in MODELS:
        found = MODELS[name]
    else:
        found = (ADAPTED, f"method=[{name.replace('+', ',')}]")
    dann = ("method.dann.depth=0",) if "dann" in name else ()
    return (*found, *dann)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _prepared(features: Path, out: Path, form: str) -> tuple[list[str], float]:
    """Write the vectors of a form; return its settings and the accuracy of the probe."""
    kept, lacking, ratio, sets, _ = FORMS[form]
    folder = out / "data" / form / features.name
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for domain, names in (
        ("source", tuple(name for name in CLASSES if name not in lacking)), ("target", kept),
    ):  # fmt: skip
        x, y = _features(features, domain)
        available = {name: np.flatnonzero(y == name) for name in names}
        numbers = _numbers([len(rows) for rows in available.values()],
                           ratio if domain == "target" else 1)  # fmt: skip
        rows = np.concatenate([
            found[np.linspace(0, len(found) - 1, number).round().astype(int)]
            for found, number in zip(available.values(), numbers, strict=True)
        ])  # fmt: skip
        arrays[domain] = x[rows], y[rows]
        if not (folder / f"{domain}.npz").exists():
            np.savez(folder / f"{domain}.npz", x=x[rows], y=y[rows])
    settings = [f"data.{name}.train={folder / name}.npz" for name in arrays]
    return [*settings, f"data.target.classes={sets}"], _probe(*arrays["source"], *arrays["target"])


def _features(folder: Path, domain: str) -> tuple[Any, Any]:
    classes = json.loads((folder / "manifest.json").read_text())["classes"]
    parts = [load_file(folder / domain / f"{split}.safetensors")
             for split in ("train", "val", "test")]  # fmt: skip
    labels = np.concatenate([part["labels"] for part in parts])
    return np.concatenate([part["features"] for part in parts]), np.array(classes)[labels]


def _probe(x: Any, y: Any, target: Any, true: Any) -> float:
    """Return the accuracy of a logistic regression on the target's known classes."""
    names = np.unique(y)
    val = np.arange(len(y)) % 10 == 0
    labels = np.searchsorted(names, y)
    probe = fit_probe(x[~val], labels[~val], x[val], labels[val], len(names))
    known = np.isin(true, names)
    return float((names[probe.logits(target[known]).argmax(1)] == true[known]).mean())


def _numbers(sizes: list[int], ratio: float) -> list[int]:
    """Return how many images of each class to take: all, or falling geometrically by ``ratio``."""
    sizes = [min(size, LARGEST) for size in sizes]
    if ratio == 1:
        return sizes
    shares = ratio ** -np.linspace(0, 1, len(sizes))
    largest = min(size / share for size, share in zip(sizes, shares, strict=True))
    return [max(5, int(largest * share)) for share in shares]


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    metrics, about = report["metrics"], report["class_sets"]
    found = {name: metrics.get(f"target/test/{name}") for name in SHOWN}
    found["recall"] = metrics["target/test/recall"]
    found |= {"epoch": report["selection"]["epoch"], "rule": report["selection"]["rule"]}
    return found | {"absent": about["absent"], "warned": about["proportions"] is not None}


def _print(form: str, lines: list[dict[str, Any]]) -> None:
    for target in dict.fromkeys(line["target"] for line in lines):
        own = [line for line in lines if line["target"] == target]
        print(f"\n{form}, photo -> {target}, probe {100 * own[0]['probe']:.1f}")
        for name in dict.fromkeys(line["model"] for line in own):
            rows = [line for line in own if line["model"] == name]
            cells = []
            for key in (*SHOWN, "recall"):
                values = [100 * row[key] for row in rows if row.get(key) is not None]
                spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
            warned = sum(row["warned"] for row in rows)
            print(f"| {name} | {' | '.join(cells)} | {warned}/{len(rows)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
