"""The command ``tl-tune``: hyperparameter search."""

from __future__ import annotations

from tl_lightning.cli.common import plain_command
from tl_lightning.sweeps.tuning.plan import read_plan

__all__ = ["tune"]


def tune() -> None:
    """Tune settings: ``tl-tune model=dann data=digits 'optimizer.lr=log(1e-4,1e-2)'``."""
    plain_command(
        _tune,
        "usage: tune.py [any setting of train.py ...] '<key>=log(a,b)|uniform(a,b)|int(a,b)|"
        "choice(x,y)' ...\n"
        "               [tune=<file of conf/tune>] [tune.trials=30] [tune.dir=<folder>]\n"
        "Samples settings with Optuna, trains a run with each, prunes bad runs, prints the best.\n"
        "Run the command again with the same tune.dir to continue a study; several processes can\n"
        "work on it at the same time. All keys of tune are listed in conf/tune/default.yaml.",
    )


def _tune(arguments: list[str]) -> None:
    plan = read_plan(arguments)
    from tl_lightning.sweeps.tuning.study import work

    work(plan)
