"""Whether the data of a finished run are still those that its settings name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tl_lightning.config.schema import RunConfig
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.reporting.schema import fingerprint_of
from tl_lightning.tasks.encoding import data_of
from tl_lightning.training.source_domains import as_trained

__all__ = ["check_version", "current_fingerprint"]

#: Fingerprints by the settings of the data, which the jobs of a sweep share.
_known: dict[str, str] = {}


def current_fingerprint(run: RunConfig) -> str:
    """Return the fingerprint of the data as they are now; read once per process."""
    learn_from = run.model.cls.learn_from
    settings = {k: v for k, v in run.section("data").items() if k not in ("seed", "num_workers")}
    shown = [sorted(run.model.cls.unseen), bool(run.model.params.get("full_data"))]
    key = json.dumps([learn_from, shown, settings, asdict(run.task)], sort_keys=True, default=str)
    if key not in _known:
        data = data_of(run)
        data.only_tested |= run.model.cls.unseen
        data.discover(learn_from=learn_from)
        data.found = as_trained(run, data.found)
        _known[key] = data.fingerprint()
    return _known[key]


def check_version(
    report: Mapping[str, Any], config: Mapping[str, Any] | RunConfig, where: object
) -> None:
    """Check that a finished run was trained on the data as they are now.

    Args:
        report: Its report; one without a fingerprint is accepted.
        config: Its configuration.
        where: Its folder, for the message.

    Raises:
        ConfigError: If the data have changed.
    """
    before = fingerprint_of(report)
    try:
        now = before and current_fingerprint(check(config))
    except DataError:  # the data are no longer there, and a finished run does not need them
        return
    if before != now:
        raise ConfigError(
            f"{where} is finished, but was trained on other data: samples or labels have changed "
            "since, or an earlier version of tl_lightning trained it; set another folder to train "
            "on the data as they are now, or restore them"
        )
