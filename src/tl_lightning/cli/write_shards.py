"""The command that writes a data set as streams."""

from __future__ import annotations

from pathlib import Path

from tl_lightning.cli.common import plain_command
from tl_lightning.config.compose import composed
from tl_lightning.errors import ConfigError

__all__ = ["make_stream"]


def make_stream() -> None:
    """Write a data set as streams: ``tl-make-stream data=<name> data.root=... out=<folder>``."""
    plain_command(
        _make_stream,
        "usage: make_stream.py data=<name> [data.root=<folder>] out=<folder> [chunk_mb=64]\n"
        "                      [any other setting of train.py ...]\n"
        "Writes <out>/<domain>/{train,val,test}/ for data=stream: the files' own bytes in\n"
        "chunks of about chunk_mb megabytes. Look at the data first: check_data.py.",
    )


#: What is the writer's own; all else goes to the training configuration.
_STREAM_KEYS = ("out", "chunk_mb")


def _make_stream(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    own = {key: value for key, _, value in pairs if key in _STREAM_KEYS}
    others = [argument for argument in arguments if argument.partition("=")[0] not in own]
    if not own.get("out"):
        raise ConfigError("out is missing; type out=/a/folder/for/the/shards")
    size = own.get("chunk_mb", "64")
    try:
        megabytes = float(size)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes <= 4000:  # litdata's offsets in a chunk have 32 bits
        raise ConfigError(f"chunk_mb={size} is no size above 0 and up to 4000; type chunk_mb=64")
    if not any(other.startswith("model=") for other in others):
        others.append("model=source_only")  # a model that adapts would insist on a target
    config = composed(others, _STREAM_KEYS)
    from tl_lightning.config.validation.check import check
    from tl_lightning.data.streaming.writer import write_streams
    from tl_lightning.training.build import build_data

    data = build_data(check(config))
    for folder in write_streams(data, Path(own["out"]).expanduser(), int(1e6 * megabytes)):
        print(f"stream: {folder}")
