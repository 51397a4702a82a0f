"""The command ``tl-tune``: hyperparameter search."""

from __future__ import annotations

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.usage import TRAINS, Usage
from tl_lightning.sweeps.tuning.plan import read_plan

__all__ = ["tune"]


USAGE = Usage(
    ("tune.py [<key>=<value> ...] '<key>=log(a,b)|uniform(a,b)|int(a,b)|choice(x,y)' ...",),
    "Sample settings with Optuna, train a run with each, stop bad runs early, and print the best. "
    "Run the command again with the same tune.dir to continue a study; several processes can work "
    "on it at the same time.",
    {
        "Search space": {
            "<key>": "log(a,b), uniform(a,b), int(a,b) or choice(x,y,...), in quotes, of any "
            "setting of train.py; other values are fixed",
            "tune": "a search space of conf/tune/, such as adaptation or head",
        },
        "Study": {
            "tune.dir": "folder of the study (default: outputs/tune/<run id>)",
            "tune.trials": "number of trials, over all processes and restarts (default: 30)",
            "tune.prune": "median: stop trials worse than the median of the others; or none "
            "(default: median)",
            "tune.<key>": "other keys are listed in conf/tune/default.yaml",
        },
    },
    ("tune.py model=dann data=digits 'optimizer.lr=log(1e-4,1e-2)' tune.trials=20",),
    TRAINS,
)


def tune() -> None:
    """Tune settings: ``tl-tune model=dann data=digits 'optimizer.lr=log(1e-4,1e-2)'``."""
    plain_command(_tune, USAGE)


def _tune(arguments: list[str]) -> None:
    plan = read_plan(arguments)
    from tl_lightning.sweeps.tuning.study import work

    work(plan)
