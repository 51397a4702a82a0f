"""Release matrix: wheel and source archive installed into empty environments, and used there.

``python scripts/dev/matrix.py --results matrix.jsonl`` builds both, and for every row makes an
environment, installs without constraints, and works in an empty folder with an empty home, a umask
of 077, and a space and an umlaut in the path: it creates a method, trains, uses the row's extras,
and deletes the environment. With all extras, training is cut to a few steps; with a single one,
there is only what it is used for. Rows that the file has already are skipped, so that an
interrupted matrix continues. The table is printed at the end, and by ``--table`` alone.

Only the standard library is imported: interpreters and ``uv`` are all it needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
#: Extras of users; those of developers are installed by ``make install`` and ``make docs``.
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("all", "dev", "docs")]
PYTHONS = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if ":: 3." in one]
#: That of the environment in use, which ``make install`` installs, or of the path.
UV = shutil.which("uv", path=f"{sys.prefix}/bin") or "uv"
#: Space and umlaut, as in the folders of many users.
PLACE = "My Prüfung"
TRAIN = ["tl-train", "model=dann", "data=digits", "trainer.max_epochs=1"]
SHORT = ["data=digits", "trainer.max_epochs=1", "data.steps_per_epoch=5", "model=source_only"]
#: Prints the versions; that of torch says whether it is a build for CPUs.
CREATE = """
import json
from importlib.metadata import distributions, version
import torch
import tl_lightning as tl
made = tl.create("method", "dann", in_features=8, num_classes=3)
found = {name: version(name) for name in ("lightning", "numpy", "hydra-core", "timm")}
print(json.dumps({
    "packages": len({one.name for one in distributions()}), "torch": torch.__version__,
    "created": type(made).__name__, **found,
}))
"""
IMAGES = """
import numpy as np
from pathlib import Path
from PIL import Image
for number, name in enumerate(("cat", "dog")):
    Path("images", name).mkdir(parents=True)
    for seed in range(30):
        pixels = np.random.default_rng(100 * number + seed).integers(0, 256, (32, 32, 3), np.uint8)
        pixels[:, :, number] //= 4
        Image.fromarray(pixels).save(f"images/{name}/{seed}.png")
