"""Discovery of the data of a run, whose target may lack the labels that a setting needs."""

from __future__ import annotations

from collections.abc import Iterator

from tl_lightning.config.schema import WITHOUT_CLASSES, RunConfig
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.domain import Domain
from tl_lightning.data.needs import DataInfo
from tl_lightning.distributed.ranks import rank
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training.source_domains import as_trained, source_problems
from tl_lightning.utils.spread import spread

__all__ = ["discovered"]


def discovered(run: RunConfig, data: TransferDataModule, samples: int | None = None) -> DataInfo:
    """Find the samples, and check that the target has the labels that the run needs.

    Only the data tell whether there are any, so that this cannot be part of the checks of the
    configuration. ``baselines=true`` leaves out the oracle by itself. A target without labels is
    announced, which is a surprise if it was meant to have some.

    Args:
        run: A checked configuration.
        data: Its data module.
        samples: Largest number of samples of each split to keep, spread evenly; None for all.

    Raises:
        ConfigError: If a setting needs labels that the target does not have.
        DataError: If training cannot start.
    """
    data.settings = run.section("data")
    data.only_tested |= run.model.cls.unseen
    info = data.discover(learn_from=run.model.cls.learn_from)
    if problems := list(source_problems(run, data.found["source"])):
        raise DataError(problems)
    data.found = as_trained(run, data.found)
    if rank() == 0:
        for remark in data.remarks():
            print(f"warning: {remark}", flush=True)
    if samples is not None:
        count, data.whole = samples, dict(data.found)
        data.found = {
            name: domain.map(lambda split: split.subset(spread(len(split), count)))
            for name, domain in data.found.items()
        }
    target = data.found.get("target")
    if target is None:
        return info
    if problems := list(_problems(run, target)):
        raise ConfigError(problems)
    if not target.train.has_labels and not run.model.cls.unseen and rank() == 0:
        print(f"target: {target.note}", flush=True)
    return info


def _problems(run: RunConfig, target: Domain) -> Iterator[str]:
    if not target.val.has_labels:
        has_none = f"the validation samples of the target ({target.name}) have no labels"
        rule, what = ("iwcv", "loss") if run.task.kind in WITHOUT_CLASSES else ("bnm", "accuracy")
        if run.selection == "oracle":
            yield f"selection=oracle selects by target {what}, but {has_none}; set selection={rule}"
        if run.track_target:
            yield f"track_target=true logs target {what}, but {has_none}; set track_target=false"
    requested = [] if isinstance(run.baselines, bool | str) else run.baselines
    if not target.train.has_labels and "oracle" in requested:
        kept = ",".join(name for name in requested if name != "oracle")
        yield (
            f"baselines=[{','.join(requested)}] contains oracle, which learns target labels, but "
            f"the training samples of the target ({target.name}) have none; set baselines=[{kept}]"
        )
