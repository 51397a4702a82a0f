"""Helpers shared by the tests."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import itertools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import lightning as L
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tl_lightning.config.compose import compose
from tl_lightning.config.overrides import readable
from tl_lightning.config.paths import CONF
from tl_lightning.training import fit as training

REPO = Path(__file__).resolve().parents[1]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Return a call of a shell command."""
        return os.system, (f"touch '{self.file}'",)


def config(*overrides: str) -> dict[str, Any]:
    """Return the resolved configuration for the tiny run plus overrides."""
    from conftest import TINY

    return _resolved(tuple(TINY), overrides)


def plain_config(*overrides: str) -> dict[str, Any]:
    """Return the resolved configuration for overrides of ``conf/train.yaml``."""
    return _resolved((), overrides)


def _resolved(fixed: tuple[str, ...], overrides: tuple[str, ...]) -> dict[str, Any]:
    return copy.deepcopy(_composed(fixed, overrides, os.environ.get("TL_DATA")))


@cache
def _composed(fixed: tuple[str, ...], overrides: tuple[str, ...], root: str | None) -> Any:
    """Compose choices of groups as Hydra does, once, and set the other values in a copy.

    Hydra sets values after all groups as well. Composing took a third of the time of a tiny run.
    ``root`` is read from the environment by ``conf/data``.
    """
    given = readable(overrides)
    chosen = [one for one in given if _chooses(one)]
    found = copy.deepcopy(_base((*fixed, *chosen), root))
    values = OverridesParser.create().parse_overrides([one for one in given if one not in chosen])
    ConfigLoaderImpl._apply_overrides_to_config(values, found)
    return OmegaConf.to_container(found, resolve=True)


@cache
def _base(overrides: tuple[str, ...], root: str | None) -> DictConfig:
    return compose(overrides)


def _chooses(override: str) -> bool:
    """Return whether an override chooses a member of a group, or is read before the groups."""
    key = override.partition("=")[0].lstrip("+~")
    return "@" in key or key.startswith("hydra.") or (CONF / key).is_dir()


#: Imported once per test process; importing them for every command took most of the time.
PRELOADED = ["tl_lightning.sweeps.baselines", "tl_lightning.reporting.run.page", "hydra.main"]


@cache
def _server() -> Any:
    """Return a context whose processes are forked from one that has imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def command(
    script: str, arguments: Sequence[str], cwd: Path, timeout: float = 200, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the commands in scripts/ in a process of its own, in the folder ``cwd``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    environment.pop("TL_RUN_ID", None)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        path = str(REPO / "scripts" / f"{script}.py")
        child = _server().Process(
            target=run_script, args=([path, *arguments], str(cwd), environment, *files)
        )
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
        out, err = (Path(file).read_text(errors="surrogateescape") for file in files)
    if child.exitcode == -signal.SIGKILL:
        raise subprocess.TimeoutExpired([path, *arguments], timeout, out, err)
    return subprocess.CompletedProcess([path, *arguments], child.exitcode or 0, out, err)


def run_script(
    argv: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str
) -> None:
    """Run a script as ``python script`` does, with its output in two files."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = _reopened(1), _reopened(2)
    sys.argv = argv
    code = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _reopened(number: int) -> TextIO:
    return os.fdopen(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], but: str = "\0") -> bool:
    """Return whether two state dicts are equal bit for bit, ignoring names that contain ``but``."""
    left, right = ({k: v for k, v in x.items() if but not in k} for x in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def evaluated(report: dict[str, Any]) -> dict[str, float]:
    """Return the test metrics of a report, which evaluating its checkpoint must reproduce."""
    return {name: value for name, value in report["metrics"].items() if "/test/" in name}


#: Two epochs of two steps on tiny images.
SMALL = (
    "data.batch_size=4", "data.eval_batch_size=8", "data.steps_per_epoch=2", "data.num_workers=0",
    "data.augment=light", "trainer.max_epochs=2",
)  # fmt: skip


def file_config(root: Path, *overrides: str) -> dict[str, Any]:
    """Return the configuration of a tiny run on image files below ``root``, plus overrides."""
    plain = config()
    arguments = ["data=dogs", f"data.root={root}", "backbone=tiny_cnn", *SMALL, *overrides]
    found = plain_config(*arguments)
    epochs = found["trainer"]["max_epochs"]
    for key in ("trainer", "backbone", "channels_last", "callbacks", "report", "checkpointing"):
        found[key] = plain[key]
    found["trainer"]["max_epochs"] = epochs
    found["baselines"] = []
    return found


class Stop(Exception):
    """Raised to end a run abruptly."""


class StopAt(L.Callback):
    """Save a checkpoint after a given batch, and end the run there."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and raise at the given epoch and batch."""
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


def fit_watched(
    monkeypatch: pytest.MonkeyPatch, folder: Path, settings: dict[str, Any], watch: Any
) -> Any:
    """Fit with a callback that runs after the others, and return the report.

    A watch whose ``stop`` is not None may end the run by raising :class:`Stop`; the report is then
    None.
    """
    original: Any = training.build
    report = None

    def build(*arguments: Any) -> Any:
        parts = original(*arguments)
        parts.trainer.callbacks.insert(len(parts.trainer.callbacks) - 1, watch)
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(training, "build", build)
        try:
            report = training.fit(settings, folder)
        except Stop:
            assert watch.stop is not None
    return report


@contextlib.contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> Iterator[None]:
    """Stop the run started inside this context after the given batch of an epoch."""
    original: Any = training.build

    def build(*arguments: Any) -> Any:
        parts = original(*arguments)
        parts.trainer.callbacks.append(StopAt(epoch, batch))
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(training, "build", build)
        with pytest.raises(Stop):
            yield


def killed_after(number: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tl-predict in a process of its own that is killed after a number of state writes."""
    from tl_lightning.cli.predict import _predict
    from tl_lightning.inference import draft as drafts

    child = os.fork()
    if not child:
        counter = itertools.count(1)
        write = drafts.write_json

        def counted(*args: Any) -> Any:
            found = write(*args)
            if next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        monkeypatch.setattr(drafts, "write_json", counted)
        monkeypatch.setattr(drafts, "EVERY", 0.0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _predict(arguments)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def loaded(path: Path) -> Any:
    """Return a script that is no part of a package as a module, under the name of its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
