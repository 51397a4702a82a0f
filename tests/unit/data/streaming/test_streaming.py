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
from tl_lightning.cli import common as cli
from tl_lightning.cli import write_shards
from tl_lightning.config.validation import check as validation
from tl_lightning.data.cache.images import CacheSettings
from tl_lightning.data.checks.preview import augmentation_sheet
from tl_lightning.data.checks.survey import survey
from tl_lightning.data.datamodules.domain_folders import DomainFolders
from tl_lightning.data.datamodules.stream import StreamData
from tl_lightning.data.datasets import PictureDataset
from tl_lightning.data.samplers.domain import ChunkSampler
from tl_lightning.data.streaming.chunks import StreamDataset
from tl_lightning.data.streaming.fetch import ChunkFiles
from tl_lightning.data.streaming.writer import write_streams
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec
from tl_lightning.utils.seeding import mix_text

CLASSES = ("dog", "horse", "house")
SPEC = InputSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CHUNK = 3000  # bytes: two or three pictures


@pytest.fixture(scope="session")
def engine():
    """Skip where litdata is absent: it is an optional extra."""
    return pytest.importorskip("litdata", reason="needs pip install 'tl_lightning[stream]'")


@pytest.fixture(scope="module")
def made(engine, tmp_path_factory):
    """Write photo and sketch as files and as streams; return both folders."""
    root = tmp_path_factory.mktemp("made")
    data = files(domain_folders(root / "files"))
    write_streams(data, root / "shards", CHUNK)
    return root


def files(root, **changed):
    given = {"source": {"domain": "photo"}, "target": {"domain": "sketch"}}
    given |= {"folders": [], "known": {}, "elsewhere": ""}
    return DomainFolders(**file_settings(root, **{**given, **changed}))


def stream(source, target=None, **changed):
    given = {"name": "tiny", "batch_size": 2, "eval_batch_size": 4, "steps_per_epoch": None}
    given |= {"num_workers": 0, "augment": "light", "seed": 0, "pin_memory": False}
    given |= {"mix": {"mixup": 0.0, "cutmix": 0.0}}
    given |= {"classes": None, "window": 2, "cache_gb": 1, "cache_dir": None}
    given |= {"source": {"url": None if source is None else str(source)}}
    given |= {"target": None if target is None else {"url": str(target)}}
    if isinstance(source, dict):
        given["source"] = source
    return StreamData(**{**given, **changed})


def ready(data):
    data.discover()
    data.attach(SPEC, tuple(data.roles), ("source",))
    return data


def both(made, **changed):
    shards = made / "shards"
    return ready(stream(shards / "photo", shards / "sketch", **changed))


def order(split):
    """Return the files' places in the order in which the writer takes them."""
    return sorted(range(len(split)), key=lambda k: mix_text(split.names[k]))


def sampler(counts=(3, 4, 1, 5, 2, 3), **changed):
    plain = {"chunks": counts, "window": 2, "batch_size": 3, "num_batches": 6, "seed": 0}
    return ChunkSampler(**{**plain, "domain": 0, **changed})


