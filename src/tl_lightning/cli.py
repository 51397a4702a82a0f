"""The commands. Imports what is slow (torch, Lightning) only once the configuration stands."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tl_lightning.errors import ConfigError, TransferError, nearest
from tl_lightning.interruption import Interrupted, end_interrupted
from tl_lightning.ledger import alone_in, failures, job_key, note_failure, run_id, wholly_finished
from tl_lightning.places import CONF, output_fault
from tl_lightning.typos import unknown_key

__all__ = [
    "as_dict", "complain", "compose", "composed", "evaluate", "part_of", "plain_command",
    "register_resolvers", "report", "say_interrupted", "train",
]  # fmt: skip


def _bar() -> dict[str, Any] | None:
    """Return a progress bar's node where a person is watching."""
    if not sys.stderr.isatty():
        return None
    return {"_target_": "lightning.pytorch.callbacks.RichProgressBar"}


def _methods(adapter: DictConfig, otherwise: str) -> str:
    """Return the names of the adapters in use, such as ``dann+mcc``, or ``otherwise``."""
    return "+".join(map(str, adapter)) or otherwise


def _key(*, _root_: DictConfig) -> str:
    """Return the key of a job of a sweep, in which its folder's name ends."""
    return job_key(as_dict(_root_))


def _gpus(accelerator: str, devices: int | str) -> int | str | None:
    """Return how many GPUs a node has to give to a job."""
    return None if accelerator == "cpu" else devices


def as_dict(cfg: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values, without Hydra's own node."""
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key != "hydra"
    }


