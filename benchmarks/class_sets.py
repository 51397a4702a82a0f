"""Targets with other classes or proportions than the source: PACS from photo, and Stanford Dogs.

    python benchmarks/class_sets.py data=/data out=/tmp/class_sets [forms=partial,open]
        [targets=sketch,art_painting] [seeds=0,1,2] ["models=dann;ovanet"] [-- <overrides>]

makes the domains as folders of links to the images (at most 160 of each class and domain of PACS,
spread evenly), trains a bottleneck and a head on the stored features of a frozen MobileNetV2
(``out/results.jsonl`` has one line per run; runs that are done are skipped) and prints a table.
Only the test uses labels of the target; it uses all of its images, which training sees without
labels, as usual in the literature.

Forms of a target: ``partial`` has dog, elephant and giraffe; ``open`` has all classes, of which the
source lacks house and person; ``proportions`` has all classes, in proportions from 20 to 1; ``all``
has dog, elephant and giraffe, as well as house and person, which the source lacks, in such
proportions. ``dogs`` is Stanford Dogs: the source has the training images of all breeds, the target
(``test``) the test images of every sixth, darkened and tinted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from resumable import Results, arguments_of, lines_of

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PARTIAL, UNKNOWN = CLASSES[:3], CLASSES[5:]
#: Of each form of PACS: the classes of the target, those the source lacks, the most frequent class
#: divided by the least frequent one, and ``data.target.classes``.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float, str]] = {
    "partial": (PARTIAL, (), 1, "subset"),
    "open": (CLASSES, UNKNOWN, 1, "open"),
    "proportions": (CLASSES, (), 20, "same"),
    "all": ((*PARTIAL, *UNKNOWN), UNKNOWN, 20, "universal"),
}
DOGS = ("dogs", "test")
BREEDS = 6
#: Models to compare by form; a name without an entry in SETTINGS is a list of methods.
MODELS: dict[str, tuple[str, ...]] = {
    "partial": ("source_only", "dann", "mcc", "class_weights+dann", "class_weights+mcc",
                "ba3us"),
    "open": ("source_only", "dann", "ovanet"),
    "proportions": ("source_only", "source_only, prior", "dann", "dann, prior",
                    "class_weights+dann", "balanced+dann"),
    "all": ("source_only", "dann", "class_weights+ovanet"),
    "dogs": ("source_only", "dann", "class_weights+dann"),
}  # fmt: skip
ADAPTED = "model=domain_adaptation"
BALANCED = ("data.sampling=class_balanced", "data.target_sampling=pseudo_balanced")
SETTINGS: dict[str, tuple[str, ...]] = {
    "source_only": ("model=source_only",),
    "ba3us": ("model=ba3us",),
    "source_only, prior": ("model=source_only", "label_shift=prior"),
    "dann, prior": (ADAPTED, "method=[dann]", "label_shift=prior"),
    "balanced+dann": (ADAPTED, "method=[dann]", *BALANCED),
    "balanced+mcc": (ADAPTED, "method=[mcc]", *BALANCED),
}
COMMON = (
    "data=domains", "data.augment=none", "data.transductive=true", "backbone=mobilenet_v2",
    "backbone.size=128", "head.bottleneck=256", "cache.features=full",
    "phases.steps=[{from:0,train:[head]}]", "data.steps_per_epoch=100", "trainer.max_epochs=2",
    "optimizer.lr=1e-3", "baselines=[]", "data.num_workers=0", "trainer.accelerator=cpu",
    "report.samples=20", "report.examples=0", "report.explained=0", "report.thumbnails=0",
    "callbacks.adversary_monitor=null",
)  # fmt: skip
SHOWN = ("acc", "known_acc", "known_class_acc", "unknown_recall", "h_score")
LARGEST = 160


def main(arguments: list[str]) -> None:
    """Run what is missing, and print the table."""
    given, extra = arguments_of(arguments)
    out, forms = Path(given["out"]), given.get("forms", ",".join(MODELS)).split(",")
    results = Results(out / "results.jsonl")
    for seed in given.get("seeds", "0,1,2").split(","):
        for form, target in _pairs(forms, given.get("targets", "sketch,art_painting").split(",")):
            data = _prepared(Path(given["data"]), out / "data", form, target)
            names = given["models"].split(";") if "models" in given else MODELS[form]
            for name in names:
                settings = [*COMMON, *data, *_settings(name), f"seed={seed}", *extra]
                about = {"form": form, "target": target, "model": name, "extra": extra,
                         "seed": int(seed)}  # fmt: skip
                results.run(settings, about, lambda report, _: _figures(report))
    for form in forms:
        _print(form, [line for line in lines_of(results.path)
                      if line["form"] == form and line["extra"] == extra])  # fmt: skip


def _pairs(forms: list[str], targets: list[str]) -> Iterator[tuple[str, str]]:
    """Yield forms and targets; Dogs has one target."""
    for form in forms:
        for target in targets if form in FORMS else DOGS[1:]:
            yield form, target


def _settings(name: str) -> tuple[str, ...]:
    return SETTINGS.get(name, (ADAPTED, f"method=[{name.replace('+', ',')}]"))


def _prepared(data: Path, out: Path, form: str, target: str) -> list[str]:
    """Make the folders of a form, and return its settings."""
    root = out / f"{form}-{target}"
    if form == DOGS[0]:
        source, sets = "train", "subset"
        breeds = sorted(path.name for path in (data / form / source).iterdir())
        _link(data / form / source, root / source, breeds, 1)
        _darken(data / form / target, root / target, breeds[::BREEDS])
    else:
        source = "photo"
        kept, lacking, ratio, sets = FORMS[form]
        known = [name for name in CLASSES if name not in lacking]
        _link(data / "pacs" / source, root / source, known, 1)
        _link(data / "pacs" / target, root / target, list(kept), ratio)
    return [f"data.root={root}", f"data.source.domain={source}", f"data.target.domain={target}",
            f"data.target.classes={sets}"]  # fmt: skip


def _link(source: Path, folder: Path, names: list[str], ratio: float) -> None:
    """Link to the images of some classes, spread evenly, in falling numbers."""
    files = {name: sorted((source / name).iterdir()) for name in names}
    numbers = _numbers([len(found) for found in files.values()], ratio)
    for (name, found), number in zip(files.items(), numbers, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in np.linspace(0, len(found) - 1, number).round().astype(int):
            link = folder / name / found[place].name
            if not link.exists():
                link.symlink_to(found[place].resolve())


def _darken(source: Path, folder: Path, names: list[str]) -> None:
    """Write darkened and tinted images of some classes, as the synthetic target of data=dogs."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in sorted((source / name).iterdir()):
            if not (copy := folder / name / f"{file.stem}.png").exists():
                pixels = np.asarray(Image.open(file).convert("RGB"), np.float32)
                grey = pixels.mean(axis=2, keepdims=True)
                tinted = 0.6 * (grey + 0.5 * (pixels - grey)) * np.array([1.15, 1.0, 0.75])
                Image.fromarray(tinted.clip(0, 255).astype(np.uint8)).save(copy)


