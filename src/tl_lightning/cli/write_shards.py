"""The command ``tl-write-shards``: convert a dataset to streams."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.usage import SETTINGS, Usage
from tl_lightning.config.compose import composed
from tl_lightning.config.paths import folder_problem
from tl_lightning.errors import ConfigError

__all__ = ["write_shards"]


USAGE = Usage(
    ("write_shards.py data=<name> [data.root=<folder>] out=<folder> [<option>=<value> ...]",),
    "Write <out>/<domain>/{train,val,test}/ for data=stream: Parquet files with the unchanged file "
    "contents. Check the dataset first with check_data.py.",
    {
        "Data": {"data": "a dataset of conf/data/, with its settings"},
        "Output": {
            "out": "folder",
            "group_mb": "megabytes of a row group, which is read as a whole (default: 16)",
        },
        "Other settings": SETTINGS,
    },
    ("write_shards.py data=pacs data.root=<folder> out=shards",),
)


def write_shards() -> None:
    """Convert a dataset to streams: ``tl-write-shards data=<name> data.root=... out=<folder>``."""
    plain_command(_write_shards, USAGE)


#: Options of this command; all other arguments are overrides of the training configuration.
_STREAM_KEYS = ("out", "group_mb")


def _write_shards(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    options = {key: value for key, _, value in pairs if key in _STREAM_KEYS}
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in options]
    if not options.get("out"):
        raise ConfigError("out is missing; set out=<folder for the shards>")
    if problem := folder_problem(Path(options["out"]), "out"):
        raise ConfigError(problem)
    size = options.get("group_mb", "16")
    try:
        megabytes = float(size)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes <= 1000:  # a row group is read as a whole
        raise ConfigError(f"group_mb={size} must be a number in (0, 1000]; set group_mb=16")
    if not any(override.startswith("model=") for override in overrides):
        overrides.append("model=source_only")  # the default model would require a target
    config = composed(overrides, _STREAM_KEYS)
    from tl_lightning.config.validation.check import check
    from tl_lightning.config.validation.kinds import needs_classes
    from tl_lightning.data.streaming.writer import write_streams

    run = check(config)
    needs_classes(run, "write_shards.py")
    data = run.data.build()
    for folder in write_streams(data, Path(options["out"]).expanduser(), int(1e6 * megabytes)):
        print(f"stream: {folder}")