"""
TEXTS = """
import json
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
tokenizer = Tokenizer(models.WordPiece({w: k for k, w in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.enable_padding()
Path("bert").mkdir()
tokenizer.save("bert/tokenizer.json")
network = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 8,
           "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 24}
Path("bert/config.json").write_text(json.dumps(network))
for word in ("good", "bad"):
    Path("texts", word).mkdir(parents=True)
    for number in range(20):
        Path("texts", word, f"{number}.txt").write_text(f"film {word} " + "film " * (number % 7))
"""
#: Starts tl-serve on a free port, and asks it for its health.
SERVE = """
import re, subprocess, sys, urllib.request
server = subprocess.Popen(["tl-serve", "checkpoint=" + sys.argv[1], "port=0"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
said = []
try:
    for line in server.stdout:
        said.append(line)
        if found := re.search(r"https?://[\\w.]+:\\d+", line):
            print(urllib.request.urlopen(found[0] + "/health", timeout=30).read().decode())
            break
    else:
        sys.exit("".join(said))
finally:
    server.terminate()
    server.wait()
"""


@dataclasses.dataclass(frozen=True)
class Use:
    """What shows that an extra works: commands, and files that they must have written.

    ``{run}`` in a word is the folder of the trained run.
    """

    commands: Sequence[Sequence[str]]
    files: Sequence[str] = ()


def _python(code: str, *arguments: str) -> list[str]:
    return ["python", "-c", code, *arguments]


def _logged(name: str) -> list[str]:
    return ["tl-train", *SHORT, f"logger={name}", f"hydra.run.dir={name}"]


VIT = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false",
       "backbone.size=32", "backbone.lora.rank=2", "backbone.lr_factor=1"]  # fmt: skip
USES = {
    "tensorboard": Use([_logged("tensorboard")], ["tensorboard/**/events.out*"]),
    "wandb": Use([_logged("wandb")], ["wandb/**/*.wandb"]),
    "mlflow": Use([_logged("mlflow")], ["outputs/mlflow.db"]),
    "lora": Use([["tl-train", *SHORT, *VIT, "hydra.run.dir=lora"]], ["lora/report.html"]),
    "text": Use(
        [_python(TEXTS),
         ["tl-train", "model=source_only", "data=text_folder", "data.root=texts",
          "data.target=null", "backbone=hf", "backbone.name=bert", "backbone.pretrained=false",
          "trainer.max_epochs=1", "data.batch_size=4", "hydra.run.dir=text"]],
        ["text/report.html"],
    ),
    "parquet": Use(
        [["tl-predict", "checkpoint={run}", "input=images", "out=predictions.parquet"]],
        ["predictions.parquet"],
    ),
    "umap": Use([["tl-train", *SHORT, "report.projection=umap", "hydra.run.dir=umap"]],
                ["umap/report.html"]),
    "clean": Use(
        [["tl-check-data", "data=folder", "data.root=images", "data.target=null",
          "backbone=tiny_cnn", "quality=true"]],
        ["quality-*.csv"],
    ),
    "tune": Use(
        [["tl-tune", *SHORT, "optimizer.lr=log(1e-4,1e-2)", "tune.trials=2", "tune.dir=study"]],
        ["study/*"],
    ),
    "stream": Use(
        [["tl-write-shards", "data=folder", "data.root=images", "data.target=null", "out=shards"],
         ["tl-train", "model=source_only", "data=stream", "data.source.url=shards/images",
          "backbone=tiny_cnn", "trainer.max_epochs=1", "data.batch_size=4",
          "hydra.run.dir=stream"]],
        ["stream/report.html"],
    ),
    "export": Use([["tl-export", "checkpoint={run}", "out=exported"]], ["exported/*.onnx"]),
    "serve": Use([_python(SERVE, "{run}")]),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the matrix.

    Attributes:
        python: Version, such as ``3.11``.
        by: ``uv`` or ``pip``.
        archive: ``wheel`` or ``sdist``.
        extras: ``none``, ``all``, or the name of one.
        versions: ``newest``, or ``lowest`` for the lowest direct dependencies.
    """

    python: str
    by: str
    archive: str
    extras: str
    versions: str

    @property
    def name(self) -> str:
        """Return the row in words that ``--only`` is matched with."""
        return " ".join(dataclasses.astuple(self))

    def uses(self) -> list[str]:
        """Return the extras that are used."""
        return EXTRAS if self.extras == "all" else [one for one in EXTRAS if one == self.extras]


def rows() -> list[Row]:
    """Return the rows: pip has no lowest versions, and single extras are of one Python."""
    plain = [Row(p, by, "wheel", "none", "newest")
             for p, by in itertools.product(PYTHONS, ("uv", "pip"))]  # fmt: skip
    sources = [Row(PYTHONS[0], by, "sdist", "none", "newest") for by in ("uv", "pip")]
    more = [
        Row(p, "uv", "wheel", extras, versions)
        for extras, versions, p in itertools.product(("none", "all"), ("newest", "lowest"), PYTHONS)
        if (extras, versions) != ("none", "newest")
    ]
    alone = [Row(PYTHONS[0], "uv", "wheel", extra, "newest") for extra in EXTRAS]
    return [*plain, *sources, *more, *alone]


def run(
    words: Sequence[str], cwd: Path, limit: float = 900, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with a umask of 077 in an environment of its own if variables are given."""
    environment = dict(variables) if variables else dict(os.environ)
    return subprocess.run(
        list(words), cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        timeout=limit, stdin=subprocess.DEVNULL, umask=0o077 if variables else -1,
    )  # fmt: skip


def build(folder: Path) -> dict[str, Path]:
    """Return the built wheel and source archive."""
    done = run([UV, "build", "--quiet", "--out-dir", str(folder), str(REPO)], folder)
    if done.returncode:
        sys.exit(done.stderr)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def interpreter(version: str) -> str | None:
    """Return the path of an interpreter on this machine, without downloading one."""
    done = run([UV, "python", "find", "--no-python-downloads", "--system", version], REPO)
    return done.stdout.strip() or None


def lowest(row: Row) -> list[str]:
    """Return the options and requirements for the lowest direct versions.

    For uv, only what the command names is direct: the project, but not what the project requires.
    """
    if row.versions != "lowest":
        return []
    optional = PROJECT["optional-dependencies"]
    extras = [one for extra in row.uses() for one in optional[extra]]
    return ["--resolution", "lowest-direct", *PROJECT["dependencies"], *extras]


def install(row: Row, python: str, archive: Path, env: Path) -> tuple[float, str]:
    """Make an environment, install into it, and return the seconds and an error."""
    extras = "" if row.extras == "none" else f"[{row.extras}]"
    wanted = f"{PROJECT['name']}{extras} @ {archive.as_uri()}"
    own = str(env / "bin" / "python")
    if row.by == "pip":
        steps = [[python, "-m", "venv", str(env)], [own, "-m", "pip", "install", "-q", wanted]]
    else:
        steps = [
            [UV, "venv", "--quiet", "--python", python, str(env)],
            [UV, "pip", "install", "--quiet", "--python", own, *lowest(row), wanted],
        ]
    begun = time.monotonic()
    for step in steps:
        done = run(step, env.parent, 3600)
        if done.returncode:
            return time.monotonic() - begun, done.stderr[-2000:]
    return time.monotonic() - begun, ""


def used(row: Row, env: Path, root: Path) -> dict[str, Any]:
    """Train and use the extras in an empty folder; return what was measured."""
    place, home = root / PLACE, root / "home"
    for folder in (place, home):
        folder.mkdir()
    variables = {"HOME": str(home), "PATH": f"{env / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8",
                 "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}  # fmt: skip
    found: dict[str, Any] = {"problems": {}}

    def tried(name: str, commands: Iterable[Sequence[str]], files: Iterable[str] = ()) -> str:
        """Run commands, note an error, and return the last output."""
        output = ""
        for words in commands:
            done = run(words, place, **variables)
            output = done.stdout
            if done.returncode:
                found["problems"][name] = f"{words[0]}: {(done.stderr or done.stdout)[-1500:]}"
                return ""
        if missing := [one for one in files if not any(place.glob(one))]:
            found["problems"][name] = f"not written: {missing}"
        return output

    found |= json.loads(tried("create", [_python(CREATE)]) or "{}")
    uses = {extra: USES[extra] for extra in row.uses()}
    trained = place / "run"
    if row.extras in ("none", "all") or any("{run}" in str(use.commands) for use in uses.values()):
        few = [] if row.extras == "none" else ["data.steps_per_epoch=5"]
        begun = time.monotonic()
        tried("train", [[*TRAIN, *few]], ["outputs/*/*/report.html"])
        found["train_s"] = time.monotonic() - begun
        trained = next((one.parent for one in place.glob("outputs/*/*/report.json")), trained)
        if not few and trained.is_dir():
            report = json.loads((trained / "report.json").read_text())
            found["accuracy"] = report["metrics"]["target/test/acc"]
    if uses:
        tried("images", [_python(IMAGES)])
    for extra, use in uses.items():
        filled = [[word.replace("{run}", str(trained)) for word in words] for words in use.commands]
        tried(extra, filled, use.files)
    written = [one for one in place.rglob("*") if not one.is_symlink()]
    # An empty file is a lock, which early versions of filelock make readable.
    open_ = [one for one in written
             if one.stat().st_size and stat.S_IMODE(one.stat().st_mode) & 0o077]  # fmt: skip
    if open_:
        found["problems"]["umask"] = f"others may read {open_[0]}"
    found["home"] = sorted(str(one.relative_to(home)) for one in home.rglob("*") if one.is_file())
    return found


def measured(row: Row, archives: dict[str, Path]) -> dict[str, Any]:
    """Return the result of a row."""
    found: dict[str, Any] = dataclasses.asdict(row)
    python = interpreter(row.python)
    if python is None:
        return found | {"problems": {"python": "no such interpreter on this machine"}}
    root = Path(tempfile.mkdtemp(prefix="matrix"))
    try:
        seconds, error = install(row, python, archives[row.archive], root / "env")
        found["install_s"] = seconds
        if error:
            return found | {"problems": {"install": error}}
        return found | used(row, root / "env", root)
    except subprocess.TimeoutExpired as late:
        return found | {"problems": {"time": str(late)[:300]}}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def table(results: Iterable[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    head = ["Python", "by", "from", "extras", "versions", "packages", "torch", "install, s",
            "training, s", "target", "passed"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---:|---|---:|---:|---:|---|"]
    for one in results:
        numbers = [f"{one[key]:.0f}" if key in one else "" for key in ("install_s", "train_s")]
        reached = f"{100 * one['accuracy']:.1f} %" if "accuracy" in one else ""
        passed = "yes" if not one["problems"] else "no: " + ", ".join(one["problems"])
        cells = [one[key] for key in ("python", "by", "archive", "extras", "versions")]
        cells += [str(one.get("packages", "")), one.get("torch", ""), *numbers, reached, passed]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that have no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--only", default="", help="expression that a row's words must match")
    parser.add_argument("--table", action="store_true", help="only print the table")
    given = parser.parse_args(arguments)
    lines = given.results.read_text().splitlines() if given.results.is_file() else []
    results = [json.loads(line) for line in lines]
    keys = [field.name for field in dataclasses.fields(Row)]
    known = {tuple(one[key] for key in keys) for one in results}
    todo = [
        row
        for row in rows()
        if dataclasses.astuple(row) not in known and re.search(given.only, row.name)
    ]
    if todo and not given.table:
        with tempfile.TemporaryDirectory() as folder:
            archives = build(Path(folder))
            for row in todo:
                print(row.name, flush=True)
                results.append(measured(row, archives))
                with given.results.open("a") as file:
                    print(json.dumps(results[-1]), file=file)
    print(table(results))
    sys.exit(any(one["problems"] for one in results))


if __name__ == "__main__":
    main()
