"""Copy of a dataset with planted label errors and foreign images, to score tl-check-data with.

    python benchmarks/label_errors.py plant <dogs> <out> [<foreign images>]
    tl-check-data data=dogs data.root=<out> data.target=null backbone=mobilenet_v2 quality=true
    python benchmarks/label_errors.py score <out>/planted.json quality-dogs.csv

plant moves 5 % of the training images to another class, chosen by a seed, and adds 20 images that
are no dogs: from <foreign images> (any folders of images) and of noise. score prints how many of
them the lists contain.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FRACTION, FOREIGN, SEED = 0.05, 20, 0


def plant(dogs: Path, out: Path, foreign: list[Path]) -> None:
    shutil.copytree(dogs, out)
    rng = np.random.default_rng(SEED)
    files = sorted((out / "train").glob("*/*.jpg"))
    classes = sorted(folder for folder in (out / "train").iterdir())
    swapped = {}
    for place in rng.choice(len(files), round(FRACTION * len(files)), replace=False):
        file = files[place]
        others = [folder for folder in classes if folder != file.parent]
        new = others[rng.integers(len(others))] / file.name
        file.rename(new)
        swapped[str(new.relative_to(out))] = file.parent.name
    pictures = [sorted(folder.rglob("*.jpg")) for folder in foreign]
    added = []
    for number in range(FOREIGN):
        new = classes[rng.integers(len(classes))] / f"planted_{number:02d}.jpg"
        kind = number % (len(foreign) + 1)
        if kind < len(foreign):
            shutil.copy(pictures[kind][rng.integers(len(pictures[kind]))], new)
        else:
            noise = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(noise).save(new, quality=90)
        added.append(str(new.relative_to(out)))
    (out / "planted.json").write_text(json.dumps({"swapped": swapped, "foreign": added}, indent=1))
    print(f"{len(swapped)} of {len(files)} training images moved, {len(added)} images added")


def score(planted: Path, lists: Path) -> None:
    found = json.loads(planted.read_text())
    with lists.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    root = planted.parent.resolve()
    for kind in dict.fromkeys(row["finding"] for row in rows):
        listed = [row for row in rows if row["finding"] == kind]
        files = [str(Path(row["file"]).resolve().relative_to(root)) for row in listed]
        for top in sorted({20, 50, 100, 150, len(files)}):
            if top <= len(files):
                swapped = sum(file in found["swapped"] for file in files[:top])
                foreign = sum(file in found["foreign"] for file in files[:top])
                print(f"{kind}, first {top}: {swapped} label errors, {foreign} foreign images")
        right = sum(
            row["suggested"] == found["swapped"].get(file)
            for row, file in zip(listed, files, strict=True)
        )
        print(f"{kind}: suggested class is the original one of {right} label errors")


if __name__ == "__main__":
    command, first, second, *rest = sys.argv[1:]
    if command == "plant":
        plant(Path(first), Path(second), [Path(folder) for folder in rest])
    else:
        score(Path(first), Path(second))
