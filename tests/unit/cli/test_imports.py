"""What each command imports before it has work to do: modules, not seconds, which vary."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import REPO
from tl_lightning.checkpoints.places import check_place
from tl_lightning.errors import CheckpointError

#: Packages that take more than a tenth of a second to import.
HEAVY = {
    "torch", "lightning", "torchvision", "torchmetrics", "timm", "transformers", "tokenizers",
    "peft", "pandas", "matplotlib", "scipy.special", "scipy.optimize", "scipy.stats", "sklearn",
    "numpy", "PIL", "rich", "jinja2", "pyarrow", "optuna", "fastapi", "uvicorn", "onnx",
    "onnxruntime", "huggingface_hub", "tensorboard", "wandb", "mlflow", "IPython",
}  # fmt: skip
CODE = """
import json, runpy, sys
sys.argv = json.loads(sys.argv[1])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
else:
    code = 0
sys.stderr.write("\\n" + json.dumps([code, sorted(sys.modules)]))
"""
#: Every command of scripts/, which --help must not make slow.
COMMANDS = sorted(path.stem for path in (REPO / "scripts").glob("*.py"))
#: Messages of problems are printed by rich; the names of selection rules are a table beside
#: functions of numpy.
SAID, RULES = {"rich"}, {"rich", "numpy"}
#: Without what Lightning imports for metrics that nobody uses here, and torch's compiler.
LEARNING = {*RULES, "torch", "lightning", "torchmetrics", "torchvision", "PIL", "scipy.special",
            "scipy.optimize", "scipy.stats", "jinja2"}  # fmt: skip
CASES = {
    "version": ("train", ["--version"], 0, set()),
    "help of a group": ("train", ["--help", "optimizer"], 0, set()),
    "configuration": ("train", ["model=dann", "data=dogs", "--cfg", "job"], 0, set()),
    "defaults": ("train", ["--info", "defaults"], 0, set()),
    "unknown choice": ("train", ["model=dan"], 2, SAID),
    "unknown setting": ("train", ["modle=dann"], 2, SAID),
    "unknown setting in a section": ("train", ["+head.dropuot=1"], 2, RULES),
    "wrong type": ("train", ["optimizer.lr=abc"], 2, RULES),
    "unknown choice in a sweep": ("train", ["-m", "model=dann,dan"], 2, SAID),
    "no settings to tune": ("tune", ["model=dann"], 2, SAID),
    "check_data, unknown setting": ("check_data", ["modle=dann"], 2, SAID),
    "report, unknown option": ("report", ["nosuch=1"], 2, SAID),
    "predict, unknown option": ("predict", ["nosuch=1"], 2, SAID),
    "predict, no input": ("predict", ["checkpoint=a"], 2, SAID),
    "predict, no checkpoint": ("predict", ["checkpoint=/nowhere/a", "text=a"], 2, SAID),
    "evaluate, no checkpoint": ("evaluate", ["checkpoint=/nowhere/a"], 2, SAID),
    "adapt, no checkpoint": ("adapt", ["checkpoint=/nowhere/a"], 2, RULES),
    "publish, no out": ("publish", ["checkpoint=/nowhere/a"], 2, SAID),
    "publish, no checkpoint": ("publish", ["checkpoint=/nowhere/a", "out=b"], 2, SAID),
    "settings that contradict": ("train", ["data.target=null"], 2, LEARNING),
    "serve, unknown option": ("serve", ["nosuch=1"], 2, SAID),
    "write_shards, no out": ("write_shards", [], 2, SAID),
}  # fmt: skip


def imported(script: str, arguments: list[str], folder: Path) -> tuple[int, set[str]]:
    """Return the exit code of a command, and which of the heavy packages it has imported."""
    argv = [str(REPO / "scripts" / f"{script}.py"), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(argv)], cwd=folder, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, HEAVY & set(modules)


@pytest.mark.parametrize("script", COMMANDS)
def test_help_imports_nothing_heavy(script: str, tmp_path: Path) -> None:
    assert imported(script, ["--help"], tmp_path) == (0, set())


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_refused_before_heavy_imports(case: str, tmp_path: Path) -> None:
    script, arguments, code, allowed = CASES[case]
    found, heavy = imported(script, arguments, tmp_path)
    assert found == code
    assert heavy <= allowed


def test_the_heavy_packages_are_those_of_the_project() -> None:
    """A name that is misspelt here would never be found."""
    text = (REPO / "constraints.txt").read_text().lower().replace("-", "_")
    names = {"PIL": "pillow", "sklearn": "scikit_learn", "mlflow": "mlflow_skinny"}
    for one in HEAVY:
        name = names.get(one, one.split(".")[0]).lower()
        assert f"\n{name}==" in f"\n{text}", one


def test_a_path_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    check_place(tmp_path)
    check_place("owner/name")  # on the hub
    zipfile.ZipFile(tmp_path / "a.ckpt", "w").close()
    check_place(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"checkpoint=\S*b.ckpt is neither a checkpoint nor"):
        check_place(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"compare=owner/a\.ckpt is neither"):
        check_place("owner/a.ckpt", "compare")
