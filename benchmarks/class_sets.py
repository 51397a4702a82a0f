"""Targets with other classes or proportions than the source, on PACS and Stanford Dogs.

    python benchmarks/class_sets.py root=/data out=/tmp/class_sets [forms=partial,open]
        [targets=sketch,art_painting] [seeds=0,1,2] [models=dann,ovanet] [backbone=mobilenet_v2]
        [-- <overrides of every run>]

makes the targets from links to the images, trains the models on the stored features of a frozen
network (``out/results.jsonl`` has one line per run; runs that are done are skipped), and prints a
table. Nothing but the test uses labels of the target.

Forms of a target: ``partial`` has dog, elephant and giraffe; ``open`` has all classes, of which the
source lacks house and person; ``proportions`` has all classes, in proportions from 20 to 1; ``all``
has dog, elephant and giraffe, as well as house and person, which the source lacks, in such
proportions; ``dogs`` has 20 of the 120 breeds of the source, with a synthetic shift.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tl_lightning.config.compose import as_dict, composed
from tl_lightning.training.fit import fit

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PARTIAL, UNKNOWN = CLASSES[:3], CLASSES[5:]
#: Of each form: the classes of the target, those the source lacks, the most frequent class divided
#: by the least frequent one, and ``data.target.classes``.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float, str]] = {
    "partial": (PARTIAL, (), 1, "subset"),
    "open": (CLASSES, UNKNOWN, 1, "open"),
    "proportions": (CLASSES, (), 20, "same"),
    "all": ((*PARTIAL, *UNKNOWN), UNKNOWN, 20, "universal"),
}
#: Images of a class and domain, spread evenly.
LARGEST = 160
ADAPTED = ("model=domain_adaptation", "model.relative_bn=false")
MODELS: dict[str, tuple[str, ...]] = {
    "source_only": ("model=source_only",),
    "source_only, prior": ("model=source_only", "label_shift=prior"),
    "dann": (*ADAPTED, "method=[dann]"),
    "mcc": (*ADAPTED, "method=[mcc]"),
    "bnm": (*ADAPTED, "method=[bnm]"),
    "mmd": (*ADAPTED, "method=[mmd]"),
    "class_weights": (*ADAPTED, "method=[class_weights]"),
    "class_weights+dann": (*ADAPTED, "method=[class_weights,dann]"),
    "class_weights+mcc": (*ADAPTED, "method=[class_weights,mcc]"),
    "class_weights+mmd": (*ADAPTED, "method=[class_weights,mmd]"),
    "balanced+dann, prior": (
        *ADAPTED, "method=[dann]", "label_shift=prior", "data.sampling=class_balanced",
        "data.target_sampling=pseudo_balanced",
    ),
    "ovanet": (*ADAPTED, "method=[ovanet]"),
    "class_weights+ovanet": (*ADAPTED, "method=[class_weights,ovanet]"),
    "class_weights+mcc+ovanet": (*ADAPTED, "method=[class_weights,mcc,ovanet]"),
}  # fmt: skip
COMMON = (
    "cache.features=full", "phases.steps=[{from:0,train:[head]}]", "data.augment=none",
    "head.bottleneck=256", "data.steps_per_epoch=100", "trainer.max_epochs=4",
    "report.explained=0", "report.samples=20", "report.examples=0", "trainer.accelerator=cpu",
)  # fmt: skip
SHOWN = ("acc", "known_acc", "known_class_acc", "unknown_recall", "h_score")


def main(arguments: list[str]) -> None:
    """Run what is missing, and print the table."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    given = dict(item.split("=", 1) for item in arguments[:split])
    extra = arguments[split + 1 :]
    out = Path(given["out"])
    forms = given.get("forms", ",".join(FORMS)).split(",")
    targets = given.get("targets", "sketch,art_painting").split(",")
    names = given["models"].split(";") if "models" in given else list(MODELS)
    seeds = [int(seed) for seed in given.get("seeds", "0,1,2").split(",")]
    results = out / "results.jsonl"
    done = {line["key"]: line for line in _lines(results)}
    network = f"backbone={given.get('backbone', 'mobilenet_v2')}"
    for form in forms:
        for target in targets if form != "dogs" else ["synthetic"]:
            data = (
                _dogs(given["root"]) if form == "dogs" else _pacs(given["root"], out, form, target)
            )
            for seed in seeds:
                for name in names:
                    settings = [*data, network, *COMMON, *MODELS[name], f"seed={seed}", *extra]
                    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
                    if key in done:
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        report = fit(as_dict(composed(settings, ())), Path(folder))
                    line = {"key": key, "form": form, "target": target, "model": name,
                            "seed": seed, **_figures(report)}  # fmt: skip
                    with results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    for form in forms:
        _print(form, [line for line in _lines(results) if line["form"] == form])


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _pacs(root: str, out: Path, form: str, target: str) -> list[str]:
    """Return the settings of a form, whose folders are made of links."""
    kept, lacking, ratio, classes = FORMS[form]
    folder = out / "data" / form
    for domain, names in (("photo", CLASSES), (target, kept)):
        names = tuple(name for name in names if domain == target or name not in lacking)
        available = {
            name: sorted((Path(root) / "pacs" / domain / name).iterdir()) for name in names
        }
        for (name, files), number in zip(
            available.items(), _numbers(available, ratio if domain == target else 1), strict=True
        ):
            place = folder / domain / name
            place.mkdir(parents=True, exist_ok=True)
            for file in _spread(files, number):
                if not (place / file.name).exists():
                    (place / file.name).symlink_to(file.resolve())
    return ["data=pacs", f"data.root={folder}", f"data.target.domain={target}",
            f"data.target.classes={classes}"]  # fmt: skip


