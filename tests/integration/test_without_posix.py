"""Nothing of the package needs what only POSIX systems have: it could run on Windows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import TINY

#: Runs in a process of its own. Only modules of the package are hindered: those of others have
#: branches of their own for Windows.
CODE = """
import importlib, os, pkgutil, signal, sys, types

BLOCKED = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "pty", "posix"}

class Finder:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if name in BLOCKED and frame.f_globals.get("__name__", "").startswith("tl_lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

class Windows(types.ModuleType):
    "A module as it is on Windows."
    def __init__(self, real, missing=(), **changed):
        super().__init__(real.__name__)
        self.__dict__.update(changed, real=real, missing=missing)
    def __getattr__(self, name):
        if name in self.missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.real, name)

THERE = {
    os: Windows(os, ("getuid", "geteuid", "getpgid", "killpg", "setsid", "uname", "fork", "mkfifo",
                     "sched_getaffinity", "statvfs", "chown", "O_DIRECTORY"), name="nt"),
    signal: Windows(signal, ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGHUP", "pause")),
    sys: Windows(sys, platform="win32"),
}

if sys.argv[1:] not in (["block"], ["missing"]):
    import lightning, torchmetrics, torchvision, timm, sklearn, matplotlib.pyplot, imagehash

for name in BLOCKED - {"posix"}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Finder())
import tl_lightning

found = ["tl_lightning.utils.signals"]
if "lightning" in sys.modules:
    found = [one.name for one in pkgutil.walk_packages(tl_lightning.__path__, "tl_lightning.")]
for name in found:
    module = importlib.import_module(name)
    for key, value in list(vars(module).items()):
        if isinstance(value, types.ModuleType) and value in THERE:
            setattr(module, key, THERE[value])
print("IMPORTED", len(found))
if sys.argv[1:] == ["block"]:
    exec("import fcntl", {"__name__": "tl_lightning.foo"})
elif sys.argv[1:] == ["missing"]:
    tl_lightning.utils.signals.signal.SIGUSR1
else:
    tl_lightning.cli.train.train()
"""


def run(arguments: list[str], cwd) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_every_module_is_imported_and_a_model_trained_without_posix(tmp_path) -> None:
    arguments = [
        *TINY,
        "model=dann",
        "trainer.max_epochs=1",
        "baselines=false",
        "hydra.run.dir=run",
    ]
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    imported = int(done.stdout.split("IMPORTED ")[1].split()[0])
    assert imported > 300
    assert (tmp_path / "run" / "report.html").is_file()
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "message"), [
    ("block", "No module named 'fcntl'"), ("missing", "has no attribute 'SIGUSR1'"),
])  # fmt: skip
def test_what_is_missing_would_be_noticed(what: str, message: str, tmp_path) -> None:
    done = run([what], tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
