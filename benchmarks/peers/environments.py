"""An environment of its own for each peer, with pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Environment", "Peer", "make", "pinned"]

REQUIREMENTS = Path(__file__).parent / "requirements"


@dataclass(frozen=True)
class Peer:
    """A library, and its environment.

    Attributes:
        title: Name on the page.
        distribution: The distribution whose version the page states.
        module: What a program imports first.
        note: What had to be changed to install it.
    """

    title: str
    distribution: str
    module: str
    note: str = ""


#: By the name of the environment. All have torch 2.15.0 and torchvision 0.29.2, as we have.
PEERS = {
    "torch": Peer("plain torch", "torch", "torch, torchvision"),
    "lightning": Peer("plain Lightning", "lightning", "lightning"),
    "timm": Peer("timm", "timm", "timm"),
    "fastai": Peer("fastai", "fastai", "fastai.vision.all"),
    "pytorch_adapt": Peer(
        "pytorch-adapt", "pytorch-adapt", "pytorch_adapt.hooks",
        "its metrics import pkg_resources, which setuptools 81 removed: setuptools below 81",
    ),
    "pykale": Peer(
        "PyKale", "pykale", "kale.pipeline.domain_adapter",
        "torch as pinned here in place of the version that it asks for",
    ),
    "skada": Peer("skada", "skada", "skada.deep"),
    "transformers": Peer("transformers", "transformers", "transformers"),
}  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """An environment: its interpreter, or the reason why there is none."""

    python: Path
    problem: str = ""


def pinned(name: str) -> dict[str, str]:
    """Return the pinned version of every distribution of an environment."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    pairs = (line.split(";")[0].split("==") for line in lines if "==" in line)
    return {distribution.strip().split("[")[0]: version.strip() for distribution, version in pairs}


def make(name: str, folder: Path) -> Environment:
    """Make the environment of a peer in ``folder``, unless it is there."""
    home = folder / name
    python = home / "bin" / "python"
    done = home / "installed.txt"
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    if done.is_file() and done.read_text() == wanted:
        return Environment(python)
    uv = Path(sys.executable).with_name("uv")
    tool = str(uv) if uv.is_file() else shutil.which("uv")
    if tool is None:
        return Environment(python, "uv is not installed")
    # The lists are complete: nothing is resolved, so no requirement of a peer has to be overridden.
    steps = (
        [tool, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [tool, "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode",
         "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt")],
    )  # fmt: skip
    for step in steps:
        ended = subprocess.run(step, capture_output=True, text=True, check=False)
        if ended.returncode:
            return Environment(python, (ended.stderr.strip().splitlines() or ["failed"])[-1])
    done.write_text(wanted)
    return Environment(python)