def batches(data, role="source", workers=0, epoch=0):
    """Return the training batches of an epoch by hand."""
    split = data.training_splits()[role]
    place = {"batch_size": 2, "num_batches": len(split) // 2, "seed": 0, "domain": 0}
    keys = data._sampler(split, **place)
    keys.set_epoch(epoch)
    data.num_workers = workers
    return list(data._loader(data._dataset(role, split, train=True), 2, keys))


# -- what a stream is ----------------------------------------------------------------------------
def test_counts_classes_and_names_are_those_of_the_files(made):
    data, plain = both(made), ready(files(made / "files"))
    assert data.classes == plain.classes == CLASSES
    assert data.counts() == plain.counts()
    assert [data.found[r].name for r in data.roles] == ["photo", "sketch"]
    assert data.found["source"].note == plain.found["source"].note
    assert data.notes(pretrained=True) == plain.notes(pretrained=True)
    for role in data.roles:
        for name in ("train", "val", "test"):
            shards = getattr(data.found[role], name).shards
            split = getattr(plain.found[role], name)
            for place, own in enumerate(order(split)):
                _, content, label = shards[place]
                assert content == split.pictures[own].read_bytes()
                assert label == split.labels[own]


@pytest.mark.parametrize("train", [True, False])
def test_batches_equal_those_of_the_files(made, train):
    data, plain = both(made), ready(files(made / "files"))
    split = plain.found["source"].train
    places = order(split)
    streamed = data._dataset("source", data.found["source"].train, train)
    read_from_files = plain._dataset("source", split, train)
    assert isinstance(streamed, PictureDataset)
    for keys in ([(0, 7), (3, 8)], [(5, 9), (5, 10), (1, 1)]):
        got = streamed.__getitems__(keys)
        want = read_from_files.__getitems__([(places[place], seed) for place, seed in keys])
        assert torch.equal(got["inputs"], want["inputs"])
        assert torch.equal(got["labels"], want["labels"])
        assert got.keys() == want.keys()
        assert got["index"].tolist() == [place for place, _ in keys]


@pytest.mark.parametrize(
    "setting", [{"augment": "standard"}, {"mix": {"mixup": 0.5, "cutmix": 0.0}}]
)
def test_a_batch_equals_the_files_with_seeds_for_the_device(made, setting):
    data = both(made, **setting)
    plain = ready(files(made / "files", **setting))
    split = plain.found["source"].train
    got = data._dataset("source", data.found["source"].train, True).__getitems__([(2, 5)])
    want = plain._dataset("source", split, True).__getitems__([(order(split)[2], 5)])
    assert got.keys() == want.keys()
    assert "seeds" in got
    assert torch.equal(got["inputs"], want["inputs"])


def test_the_target_carries_no_labels(made, monkeypatch):
    data = both(made)
    seen = []
    honest: Any = type(data.found["target"].train.shards)._number
    monkeypatch.setattr(
        type(data.found["target"].train.shards),
        "_number",
        lambda self, label, where: seen.append(where) or honest(self, label, where),
    )
    for batch in [*batches(data, "target"), *data.val_dataloader()[1]]:
        assert "labels" not in batch
    loader, _ = data.sample_loader("target", 4)
    assert all("labels" not in batch for batch in loader)
    assert not seen
    assert all("labels" in batch for batch in data.test_dataloader()[1])
    assert all("labels" in batch for batch in data.val_dataloader()[0])
    assert seen


def test_labels_are_the_sources_numbers_whatever_the_targets_order(made, tmp_path):
    other = tmp_path / "sketch"
    other.mkdir()
    for name in ("train", "val", "test"):
        (other / name).symlink_to(made / "shards" / "sketch" / name)
    (other / "classes.json").write_text('{"classes": ["house", "dog", "horse"]}')
    data = ready(stream(made / "shards" / "photo", other))
    assert data.found["target"].classes == CLASSES
    for (_, one, label), (_, two, wanted) in zip(
        data.found["target"].test.shards, both(made).found["target"].test.shards, strict=False
    ):
        assert (one, label) == (two, wanted)


def test_classes_given_need_no_file(made, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / name).symlink_to(made / "shards" / "photo" / name)
    data = ready(stream(tmp_path, classes=["house", "horse", "dog"]))
    assert data.classes == ("house", "horse", "dog")
    labels = Counter(label for batch in batches(data) for label in batch["labels"].tolist())
    assert sum(labels.values()) == 12


def test_samples_for_the_report_come_from_few_chunks(made):
    data = both(made)
    loader, places = data.sample_loader("source", 5)
    test = data.found["source"].test
    assert len({test.shards.find(place)[0] for place in places}) <= data.window
    shown = torch.cat([batch["inputs"] for batch in loader])
    dataset = data._dataset("source", test, train=False)
    assert torch.equal(shown, dataset.__getitems__([(p, 0) for p in places])["inputs"])


def test_evaluation_reads_in_the_chunks_order(made):
    loader = both(made).test_dataloader()[0]
    shown = [index for batch in loader for index in batch["index"].tolist()]
    assert shown == list(range(len(shown)))


def test_the_fingerprint_knows_the_pictures(made, tmp_path):
    first = both(made).fingerprint()
    write_streams(files(made / "files"), tmp_path / "again", 5 * CHUNK)
    again = stream(tmp_path / "again" / "photo", tmp_path / "again" / "sketch")
    assert ready(again).fingerprint() == first
    victim = next((made / "files" / "photo" / "dog").iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content + b"\0")
    try:
        write_streams(files(made / "files"), tmp_path / "other", CHUNK)
    finally:
        victim.write_bytes(content)
    other = stream(tmp_path / "other" / "photo", tmp_path / "other" / "sketch")
    assert ready(other).fingerprint() != first
    (tmp_path / "other" / "photo" / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    bare = stream(tmp_path / "other" / "photo", tmp_path / "other" / "sketch")
    assert ready(bare).fingerprint() not in (first, other.fingerprint())


# -- the order -----------------------------------------------------------------------------------
def test_every_sample_once_a_pass():
    for epoch in range(3):
        chosen = sampler()
        chosen.set_epoch(epoch)
        assert sorted(place for place, _ in chosen) == list(range(18))


def test_the_order_differs_by_epoch_seed_and_domain():
    found = [sampler(), sampler(epoch=1), sampler(seed=1), sampler(domain=1)]
    assert len({tuple(place for place, _ in one) for one in found}) == 4
    assert list(sampler()) == list(sampler())


def test_a_window_at_a_time():
    counts = (3, 4, 1, 5, 2, 3)
    chunk_of = [chunk for chunk, n in enumerate(counts) for _ in range(n)]
    walked = [chunk_of[place] for place, _ in sampler(counts)]
    mixed = 0
    while walked:
        window = list(dict.fromkeys(walked))[:2]
        size = sum(counts[chunk] for chunk in window)
        part, walked = walked[:size], walked[size:]
        assert sorted(part) == sorted(c for c in window for _ in range(counts[c]))
        mixed += part not in (sorted(part), sorted(part, reverse=True))
    assert mixed > 1


def test_ranks_share_the_pass():
    shares = [list(sampler(rank=rank, world=2, num_batches=3)) for rank in range(2)]
    whole = list(sampler())
    assert [shares[k % 2][k // 2] for k in range(18)] == whole
    assert not {p for p, _ in shares[0]} & {p for p, _ in shares[1]}


@pytest.mark.parametrize("start", range(7))
def test_going_on_in_the_middle(start):
    rest = sampler(start=start)
    assert list(rest) == list(sampler())[3 * start :]
    rest.set_epoch(1)
    assert list(rest) == list(sampler(epoch=1))


def test_workers_change_nothing(made):
    data = both(made)
    alone, helped = batches(data, workers=0), batches(data, workers=2)
    assert len(alone) == len(helped) == 6
    for one, two in zip(alone, helped, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    shown = [index for batch in alone for index in batch["index"].tolist()]
    assert sorted(shown) == list(range(12))
    assert shown != [index for batch in batches(data, epoch=1) for index in batch["index"].tolist()]


# -- training ------------------------------------------------------------------------------------
class Stop(Exception):
    """Ends a run as a power cut would."""


class StopAt(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            trainer.save_checkpoint(trainer.checkpoint_callback.dirpath + "/last.ckpt")
            raise Stop


def streamed(made, *more):
    urls = [
        f"data.{r}.url={made}/shards/{d}" for r, d in (("source", "photo"), ("target", "sketch"))
    ]
    found = config("data=digits", "backbone=small_cnn")
    own = cli.compose(["data=stream", *urls, "data.batch_size=4", "data.steps_per_epoch=3", *more])
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(own, resolve=True)
    for key in ("backbone", "trainer", "channels_last", "callbacks", "report", "bracket"):
        plain[key] = found[key]
    plain["data"] |= {"num_workers": 0, "window": 2}
    return plain


def test_a_resumed_run_is_the_uninterrupted_one(made, tmp_path, monkeypatch):
    whole = training.fit(streamed(made), tmp_path / "whole")
    honest: Any = training.build

    def build(*arguments):
        parts = honest(*arguments)
        parts.trainer.callbacks.append(StopAt())
        return parts

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(Stop):
        training.fit(streamed(made), tmp_path / "cut")
    monkeypatch.setattr(training, "build", honest)
    resumed = training.fit(streamed(made, "resume=auto"), tmp_path / "cut")
    last = "checkpoints/last.ckpt"
    assert same(weights(tmp_path / "whole" / last), weights(tmp_path / "cut" / last))
    assert resumed["metrics"] == whole["metrics"]


# -- fetched chunks ------------------------------------------------------------------------------
def kept(root):
    return sum(path.stat().st_size for path in root.glob("*/*.bin"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_smaller_than_the_stream(made, tmp_path, workers):
    limit = 3 * CHUNK
    url = f"local:{made}/shards/photo"
    data = ready(stream(url, cache_gb=limit / 1e9, window=2, cache_dir=str(tmp_path / "kept")))
    for epoch in range(2):
        shown = batches(data, workers=workers, epoch=epoch)
        assert sorted(i for b in shown for i in b["index"].tolist()) == list(range(12))
        for got, want in zip(shown, batches(both(made), epoch=epoch), strict=True):
            assert torch.equal(got["inputs"], want["inputs"])
    total = sum(data.found["source"].train.shards.files.sizes)
    # A batch of two pictures needs two chunks at most, in each process.
    assert 0 < kept(tmp_path / "kept") <= limit < total
    assert not list((tmp_path / "kept").rglob("*.tmp"))


def test_fetched_once_where_there_is_room(made, tmp_path, monkeypatch):
    fetched = []
    honest: Any = ChunkFiles._make_room
    monkeypatch.setattr(
        ChunkFiles, "_make_room", lambda self, size: fetched.append(size) or honest(self, size)
    )
    data = ready(stream(f"local:{made}/shards/photo", cache_dir=str(tmp_path)))
    for epoch in range(2):
        batches(data, epoch=epoch)
    assert sorted(fetched) == sorted(data.found["source"].train.shards.files.sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket(made, tmp_path, monkeypatch, workers):
    photo = made / "shards" / "photo"
    held = {f"b/{p.relative_to(photo.parent)}": p for p in photo.rglob("*") if p.is_file()}
    # Its other client speaks to encrypted addresses only.
    monkeypatch.setattr("litdata.streaming.downloader._OBSTORE_AVAILABLE", False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with served({name: path.read_bytes() for name, path in held.items()}) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        data = ready(stream("s3://b/photo", cache_dir=str(tmp_path)))
        shown = batches(data, workers=workers)
        refused(r"cannot fetch s3://b/absent/classes\.json: .*404.*; see that", "s3://b/absent")
    for got, want in zip(shown, batches(ready(stream(photo))), strict=True):
        assert torch.equal(got["inputs"], want["inputs"])
        assert torch.equal(got["labels"], want["labels"])


def test_loader_processes_may_be_spawned(made):
    dataset = both(made)._dataset("source", both(made).found["source"].train, train=True)
    before = dataset.__getitems__([(1, 2)])
    after = pickle.loads(pickle.dumps(dataset)).__getitems__([(1, 2)])
    assert torch.equal(before["inputs"], after["inputs"])


def test_a_fetch_that_was_killed_is_cleared_away(made, tmp_path):
    data = ready(stream(f"local:{made}/shards/photo", cache_dir=str(tmp_path)))
    shards = data.found["source"].train.shards
    for name, hours in (("old-10.tmp", 7), ("new-10.tmp", 1)):
        (shards.files.folder / name).mkdir()
        then = time.time() - 3600 * hours
        os.utime(shards.files.folder / name, (then, then))
    assert shards[0]
    assert [path.name for path in tmp_path.rglob("*.tmp")] == ["new-10.tmp"]


def test_another_stream_at_the_same_address_is_fetched_anew(made, tmp_path):
    moving, cache = tmp_path / "now", str(tmp_path / "kept")
    for domain in ("photo", "sketch"):
        moving.unlink(missing_ok=True)
        moving.symlink_to(made / "shards" / domain)
        plain = ready(stream(made / "shards" / domain))
        data = ready(stream(f"local:{moving}", cache_dir=cache))
        assert data.found["source"].train.shards[0][1] == plain.found["source"].train.shards[0][1]


def test_chunks_that_vanish_as_fast_as_they_come(made, tmp_path, monkeypatch):
    data = ready(stream(f"local:{made}/shards/photo", cache_dir=str(tmp_path)))
    monkeypatch.setattr(ChunkFiles, "_get", lambda self, chunk: None)
    with pytest.raises(DataError, match=r"removed as often as it is fetched.*data\.cache_gb"):
        data.found["source"].train.shards[0]


# -- errors --------------------------------------------------------------------------------------
def copied(made, tmp_path):
    """Return a copy of photo's stream that a test may damage."""
    return Path(shutil.copytree(made / "shards" / "photo", tmp_path / "photo"))


def refused(words, *args, **kwargs):
    with pytest.raises(DataError, match=words):
        stream(*args, **kwargs).discover()


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "litdata", None)
    refused(r"need the package litdata.*pip install 'tl_lightning\[stream\]'", tmp_path)


@pytest.mark.parametrize("node", [{"url": "/a", "root": "/b"}, {"ulr": "/a"}])
def test_unknown_keys(node):
    with pytest.raises(DataError, match=r"data\.source has no key '(root|ulr)'; (did|valid)"):
        stream(node)


@pytest.mark.parametrize("setting", [{"window": 0}, {"cache_gb": -1.0}])
def test_sizes_are_above_zero(setting):
    with pytest.raises(DataError, match=r"data\.(window|cache_gb)=(0|-1\.0) must be above 0"):
        stream("/a", **setting)


def test_addresses(engine, made, tmp_path):
    photo = made / "shards" / "photo"
    refused(r"data\.source\.url=null; type data\.source\.url=/shards/photo", None)
    refused(r"data\.source\.url=/nowhere is no folder; type data\.source\.url=", "/nowhere")
    refused(r"data\.target\.url=/nowhere is no folder", photo, "/nowhere")
    refused(r"are both .*photo: the same pictures in both domains", photo, photo)
    refused(r"cannot fetch http://a/b/classes\.json: valid are a folder and s3://", "http://a/b")
    refused(
        r"cannot fetch local:/nowhere/classes\.json: .*doesn't exist.*; see that", "local:/nowhere"
    )


def test_a_fetch_that_brings_nothing(made, tmp_path, monkeypatch):
    from litdata.streaming.downloader import LocalDownloader

    monkeypatch.setattr(LocalDownloader, "download_file", lambda *arguments: None)
    refused(r"cannot fetch local:.*: nothing came", f"local:{made}/shards/photo")


def test_a_split_is_missing(made, tmp_path):
    (copied(made, tmp_path) / "val" / "index.json").unlink()
    refused(r"photo/val holds no index\.json: a stream has the folders train", tmp_path / "photo")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"chunks": [{}], "config": {}}', '{"chunks": [], "config": {}}']
)
def test_a_broken_index(made, tmp_path, text):
    (copied(made, tmp_path) / "val" / "index.json").write_text(text)
    refused(r"photo/val/index\.json is none of litdata's: ", tmp_path / "photo")


@pytest.mark.parametrize("name", ["../evil.bin", "/evil.bin", "a/b.bin", "..\\evil.bin", ".."])
def test_a_chunk_outside_its_folder_is_refused(made, tmp_path, name):
    file = copied(made, tmp_path) / "train" / "index.json"
    index = json.loads(file.read_text())
    index["chunks"][0]["filename"] = name
    file.write_text(json.dumps(index))
    refused("would land outside its folder; do not trust this stream", tmp_path / "photo")


@pytest.mark.parametrize("key", ["compression", "encryption"])
def test_chunks_that_cannot_be_read_singly(made, tmp_path, key):
    file = copied(made, tmp_path) / "train" / "index.json"
    index = json.loads(file.read_text())
    index["config"][key] = "zstd"
    file.write_text(json.dumps(index))
    refused(rf"photo/train is written with {key}=zstd.*write it without", tmp_path / "photo")


@pytest.mark.parametrize(
    ("sample", "key", "kind"),
    [
        ({"picture": b"a", "label": "dog"}, "image", "bytes"),
        ({"image": b"a", "label": 1}, "label", "str"),
        ({"image": b"a", "label": {"name": "dog"}}, "image", "bytes"),
        (b"a", "image", "bytes"),
    ],
)
def test_samples_of_another_kind(made, tmp_path, sample, key, kind):
    from litdata.streaming.writer import BinaryWriter

    folder = copied(made, tmp_path) / "train"
    shutil.rmtree(folder)
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=1000)
    writer[0] = sample
    writer.done()
    writer.merge()
    refused(rf"photo/train have no '{key}' of kind {kind} \(they hold", tmp_path / "photo")


def test_class_names(made, tmp_path):
    file = copied(made, tmp_path) / "classes.json"
    for text in (
        '["dog"]',
        '{"classes": ["dog"]}',
        '{"classes": ["a", "a"]}',
        '{"classes": [1, 2]}',
    ):
        file.write_text(text)
        refused(r"classes\.json must name at least two different classes", tmp_path / "photo")
    file.write_text("{")
    refused(r"classes\.json is no JSON: .*; write it again", tmp_path / "photo")
    file.write_bytes(b"\xff")
    refused(r"cannot read .*photo/classes\.json: ", tmp_path / "photo")
    file.unlink()
    refused(r"holds no classes\.json.*data\.source has no class names", tmp_path / "photo")
    file.write_text('{"classes": ["dog", "horse", "mouse"]}')
    words = r"are not the source's: missing: house; extra: mouse; make both"
    refused(words, made / "shards" / "sketch", tmp_path / "photo")


def test_a_label_that_is_no_class(made):
    data = ready(stream(made / "shards" / "photo", classes=["dog", "horse"]))
    words = r"sample \d of .*photo/train/chunk.*is labelled 'house', which is no class; "
    with pytest.raises(DataError, match=words):
        batches(data)


def test_damaged_chunks(made, tmp_path):
    folder = copied(made, tmp_path)
    shards = ready(stream(folder)).found["source"].train.shards
    chunk = folder / "train" / shards.files.names[0]
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:600])
    with pytest.raises(DataError, match=r"sample 0 of .*is cut off; make the shards again"):
        shards[0]
    chunk.write_bytes(b"")
    with pytest.raises(DataError, match="is cut off"):
        shards[0]
    chunk.unlink()
    with pytest.raises(DataError, match=r"chunk .* is gone, or was never there"):
        shards[0]
    chunk.mkdir()
    with pytest.raises(DataError, match=r"cannot open chunk .*: Is a directory"):
        shards[0]
    chunk.rmdir()
    chunk.write_bytes(whole[:-1])
    remote = ready(stream(f"local:{folder}", cache_dir=str(tmp_path / "kept")))
    with pytest.raises(DataError, match=r"came with \d+ bytes, but index\.json says \d+; make"):
        remote.found["source"].train.shards[0]


def test_no_room_for_a_chunk(made, tmp_path, monkeypatch):
    data = ready(stream(f"local:{made}/shards/photo", cache_dir=str(tmp_path)))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tl_lightning.data.streaming.fetch.os.replace", full)
    with pytest.raises(DataError, match=r"cannot keep chunk .*No space left.*data\.cache_dir="):
        data.found["source"].train.shards[0]


def test_a_picture_that_cannot_be_decoded(made, tmp_path):
    root = domain_folders(tmp_path / "files")
    file = next((root / "photo" / "dog").iterdir())
    file.write_bytes(file.read_bytes()[:200])
    write_streams(files(root), tmp_path / "shards", CHUNK)
    domain = ready(stream(tmp_path / "shards" / "photo")).found["source"]
    words = r"cannot read picture sample \d+ of .*chunk-.*; make the shards again without it"
    with pytest.raises(DataError, match=words):
        everything(domain)


def everything(domain):
    for split in domain.splits().values():
        dataset = StreamDataset(split.shards, SPEC, Centre(SPEC))
        for place in range(len(split)):
            dataset.read(place)


def test_a_window_larger_than_the_room(made):
    words = r"data\.window=2 chunks of each domain take .* GB, but data\.cache_gb=2e-06.*type"
    refused(words, f"local:{made}/shards/photo", cache_gb=2e-6)


def test_what_a_stream_does_not_do(made):
    data = both(made)
    data.cache(CacheSettings("auto"), 10)
    assert not data.caches
    with pytest.raises(DataError, match=r"cache\.images=decoded would decode a whole stream"):
        data.cache(CacheSettings("decoded"), 10)
    with pytest.raises(DataError, match="read chunk by chunk, which finds no duplicates"):
        survey(data)
    with pytest.raises(DataError, match="read chunk by chunk"):
        augmentation_sheet(data, SPEC)


def test_adapting_without_a_target_says_what_to_type(made):
    given = cli.compose(["model=dann", "data=stream", "data.source.url=/a"])
    with pytest.raises(ConfigError, match=r"type data\.target\.url=<folder or address> or type"):
        validation.check(given)


# -- the writer ----------------------------------------------------------------------------------
def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_stream.py", *map(str, arguments)])
    write_shards.make_stream()


def test_the_command_writes_what_train_reads(engine, tmp_path, monkeypatch, capsys):
    root = domain_folders(tmp_path / "files")
    given = [f"data.{r}.domain={d}" for r, d in (("source", "photo"), ("target", "sketch"))]
    out = tmp_path / "shards"
    given += ["data=domains", f"data.root={root}", "data.batch_size=2", "chunk_mb=0.003"]
    command(monkeypatch, *given, f"out={out}")
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"stream: {out / 'photo'}", f"stream: {out / 'sketch'}"]
    assert "writing 30 pictures" in said.err
    assert ready(stream(out / "photo", out / "sketch")).classes == CLASSES
    assert sorted(path.name for path in out.iterdir()) == ["photo", "sketch"]
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *given, f"out={out}")
    assert "photo is there already; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=pacs"], "error: out is missing; type out=/a/folder"),
        (["out=/a", "chunk_mb=big"], "error: chunk_mb=big is no size above 0 and up to 4000"),
        (["out=/a", "chunk_mb=5000"], "error: chunk_mb=5000 is no size"),
        (["out=/a", "data=digits"], "holds its pictures in memory, and shards are made of files"),
    ],
)
def test_the_commands_errors(engine, monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments)
    assert words in capsys.readouterr().err


