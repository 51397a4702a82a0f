"""Comparison of libraries that read training images from shards: order, resuming, disk, speed.

    pip install litdata==0.2.76 webdataset==1.0.2 datasets==5.2.0    # in an environment of its own
    python benchmarks/stream_readers.py

Writes 2,000 images of 50 kB in the format of each library and reads them with torch's DataLoader:

- `workers`: whether the order of the samples is the same for 0 and 2 workers,
- `once`: whether every sample occurs exactly once in an epoch,
- `resume`: whether the second half of an epoch, read in a new process from the library's own state,
  equals the uninterrupted one,
- `spread`: mean distance in the order between neighbours of the written order, in percent of the
  data (33 % for a uniform permutation),
- `disk`: largest size of the cache folder during an epoch from a "remote" folder, in percent of the
  data, where the library can fetch from one (ours reads with data.local_copy=false),
- `images/s`: images read per second in one process, without decoding.

A reader that is not installed is skipped.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

COUNT, SIZE, BATCH, GROUP = 2000, 50_000, 20, 50


def samples() -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each sample."""
    for index in range(COUNT):
        yield index, np.random.default_rng(index).bytes(SIZE)


def order_of(loader: Any, stop: int | None = None) -> list[int]:
    """Return the numbers of the samples of one pass, or of its first ``stop`` batches."""
    found: list[int] = []
    for number, batch in enumerate(loader):
        if stop is not None and number == stop:
            break
        found += [int(one) for one in batch["index"]]
    return found


