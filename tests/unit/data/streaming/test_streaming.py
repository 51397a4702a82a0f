import json
import os
import pickle
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from helpers import config, same, weights
from layouts import SHIFT, domain_folders, file_settings, served
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
from tl_lightning.data.streaming.chunks import ARROW_MARK, StreamDataset
from tl_lightning.data.streaming.fetch import ChunkFiles
from tl_lightning.data.streaming.writer import write_streams
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec, Stream
from tl_lightning.utils.seeding import mix_text

CLASSES = ("dog", "horse", "house")
SPEC = InputSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CHUNK = 3000  # bytes; two or three images


@pytest.fixture(scope="session")
def engine():
    """Skip tests if litdata, an optional dependency, is not installed."""
    return pytest.importorskip("litdata", reason="needs pip install 'tl_lightning[stream]'")


@pytest.fixture(scope="module")
def prepared(engine, tmp_path_factory):
    """Write the domains photo and sketch as files and as streams; return their parent folder."""
    root = tmp_path_factory.mktemp("prepared")
    data = files(domain_folders(root / "files"))
    write_streams(data, root / "shards", CHUNK)
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
    settings |= {"classes": None, "window": 2, "cache_gb": 1, "cache_dir": None}
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
                _, content, label = shards[index]
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
        lambda self, label, where: seen.append(where) or original(self, label, where),
    )
    for batch in [*batches(data, "target"), *data.val_dataloader()[1]]:
        assert "labels" not in batch
    loader, _ = data.sample_loader("target", 4)
    assert all("labels" not in batch for batch in loader)
    assert not seen
    assert all("labels" in batch for batch in data.test_dataloader()[1])
    assert all("labels" in batch for batch in data.val_dataloader()[0])
    assert seen


def test_target_labels_use_the_class_order_of_the_source(prepared, tmp_path):
    other = tmp_path / "sketch"
    other.mkdir()
    for name in ("train", "val", "test"):
        (other / name).symlink_to(prepared / "shards" / "sketch" / name)
    (other / "classes.json").write_text('{"classes": ["house", "dog", "horse"]}')
    data = ready(stream(prepared / "shards" / "photo", other))
    assert data.found["target"].classes == CLASSES
    for (_, image, label), (_, expected_image, expected_label) in zip(
        data.found["target"].test.shards, both(prepared).found["target"].test.shards, strict=False
    ):
        assert (image, label) == (expected_image, expected_label)


def test_configured_classes_replace_classes_json(prepared, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / name).symlink_to(prepared / "shards" / "photo" / name)
    data = ready(stream(tmp_path, classes=["house", "horse", "dog"]))
    assert data.classes == ("house", "horse", "dog")
    labels = Counter(label for batch in batches(data) for label in batch["labels"].tolist())
    assert sum(labels.values()) == 12


def test_samples_for_the_report_come_from_few_chunks(prepared):
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


