"""The command ``tl-train``: train a model or a sweep."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from tl_lightning import __version__
from tl_lightning.cli.common import hide_secrets, remove_untouched, say_interrupted
from tl_lightning.cli.help import help_text
from tl_lightning.config.compose import as_dict, unknown_overrides
from tl_lightning.config.overrides import override_problems, readable
from tl_lightning.config.paths import CONF, file_problems, group_problems, output_problem
from tl_lightning.errors import ConfigError, TransferError
from tl_lightning.sweeps.jobs import failures, note_failure, wholly_finished
from tl_lightning.sweeps.page_writer import page_writer
from tl_lightning.utils.console import on_problem, sentence
from tl_lightning.utils.signals import Interrupted, end_interrupted

__all__ = ["train"]


def train() -> None:
    """Train a model, select a checkpoint, test it and write a report; see ``conf/train.yaml``."""
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(f"tl_lightning {__version__}")
        sys.exit(0)
    if {"-h", "--help"} & set(sys.argv[1:]):  # Hydra's would leave out comments and valid values
        _help([item for item in sys.argv[1:] if item not in ("-h", "--help")])
    sweep = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv[1:]))
    sys.argv[1:] = readable(sys.argv[1:], sweep)
    problems = [*override_problems(sys.argv[1:], sweep), *group_problems(sys.argv[1:])]
    problems += file_problems(sys.argv[1:])
    flags = [item.partition("=")[0] for item in sys.argv[1:] if item.startswith("--e")]
    if any("--experimental-rerun".startswith(flag) for flag in flags):  # argparse takes the start
        problems.append(
            "--experimental-rerun is not supported, as the file it reads can execute code; set "
            "the overrides in .hydra/overrides.yaml of that run"
        )
    if output := output_problem(sys.argv[1:]):
        problems.append(output)
    if problems:
        on_problem(ConfigError(problems))
        sys.exit(ConfigError.exit_code)
    try:
        _train()
        page_writer.wait()
    except (KeyboardInterrupt, SystemExit) as end:
        if not isinstance(end.__context__, HydraException):
            end_interrupted(end)
        # Hydra has printed an error, but the +key=value it suggests would be rejected as well.
        on_problem(ConfigError(unknown_overrides(sys.argv[1:])))
        sys.exit(ConfigError.exit_code)
    if failures:
        print(f"{len(failures)} job(s) of the sweep did not finish; see its table", file=sys.stderr)
        sys.exit(1)


def _help(arguments: list[str]) -> NoReturn:
    try:
        print(help_text(arguments), flush=True)
    except ConfigError as error:
        on_problem(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as: tl-train --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    sys.exit(0)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _train(cfg: DictConfig) -> float | None:
    """Run one job."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    sweeping = settings.mode == RunMode.MULTIRUN
    overrides = list(settings.overrides.task)
    hide_secrets(folder)
    try:
        if not sweeping and not settings.launcher["_target_"].endswith(".BasicLauncher"):
            chosen = settings.runtime.choices["hydra/launcher"]
            raise ConfigError(f"hydra/launcher={chosen} requires a sweep; add -m to the command")
        return _job(cfg, folder, sweeping, overrides)
    except (KeyboardInterrupt, Interrupted) as end:
        say_interrupted(folder, sweeping)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)
    except Exception as error:  # a failed job must not stop the sweep
        known = error if isinstance(error, TransferError) else None
        if known is not None:
            on_problem(known)
        elif sweeping:
            traceback.print_exc()
        else:
            raise
        if known is None or sweeping:
            message = f"{type(error).__name__}: {error}" if known is None else sentence(error)
            note_failure(folder, message, overrides)
            return None
        remove_untouched(folder)
        sys.exit(known.exit_code)


def _job(cfg: DictConfig, folder: Path, sweeping: bool, overrides: Sequence[str]) -> float | None:
    if sweeping:
        done = wholly_finished(folder, as_dict(cfg))
        if done:
            print(f"already finished: {folder.name}", flush=True)
            if not (folder / "report.html").is_file():  # killed before, or the disk was full
                from tl_lightning.training.reliability import compare_models

                done |= compare_models(folder)
                page_writer.add(folder, overrides)
            return done["selection"]["value"] or 0.0
    from tl_lightning.config.validation.check import check_keys

    check_keys(cfg)  # the next imports take seconds
    from tl_lightning.utils.deferred import import_lightning

    import_lightning()  # before the modules that import it as usual
    from tl_lightning.sweeps.baselines import fit_with_baselines

    report = fit_with_baselines(cfg, folder, sweeping)
    if not report:  # not rank 0
        return None
    from tl_lightning.reporting.console import print_run

    if sweeping:
        page_writer.add(folder, overrides)
    else:
        from tl_lightning.reporting.run.page import write_page

        write_page(folder)
    print_run(report, folder / "report.html", alone=not sweeping)
    return report["selection"]["value"] or 0.0