def _spread(files: list[Path], number: int) -> list[Path]:
    """Return at most ``number`` files, spread evenly."""
    chosen = np.linspace(0, len(files) - 1, min(number, len(files))).round().astype(int)
    return [files[index] for index in chosen]


def _numbers(available: dict[str, list[Path]], ratio: float) -> list[int]:
    """Return how many images of each class to take: all, or falling geometrically by ``ratio``."""
    sizes = [len(files) for files in available.values()]
    if ratio == 1:
        return sizes
    shares = ratio ** -np.linspace(0, 1, len(sizes))
    largest = min(size / share for size, share in zip(sizes, shares, strict=True))
    return [max(1, int(largest * share)) for share in shares]


def _dogs(root: str, out: Path, form: str, target: str) -> list[str]:
    raise SystemExit("not yet")


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    metrics = report["metrics"]
    found = {name: metrics.get(f"target/test/{name}") for name in SHOWN}
    probe = next(
        (one for one in report["start"]["candidates"] if one["name"] == "frozen probe"), None
    )
    found["class_acc"] = metrics.get("target/test/known_class_acc", metrics["target/test/recall"])
    found["probe"] = probe and probe["metrics"].get("target/test/acc")
    found["epoch"] = report["selection"]["epoch"]
    found["rule"] = report["selection"]["rule"]
    return found


def _print(form: str, lines: list[dict[str, Any]]) -> None:
    for target in dict.fromkeys(line["target"] for line in lines):
        print(f"\n{form}, photo -> {target}")
        own = [line for line in lines if line["target"] == target]
        for name in dict.fromkeys(line["model"] for line in own):
            rows = [line for line in own if line["model"] == name]
            cells = []
            for key in ("probe", *SHOWN, "class_acc"):
                values = [100 * row[key] for row in rows if row.get(key) is not None]
                spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
            epochs = ",".join(str(row["epoch"]) for row in rows)
            print(f"| {name} | {' | '.join(cells)} | {epochs} |")


if __name__ == "__main__":
    main(sys.argv[1:])
