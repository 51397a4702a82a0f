import json
import os
import pickle
import re
import shutil
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import lightning as L
import numpy as np
import pytest
import torch

from helpers import config, same, weights
from layouts import SHIFT, domain_folders, file_settings, serving
from tl_lightning.cli import write_shards
from tl_lightning.config.compose import compose
from tl_lightning.config.schema import CacheConfig
from tl_lightning.config.validation import check as validation
from tl_lightning.data.checks.preview import augmentation_sheet
from tl_lightning.data.checks.survey import survey
from tl_lightning.data.datamodules.domain_folders import DomainFoldersDataModule
from tl_lightning.data.datamodules.stream import StreamDataModule
from tl_lightning.data.datasets import ImageDataset
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.data.samplers.domain import ChunkSampler
from tl_lightning.data.streaming import parquet_files, row_groups
from tl_lightning.data.streaming.shards import StreamDataset
from tl_lightning.data.streaming.writer import write_streams
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec, Stream
from tl_lightning.utils.seeding import mix_text

CLASSES = ("dog", "horse", "house")
SPEC = InputSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
GROUP = 3000  # bytes; two or three images


@pytest.fixture(scope="session")
def engine():
    """Skip tests if pyarrow, an optional dependency, is not installed."""
    return pytest.importorskip("pyarrow", reason="needs pip install 'tl_lightning[stream]'")


@pytest.fixture(scope="module")
def prepared(engine, tmp_path_factory):
    """Write the domains photo and sketch as files and as streams; return their parent folder."""
    root = tmp_path_factory.mktemp("prepared")
    data = files(domain_folders(root / "files"))
    write_streams(data, root / "shards", GROUP)
    return root


def files(root, **changed):
    settings = {"source": {"domain": "photo"}, "target": {"domain": "sketch"}}
    settings |= {"folders": [], "known": {}, "elsewhere": ""}
    return DomainFoldersDataModule(**file_settings(root, **{**settings, **changed}))


def stream(source, target=None, **changed):
    settings = {"name": "tiny", "batch_size": 2, "eval_batch_size": 4, "steps_per_epoch": None}
    settings |= {"num_workers": 0, "augment": "light", "seed": 0, "pin_memory": False}
    settings |= {
        "sampling": "uniform",
        "target_sampling": "uniform",
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
    }
    settings |= {"classes": None, "window": 2, "local_copy": True}
    settings |= {"source": {"url": None if source is None else str(source)}}
    settings |= {"target": None if target is None else {"url": str(target)}}
    if isinstance(source, dict):
        settings["source"] = source
    return StreamDataModule(**{**settings, **changed})


def ready(data):
    data.discover()
    data.prepare(ModelNeeds(SPEC, train_on=tuple(data.domain_names)))
    return data


def both(prepared, **changed):
    shards = prepared / "shards"
    return ready(stream(shards / "photo", shards / "sketch", **changed))


def order(split):
    """Return the indices of a split's samples in the order of the writer."""
    return sorted(range(len(split)), key=lambda k: mix_text(split.names[k]))


def sampler(counts=(3, 4, 1, 5, 2, 3), **changed):
    settings = {"chunks": counts, "window": 2, "batch_size": 3, "num_batches": 6, "seed": 0}
    return ChunkSampler(**{**settings, "domain": 0, **changed})


