"""Hydra launchers ``local`` and ``slurm``; Hydra only finds plugins in ``hydra_plugins``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:  # Hydra imports this module at every start
    from tl_lightning.sweeps.launchers.local import Job

__all__ = ["LocalLauncher", "SlurmLauncher"]


class _Processes(Launcher):
    """Base class of launchers that run each unfinished job of a sweep in separate processes."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the configuration from which jobs are composed."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return their results."""
        from tl_lightning.errors import TransferError
        from tl_lightning.utils.console import on_problem

        numbered = enumerate(job_overrides, initial_job_idx)
        try:
            jobs = [self._job(list(overrides), number) for number, overrides in numbered]
            self.run(jobs)
        except TransferError as error:
            on_problem(error)
            sys.exit(error.exit_code)
        return [self._result(job) for job in jobs]

    def run(self, jobs: list[Job]) -> None:
        """Run the unfinished jobs."""
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
        result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
        report = job.report()
        result.return_value = (report["selection"]["value"] or 0.0) if report else None
        return result


class LocalLauncher(_Processes):
    """Launcher for parallel jobs on this machine; see ``conf/hydra/launcher/local.yaml``."""

    def run(self, jobs: list[Job]) -> None:
        """Run the jobs in parallel, with the GPUs divided among them."""
        from tl_lightning.sweeps.launchers.local import run_local

        run_local(jobs, **self.settings)


class SlurmLauncher(_Processes):
    """Launcher for SLURM job arrays; see ``conf/hydra/launcher/slurm.yaml``."""

    def run(self, jobs: list[Job]) -> None:
        """Submit the jobs as one array and, unless ``wait`` is false, wait for them."""
        from tl_lightning.sweeps.launchers.slurm import run_slurm

        run_slurm(jobs, **self.settings)
