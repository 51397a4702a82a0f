"""Settings that are determined by the data."""

from __future__ import annotations

from tl_lightning.config.schema import RunConfig
from tl_lightning.data.needs import DataInfo

__all__ = ["with_sizes"]


def with_sizes(run: RunConfig, info: DataInfo) -> RunConfig:
    """Return the configuration with what the data determine, which checkpoints store."""
    for name, node in run.methods.items():
        pooled = node.params.get("per_source") is False
        if node.params.get("num_sources", 0) is None and not pooled:
            run = run.changed(f"method.{name}.num_sources", info.sources)
        if node.params.get("num_samples", 0) is None:
            run = run.changed(f"method.{name}.num_samples", info.unlabelled)
    if run.backbone.params.get("in_features", 0) is None:
        return run.changed("backbone.in_features", info.width)
    return run