def test_the_same_pictures_give_the_same_bytes(made, tmp_path):
    write_streams(files(made / "files"), tmp_path, CHUNK)
    for path in (made / "shards").rglob("*"):
        again = tmp_path / path.relative_to(made / "shards")
        if path.is_file() and path.name != "index.json":  # which holds the time
            assert again.read_bytes() == path.read_bytes()


def test_chunks_mix_the_classes(made):
    shards = both(made).found["source"].train.shards
    first = [shards[place][2] for place in range(9)]
    assert len(set(first)) > 1
    assert first != sorted(first)


def test_what_is_no_stream(engine, made, tmp_path):
    root = made / "files"
    shifted = files(root, target={"root": None, "domain": None, "shift": SHIFT})
    with pytest.raises(DataError, match=r"the target of data=tiny is synthetic.*data\.target=null"):
        write_streams(shifted, tmp_path, CHUNK)
    few = files(root, target={"domain": "sketch", "labelled_per_class": 1})
    with pytest.raises(DataError, match=r"keeps the labels of some.*labelled_per_class=0"):
        write_streams(few, tmp_path, CHUNK)
    assert not list(tmp_path.iterdir())


def test_two_domains_of_one_name(engine, tmp_path):
    one = domain_folders(tmp_path / "one", ("photo",))
    two = domain_folders(tmp_path / "two", ("photo",))
    given = {"source": {"root": str(one), "domain": "photo"}}
    given |= {"target": {"root": str(two), "domain": "photo"}}
    found = write_streams(files(tmp_path, **given), tmp_path / "out", CHUNK)
    assert [path.name for path in found] == ["photo_source", "photo_target"]


def test_writing_that_fails_leaves_nothing(made, tmp_path, monkeypatch):
    data = files(made / "files")
    data.discover()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DataError, match=r"cannot write to .*file: .*; type another out="):
        write_streams(data, blocked, CHUNK)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("tl_lightning.data.streaming.writer.os.replace", full)
        with pytest.raises(DataError, match=r"cannot write .*photo: No space left.*make room"):
            write_streams(data, out, CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        with pytest.raises(DataError, match=r"cannot read picture .*No space left"):
            write_streams(data, out, CHUNK)
    assert not list(out.iterdir())
