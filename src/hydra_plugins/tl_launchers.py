"""``hydra/launcher=local`` and ``hydra/launcher=slurm``. Hydra takes launchers from here only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:  # Hydra imports this file at every start
    from tl_lightning.sweeps.launchers.local import Job

__all__ = ["LocalLauncher", "SlurmLauncher"]


class _Processes(Launcher):
    """Start every job of a sweep that is not done yet in processes of its own."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what a job is composed from."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; say in a line each what became of them."""
        from tl_lightning.errors import TransferError
        from tl_lightning.utils.console import complain

        numbered = enumerate(job_overrides, initial_job_idx)
        try:
            jobs = [self._job(list(overrides), number) for number, overrides in numbered]
            self.run(jobs)
        except TransferError as error:
            complain(error)
            sys.exit(error.exit_code)
        return [self._result(job) for job in jobs]

    def run(self, jobs: list[Job]) -> None:
        """Run those that are not done."""
        raise NotImplementedError

    def _job(self, overrides: list[str], number: int) -> Job:
        from tl_lightning.config.compose import as_dict
        from tl_lightning.sweeps.launchers.local import Job

        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        folder = Path(config.hydra.sweep.dir).absolute() / config.hydra.sweep.subdir
        return Job(folder, overrides, list(self.config.hydra.overrides.hydra), as_dict(config))

    def _result(self, job: Job) -> JobReturn:
        found = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
        report = job.report()
        found.return_value = (report["selection"]["value"] or 0.0) if report else None
        return found


class LocalLauncher(_Processes):
    """Several jobs at once on this machine; see ``conf/hydra/launcher/local.yaml``."""

    def run(self, jobs: list[Job]) -> None:
        """Run them, so many at a time, each on its share of the GPUs."""
        from tl_lightning.sweeps.launchers.local import run_here

        run_here(jobs, **self.settings)


class SlurmLauncher(_Processes):
    """An array of SLURM jobs; see ``conf/hydra/launcher/slurm.yaml``."""

    def run(self, jobs: list[Job]) -> None:
        """Submit them as one array and, unless told otherwise, wait for them."""
        from tl_lightning.sweeps.launchers.slurm import run_there

        run_there(jobs, **self.settings)