def batches(data, domain="source", workers=0, epoch=0):
    """Return the training batches of one epoch."""
    stream = Stream(domain)
    split = data.training_splits()[stream]
    settings = {"batch_size": 2, "num_batches": len(split) // 2, "seed": 0, "domain": 0}
    keys = data.train_sampler(stream, split, **settings)
    keys.set_epoch(epoch)
    data.num_workers = workers
    return list(data._loader(data.dataset(domain, split, train=True), 2, keys))


# -- streams equal the files ---------------------------------------------------------------------
def test_counts_classes_and_samples_equal_those_of_the_files(prepared):
    data, from_files = both(prepared), ready(files(prepared / "files"))
    assert data.classes == from_files.classes == CLASSES
    assert data.counts() == from_files.counts()
    assert [data.found[d].name for d in data.domain_names] == ["photo", "sketch"]
    assert data.found["source"].note == from_files.found["source"].note
    assert data.notes(pretrained=True) == from_files.notes(pretrained=True)
    for domain in data.domain_names:
        for name in ("train", "val", "test"):
            shards = getattr(data.found[domain], name).shards
            split = getattr(from_files.found[domain], name)
            for index, file_index in enumerate(order(split)):
                content, label = shards[index]
                assert content == split.samples[file_index].read_bytes()
                assert label == split.labels[file_index]


@pytest.mark.parametrize("train", [True, False])
def test_batches_equal_those_of_the_files(prepared, train):
    data, from_files = both(prepared), ready(files(prepared / "files"))
    split = from_files.found["source"].train
    file_indices = order(split)
    streamed = data.dataset("source", data.found["source"].train, train)
    read_from_files = from_files.dataset("source", split, train)
    assert isinstance(streamed, ImageDataset)
    for keys in ([(0, 7), (3, 8)], [(5, 9), (5, 10), (1, 1)]):
        got = streamed.__getitems__(keys)
        expected = read_from_files.__getitems__([(file_indices[k], seed) for k, seed in keys])
        assert torch.equal(got["inputs"], expected["inputs"])
        assert torch.equal(got["labels"], expected["labels"])
        assert got.keys() == expected.keys()
        assert got["index"].tolist() == [index for index, _ in keys]


@pytest.mark.parametrize("setting", [{"augment": "standard"}, {"mixup_alpha": 0.5}])
def test_batches_for_augmentation_on_the_device_equal_those_of_the_files(prepared, setting):
    data = both(prepared, **setting)
    from_files = ready(files(prepared / "files", **setting))
    split = from_files.found["source"].train
    got = data.dataset("source", data.found["source"].train, True).__getitems__([(2, 5)])
    expected = from_files.dataset("source", split, True).__getitems__([(order(split)[2], 5)])
    assert got.keys() == expected.keys()
    assert "seeds" in got
    assert torch.equal(got["inputs"], expected["inputs"])


def test_target_batches_have_no_labels_except_in_testing(prepared, monkeypatch):
    data = both(prepared)
    seen = []
    original: Any = type(data.found["target"].train.shards)._number
    monkeypatch.setattr(
        type(data.found["target"].train.shards),
        "_number",
        lambda self, label, place: seen.append(place) or original(self, label, place),
    )
    for batch in [*batches(data, "target"), *data.val_dataloader()[1]]:
        assert "labels" not in batch
    loader, _ = data.sample_loader("target", 4)
    assert all("labels" not in batch for batch in loader)
    assert not seen
    unlabelled = data.found["target"].train.without_labels().shards
    assert unlabelled.source.table(0).schema.names == ["image"]
    assert all("labels" in batch for batch in data.test_dataloader()[1])
    assert all("labels" in batch for batch in data.val_dataloader()[0])
    assert seen


def rewritten(prepared, folder, change, domain="photo", statistics=True):
    """Copy a stream; every table is replaced by ``change(table)``."""
    import pyarrow.parquet

    for path in sorted((prepared / "shards" / domain).rglob("*.parquet")):
        out = folder / path.relative_to(prepared / "shards" / domain)
        out.parent.mkdir(parents=True, exist_ok=True)
        table, options = pyarrow.parquet.read_table(path), {"compression": "none"}
        pyarrow.parquet.write_table(
            change(table), out, row_group_size=2, write_statistics=statistics, **options
        )
    return folder


def relabelled(order):
    """Return a function that changes the order of the class names, but no sample's class."""

    def change(table):
        import pyarrow

        names = {"names": list(order), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": names}
        labels = [order.index(CLASSES[label]) for label in table.column("label").to_pylist()]
        column = pyarrow.array(labels, pyarrow.int64())
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        return table.set_column(1, "label", column).replace_schema_metadata(metadata)

    return change


def as_text(table):
    """Return a table of plain bytes and class names, as other tools write it."""
    import pyarrow

    labels = [CLASSES[label] for label in table.column("label").to_pylist()]
    images = [image["bytes"] for image in table.column("image").to_pylist()]
    return pyarrow.table({"id": list(range(len(labels))), "image": images, "label": labels})


def test_target_labels_use_the_class_order_of_the_source(prepared, tmp_path):
    other = rewritten(prepared, tmp_path, relabelled(("house", "dog", "horse")), "sketch")
    data = ready(stream(prepared / "shards" / "photo", other))
    assert data.found["target"].classes == CLASSES
    expected = list(both(prepared).found["target"].test.shards)
    assert list(data.found["target"].test.shards) == expected


def test_files_of_other_tools(prepared, tmp_path):
    """Images as plain bytes, labels as class names, and a folder called validation."""
    photo = rewritten(prepared, tmp_path / "photo", as_text)
    (photo / "val").rename(photo / "validation")
    sketch = rewritten(prepared, tmp_path / "sketch", as_text, "sketch")
    data, expected = ready(stream(photo, sketch)), both(prepared)
    assert data.classes == CLASSES
    assert data.counts() == expected.counts()
    for domain in data.domain_names:
        for name in ("train", "val", "test"):
            found, wanted = (getattr(d.found[domain], name).shards for d in (data, expected))
            assert list(found) == list(wanted)
    assert data.fingerprint() != expected.fingerprint()  # that of the footers


def test_configured_classes_set_the_order(prepared):
    data = ready(stream(prepared / "shards" / "photo", classes=["house", "horse", "dog"]))
    assert data.classes == ("house", "horse", "dog")
    for (image, label), (expected_image, expected) in zip(
        data.found["source"].train.shards, both(prepared).found["source"].train.shards, strict=True
    ):
        assert image == expected_image
        assert data.classes[label] == CLASSES[expected]


def test_samples_are_named_by_their_locations(prepared):
    split = both(prepared).found["source"].train
    assert len(split.names) == len(split) == 12
    group, row = split.shards.find(5)
    assert split.names[5].startswith(f"row {row} of row group {group} of {prepared}")
    assert split.subset([5, 1]).names[0] == split.names[5]


def test_samples_for_the_report_come_from_few_row_groups(prepared):
    data = both(prepared)
    loader, indices = data.sample_loader("source", 5)
    test = data.found["source"].test
    assert len({test.shards.find(index)[0] for index in indices}) <= data.window
    images = torch.cat([batch["inputs"] for batch in loader])
    dataset = data.dataset("source", test, train=False)
    assert torch.equal(images, dataset.__getitems__([(k, 0) for k in indices])["inputs"])


def test_evaluation_reads_samples_in_order(prepared):
    loader = both(prepared).test_dataloader()[0]
    indices = [index for batch in loader for index in batch["index"].tolist()]
    assert indices == list(range(len(indices)))


def test_fingerprint_depends_on_the_images_but_not_on_the_row_groups(prepared, tmp_path):
    first = both(prepared).fingerprint()
    write_streams(files(prepared / "files"), tmp_path / "again", 5 * GROUP)
    again = stream(tmp_path / "again" / "photo", tmp_path / "again" / "sketch")
    assert ready(again).fingerprint() == first
    changed_file = next((prepared / "files" / "photo" / "dog").iterdir())
    content = changed_file.read_bytes()
    changed_file.write_bytes(content + b"\0")
    try:
        write_streams(files(prepared / "files"), tmp_path / "other", GROUP)
    finally:
        changed_file.write_bytes(content)
    other = stream(tmp_path / "other" / "photo", tmp_path / "other" / "sketch")
    assert ready(other).fingerprint() != first


# -- sample order --------------------------------------------------------------------------------
def test_each_pass_yields_every_sample_once():
    for epoch in range(3):
        chunk_sampler = sampler()
        chunk_sampler.set_epoch(epoch)
        assert sorted(index for index, _ in chunk_sampler) == list(range(18))


def test_order_depends_on_epoch_seed_and_domain():
    samplers = [sampler(), sampler(epoch=1), sampler(seed=1), sampler(domain=1)]
    assert len({tuple(index for index, _ in each) for each in samplers}) == 4
    assert list(sampler()) == list(sampler())


def test_samples_are_shuffled_within_windows_of_row_groups():
    counts = (3, 4, 1, 5, 2, 3)
    chunk_of = [chunk for chunk, n in enumerate(counts) for _ in range(n)]
    remaining = [chunk_of[index] for index, _ in sampler(counts)]
    mixed = 0
    while remaining:
        window = list(dict.fromkeys(remaining))[:2]
        size = sum(counts[chunk] for chunk in window)
        part, remaining = remaining[:size], remaining[size:]
        assert sorted(part) == sorted(c for c in window for _ in range(counts[c]))
        mixed += part not in (sorted(part), sorted(part, reverse=True))
    assert mixed > 1


def test_ranks_divide_the_pass():
    parts = [list(sampler(rank=rank, world=2, num_batches=3)) for rank in range(2)]
    single = list(sampler())
    assert [parts[k % 2][k // 2] for k in range(18)] == single
    assert not {p for p, _ in parts[0]} & {p for p, _ in parts[1]}


@pytest.mark.parametrize("start", range(7))
def test_start_skips_batches_of_the_first_epoch_only(start):
    resumed = sampler(start=start)
    assert list(resumed) == list(sampler())[3 * start :]
    resumed.set_epoch(1)
    assert list(resumed) == list(sampler(epoch=1))


def test_batches_do_not_depend_on_workers(prepared):
    data = both(prepared)
    in_process, with_workers = batches(data, workers=0), batches(data, workers=2)
    assert len(in_process) == len(with_workers) == 6
    for one, two in zip(in_process, with_workers, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    indices = [index for batch in in_process for index in batch["index"].tolist()]
    assert sorted(indices) == list(range(12))
    assert indices != [k for batch in batches(data, epoch=1) for k in batch["index"].tolist()]


# -- training ------------------------------------------------------------------------------------
class Stop(Exception):
    """Interrupts a run."""


class StopAt(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


def stream_config(prepared, *more):
    urls = [
        f"data.{r}.url={prepared}/shards/{d}"
        for r, d in (("source", "photo"), ("target", "sketch"))
    ]
    base = config("data=digits", "backbone=small_cnn")
    overrides = ["data=stream", *urls, "data.batch_size=4", "data.steps_per_epoch=3", *more]
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(compose(overrides), resolve=True)
    for key in ("backbone", "trainer", "channels_last", "callbacks", "report", "baselines"):
        settings[key] = base[key]
    settings["data"] |= {"num_workers": 0, "window": 2}
    return settings


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(prepared, tmp_path, monkeypatch):
    uninterrupted = training.fit(stream_config(prepared), tmp_path / "uninterrupted")
    original: Any = training.build

    def build(*arguments):
        parts = original(*arguments)
        parts.trainer.callbacks.append(StopAt())
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(stream_config(prepared), tmp_path / "interrupted")
    monkeypatch.setattr(training, "build", original)
    resumed = training.fit(stream_config(prepared, "resume=auto"), tmp_path / "interrupted")
    last = "checkpoints/last.ckpt"
    assert same(
        weights(tmp_path / "uninterrupted" / last), weights(tmp_path / "interrupted" / last)
    )
    assert resumed["metrics"] == uninterrupted["metrics"]
    with np.load(tmp_path / "uninterrupted" / "predictions.npz") as arrays:
        labels = ready(files(prepared / "files")).found["source"].val.labels
        assert sorted(arrays["source_val_true"]) == sorted(labels)
        assert arrays["source_val_logits"].shape == (len(labels), len(CLASSES))


# -- addresses -----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("local_copy", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_an_address_equal_those_of_the_folder(
    prepared, tmp_path, monkeypatch, workers, local_copy
):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    url = f"file://{prepared}/shards/photo"
    data = ready(stream(url, local_copy=local_copy))
    assert data.fingerprint() == ready(stream(prepared / "shards" / "photo")).fingerprint()
    found = batches(data, workers=workers)
    for got, expected in zip(found, batches(both(prepared)), strict=True):
        assert torch.equal(got["inputs"], expected["inputs"])
    dataset = data.dataset("source", data.found["source"].train, train=True)
    assert dataset.remote != local_copy
    assert len(list(tmp_path.rglob("*.parquet"))) == 3 * local_copy


def test_files_are_copied_once(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    url = f"file://{prepared}/shards/photo"
    stamps = []
    for _ in range(2):
        ready(stream(url))
        stamps.append({path: path.stat().st_ino for path in tmp_path.rglob("*.parquet")})
    assert stamps[0] == stamps[1]
    next(iter(stamps[0])).unlink()
    ready(stream(url))
    assert set(tmp_path.rglob("*.parquet")) == set(stamps[0])
    assert "copying file:///" in capsys.readouterr().err


def test_another_stream_at_the_same_address_is_copied_again(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    link = tmp_path / "current"
    for domain in ("photo", "sketch"):
        link.unlink(missing_ok=True)
        link.symlink_to(prepared / "shards" / domain)
        local = ready(stream(prepared / "shards" / domain))
        data = ready(stream(f"file://{link}"))
        assert list(data.found["source"].test.shards) == list(local.found["source"].test.shards)


def test_files_that_are_replaced_by_others_of_the_same_size_and_time(
    prepared, tmp_path, monkeypatch
):
    """Files of other tools may have neither a hash of the samples nor statistics."""
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))

    def write(change):
        folder = rewritten(prepared, tmp_path / "stream", change, statistics=False)
        for path in folder.rglob("*.parquet"):
            os.utime(path, (0, 0))
        return list(ready(stream(f"file://{folder}")).found["source"].train.shards), folder

    def backwards(table):
        table = as_text(table)
        images = [image[::-1] for image in table.column("image").to_pylist()]
        return table.set_column(1, "image", [images])

    before, folder = write(as_text)
    size = part_of(folder).stat().st_size
    after, _ = write(backwards)
    assert part_of(folder).stat().st_size == size
    assert after == [(image[::-1], label) for image, label in before]


def test_full_disk_while_copying(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    url = f"file://{prepared}/shards/photo"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tl_lightning.data.streaming.parquet_files.os.replace", full)
        refused(r"cannot copy .*parquet to .*No space left.*or set data\.local_copy=false", url)
    assert not list(tmp_path.rglob("*.parquet*"))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(r"a copy of file://.* needs .* GB, but .* has 1e-06 GB left; set the env", url)


def test_damaged_copy(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    data = ready(stream(f"file://{prepared}/shards/photo"))
    flipped(Path(data.found["source"].train.shards.source.groups[0].path))
    with pytest.raises(DataError, match=r"cannot read row group 0 of .*CRC.*; remove this file to"):
        data.found["source"].train.shards[0]


def flipped(path):
    """Flip a bit of the first image."""
    content = bytearray(path.read_bytes())
    content[content.index(b"JFIF") + 100] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_each_process_keeps_a_window_of_row_groups(prepared):
    source = both(prepared).found["source"].train.shards.source
    assert len(source.groups) > 3
    for group in (0, 1, 0, 2):
        source.table(group)
    assert list(source._tables) == [0, 2]


@contextmanager
def bucket(objects):
    """Serve objects like S3 on the loopback interface: listing, sizes and ranges of bytes."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content, **headers):
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self):
            address = urlsplit(self.path)
            name, query = unquote(address.path).lstrip("/"), parse_qs(address.query)
            if "list-type" in query:
                prefix = query.get("prefix", [""])[0]
                found = [key for key in objects if key.startswith(f"{name}/{prefix}")]
                items = "".join(
                    f"<Contents><Key>{key.partition('/')[2]}</Key><Size>{len(objects[key])}</Size>"
                    "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
                    for key in found
                )
                text = f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{items}"
                return self.answer(200, f"{text}</ListBucketResult>".encode())
            if name not in objects:
                return self.answer(404, b"")
            content = objects[name]
            first, _, last = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            stamp = "Wed, 01 Jan 2020 00:00:00 GMT"
            return self.answer(206 if "Range" in self.headers else 200, part, Last_Modified=stamp)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with serving(Handler) as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "local_copy"), [(0, True), (2, False)])
def test_s3_bucket(prepared, tmp_path, monkeypatch, workers, local_copy):
    monkeypatch.setenv("TL_CACHE", str(tmp_path))
    s3fs = pytest.importorskip("s3fs")
    photo = prepared / "shards" / "photo"
    objects = {f"b/{p.relative_to(photo.parent)}": p for p in photo.rglob("*") if p.is_file()}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with bucket({name: path.read_bytes() for name, path in objects.items()}) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()  # which knows the address of another test
        data = ready(stream("s3://b/photo", local_copy=local_copy))
        found = batches(data, workers=workers)
        refused(r"s3://b/absent/train contains no \.parquet file", "s3://b/absent")
    for got, expected in zip(found, batches(ready(stream(photo))), strict=True):
        assert torch.equal(got["inputs"], expected["inputs"])
        assert torch.equal(got["labels"], expected["labels"])


def test_dataset_is_picklable(prepared):
    dataset = both(prepared).dataset("source", both(prepared).found["source"].train, train=True)
    before = dataset.__getitems__([(1, 2)])
    after = pickle.loads(pickle.dumps(dataset)).__getitems__([(1, 2)])
    assert torch.equal(before["inputs"], after["inputs"])


# -- errors --------------------------------------------------------------------------------------
def copied(prepared, tmp_path):
    """Return a copy of the stream of photo that a test may modify."""
    return Path(shutil.copytree(prepared / "shards" / "photo", tmp_path / "photo"))


def refused(message, *args, **kwargs):
    with pytest.raises(DataError, match=message):
        stream(*args, **kwargs).discover()


def test_pyarrow_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(r"requires the package pyarrow.*run pip install 'tl_lightning\[stream\]'", tmp_path)


@pytest.mark.parametrize("node", [{"url": "/a", "root": "/b"}, {"ulr": "/a"}])
def test_unknown_keys(node):
    with pytest.raises(DataError, match=r"data\.source has no key '(root|ulr)'; (did|valid)"):
        stream(node)


@pytest.mark.parametrize(
    ("setting", "needed"),
    [("window=0", "an integer of at least 1"), ("local_copy=maybe", "true or false")],
)  # fmt: skip
def test_invalid_settings(setting, needed):
    key = setting.partition("=")[0]
    message = rf"data\.{setting} is not {needed}; set data\.{key}=<value>"
    with pytest.raises(ConfigError, match=message):
        validation.check(compose(["data=stream", f"data.{setting}"]))


def test_invalid_addresses(engine, prepared, tmp_path):
    photo = prepared / "shards" / "photo"
    refused(r"data\.source\.url=null; set data\.source\.url=/shards/photo", None)
    refused(r"data\.source\.url=/nowhere is not a folder; set data\.source\.url=", "/nowhere")
    refused(r"data\.target\.url=/nowhere is not a folder", photo, "/nowhere")
    refused(r"are both .*photo; set another data\.target\.url", photo, photo)
    refused(r"cannot open nonsense://a/train: Protocol not known.*set a folder or", "nonsense://a")
    refused(r"file:///nowhere/train contains no \.parquet file; a stream has", "file:///nowhere")


class Denied(Exception):
    """An error of a service."""


class Refusing:
    """A file system to which access is denied."""

    def find(self, path, mode="rb", detail=False):
        raise Denied("access denied")

    exists = open = find


def test_access_denied(engine, prepared, tmp_path, monkeypatch):
    photo = prepared / "shards" / "photo"
    parts = parquet_files.opened(f"{rewritten(prepared, tmp_path, as_text)}/train")
    monkeypatch.setattr(parquet_files, "filesystem", lambda url: (Refusing(), url))
    refused(r"cannot list .*photo/train: access denied; check that it exists and that", photo)
    with pytest.raises(DataError, match=r"cannot read the labels of .*part-00000\.parquet: acc"):
        parts.labels()
    with pytest.raises(DataError, match=r"cannot read /x: access denied; check that it exists"):
        parquet_files._footer(Refusing(), "/x")


def test_missing_split(prepared, tmp_path):
    shutil.rmtree(copied(prepared, tmp_path) / "val")
    refused(r"photo/val contains no \.parquet file; a stream has the fold", tmp_path / "photo")


def part_of(folder, split="train"):
    return folder / split / "part-00000.parquet"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet" * 100])
def test_files_that_are_not_parquet(prepared, tmp_path, content):
    part_of(copied(prepared, tmp_path), "val").write_bytes(content)
    refused(r"part-00000\.parquet is not a valid Parquet file: ", tmp_path / "photo")


def with_columns(**columns):
    """Return a function that replaces a table by one with these columns."""

    def change(table):
        import pyarrow

        return pyarrow.table({name: [value] * len(table) for name, value in columns.items()})

    return change


@pytest.mark.parametrize(
    ("columns", "contents"),
    [
        ({"img": b"a", "label": "dog"}, "img: binary, label: string"),
        ({"image": "a.jpg", "label": "dog"}, "image: string, label: string"),
        ({"image": {"path": "a.jpg"}, "label": "dog"}, "image: struct<path: string>"),
        ({"image": b"a"}, "image: binary"),
        ({"image": b"a", "label": {"name": "dog"}}, "image: binary, label: struct"),
    ],
)
def test_columns_of_another_type(prepared, tmp_path, columns, contents):
    rewritten(prepared, tmp_path, with_columns(**columns))
    message = "part-00000.parquet needs the columns image (encoded bytes, or a struct with the "
    refused(rf"{re.escape(message)}.*got {re.escape(contents)}", tmp_path)


def test_integer_labels_without_class_names(prepared, tmp_path):
    rewritten(prepared, tmp_path, with_columns(image=b"a", label=1))
    refused(r"the labels of .*train are integers, but its files do not contain the cl", tmp_path)


def test_files_with_different_columns(prepared, tmp_path):
    import pyarrow.parquet

    folder = copied(prepared, tmp_path)
    table = pyarrow.parquet.read_table(part_of(folder))
    pyarrow.parquet.write_table(as_text(table), folder / "train" / "part-00001.parquet")
    refused(r"part-00000\.parquet and .*part-00001\.parquet have columns of different", folder)


@pytest.mark.parametrize("key", ["huggingface", "tl_lightning"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"info": {"features": 1}, "digest": "x"}'])
def test_invalid_metadata(prepared, tmp_path, key, text):
    import pyarrow.parquet

    path = part_of(copied(prepared, tmp_path))
    table = pyarrow.parquet.read_table(path)
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if key == "tl_lightning":
            writer.add_key_value_metadata({key: text})
    if key == "huggingface":
        pyarrow.parquet.write_table(table.replace_schema_metadata({key: text}), path)
    refused(r"the metadata of .*part-00000\.parquet is not valid: .*; write", tmp_path / "photo")


def test_row_group_that_is_too_large(prepared, monkeypatch):
    monkeypatch.setattr("tl_lightning.data.streaming.parquet_files.LARGEST", 100)
    message = r"row group 0 of .*part-00000\.parquet has .* GB, but row groups are read as a whole"
    refused(message, prepared / "shards" / "photo")


def test_image_without_content(prepared, tmp_path):
    folder = rewritten(
        prepared, tmp_path, with_columns(image={"bytes": b"", "path": "a"}, label="a")
    )
    shards = ready(stream(folder, classes=["a", "b"])).found["source"].train.shards
    with pytest.raises(DataError, match=r"row 0 of row group 0 of .* contains no image; write the"):
        shards[0]


def test_invalid_class_names(prepared, tmp_path):
    for classes in (("dog",), ("a", "a", "a")):
        folder = rewritten(
            prepared, tmp_path / classes[0], lambda table, c=classes: renamed(table, c)
        )
        message = r"train must have at least two different class names, got .*set data\.classes="
        refused(message, folder)
    folder = rewritten(
        prepared, tmp_path / "mouse", lambda t: renamed(t, ("dog", "horse", "mouse"))
    )
    message = r"differ from those of the source: missing: house; extra: mouse; write both"
    refused(message, prepared / "shards" / "sketch", folder)


def renamed(table, classes):
    features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def test_label_that_is_not_a_class(prepared):
    data = ready(stream(prepared / "shards" / "photo", classes=["dog", "horse"]))
    message = r"row \d of .*photo/train/part.*is labelled 'house', which is not a class; "
    with pytest.raises(DataError, match=message):
        batches(data)


def test_damaged_files(prepared, tmp_path, monkeypatch):
    folder = copied(prepared, tmp_path)
    shards = ready(stream(folder)).found["source"].train.shards
    path = part_of(folder)
    content = path.read_bytes()
    for damage in (flipped, emptied, halved):
        path.write_bytes(content)
        damage(path)
        with pytest.raises(DataError, match=r"cannot read row group 0 of .*; write the shards aga"):
            shards[0]
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000\.parquet not found, but it existed when the"):
        shards[0]
    path.write_bytes(content)
    remote = ready(stream(f"file://{folder}", local_copy=False)).found["source"].train.shards
    flipped(path)
    with pytest.raises(DataError, match=r"cannot read row group 0 of .*; check the connection and"):
        remote[0]
    monkeypatch.setattr(row_groups, "filesystem", lambda url: (Refusing(), url))
    with pytest.raises(DataError, match=r"cannot read row group 0 of .*: access denied; check the"):
        remote[0]


def test_unreadable_image(prepared, tmp_path):
    root = domain_folders(tmp_path / "files")
    file = next((root / "photo" / "dog").iterdir())
    file.write_bytes(file.read_bytes()[:200])
    write_streams(files(root), tmp_path / "shards", GROUP)
    domain = ready(stream(tmp_path / "shards" / "photo")).found["source"]
    message = r"cannot read image row \d+ of .*part-.*; write the shards again without it"
    with pytest.raises(DataError, match=message):
        read_all(domain)


def read_all(domain):
    for split in domain.splits().values():
        dataset = StreamDataset(split.shards, SPEC, Centre(SPEC))
        for index in range(len(split)):
            dataset.read(index)


def test_unsupported_features_of_streams(prepared):
    data = both(prepared)
    data.cache_images(CacheConfig("auto"), 10)
    assert not data.caches
    with pytest.raises(DataError, match=r"cache\.images=decoded is not supported with streams"):
        data.cache_images(CacheConfig("decoded"), 10)
    with pytest.raises(
        DataError, match="read row group by row group and cannot be checked for duplicates"
    ):
        survey(data)
    with pytest.raises(DataError, match="read row group by row group"):
        augmentation_sheet(data, SPEC)


def test_missing_target_is_reported_with_the_setting(prepared):
    settings = compose(["model=dann", "data=stream", "data.source.url=/a"])
    with pytest.raises(ConfigError, match=r"set data\.target\.url=<folder or address>, or set"):
        validation.check(settings)


# -- writer --------------------------------------------------------------------------------------
def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["write_shards.py", *map(str, arguments)])
    write_shards.write_shards()


def test_command_writes_readable_streams(engine, tmp_path, monkeypatch, capsys):
    root = domain_folders(tmp_path / "files")
    arguments = [f"data.{r}.domain={d}" for r, d in (("source", "photo"), ("target", "sketch"))]
    out = tmp_path / "shards"
    arguments += ["data=domains", f"data.root={root}", "data.batch_size=2", "group_mb=0.003"]
    command(monkeypatch, *arguments, f"out={out}")
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"stream: {out / 'photo'}", f"stream: {out / 'sketch'}"]
    assert "writing 30 images" in output.err
    assert ready(stream(out / "photo", out / "sketch")).classes == CLASSES
    assert sorted(path.name for path in out.iterdir()) == ["photo", "sketch"]
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments, f"out={out}")
    assert "photo already exists; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=pacs"], "error: out is missing; set out=<folder for"),
        (["out=/a", "group_mb=big"], "error: group_mb=big must be a number in (0, 1000]"),
        (["out=/a", "group_mb=5000"], "error: group_mb=5000 must be"),
        (["out=/a", "data=digits"], "keeps its images in memory, but shards are written from file"),
    ],
)
def test_errors_of_the_command(engine, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o700), (0o022, 0o755)])
def test_folders_follow_the_umask(prepared, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        (folder, *_) = write_streams(files(prepared / "files"), tmp_path, GROUP)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == mode


def test_writing_is_deterministic(prepared, tmp_path):
    write_streams(files(prepared / "files"), tmp_path, GROUP)
    for path in (prepared / "shards").rglob("*"):
        again = tmp_path / path.relative_to(prepared / "shards")
        if path.is_file():
            assert again.read_bytes() == path.read_bytes()


def test_row_groups_mix_the_classes(prepared):
    shards = both(prepared).found["source"].train.shards
    first = [shards[index][1] for index in range(9)]
    assert len(set(first)) > 1
    assert first != sorted(first)


def test_unsupported_data(engine, prepared, tmp_path):
    root = prepared / "files"
    shifted = files(root, target={"root": None, "domain": None, "shift": SHIFT})
    with pytest.raises(DataError, match=r"the target of data=tiny is synthetic.*data\.target=null"):
        write_streams(shifted, tmp_path, GROUP)
    few_shot = files(root, target={"domain": "sketch", "labelled_per_class": 1})
    with pytest.raises(DataError, match=r"has few-shot target samples.*labelled_per_class=0"):
        write_streams(few_shot, tmp_path, GROUP)
    bare = files(root, target={"domain": "sketch", "labels": "none"})
    with pytest.raises(DataError, match=r"the target of data=tiny has images without labels"):
        write_streams(bare, tmp_path, GROUP)
    assert not list(tmp_path.iterdir())


def test_domains_of_the_same_name_get_distinct_folders(engine, tmp_path):
    one = domain_folders(tmp_path / "one", ("photo",))
    two = domain_folders(tmp_path / "two", ("photo",))
    settings = {"source": {"root": str(one), "domain": "photo"}}
    settings |= {"target": {"root": str(two), "domain": "photo"}}
    folders = write_streams(files(tmp_path, **settings), tmp_path / "out", GROUP)
    assert [path.name for path in folders] == ["photo_source", "photo_target"]


def test_failed_writing_leaves_nothing_behind(prepared, tmp_path, monkeypatch):
    data = files(prepared / "files")
    data.discover()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DataError, match=r"cannot write to .*file: .*; set out="):
        write_streams(data, blocked, GROUP)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tl_lightning.data.streaming.writer.os.replace", full)
        message = r"cannot write .*photo: No space left.*; free some disk space"
        with pytest.raises(DataError, match=message):
            write_streams(data, out, GROUP)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        with pytest.raises(DataError, match=r"cannot read image .*No space left"):
            write_streams(data, out, GROUP)
    assert not list(out.iterdir())
