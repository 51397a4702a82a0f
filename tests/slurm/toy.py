"""Single-node SLURM on this machine, with all of its files in one folder.

Run ``python tests/slurm/toy.py <folder>`` to start it, print the environment variables that it
needs, and stop it on Ctrl-C. Requires root and the Debian packages slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
#: Folders of the daemons, which are not in the PATH of users; SLURM_BIN can add another one.
PLACES = (os.environ["PATH"], "/usr/sbin", os.environ.get("SLURM_BIN", "/usr/bin"))

CONF = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 \
ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
"""


def missing() -> str:
    """Return why SLURM cannot be started, or an empty string."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=":".join(PLACES)) is None]
    if absent:
        return f"{', '.join(absent)} not found (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "starting SLURM needs root"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run the daemons inside the context; yields the environment variables for SLURM commands."""
    env = {**os.environ, "PATH": ":".join(PLACES), "SLURM_CONF": f"{folder}/slurm.conf"}
    for name in ("spool", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, ports=_free_ports()))
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    munge = [f"--{name}={folder}/munge.{end}" for name, end in (
        ("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"),
        ("seed-file", "seed"),
    )]  # fmt: skip
    commands = (
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    daemons = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("ab") as out:
                daemons.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            time.sleep(1)
        _until_idle(env, folder)
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, capture_output=True, check=False)
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _free_ports() -> list[int]:
    with socket.socket() as a, socket.socket() as b:
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in (a, b)]


def _until_idle(env: dict[str, str], folder: Path) -> None:
    for _ in range(240):
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"], env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if "idle" in done.stdout.split():
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-500:] for path in folder.glob("*.[lo][ou][gt]"))
    raise RuntimeError(f"no idle node: {done.stdout} {done.stderr}\n{logs}")


if __name__ == "__main__":
    reason = missing()
    if reason:
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the daemons are stopped
    with cluster(Path(sys.argv[1]).absolute()) as variables:
        print(f"export SLURM_CONF={variables['SLURM_CONF']} PATH={variables['PATH']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
