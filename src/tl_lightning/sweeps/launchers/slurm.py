"""The jobs of a sweep as one array of SLURM jobs: the script, its submission, the wait."""

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

__all__ = ["run_there", "script"]

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
# Near the end of its time SLURM warns this shell alone, which stops the ranks: they save. The ranks
# of a job that gives way to another one are stopped by SLURM itself, which then takes a job that
# ends in time for one that is over. A job that somebody cancels gets neither.
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
    """Return the batch script of an array with a task a job.

    Args:
        jobs: In the order of the array.
        folder: Where the exit codes go.
        options: Of sbatch.
        setup: Lines of shell before the job.
        max_requeues: How often a job may queue again when its time is up.
    """
    python = jobs[0].command[:3]
    lines = [f"{n}) job=({shlex.join(job.command[3:])}) ;;" for n, job in enumerate(jobs)]
    # Some clusters pass no variables on.
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


def run_there(
    jobs: Sequence[Job], *, partition: str | None, account: str | None, qos: str | None,
    constraint: str | None, time: str | int, nodes: int, tasks_per_node: int,
    gpus_per_node: int | None, cpus_per_task: int | None, mem: str | None, at_once: int,
    max_requeues: int, warn_s: int, setup: Sequence[str], options: Sequence[str], wait: bool,
    poll_s: float,
) -> None:  # fmt: skip
    """Submit the jobs that are not done as one array, and wait until the last one has left.

    Each job's ranks are tasks that ``srun`` starts, ``tasks_per_node`` on each of ``nodes``:
    Lightning finds them through SLURM's variables and starts none itself. For the arguments see
    ``conf/hydra/launcher/slurm.yaml``.

    Raises:
        ConfigError: If there is no ``sbatch``, if it refuses, or if a job of the sweep wants
            another number of devices than every job of the array gets.
    """
    _check_devices(jobs, nodes, tasks_per_node)
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm submits with sbatch, which is not on this machine; type it on a "
            "login node of a cluster, or type hydra/launcher=local"
        )
    jobs = left_to_do(jobs)
    if not jobs:
        return
    given = {
        "job-name": "tl", "partition": partition, "account": account, "qos": qos,
        "constraint": constraint, "time": time, "nodes": nodes, "ntasks-per-node": tasks_per_node,
        "gpus-per-node": gpus_per_node, "cpus-per-task": cpus_per_task, "mem": mem,
        "array": f"0-{len(jobs) - 1}%{at_once}", "signal": f"B:USR1@{warn_s}",
    }  # fmt: skip
    folder = jobs[0].folder.parent / ".slurm" / environment()["TL_RUN_ID"]
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"--{key}={value}" for key, value in given.items() if value is not None]
    flags += ["--requeue", "--open-mode=append", f"--output={folder}/%A_%a.log", *options]
    file = folder / "array.sbatch"
    file.write_text(script(jobs, folder, flags, setup, max_requeues), encoding="utf-8")
    array = _submit(file)
    logs = f"see {folder}/{array}_*.log"
    print(f"array {array} of {len(jobs)} job(s) submitted, {logs}", flush=True)
    if wait:
        _await(jobs, folder, array, poll_s)
    else:
        print(f"when it is done: tl-report sweep={jobs[0].folder.parent}", flush=True)


def _check_devices(jobs: Sequence[Job], nodes: int, tasks_per_node: int) -> None:
    for job in jobs:
        trainer = job.config["trainer"]
        for key, given in (("devices", tasks_per_node), ("num_nodes", nodes)):
            wish = trainer[key]
            if not isinstance(given, int) or wish != given:
                raise ConfigError(
                    f"hydra/launcher=slurm gives each job of the sweep {given} task(s) a node on "
                    f"{nodes} node(s), but {job.folder.name} has trainer.{key}={wish}; type one "
                    f"number, trainer.{key}=<number>, for the whole sweep"
                )


def _submit(file: Path) -> str:
    # What this process was given by a SLURM job of its own is not for the jobs that it submits.
    own = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not key.startswith("SLURM_")
    }
    done = subprocess.run(
        ["sbatch", "--parsable", str(file)], env=own, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(
            f"sbatch refused {file}: {done.stderr.strip()}; set hydra.launcher.<option> as this "
            "cluster wants it (sinfo shows its partitions)"
        )
    return done.stdout.strip().split(";")[0]


def _await(jobs: Sequence[Job], folder: Path, array: str, poll_s: float) -> None:
    """Say what became of each job once it has left the queue."""
    left = dict(enumerate(jobs))
    missed = dict.fromkeys(left, 0)
    while left:
        queued = _queued(array)
        for number, job in list(left.items()):
            missed[number] = 0 if queued is None or number in queued else missed[number] + 1
            if missed[number] < 2:  # one look may fall between its end and its queueing again
                continue
            del left[number]
            noted = folder / f"{number}.code"
            code = int(noted.read_text()) if noted.is_file() else 1
            words = job.ended(code, folder / f"{array}_{number}.log")
            print(f"{job.folder.name}: {words}", flush=True)
        if left:
            time.sleep(poll_s)


def _queued(array: str) -> set[int] | None:
    """Return which tasks of an array wait or run; None if SLURM does not answer."""
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--jobs", array, "--format", "%K"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "Invalid job id" not in done.stderr:
        print(f"squeue: {done.stderr.strip()}", file=sys.stderr, flush=True)
        return None
    return {int(word) for word in done.stdout.split() if word.isdigit()}
