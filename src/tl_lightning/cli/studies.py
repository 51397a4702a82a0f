"""The commands ``tl-activation-study``, ``tl-validator-study`` and ``tl-accuracy-study``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.train import train
from tl_lightning.cli.usage import TRAINS, Usage
from tl_lightning.config.paths import folder_problem
from tl_lightning.errors import ConfigError
from tl_lightning.utils.run_id import run_id

if TYPE_CHECKING:  # import torch only after the arguments were checked
    from tl_lightning.layers import Activation

__all__ = ["accuracy_study", "activation_study", "validator_study"]


_ACTIVATION = Usage(
    ("activation_study.py seeds=3 [out=<folder>] [<key>=<value> ...]",),
    "Train MLPs on vectors, heads on frozen features, a CNN from scratch and DANN, each with tanh, "
    "relu, sigmoid and gelu, and write <out>/study.html, study.csv and study.md.",
    {
        "Study": {
            "seeds": "number of seeds (default: 3)",
            "study": "the last three parts, or some of them: study=heads,cnn",
            "out": "folder (default: outputs/activation_study/<run id>)",
        },
        "Other settings": {"<key>": "any other setting of train.py, for the last three parts"},
    },
    codes=TRAINS.replace("0: done", "0: done; 1: some runs did not finish"),
)
_VALIDATOR = Usage(
    ("validator_study.py <sweep folder>",),
    "Read runs trained with track_target=true, and write regret.md, regret.csv and regret.png to "
    "the folder: the target accuracy lost by each selection rule relative to the best checkpoint.",
)
_ACCURACY = Usage(
    ("accuracy_study.py <sweep folder> [<sweep folder> ...]",),
    "Read runs on at least three datasets with labelled targets, and write accuracy.md, "
    "accuracy.csv and accuracy.png to the first folder: the error of every estimator of accuracy "
    "without labels, and of combinations of them on datasets that they were not fitted to.",
)


def activation_study() -> None:
    """Run the activation study and write its report: ``tl-activation-study seeds=3``."""
    plain_command(_activation_study, _ACTIVATION)


#: Activations of conf/experiment/activation_study.yaml, for the part that is not a Hydra sweep.
_ACTIVATIONS: tuple[Activation, ...] = ("tanh", "relu", "sigmoid", "gelu")


def _activation_study(arguments: list[str]) -> None:
    pairs = {key: value for key, _, value in (a.partition("=") for a in arguments)}
    count = pairs.pop("seeds", "3")
    if not count.isdigit() or int(count) < 1:
        raise ConfigError(f"seeds={count} must be a positive integer; set seeds=3")
    if "seed" in pairs:
        raise ConfigError(
            f"seed={pairs['seed']} is not supported here; set seeds=3 for the seeds 0, 1 and 2"
        )
    folder = Path(pairs.pop("out", "") or f"outputs/activation_study/{run_id()}").expanduser()
    if problem := folder_problem(folder, "out"):
        raise ConfigError(problem)
    overrides = [a for a in arguments if a.partition("=")[0] in pairs]
    _vectors(folder, int(count))
    seeds = ",".join(map(str, range(int(count))))
    sys.argv[1:] = ["-m", "experiment=activation_study", f"hydra.sweep.dir={folder}",
                    f"seed={seeds}", *overrides]  # fmt: skip
    train()


def _vectors(folder: Path, seeds: int) -> None:
    from tl_lightning.training.vector_study import fit_vectors

    for name in _ACTIVATIONS:
        for seed in range(seeds):
            accuracy = fit_vectors(name, seed, folder / f"vectors-{name}-seed{seed}")
            print(f"vectors, {name}, seed {seed}: test accuracy {100 * accuracy:.1f} %", flush=True)


def validator_study() -> None:
    """Compare selection rules without target labels with the best checkpoint of each run."""
    plain_command(_validator_study, _VALIDATOR)


def _validator_study(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise ConfigError(
            f"expected one sweep folder, got {len(arguments)} arguments; run "
            "validator_study.py outputs/sweeps/<run id>"
        )
    from tl_lightning.reporting.studies.selection_report import write_regret

    page = write_regret(Path(arguments[0]).expanduser())
    print(page.read_text(encoding="utf-8"))
    print(f"table: {page}")


def accuracy_study() -> None:
    """Measure how far estimates of accuracy without target labels are off."""
    plain_command(_accuracy_study, _ACCURACY)


def _accuracy_study(arguments: list[str]) -> None:
    if not arguments:
        raise ConfigError(
            "expected at least one sweep folder, got none; run "
            "accuracy_study.py outputs/sweeps/<run id>"
        )
    from tl_lightning.reporting.studies.accuracy_report import write_accuracy

    page = write_accuracy([Path(argument).expanduser() for argument in arguments])
    print(page.read_text(encoding="utf-8"))
    print(f"table: {page}")
