"""Sweep jobs as a SLURM job array: batch script, submission and waiting."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tl_lightning.errors import ConfigError
from tl_lightning.sweeps.launchers.local import Job, environment, left_to_do

__all__ = ["run_slurm", "script"]

_SCRIPT = """\
#!/bin/bash
{options}

{variables}
cd {cwd} || exit 1
case "$SLURM_ARRAY_TASK_ID" in
{jobs}
esac
{setup}
rm -f {folder}/"$SLURM_ARRAY_TASK_ID".code
# Shortly before the time limit SLURM signals only this shell, which then stops the ranks so that
# they save a checkpoint. On preemption SLURM signals the ranks itself, but considers a job that
# exits within the grace time as completed, so it is requeued here. Cancelled jobs are not requeued.
again=0
trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
srun --kill-on-bad-exit=1 {python} "${{job[@]}}" &
ranks=$!
wait "$ranks"; code=$?
while kill -0 "$ranks" 2>/dev/null; do wait "$ranks"; code=$?; done
case "$(scontrol show job "$SLURM_JOB_ID")" in
*JobState=RUNNING*PreemptTime=[0-9]*) again=1 ;;
esac
if [ "$again" = 1 ] && [ "$code" != 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_requeues} ]
then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
echo "$code" > {folder}/"$SLURM_ARRAY_TASK_ID".code
exit "$code"
"""


def script(
    jobs: Sequence[Job], folder: Path, options: Sequence[str], setup: Sequence[str],
    max_requeues: int,
) -> str:  # fmt: skip
    """Return the batch script of a job array with one task per job.

    Args:
        jobs: Jobs in the order of the array.
        folder: Folder for the exit codes.
        options: Options of sbatch.
        setup: Shell commands to run before the job.
        max_requeues: Maximum number of requeues after a timeout or preemption.
    """
    python = jobs[0].command[:3]
    lines = [f"{n}) job=({shlex.join(job.command[3:])}) ;;" for n, job in enumerate(jobs)]
    # Some clusters do not export the environment to jobs.
    variables = [f"export {key}={shlex.quote(value)}" for key, value in environment().items()]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        variables="\n".join(variables),
        cwd=shlex.quote(os.getcwd()),
        jobs="\n".join(lines),
        setup="\n".join(setup),
        python=shlex.join(python),
        max_requeues=max_requeues,
        folder=shlex.quote(str(folder)),
    )


def run_slurm(
    jobs: Sequence[Job], *, partition: str | None, account: str | None, qos: str | None,
    constraint: str | None, time: str | int, nodes: int, tasks_per_node: int,
    gpus_per_node: int | None, cpus_per_task: int | None, mem: str | None, at_once: int,
    max_requeues: int, warn_s: int, setup: Sequence[str], options: Sequence[str], wait: bool,
    poll_s: float,
) -> None:  # fmt: skip
    """Submit the unfinished jobs as one array, and wait until all of them have left the queue.

    The ranks of a job are tasks started by ``srun``, ``tasks_per_node`` on each of ``nodes`` nodes.
    Lightning detects them from SLURM's variables and starts no processes itself. The arguments are
    described in ``conf/hydra/launcher/slurm.yaml``.

    Raises:
        ConfigError: If ``sbatch`` is not found or fails, or if the number of devices of a job
            differs from the number of tasks in the array.
    """
    _check_devices(jobs, nodes, tasks_per_node)
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm needs sbatch, which was not found on this machine; run the "
            "command on a login node of a cluster, or set hydra/launcher=local"
        )
    jobs = left_to_do(jobs)
    if not jobs:
        return
    params = {
        "job-name": "tl", "partition": partition, "account": account, "qos": qos,
        "constraint": constraint, "time": time, "nodes": nodes, "ntasks-per-node": tasks_per_node,
        "gpus-per-node": gpus_per_node, "cpus-per-task": cpus_per_task, "mem": mem,
        "array": f"0-{len(jobs) - 1}%{at_once}", "signal": f"B:USR1@{warn_s}",
    }  # fmt: skip
    folder = jobs[0].folder.parent / ".slurm" / environment()["TL_RUN_ID"]
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"--{key}={value}" for key, value in params.items() if value is not None]
    flags += ["--requeue", "--open-mode=append", f"--output={folder}/%A_%a.log", *options]
    file = folder / "array.sbatch"
    file.write_text(script(jobs, folder, flags, setup, max_requeues), encoding="utf-8")
    array = _submit(file)
    logs = f"see {folder}/{array}_*.log"
    print(f"array {array} of {len(jobs)} job(s) submitted, {logs}", flush=True)
    if wait:
        _await(jobs, folder, array, poll_s)
    else:
        print(f"after the last job, run tl-report sweep={jobs[0].folder.parent}", flush=True)


def _check_devices(jobs: Sequence[Job], nodes: int, tasks_per_node: int) -> None:
    for job in jobs:
        trainer = job.config["trainer"]
        for key, given in (("devices", tasks_per_node), ("num_nodes", nodes)):
            value = trainer[key]
            if not isinstance(given, int) or value != given:
                raise ConfigError(
                    f"hydra/launcher=slurm starts each job with {tasks_per_node} task(s) per node "
                    f"on {nodes} node(s), but {job.folder.name} has trainer.{key}={value}; use "
                    f"one value, trainer.{key}=<number>, for the whole sweep"
                )


def _submit(file: Path) -> str:
    # If this process is part of a SLURM job, its variables must not affect the submitted jobs.
    env = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not key.startswith("SLURM_")
    }
    done = subprocess.run(
        ["sbatch", "--parsable", str(file)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(
            f"sbatch rejected {file}: {done.stderr.strip()}; set hydra.launcher.<option> as "
            "required by this cluster (sinfo lists its partitions)"
        )
    return done.stdout.strip().split(";")[0]


def _await(jobs: Sequence[Job], folder: Path, array: str, poll_s: float) -> None:
    """Print the status of each job once it has left the queue."""
    pending = dict(enumerate(jobs))
    missed = dict.fromkeys(pending, 0)
    while pending:
        queued = _queued(array)
        for number, job in list(pending.items()):
            missed[number] = 0 if queued is None or number in queued else missed[number] + 1
            if missed[number] < 2:  # it may be missing once, between its exit and a requeue
                continue
            del pending[number]
            exit_code = folder / f"{number}.code"
            code = int(exit_code.read_text()) if exit_code.is_file() else 1
            status = job.ended(code, folder / f"{array}_{number}.log")
            print(f"{job.folder.name}: {status}", flush=True)
        if pending:
            time.sleep(poll_s)


def _queued(array: str) -> set[int] | None:
    """Return the pending and running tasks of an array, or None if squeue fails."""
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--jobs", array, "--format", "%K"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "Invalid job id" not in done.stderr:
        print(f"squeue: {done.stderr.strip()}", file=sys.stderr, flush=True)
        return None
    return {int(word) for word in done.stdout.split() if word.isdigit()}
