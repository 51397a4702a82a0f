"""A published folder in an empty environment, in another folder, without a network or a home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import REPO
from helpers import file_config
from layouts import image, split_folders
from tiny_texts import reviews, text_config, tiny_bert
from tl_lightning.inference.publish import publish
from tl_lightning.training import fit as training

#: Writes the logits of fixed inputs; ``{}`` is a folder.
LOGITS = """
import socket, sys
import numpy as np, torch
from tl_lightning.inference.predictor import Predictor
if len(sys.argv) > 3:
    try:
        socket.create_connection(("1.1.1.1", 53), timeout=2)
    except OSError:
        pass
    else:
        raise SystemExit("the network is not cut")
predictor = Predictor.open(sys.argv[1], device="cpu")
if predictor.kind == "texts":
    inputs = predictor.tokens(["a good film", "it was dull and the plot was a bad one"])[0]
else:
    generator = torch.Generator().manual_seed(1)
    shape = (8, 3, predictor.spec.size, predictor.spec.size)
    inputs = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
np.save(sys.argv[2], predictor.outputs(inputs).logits)
"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` folder of a new environment with the built wheel and its dependencies."""
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    root = tmp_path_factory.mktemp("empty")
    for command in (
        [uv, "build", "--wheel", "--quiet", "-o", str(root), str(REPO)],
        [uv, "venv", "--quiet", "--python", sys.executable, str(root / "venv")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{command[1]} failed: {done.stderr[-300:]}")
    wheel = next(root.glob("*.whl"))
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(root / "venv" / "bin" / "python"),
         "-c", str(REPO / "constraints.txt"), f"tl_lightning[text] @ {wheel.as_uri()}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"the dependencies could not be installed: {done.stderr[-300:]}")
    return root / "venv" / "bin"


def isolated(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without a network, in ``place``, with an empty home and environment."""
    unshare = shutil.which("unshare")
    cut = [unshare, "--map-root-user", "--net"] if unshare else []
    if not cut or subprocess.run([*cut, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the network cannot be cut here: unshare --net is not allowed")
    home = place / "home"
    home.mkdir(parents=True, exist_ok=True)
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*cut, *arguments], cwd=place, env=variables, capture_output=True, text=True, check=False,
        timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def here(arguments: list[str], place: Path) -> None:
    subprocess.run(
        arguments, cwd=place, check=True, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_published_folder_predicts_the_same_elsewhere(
    kind: str, empty: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    if kind == "images":
        split_folders(own / "data")
        training.fit(file_config(own / "data", "model=dann"), own / "run")
        (own / "photos").mkdir()
        for number in range(12):
            image(own / "photos" / f"{number}.png", number, (40 + 3 * number, 50))
        inputs = own / "photos"
    else:
        tiny_bert(own / "bert")
        reviews(own / "texts", 14)
        settings = text_config(own / "bert", "data=text_folder", f"data.root={own / 'texts'}",
                               "model=fine_tuning")  # fmt: skip
        training.fit(settings, own / "run")
        inputs = own / "lines.txt"
        inputs.write_text("a good film\nit was dull\nthe plot was lovely and moving\n")
    folder = publish(own / "run", own / "published")
    place = tmp_path / "another place"
    shutil.copytree(folder, place / "model")
    if inputs.is_dir():
        shutil.copytree(inputs, place / inputs.name)
    else:
        shutil.copy(inputs, place)
    predict = [f"input={inputs.name}", "out=out.csv"]
    here([f"{sys.prefix}/bin/tl-predict", "checkpoint=run", *predict], own)
    here([sys.executable, "-c", LOGITS, "run", "logits.npy"], own)
    shutil.rmtree(own / "run")  # nothing can be read from it
    shutil.rmtree(own / "data", ignore_errors=True)
    shutil.rmtree(own / "bert", ignore_errors=True)

    for arguments in (
        [str(empty / "tl-predict"), "checkpoint=model", *predict],
        [str(empty / "python"), "-c", LOGITS, "model", "logits.npy", "cut"],
    ):
        done = isolated(arguments, place)
        assert done.returncode == 0, done.stderr
    assert (place / "out.csv").read_bytes() == (own / "out.csv").read_bytes()
    before, after = (np.load(one / "logits.npy", allow_pickle=False) for one in (own, place))
    assert np.array_equal(before, after)