def _numbers(sizes: list[int], ratio: float) -> list[int]:
    """Return how many images of each class to take: all, or falling geometrically by ``ratio``."""
    sizes = [min(size, LARGEST) for size in sizes]
    return sizes if ratio == 1 else falling(sizes, ratio, least=5)


def falling(sizes: Sequence[int], ratio: float, least: int) -> list[int]:
    """Return as many samples of each class as there are, in numbers that fall from 1 to 1/ratio."""
    shares = ratio ** -np.linspace(0, 1, len(sizes))
    largest = min(size / share for size, share in zip(sizes, shares, strict=True))
    return [max(least, int(largest * share)) for share in shares]


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    metrics, about, selection = report["metrics"], report["class_sets"], report["selection"]
    found = {name: metrics.get(f"target/test/{name}") for name in SHOWN}
    found["recall"] = metrics["target/test/recall"]
    found |= {"epoch": selection["epoch"], "rule": selection["rule"], "start": {
        one["name"]: one["metrics"].get("target/test/acc") for one in report["start"]["candidates"]
    }}  # fmt: skip
    return found | {"absent": about["absent"], "warned": about["proportions"] is not None}


def _print(form: str, lines: list[dict[str, Any]]) -> None:
    for target in dict.fromkeys(line["target"] for line in lines):
        own = [line for line in lines if line["target"] == target]
        print(f"\n{form}, {target}: {', '.join((*SHOWN, 'recall'))}, epochs, warned")
        for name in dict.fromkeys(line["model"] for line in own):
            rows = [line for line in own if line["model"] == name]
            cells = []
            for key in (*SHOWN, "recall"):
                values = [100 * row[key] for row in rows if row.get(key) is not None]
                spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
            epochs = ", ".join(str(row["epoch"]) for row in rows)
            warned = sum(row["warned"] for row in rows)
            print(f"| {name} | {' | '.join(cells)} | {epochs} | {warned}/{len(rows)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