class Ours(torch.utils.data.Dataset[Any]):
    """Row groups of Parquet files, read as data=stream does."""

    def __init__(self, folder: Path) -> None:
        from tl_lightning.data.streaming.row_groups import RowGroup, RowGroups

        files = sorted(folder.glob("*.parquet"))
        groups = [RowGroup(str(f), g, GROUP) for f in files for g in range(COUNT // GROUP)]
        self.source = RowGroups(str(folder), groups, ["image", "index"], 8)

    def __getitems__(self, keys: Any) -> dict[str, Any]:
        out = []
        for place, _ in keys:
            table = self.source.table(place // GROUP)
            assert len(table.column("image")[place % GROUP].as_py()) == SIZE
            out.append(table.column("index")[place % GROUP].as_py())
        return {"index": torch.tensor(out)}


def ours(root: Path) -> Callable[..., Any]:
    """Write Parquet; return a factory of loaders."""
    import pyarrow
    import pyarrow.parquet

    from tl_lightning.data.samplers.domain import ChunkSampler

    folder = root / "parquet"
    folder.mkdir()
    rows = list(samples())
    table = pyarrow.table({"index": [r[0] for r in rows], "image": [r[1] for r in rows]})
    options = {"compression": "none", "write_page_checksum": True, "row_group_size": GROUP}
    pyarrow.parquet.write_table(table, folder / "a.parquet", **options)

    def loader(workers: int, start: int = 0, **_: Any) -> Any:
        settings = {"batch_size": BATCH, "num_batches": COUNT // BATCH, "seed": 0, "domain": 0}
        chunks = [GROUP] * (COUNT // GROUP)
        sampler = ChunkSampler(chunks=chunks, window=8, start=start, **settings)
        keep = {"batch_size": BATCH, "sampler": sampler, "num_workers": workers}
        return DataLoader(Ours(folder), collate_fn=lambda batch: batch, **keep)

    return loader


def litdata(root: Path) -> Callable[..., Any]:
    """Write litdata chunks; return a factory of litdata's own loaders."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = root / "litdata"
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=GROUP * SIZE)
    for index, content in samples():
        writer[index] = {"index": index, "image": content}
    writer.done()
    writer.merge()

    def loader(workers: int, remote: bool = False, **_: Any) -> Any:
        place = f"local:{folder}" if remote else str(folder)
        options: dict[str, Any] = {"shuffle": True, "drop_last": False, "seed": 0}
        if remote:
            options |= {"cache_dir": str(root / "cache"), "max_cache_size": "10MB"}
        data = StreamingDataset(place, **options)
        return StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)

    return loader


def webdataset(root: Path) -> Callable[..., Any]:
    """Write tar files; return a factory of WebDataset loaders."""
    import webdataset as wds

    folder = root / "tar"
    folder.mkdir()
    with wds.ShardWriter(f"file:{folder}/%05d.tar", maxcount=GROUP, verbose=0) as sink:
        for index, content in samples():
            sink.write({"__key__": f"{index:06d}", "bin": content})
    urls = [f"file:{path}" for path in sorted(folder.glob("*.tar"))]

    def loader(workers: int, remote: bool = False, **_: Any) -> Any:
        cache = {"cache_dir": str(root / "cache")} if remote else {}
        data = wds.WebDataset(urls, shardshuffle=100, seed=0, **cache).shuffle(8 * GROUP, seed=0)
        data = data.map(lambda one: {"index": int(one["__key__"])})
        return DataLoader(data, batch_size=BATCH, num_workers=workers)

    return loader


def datasets(root: Path) -> Callable[..., Any]:
    """Read the Parquet file with Hugging Face's streaming dataset."""
    from datasets import load_dataset

    folder = str(root / "parquet")

    def loader(workers: int, **_: Any) -> Any:
        data = load_dataset("parquet", data_dir=folder, split="train", streaming=True)
        data = data.shuffle(seed=0, buffer_size=8 * GROUP).map(lambda one: {"index": one["index"]})
        return DataLoader(data.remove_columns("image"), batch_size=BATCH, num_workers=workers)

    return loader


def size_of(folder: Path) -> int:
    """Return the size of all files in a folder, which other threads may be removing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def resumed(name: str, factory: Callable[..., Any]) -> list[int]:
    """Return the order of the second half of an epoch, continued from the state after the first."""
    half = COUNT // BATCH // 2
    loader = factory(0)
    if name == "ours":
        return order_of(factory(0, start=half))
    if name == "webdataset":
        raise NotImplementedError("no state")
    stateful = loader if name == "litdata" else loader.dataset
    order_of(loader, half)
    state = json.loads(json.dumps(stateful.state_dict()))
    again = factory(0)
    (again if name == "litdata" else again.dataset).load_state_dict(state)
    return order_of(again)


def row(name: str, factory: Callable[..., Any], root: Path) -> str:
    """Return the measurements of one library as a row."""
    whole = order_of(factory(0))
    places = np.empty(COUNT)
    once = sorted(whole) == list(range(COUNT))
    places[np.array(whole)] = np.arange(len(whole)) if once else 0
    spread = f"{np.abs(np.diff(places)).mean() / COUNT:.0%}" if once else "-"
    same = order_of(factory(2)) == whole
    try:
        exact = str(resumed(name, factory) == whole[COUNT // 2 :])
    except Exception as error:  # a table of what works
        exact = f"no ({type(error).__name__})"
    (root / "cache").mkdir(exist_ok=True)
    disk = 0
    for _ in factory(0, remote=True):
        disk = max(disk, size_of(root / "cache"))
    shutil.rmtree(root / "cache")
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        order_of(factory(0))
        rates.append(COUNT / (time.perf_counter() - started))
    share = f"{disk / (COUNT * SIZE):.0%}"
    return f"| {name} | {same} | {once} | {exact} | {spread} | {share} | {np.median(rates):,.0f} |"


def main() -> None:
    """Print one row per library."""
    print("| reader | workers | once | resume | spread | disk | images/s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for make in (ours, litdata, webdataset, datasets):
            try:
                print(row(make.__name__, make(Path(folder)), Path(folder)), flush=True)
            except ImportError as error:
                print(f"{make.__name__} skipped: {error}", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