def test_fingerprint_depends_on_the_images_but_not_on_the_chunk_size(prepared, tmp_path):
    first = both(prepared).fingerprint()
    write_streams(files(prepared / "files"), tmp_path / "again", 5 * CHUNK)
    again = stream(tmp_path / "again" / "photo", tmp_path / "again" / "sketch")
    assert ready(again).fingerprint() == first
    changed_file = next((prepared / "files" / "photo" / "dog").iterdir())
    content = changed_file.read_bytes()
    changed_file.write_bytes(content + b"\0")
    try:
        write_streams(files(prepared / "files"), tmp_path / "other", CHUNK)
    finally:
        changed_file.write_bytes(content)
    other = stream(tmp_path / "other" / "photo", tmp_path / "other" / "sketch")
    assert ready(other).fingerprint() != first
    (tmp_path / "other" / "photo" / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    without_digest = stream(tmp_path / "other" / "photo", tmp_path / "other" / "sketch")
    assert ready(without_digest).fingerprint() not in (first, other.fingerprint())


def test_chunks_are_read_with_and_without_an_arrow_table(prepared, tmp_path, monkeypatch):
    """litdata writes one instead of single samples if pyarrow is installed."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("litdata.streaming.item_loader._PYARROW_AVAILABLE", False)
    write_streams(files(prepared / "files"), tmp_path, CHUNK)
    table, plain = (
        ready(stream(root / "photo")).found["source"].train.shards
        for root in (prepared / "shards", tmp_path)
    )
    assert table.digest == plain.digest
    for shards, expected in ((table, True), (plain, False)):
        with shards.files.open(0) as file:
            assert file.read().endswith(ARROW_MARK) == expected
    assert [row[1:] for row in table] == [row[1:] for row in plain]
    content = (table.files.folder / table.files.names[0]).read_bytes()
    damaged = tmp_path / "photo" / "train" / plain.files.names[0]
    damaged.write_bytes(content[:40] + content[60:])
    with pytest.raises(DataError, match=r"sample 0 of .*is truncated; write the shards again"):
        plain[0]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"requires the package pyarrow; run pip install 'tl_light"):
        table[0]


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


def test_samples_are_shuffled_within_windows_of_chunks():
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


# -- fetched chunks ------------------------------------------------------------------------------
def cache_size(root):
    return sum(path.stat().st_size for path in root.glob("*/*.bin"))


@pytest.mark.parametrize("workers", [0, 2])
def test_cache_smaller_than_the_stream(prepared, tmp_path, workers):
    limit = 3 * CHUNK
    url = f"local:{prepared}/shards/photo"
    data = ready(stream(url, cache_gb=limit / 1e9, window=2, cache_dir=str(tmp_path / "cache")))
    for epoch in range(2):
        found = batches(data, workers=workers, epoch=epoch)
        assert sorted(i for b in found for i in b["index"].tolist()) == list(range(12))
        for got, expected in zip(found, batches(both(prepared), epoch=epoch), strict=True):
            assert torch.equal(got["inputs"], expected["inputs"])
    total = sum(data.found["source"].train.shards.files.sizes)
    # A batch of two images needs at most two chunks in each process.
    assert 0 < cache_size(tmp_path / "cache") <= limit < total
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_chunks_are_fetched_once_if_the_cache_is_large_enough(prepared, tmp_path, monkeypatch):
    fetched = []
    original: Any = ChunkFiles._evict
    monkeypatch.setattr(
        ChunkFiles, "_evict", lambda self, size: fetched.append(size) or original(self, size)
    )
    data = ready(stream(f"local:{prepared}/shards/photo", cache_dir=str(tmp_path)))
    for epoch in range(2):
        batches(data, epoch=epoch)
    assert sorted(fetched) == sorted(data.found["source"].train.shards.files.sizes)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_s3_bucket(prepared, tmp_path, monkeypatch, workers):
    photo = prepared / "shards" / "photo"
    objects = {f"b/{p.relative_to(photo.parent)}": p for p in photo.rglob("*") if p.is_file()}
    # obstore only supports https.
    monkeypatch.setattr("litdata.streaming.downloader._OBSTORE_AVAILABLE", False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with served({name: path.read_bytes() for name, path in objects.items()}) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        data = ready(stream("s3://b/photo", cache_dir=str(tmp_path)))
        found = batches(data, workers=workers)
        refused(r"cannot fetch s3://b/absent/classes\.json: .*404.*; check th", "s3://b/absent")
    for got, expected in zip(found, batches(ready(stream(photo))), strict=True):
        assert torch.equal(got["inputs"], expected["inputs"])
        assert torch.equal(got["labels"], expected["labels"])


def test_dataset_is_picklable(prepared):
    dataset = both(prepared).dataset("source", both(prepared).found["source"].train, train=True)
    before = dataset.__getitems__([(1, 2)])
    after = pickle.loads(pickle.dumps(dataset)).__getitems__([(1, 2)])
    assert torch.equal(before["inputs"], after["inputs"])


def test_leftovers_of_a_killed_fetch_are_removed(prepared, tmp_path):
    data = ready(stream(f"local:{prepared}/shards/photo", cache_dir=str(tmp_path)))
    shards = data.found["source"].train.shards
    for name, hours in (("old-10.tmp", 7), ("new-10.tmp", 1)):
        (shards.files.folder / name).mkdir()
        modified = time.time() - 3600 * hours
        os.utime(shards.files.folder / name, (modified, modified))
    assert shards[0]
    assert [path.name for path in tmp_path.rglob("*.tmp")] == ["new-10.tmp"]


def test_another_stream_at_the_same_address_is_fetched_again(prepared, tmp_path):
    link, cache = tmp_path / "current", str(tmp_path / "cache")
    for domain in ("photo", "sketch"):
        link.unlink(missing_ok=True)
        link.symlink_to(prepared / "shards" / domain)
        local = ready(stream(prepared / "shards" / domain))
        data = ready(stream(f"local:{link}", cache_dir=cache))
        assert data.found["source"].train.shards[0][1] == local.found["source"].train.shards[0][1]


def test_chunks_that_are_evicted_as_often_as_fetched(prepared, tmp_path, monkeypatch):
    data = ready(stream(f"local:{prepared}/shards/photo", cache_dir=str(tmp_path)))
    monkeypatch.setattr(ChunkFiles, "_get", lambda self, chunk: None)
    with pytest.raises(DataError, match=r"evicted as often as it is fetched.*set .*data\.cache_gb"):
        data.found["source"].train.shards[0]


# -- errors --------------------------------------------------------------------------------------
def copied(prepared, tmp_path):
    """Return a copy of the stream of photo that a test may modify."""
    return Path(shutil.copytree(prepared / "shards" / "photo", tmp_path / "photo"))


def refused(message, *args, **kwargs):
    with pytest.raises(DataError, match=message):
        stream(*args, **kwargs).discover()


def test_litdata_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "litdata", None)
    refused(r"require the package litdata.*run pip install 'tl_lightning\[stream\]'", tmp_path)


@pytest.mark.parametrize("node", [{"url": "/a", "root": "/b"}, {"ulr": "/a"}])
def test_unknown_keys(node):
    with pytest.raises(DataError, match=r"data\.source has no key '(root|ulr)'; (did|valid)"):
        stream(node)


@pytest.mark.parametrize(
    ("setting", "needed"),
    [("window=0", "an integer of at least 1"), ("cache_gb=0", "a number above 0"),
     ("cache_gb=-1.0", "a number above 0")],
)  # fmt: skip
def test_window_and_cache_size_must_be_positive(setting, needed):
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
    refused(
        r"cannot fetch http://a/b/classes\.json: it must be a folder or start with s3://",
        "http://a/b",
    )
    refused(
        r"cannot fetch local:/nowhere/classes\.json: .*doesn't exist.*; check th", "local:/nowhere"
    )


def test_fetch_without_a_file(prepared, tmp_path, monkeypatch):
    from litdata.streaming.downloader import LocalDownloader

    monkeypatch.setattr(LocalDownloader, "download_file", lambda *arguments: None)
    refused(r"cannot fetch local:.*: nothing was received", f"local:{prepared}/shards/photo")


def test_missing_split(prepared, tmp_path):
    (copied(prepared, tmp_path) / "val" / "index.json").unlink()
    refused(
        r"photo/val contains no index\.json; a stream has the folders train", tmp_path / "photo"
    )


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"chunks": [{}], "config": {}}', '{"chunks": [], "config": {}}']
)
def test_invalid_index(prepared, tmp_path, text):
    (copied(prepared, tmp_path) / "val" / "index.json").write_text(text)
    refused(r"photo/val/index\.json is not a valid litdata index: ", tmp_path / "photo")


@pytest.mark.parametrize("name", ["../evil.bin", "/evil.bin", "a/b.bin", "..\\evil.bin", ".."])
def test_chunk_outside_the_folder_is_refused(prepared, tmp_path, name):
    file = copied(prepared, tmp_path) / "train" / "index.json"
    index = json.loads(file.read_text())
    index["chunks"][0]["filename"] = name
    file.write_text(json.dumps(index))
    refused("would be written outside its folder; do not trust this stream", tmp_path / "photo")


@pytest.mark.parametrize("key", ["compression", "encryption"])
def test_compressed_and_encrypted_chunks_are_refused(prepared, tmp_path, key):
    file = copied(prepared, tmp_path) / "train" / "index.json"
    index = json.loads(file.read_text())
    index["config"][key] = "zstd"
    file.write_text(json.dumps(index))
    refused(rf"photo/train was written with {key}=zstd.*write it without", tmp_path / "photo")


@pytest.mark.parametrize(
    ("sample", "key", "kind"),
    [
        ({"img": b"a", "label": "dog"}, "image", "bytes"),
        ({"image": b"a", "label": 1}, "label", "str"),
        ({"image": b"a", "label": {"name": "dog"}}, "image", "bytes"),
        (b"a", "image", "bytes"),
    ],
)
def test_samples_of_another_type(prepared, tmp_path, sample, key, kind):
    from litdata.streaming.writer import BinaryWriter

    folder = copied(prepared, tmp_path) / "train"
    shutil.rmtree(folder)
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=1000)
    writer[0] = sample
    writer.done()
    writer.merge()
    refused(rf"photo/train have no '{key}' of type {kind} \(they contain", tmp_path / "photo")


def test_invalid_class_names(prepared, tmp_path):
    file = copied(prepared, tmp_path) / "classes.json"
    for text in (
        '["dog"]',
        '{"classes": ["dog"]}',
        '{"classes": ["a", "a"]}',
        '{"classes": [1, 2]}',
    ):
        file.write_text(text)
        refused(r"classes\.json must contain at least two different class na", tmp_path / "photo")
    file.write_text("{")
    refused(r"classes\.json is not valid JSON: .*; write it again", tmp_path / "photo")
    file.write_bytes(b"\xff")
    refused(r"cannot read .*photo/classes\.json: ", tmp_path / "photo")
    file.unlink()
    refused(r"has no classes\.json with the class names of data\.source; write", tmp_path / "photo")
    file.write_text('{"classes": ["dog", "horse", "mouse"]}')
    message = r"differ from those of the source: missing: house; extra: mouse; write both"
    refused(message, prepared / "shards" / "sketch", tmp_path / "photo")


def test_label_that_is_not_a_class(prepared):
    data = ready(stream(prepared / "shards" / "photo", classes=["dog", "horse"]))
    message = r"sample \d of .*photo/train/chunk.*is labelled 'house', which is not a class; "
    with pytest.raises(DataError, match=message):
        batches(data)


def test_corrupt_chunks(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    shards = ready(stream(folder)).found["source"].train.shards
    chunk = folder / "train" / shards.files.names[0]
    content = chunk.read_bytes()
    chunk.write_bytes(content[:600])
    with pytest.raises(DataError, match=r"sample 0 of .*is truncated; write the shards again"):
        shards[0]
    chunk.write_bytes(b"")
    with pytest.raises(DataError, match="is truncated"):
        shards[0]
    chunk.unlink()
    with pytest.raises(DataError, match=r"chunk .* not found, but index\.json lists it"):
        shards[0]
    chunk.mkdir()
    with pytest.raises(DataError, match=r"cannot open chunk .*: Is a directory"):
        shards[0]
    chunk.rmdir()
    chunk.write_bytes(content[:-1])
    remote = ready(stream(f"local:{folder}", cache_dir=str(tmp_path / "cache")))
    with pytest.raises(DataError, match=r"has \d+ bytes, but index\.json lists \d+; write"):
        remote.found["source"].train.shards[0]


def test_full_disk_while_fetching(prepared, tmp_path, monkeypatch):
    data = ready(stream(f"local:{prepared}/shards/photo", cache_dir=str(tmp_path)))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tl_lightning.data.streaming.fetch.os.replace", full)
    with pytest.raises(DataError, match=r"cannot write chunk .*No space left.*data\.cache_dir="):
        data.found["source"].train.shards[0]


def test_unreadable_image(prepared, tmp_path):
    root = domain_folders(tmp_path / "files")
    file = next((root / "photo" / "dog").iterdir())
    file.write_bytes(file.read_bytes()[:200])
    write_streams(files(root), tmp_path / "shards", CHUNK)
    domain = ready(stream(tmp_path / "shards" / "photo")).found["source"]
    message = r"cannot read image sample \d+ of .*chunk-.*; write the shards again without it"
    with pytest.raises(DataError, match=message):
        read_all(domain)


def read_all(domain):
    for split in domain.splits().values():
        dataset = StreamDataset(split.shards, SPEC, Centre(SPEC))
        for index in range(len(split)):
            dataset.read(index)


def test_window_larger_than_the_cache(prepared):
    message = r"data\.window=2 chunks of each domain need .* GB, but data\.cache_gb=2e-06.*set"
    refused(message, f"local:{prepared}/shards/photo", cache_gb=2e-6)


def test_unsupported_features_of_streams(prepared):
    data = both(prepared)
    data.cache_images(CacheConfig("auto"), 10)
    assert not data.caches
    with pytest.raises(DataError, match=r"cache\.images=decoded is not supported with streams"):
        data.cache_images(CacheConfig("decoded"), 10)
    with pytest.raises(DataError, match="read chunk by chunk and cannot be checked for duplicates"):
        survey(data)
    with pytest.raises(DataError, match="read chunk by chunk"):
        augmentation_sheet(data, SPEC)


def test_missing_target_is_reported_with_the_setting(prepared):
    settings = compose(["model=dann", "data=stream", "data.source.url=/a"])
    with pytest.raises(ConfigError, match=r"set data\.target\.url=<folder or address> or set"):
        validation.check(settings)


# -- writer --------------------------------------------------------------------------------------
def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["write_shards.py", *map(str, arguments)])
    write_shards.write_shards()


def test_command_writes_readable_streams(engine, tmp_path, monkeypatch, capsys):
    root = domain_folders(tmp_path / "files")
    arguments = [f"data.{r}.domain={d}" for r, d in (("source", "photo"), ("target", "sketch"))]
    out = tmp_path / "shards"
    arguments += ["data=domains", f"data.root={root}", "data.batch_size=2", "chunk_mb=0.003"]
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
        (["out=/a", "chunk_mb=big"], "error: chunk_mb=big must be a number in (0, 4000]"),
        (["out=/a", "chunk_mb=5000"], "error: chunk_mb=5000 must be"),
        (["out=/a", "data=digits"], "keeps its images in memory, but shards are written from file"),
    ],
)
def test_errors_of_the_command(engine, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments)
    assert message in capsys.readouterr().err


def test_writing_is_deterministic(prepared, tmp_path):
    write_streams(files(prepared / "files"), tmp_path, CHUNK)
    for path in (prepared / "shards").rglob("*"):
        again = tmp_path / path.relative_to(prepared / "shards")
        if path.is_file() and path.name != "index.json":  # which contains a timestamp
            assert again.read_bytes() == path.read_bytes()


def test_chunks_mix_the_classes(prepared):
    shards = both(prepared).found["source"].train.shards
    first = [shards[index][2] for index in range(9)]
    assert len(set(first)) > 1
    assert first != sorted(first)


def test_unsupported_data(engine, prepared, tmp_path):
    root = prepared / "files"
    shifted = files(root, target={"root": None, "domain": None, "shift": SHIFT})
    with pytest.raises(DataError, match=r"the target of data=tiny is synthetic.*data\.target=null"):
        write_streams(shifted, tmp_path, CHUNK)
    few_shot = files(root, target={"domain": "sketch", "labelled_per_class": 1})
    with pytest.raises(DataError, match=r"has few-shot target samples.*labelled_per_class=0"):
        write_streams(few_shot, tmp_path, CHUNK)
    bare = files(root, target={"domain": "sketch", "labels": "none"})
    with pytest.raises(DataError, match=r"the target of data=tiny has images without labels"):
        write_streams(bare, tmp_path, CHUNK)
    assert not list(tmp_path.iterdir())


def test_domains_of_the_same_name_get_distinct_folders(engine, tmp_path):
    one = domain_folders(tmp_path / "one", ("photo",))
    two = domain_folders(tmp_path / "two", ("photo",))
    settings = {"source": {"root": str(one), "domain": "photo"}}
    settings |= {"target": {"root": str(two), "domain": "photo"}}
    folders = write_streams(files(tmp_path, **settings), tmp_path / "out", CHUNK)
    assert [path.name for path in folders] == ["photo_source", "photo_target"]


def test_failed_writing_leaves_nothing_behind(prepared, tmp_path, monkeypatch):
    data = files(prepared / "files")
    data.discover()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DataError, match=r"cannot write to .*file: .*; set out="):
        write_streams(data, blocked, CHUNK)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tl_lightning.data.streaming.writer.os.replace", full)
        message = r"cannot write .*photo: No space left.*; free some disk space"
        with pytest.raises(DataError, match=message):
            write_streams(data, out, CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        with pytest.raises(DataError, match=r"cannot read image .*No space left"):
            write_streams(data, out, CHUNK)
    assert not list(out.iterdir())
