"""A linear probe on the features of a pretrained network, aligned to an unlabelled target."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import commands
from benchmarks.peers.rounds import REPO
from benchmarks.peers.rows import OURS, Row
from benchmarks.peers.setting import Setting, value

__all__ = ["CLASSES", "aligned", "photographs", "rows_of"]

#: Classes of photographs, as in the study of a frozen network.
CLASSES = 24
#: The figure that is only stated: the probe without alignment.
WITHOUT = "without alignment"
#: Ours with the map of the features alone, as the peers have it.
ALIGN = f"{OURS}, method=[align]"
Run = Mapping[str, Mapping[str, float]]


def photographs(data: Path, folder: Path, classes: int) -> tuple[int, int]:
    """Write a source and a target of photographs, of which the target is darker and tinted.

    Training images go to both in turn; all test images are those of the target. The source has one
    image per class for testing, because tl_lightning tests it too.

    Returns:
        The number of training images of each domain, and of the target's test images.
    """
    trained = tested = 0
    for place in sorted((data / "train").iterdir())[:classes]:
        files = sorted(place.iterdir())
        files = files[: len(files) // 2 * 2]
        test = sorted((data / "test" / place.name).iterdir())
        for domain, part, chosen in (
            ("source", "train", files[::2]), ("target", "train", files[1::2]),
            ("source", "test", test[:1]), ("target", "test", test),
        ):  # fmt: skip
            (folder / domain / part / place.name).mkdir(parents=True)
            for file in chosen:
                goal = folder / domain / part / place.name / file.name
                goal.symlink_to(file) if domain == "source" else shifted(file, goal)
        trained, tested = trained + len(files) // 2, tested + len(test)
    return trained, tested


def shifted(origin: Path, goal: Path) -> None:
    """Write a photograph as another camera in other light would have taken it."""
    from PIL import Image, ImageEnhance, ImageFilter

    with Image.open(origin) as opened:
        image = opened.convert("RGB").filter(ImageFilter.GaussianBlur(1))
    image = ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(0.6)).enhance(0.5)
    red, green, blue = image.split()
    red, blue = red.point(lambda x: x * 1.15), blue.point(lambda x: x * 0.75)
    Image.merge("RGB", (red, green, blue)).save(goal, quality=95)


def aligned(setting: Setting) -> list[Row]:
    """Compare whole commands, and the time between imports and the end, with the accuracies."""
    if setting.data is None:
        return []
    runs: list[Run] = []
    peers = setting.usable(["skada"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = photographs(setting.data, folder, 3 if setting.tiny else CLASSES)
        for seed in setting.repetitions():
            run = {
                OURS: own(folder, seed, setting.threads, []),
                ALIGN: own(folder, seed, setting.threads, ["method=[align]"]),
            }
            for environment in peers.values():
                run |= theirs(environment.python, folder, setting.threads)
            runs.append(run)
    return rows_of(runs, sizes, setting.absent(["skada"]))


def processor() -> float:
    """Return the processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def own(root: Path, seed: int, threads: int, overrides: Sequence[str]) -> dict[str, float]:
    """Run our command with an empty cache; return its processor time and accuracy on the target.

    What is inside is calculated by its share of the duration, which the report states.
    """
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, str(REPO / "scripts" / "train.py"), "model=align", "data=folder",
            f"data.root={root}/source", f"data.target.root={root}/target",
            "backbone=mobilenet_v2", f"seed={seed}", f"hydra.run.dir={place}/run", *overrides,
        ]  # fmt: skip
        began = processor()
        seconds = commands.seconds_of(command, REPO, threads, TL_CACHE=f"{place}/cache")
        used = processor() - began
        report = json.loads((Path(place) / "run" / "report.json").read_text())
    inside = used * report["timing"]["total_s"] / seconds
    found = [one for one in report["start"]["candidates"] if one["name"].endswith(", align")]
    return {
        "command": used, "inside": inside, "accuracy": report["metrics"]["target/test/acc"],
        "mapped": found[-1]["metrics"]["target/test/acc"],
    }  # fmt: skip


def theirs(python: Path, root: Path, threads: int) -> dict[str, dict[str, float]]:
    """Run the peers' program; each of its ways has the time of the features, which they share."""
    command = [str(python), "-W", "ignore", "-m", "benchmarks.peers.programs.skada_probe"]
    began = processor()
    done = subprocess.run(
        [*command, str(root)], cwd=REPO, env=commands.environment(threads), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    whole = processor() - began
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    fits = found["fits"]
    around = whole - sum(one["seconds"] for one in fits.values())
    return {
        name: {
            "command": around + one["seconds"], "inside": found["features"] + one["seconds"],
            "accuracy": one["accuracy"],
        }
        for name, one in fits.items()
    }  # fmt: skip


def rows_of(runs: Sequence[Run], sizes: tuple[int, int], absent: Mapping[str, str]) -> list[Row]:
    """Return the rows of the whole command and of what is inside."""
    rows = []
    for key, title in (
        ("inside", "Aligned probe: features, fit and test"),
        ("command", "Aligned probe: whole command"),
    ):
        row = Row(f"aligned_{key}", title, "s", "less", absent=dict(absent))
        row.how = _how(runs, sizes)
        for name in runs[0]:
            if name != WITHOUT:
                found = [run[name] for run in runs]
                row.values[name] = value([one[key] for one in found], note=_note(found))
        rows.append(row)
    return rows


def _note(found: Sequence[Mapping[str, float]]) -> str:
    """Return the accuracy, and that of the probe with the map if another one may be kept."""
    note = f"accuracy on the target {median(one['accuracy'] for one in found):.3f}"
    mapped = [one["mapped"] for one in found if "mapped" in one]
    return f"{note} of the probe kept, {median(mapped):.3f} with the map" if mapped else note


def _how(runs: Sequence[Run], sizes: tuple[int, int]) -> str:
    plain = [run[WITHOUT]["accuracy"] for run in runs if WITHOUT in run]
    without = f" Logistic regression without alignment has {median(plain):.3f}." if plain else ""
    return (
        f"{sizes[0]} training images of the source and {sizes[0]} of the target, which is blurred, "
        f"darker and tinted; accuracy on {sizes[1]} test images of the target, MobileNetV2 with "
        "ImageNet weights. Processor time, as other work shared the cores; all processes of a "
        "command. The peers' ways share the features of one program and are otherwise alone; "
        "their logistic regression has its default penalty, `subspace` 100 directions as "
        "tl_lightning's. `model=align` also moves batch norm, compares its probes and keeps one "
        "without labels of the target, of which the accuracy is; with `method=[align]` it compares "
        "the probe with and without the map. It tests the source too, and writes its reports."
        f"{without}"
    )