def register_resolvers() -> None:
    """Make ``${tl_run_id:}``, ``${tl_key:}``, ... of ``conf/train.yaml`` known to OmegaConf."""
    OmegaConf.register_new_resolver("tl_key", _key, replace=True)
    OmegaConf.register_new_resolver("tl_gpus", _gpus, replace=True)
    OmegaConf.register_new_resolver("tl_methods", _methods, replace=True)
    OmegaConf.register_new_resolver("tl_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("tl_bar", _bar, replace=True)


register_resolvers()


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return the training configuration for the given overrides, outside of a Hydra job."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def train() -> None:
    """Train, choose, test and report; see ``conf/train.yaml``."""
    if fault := output_fault(sys.argv[1:]):
        complain(ConfigError(fault))
        sys.exit(ConfigError.exit_code)
    try:
        _train()
    except (KeyboardInterrupt, SystemExit) as end:
        if not isinstance(end.__context__, HydraException):
            end_interrupted(end)
        # Hydra has spoken, but its advice, +key=value, would be refused as well.
        complain(ConfigError(_strangers(sys.argv[1:])))
        sys.exit(ConfigError.exit_code)
    if failures:
        print(f"{len(failures)} job(s) of the sweep did not finish; see its table", file=sys.stderr)
        sys.exit(1)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _train(cfg: DictConfig) -> float | None:
    """Run one job."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    sweeping = settings.mode == RunMode.MULTIRUN
    try:
        if not sweeping and not settings.launcher["_target_"].endswith(".BasicLauncher"):
            chosen = settings.runtime.choices["hydra/launcher"]
            raise ConfigError(f"hydra/launcher={chosen} starts the jobs of a sweep; type -m first")
        return _job(cfg, folder, sweeping)
    except (KeyboardInterrupt, Interrupted) as end:
        say_interrupted(folder, sweeping)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    except Exception as error:  # one job's failure is not the sweep's
        known = error if isinstance(error, TransferError) else None
        if known is not None:
            complain(known)
        elif sweeping:
            traceback.print_exc()
        else:
            raise
        if known is None or sweeping:
            words = f"{type(error).__name__}: {error}" if known is None else _sentence(error)
            note_failure(folder, words, list(settings.overrides.task))
            return None
        _remove_untouched(folder)
        sys.exit(known.exit_code)


def _job(cfg: DictConfig, folder: Path, sweeping: bool) -> float | None:
    if sweeping:
        done = wholly_finished(folder, as_dict(cfg))
        if done:
            print(f"done before: {folder.name}", flush=True)
            return done["selection"]["value"] or 0.0
    from tl_lightning.brackets import fit_with_baselines

    found = fit_with_baselines(cfg, folder, sweeping)
    if not found:  # not the first rank
        return None
    from tl_lightning.report.page import write_page
    from tl_lightning.sweeps import print_run

    page = write_page(folder)
    print_run(found, page, alone=not sweeping)
    return found["selection"]["value"] or 0.0


def say_interrupted(folder: Path, sweeping: bool = False) -> None:
    """Say on the first rank how to go on, if anything was kept; leave no empty folder."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        kept = any((folder / "checkpoints").glob("*.ckpt"))
        way_on = f"; go on with resume=auto hydra.run.dir={folder}" if kept else ""
        if sweeping:
            way_on = f"; go on by the same command with hydra.sweep.dir={folder.parent}"
        print(f"interrupted{way_on}", file=sys.stderr, flush=True)
        _remove_untouched(folder)


def _sentence(error: BaseException) -> str:
    """Return an error's own words, also when a loader's worker has wrapped them in a traceback."""
    text = str(error)
    mark = f"{type(error).__name__}: "
    return text.rsplit(mark, 1)[1].strip() if "Original Traceback" in text else text


def complain(error: TransferError) -> None:
    """Print each fault as a line, on the first rank."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    lines = error.faults if isinstance(error, ConfigError) else [_sentence(error)]
    for line in lines:
        print(f"error: {line}", file=sys.stderr, flush=True)


def _remove_untouched(folder: Path) -> None:
    """Remove a run folder that holds nothing but what Hydra put there before the job began."""
    with alone_in(folder, wait_s=1) if folder.is_dir() else contextlib.nullcontext(False) as mine:
        if not mine or any(
            item.name != ".hydra" and item.suffix != ".log" for item in folder.iterdir()
        ):
            return
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.parent.name == "outputs":
            with contextlib.suppress(OSError):  # other runs of this name are there
                folder.parent.rmdir()


def plain_command(work: Callable[[list[str]], None], usage: str) -> None:
    """Run a command that is not a Hydra job: help, one clear error, an honest exit code."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage)
        sys.exit(0 if arguments else 2)
    try:
        work(arguments)
    except (KeyboardInterrupt, SystemExit) as end:
        end_interrupted(end)
    except TransferError as error:
        complain(error)
        sys.exit(error.exit_code)


def evaluate() -> None:
    """Test a checkpoint: ``tl-evaluate checkpoint=<run or file> [data=<name> data.root=...]``."""
    plain_command(
        _evaluate,
        "usage: evaluate.py checkpoint=<run folder or file.ckpt>\n"
        "                   [data=<name>] [data.<key>=<value> ...]\n"
        "                   [trainer=<name>] [trainer.<key>=<value> ...]\n"
        "                   [allow=[<full name of a class of yours>]]\n"
        "Tests the checkpoint on its own data, or on other data with the same classes.",
    )


def _evaluate(arguments: list[str]) -> None:
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    alien = [a for a in arguments if a.split("=")[0].split(".")[0] not in _EVALUATE_KEYS]
    if alien or "checkpoint" not in given:
        key = alien[0].split("=")[0] if alien else ""
        words = f"{key} is no option; {nearest(key, _EVALUATE_KEYS)}" if alien else ""
        raise ConfigError(words or "checkpoint is missing; type checkpoint=<run folder>")
    from tl_lightning import pipeline
    from tl_lightning.own_weights import checkpoint_of
    from tl_lightning.sweeps import print_metrics

    checkpoint = str(checkpoint_of(Path(given.pop("checkpoint")), "checkpoint"))
    typed = [f"{k}={v}" for k, v in given.items()]
    data, trainer = (part_of(name, checkpoint, typed) for name in ("data", "trainer"))
    found = pipeline.evaluate(checkpoint, data, trainer, _allowed(typed))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print_metrics(found["metrics"], title=f"{checkpoint} on {found['data']}")


_EVALUATE_KEYS = ("checkpoint", "data", "trainer", "allow")


def _allowed(overrides: Iterable[str]) -> list[str]:
    """Return what ``allow=[...]`` names among the overrides."""
    own = [override for override in overrides if override.startswith("allow=")]
    found: Any = OmegaConf.from_dotlist(own).get("allow") or []
    return [found] if isinstance(found, str) else [str(name) for name in found]


def part_of(
    name: str, checkpoint: str, overrides: list[str], whole: bool = False
) -> dict[str, Any] | None:
    """Return the node ``name`` as asked for; if it is not, None or, ``whole``, the checkpoint's."""
    own = [o for o in overrides if o.split("=")[0].split(".")[0] == name]
    if not own and not whole:
        return None
    node: Any
    if any(o.startswith(f"{name}=") for o in own):
        node = OmegaConf.to_container(compose(own)[name], resolve=True)
    else:
        from tl_lightning.callbacks.storage import read_checkpoint
        from tl_lightning.trust import stored_faults

        stored: Any = read_checkpoint(Path(checkpoint))["hyper_parameters"]
        if faults := stored_faults({name: stored["config"][name]}, _allowed(overrides)):
            raise ConfigError([f"checkpoint {checkpoint}: {fault}" for fault in faults])
        base: Any = OmegaConf.create(stored["config"][name])
        changes: Any = OmegaConf.from_dotlist(own).get(name) or {}
        for key in changes:
            if key not in base:
                raise ConfigError(f"{name}.{key} is no setting; {nearest(key, base)}")
        node = OmegaConf.to_container(OmegaConf.merge(base, changes))
    return dict(node)


def report() -> None:
    """Write a run's page or a sweep's table anew: ``tl-report <folder>``."""
    plain_command(
        _report,
        "usage: report.py <run folder or sweep folder>\n"
        "       report.py run=<folder> | sweep=<folder>\n"
        "Writes the page of a run (report.html), or the table of all runs below a folder\n"
        "(index.html, table.md, table.csv, sweep.json). sweep= makes a table of a run and its\n"
        "baselines too.",
    )


def _report(arguments: list[str]) -> None:
    from tl_lightning.sweeps import report_folder

    key, _, folder = arguments[0].rpartition("=")
    if len(arguments) > 1:
        raise ConfigError(
            f"one folder at a time, got {' '.join(arguments)}; type report.py sweep=<folder>"
        )
    if key in ("run", "sweep"):
        report_folder(Path(folder), as_sweep=key == "sweep")
    elif key and "/" not in key and not Path(arguments[0]).exists():
        raise ConfigError(f"{key} is no option; {nearest(key, ('run', 'sweep'))}")
    else:
        report_folder(Path(arguments[0]))


def composed(overrides: list[str], others: Iterable[str]) -> DictConfig:
    """Return the training configuration; what Hydra refuses becomes one sentence."""
    try:
        return compose(overrides)
    except HydraException as error:
        if faults := _strangers(overrides, others):
            raise ConfigError(faults) from error
        words = " ".join(str(error).split("Config search path")[0].split())
        raise ConfigError(f"{words}; every setting: train.py --help") from error


def _strangers(overrides: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Return which of the keys that were typed are no settings of the chosen data, in sentences."""
    typed = [item for item in overrides if not item.startswith("-")]
    chosen = [item for item in typed if (CONF / item.split("=")[0]).is_dir() and "," not in item]
    try:
        node = compose(chosen)
    except HydraException:  # no such choice: Hydra's own words list what there is
        return []
    return [fault for item in typed if (fault := unknown_key(item, node, others))]
