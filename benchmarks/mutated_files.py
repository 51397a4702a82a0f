"""Pass damaged files through the commands check_data, train and predict.

    python benchmarks/mutated_files.py --images 500 --others 25 --out mutated.json

Images: a folder per format with two classes of intact images and ``--images`` damaged ones in the
first class. ``check_data`` lists unreadable images, ``train`` rejects the folder and must count as
many, and must train once those are moved away; ``predict`` must list the same ones.
Tables, lists, vectors and texts: ``--others`` damaged files per format, each the data of its own
``check_data`` and ``train``, which must both accept or both reject it.

Counted are commands, tracebacks (or exit code 1), and disagreements. Commands run in processes that
are forked from this one, which has imported everything, to save the start-up time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "unit" / "data" / "io")]

import numpy as np
from PIL import Image
from test_mutated_files import IMAGES, encoded, written

import tl_lightning.evaluation.load
import tl_lightning.sweeps.baselines  # noqa: F401  imported before the processes are forked
from mutated import mutated
from tl_lightning.cli.check_data import check_data
from tl_lightning.cli.predict import predict
from tl_lightning.cli.train import train
from tl_lightning.data.checks.issues import BROKEN

COUNTS = {"commands": 0, "tracebacks": 0, "disagreements": 0}
TRAIN = ["model=source_only", "backbone=tiny_cnn", "trainer.max_epochs=1", "baselines=[]",
         "report.samples=16"]  # fmt: skip


def run(command: Callable[[], Any], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of a command in a forked process."""
    COUNTS["commands"] += 1
    codes = (0, 1, 2) if command is check_data else (0, 2, 3)  # 1: training would fail
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.argv = [command.__name__, *arguments]
            code = 0
            try:
                command()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        text = output.read()
    if code not in codes or "Traceback" in text:
        COUNTS["tracebacks"] += 1
        print(f"{command.__name__} {' '.join(arguments)}: {code}\n{text[-2000:]}", flush=True)
    return code, text


def images(kind: str, number: int, root: Path) -> dict[str, Any]:
    """Run the three commands on damaged images of one format."""
    rng = np.random.default_rng(0)
    originals = [encoded(kind, mode, options) for mode, options in IMAGES[kind]]
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for index in range(number // 4):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"intact{index}.jpg")
    for index in range(number):
        content = mutated(originals[index % len(originals)], kind, index)
        (root / "images" / "a" / f"damaged{index:04d}.{kind.lower()}").write_bytes(content)
    data = ["data=folder", f"data.root={root / 'images'}", "data.num_workers=0"]
    _, said = run(check_data, *data, "format=json")
    files = json.loads(said[said.index('{"schema"') :])["files"]
    broken = [files.get(name, []) for name in BROKEN]
    checked = set(re.findall(r"damaged\d+", json.dumps(broken)))
    folder = root / "run"
    settings = (*data, *TRAIN, f"hydra.run.dir={folder}")
    _, refused = run(train, *settings, "data.on_error=skip")
    counted = int(found[1]) if (found := re.search(r"but (\d+) of \d+ images", refused)) else 0
    shutil.rmtree(folder, ignore_errors=True)  # if none was unreadable
    kept = root / "kept"
    kept.mkdir()
    for name in checked:
        file = next((root / "images" / "a").glob(f"{name}.*"))
        file.rename(kept / file.name)
    code, said = run(train, *settings)
    for file in kept.iterdir():
        file.rename(root / "images" / "a" / file.name)
    place = f"input={root / 'images' / 'a'}"
    run(predict, f"checkpoint={folder}", place, f"out={root / 'p.csv'}")
    with (root / "p.csv").open(newline="") as table:
        listed = " ".join(row["sample"] for row in csv.DictReader(table) if row["error"])
    predicted = set(re.findall(r"damaged\d+", listed))
    agree = counted == len(checked) and code == 0 and checked == predicted
    COUNTS["disagreements"] += not agree
    result: dict[str, Any] = {"files": number, "unreadable": len(checked), "agree": agree}
    if not agree:
        print(f"{kind}: check {len(checked)}, refused {counted}, {sorted(checked ^ predicted)[:9]}")
        print(said[-1000:], flush=True)
    return result


def others(kind: str, number: int, root: Path) -> dict[str, Any]:
    """Run check and training on damaged tables, lists and vectors."""
    root.mkdir()
    file = written(root, kind)
    original = file.read_bytes()
    if kind in ("csv", "parquet"):
        data = ["data=csv", f"data.table={file}", f"data.root={root}"]
    elif kind == "txt":
        data = ["data=domains", f"data.root={root}", "data.source.domain=photo", "data.target=null"]
    else:
        data = ["data=vectors", f"data.source.train={file}"]
    model = [*TRAIN[:1], *TRAIN[2:], *([] if "vectors" in data[0] else TRAIN[1:2])]
    rejected = 0
    for index in range(number):
        file.write_bytes(mutated(original, kind, index))
        check, said = run(check_data, *data)
        folder = root / f"run{index}"
        code, text = run(train, *data, *model, "data.num_workers=0", f"hydra.run.dir={folder}")
        if (check == 0) != (code == 0):
            COUNTS["disagreements"] += 1
            print(f"{kind} {index}: check {check}, train {code}\n{said[-800:]}\n{text[-800:]}")
        rejected += code != 0
        shutil.rmtree(folder, ignore_errors=True)
    return {"files": number, "rejected": rejected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--others", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("mutated.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        os.environ["TL_CACHE"] = str(Path(place) / "cache")
        for kind in IMAGES.keys() - {"GIF"}:  # read if a table names them, not from folders
            results[kind] = images(kind, arguments.images, Path(place) / kind)
            print(kind, results[kind], flush=True)
        for kind in ("csv", "parquet", "txt", "npz", "mat", "svmlight"):
            results[kind] = others(kind, arguments.others, Path(place) / kind)
            print(kind, results[kind], flush=True)
    text = json.dumps({**COUNTS, "readers": results}, indent=2)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
