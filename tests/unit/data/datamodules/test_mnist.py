import time

import numpy as np
import pytest
import torch

from layouts import digits_npz, photos, real_data
from tl_lightning.data.datamodules import mnist
from tl_lightning.data.datamodules.mnist import MnistToMnistM, MnistUsps
from tl_lightning.data.datamodules.mnistm import blend
from tl_lightning.data.datasets import open_picture
from tl_lightning.data.io.idx import read_mnist, read_usps
from tl_lightning.errors import DataError
from tl_lightning.types import InputSpec


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    photos(tmp_path / "data" / "bsds500" / "train")
    digits_npz(tmp_path / "data" / "digits" / "mnist.npz")
    digits_npz(tmp_path / "data" / "digits" / "usps.npz", side=16, train=40, seed=1)
    return tmp_path / "data"


def build(cls, root, **kwargs):
    settings = {
        "name": "digits",
        "batch_size": 8,
        "eval_batch_size": 16,
        "steps_per_epoch": None,
        "num_workers": 0,
        "augment": "none",
        "mix": {"mixup": 0.0, "cutmix": 0.0},
        "seed": 0,
        "pin_memory": False,
        "root": str(root),
        "download": False,
        "val_fraction": 1 / 12,
        "source": {"domain": "mnist"},
        "target": {"domain": "mnistm" if cls is MnistToMnistM else "usps"},
    }
    return cls(**{**settings, **kwargs})


def found(*args, **kwargs):
    data = build(*args, **kwargs)
    data.discover()
    return data.found


def test_mnist_to_mnistm(root):
    both = found(MnistToMnistM, root)
    digits = read_mnist(root, False)
    for domain in both.values():
        assert domain.classes == tuple("0123456789")
        assert (len(domain.train), len(domain.val), len(domain.test)) == (55, 5, 20)
        labels = np.concatenate([domain.train.labels, domain.val.labels])
        assert np.array_equal(labels, digits.y_train)
        assert labels.dtype == np.int64
        assert domain.train.pictures.shape == (55, 28, 28, 3)
        assert domain.train.pictures.dtype == np.uint8
        assert domain.train.names[:2] == ["train/00000", "train/00001"]
    source, target = both["source"], both["target"]
    assert np.array_equal(source.val.pictures[..., 1], digits.x_train[55:])
    pictures = [
        open_picture(path).permute(1, 2, 0).numpy()
        for path in sorted((root / "bsds500" / "train").glob("*.jpg"))
    ]
    expected = blend(digits.x_train, pictures, seed=0)
    assert np.array_equal(target.train.pictures, expected[:55])
    assert np.array_equal(target.test.pictures, blend(digits.x_test, pictures, seed=1))
    assert source.note == ""
    assert target.note.startswith("MNIST-M was built here by its paper's recipe from 3 photographs")


def test_mnistm_is_built_once(root, cache, monkeypatch):
    first = found(MnistToMnistM, root)["target"]
    kept = list(cache.glob("*.npz"))
    assert len(kept) == 1
    assert [p.suffix for p in cache.iterdir() if p not in kept] == [".lock"]

    def twice(*args, **kwargs):
        raise AssertionError("built twice")

    monkeypatch.setattr(mnist, "blend", twice)
    again = found(MnistToMnistM, root)["target"]
    assert np.array_equal(first.train.pictures, again.train.pictures)
    monkeypatch.undo()
    monkeypatch.setenv("TL_CACHE", str(cache))
    kept[0].write_bytes(kept[0].read_bytes()[:1000])
    mended = found(MnistToMnistM, root)["target"]
    assert np.array_equal(first.train.pictures, mended.train.pictures)
    photos(root / "bsds500" / "train", 4)
    found(MnistToMnistM, root)
    assert len(list(cache.glob("*.npz"))) == 2


def test_the_cache_is_below_home_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("TL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mnist.cache_root() == tmp_path / ".cache" / "tl_lightning"


def test_a_cache_that_cannot_be_written(root, cache, monkeypatch):
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot write to .*/cache: .*TL_CACHE"):
        found(MnistToMnistM, root)
    cache.unlink()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"cannot keep the built MNIST-M in .*: No space.*TL_CACHE"):
        found(MnistToMnistM, root)


def test_the_pairing_by_index_reaches_no_batch(root):
    """Digit i of both domains is one digit; the two samplers must not walk in step."""
    from tl_lightning.data.samplers.domain import DomainSampler

    orders = [
        [i for i, _ in DomainSampler(size=55, batch_size=11, num_batches=5, seed=0, domain=d)]
        for d in (0, 1)
    ]
    assert sum(a == b for a, b in zip(*orders, strict=True)) < 8


def test_loaders(root):
    data = build(MnistToMnistM, root)
    data.discover()
    data.attach(InputSpec(28, (0.5,) * 3, (0.5,) * 3), ("source", "target"), ("source",))
    source, target = (next(iter(loader)) for loader in data.val_dataloader())
    assert source["inputs"].shape == (5, 3, 28, 28)
    assert "labels" in source
    assert "labels" not in target
    assert "labels" in next(iter(data.test_dataloader()[1]))


def test_usps_is_enlarged(root):
    target = found(MnistUsps, root)["target"]
    raw = read_usps(root, False)
    assert (len(target.train), len(target.val), len(target.test)) == (37, 3, 20)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(raw.x_test)[:, None].float(), (28, 28), mode="bilinear"
    )
    got = target.test.pictures.transpose(0, 3, 1, 2).astype(np.float32)
    assert np.abs(got - expected.numpy()).max() <= 0.5


def test_the_other_way_round_and_alone(root):
    both = found(MnistUsps, root, source={"domain": "usps"}, target={"domain": "mnist"})
    assert (both["source"].name, both["target"].name) == ("usps", "mnist")
    assert list(found(MnistUsps, root, target=None)) == ["source"]


@pytest.mark.parametrize("place", mnist.BSDS_FOLDERS)
@pytest.mark.parametrize("beside", [False, True])
def test_photographs_in_every_place(tmp_path, place, beside):
    root = tmp_path / "root"
    digits_npz(root / "mnist.npz")
    photos((tmp_path if beside else root) / place, 5)
    assert "5 photographs" in found(MnistToMnistM, root)["target"].note


def test_nothing_found_lists_the_paths(tmp_path):
    words = (
        rf"MNIST \(mnist\.npz or the four idx files.*not found with data\.root={tmp_path}; tried: "
        rf"{tmp_path} \(other files\), {tmp_path}/digits \(absent\).*or data\.download=true"
    )
    with pytest.raises(DataError, match=words):
        found(MnistToMnistM, tmp_path)
    digits_npz(tmp_path / "mnist.npz")
    with pytest.raises(
        DataError, match=r"USPS \(usps\.npz, or usps\.bz2 and usps\.t\.bz2\) not found"
    ):
        found(MnistUsps, tmp_path)
    words = rf"photographs of BSDS500.*not found.*{tmp_path}/bsds500/train \(absent\).*fetch 71 MB"
    with pytest.raises(DataError, match=words):
        found(MnistToMnistM, tmp_path)


def test_wrong_domains(tmp_path):
    words = r"data\.target must be \{domain: <one of mnist, mnistm>\}, got .*usps.*"
    with pytest.raises(DataError, match=words):
        build(MnistToMnistM, tmp_path, target={"domain": "usps"})
    with pytest.raises(DataError, match=r"data\.source must be .*; did you mean 'mnist'\?"):
        build(MnistUsps, tmp_path, source={"domain": "minst"})
    with pytest.raises(DataError, match=r"data\.source must be"):
        build(MnistUsps, tmp_path, source={"domain": "mnist", "root": "x"})
    with pytest.raises(
        DataError, match=r"domain are both mnist: .*; type another data\.target\.dom"
    ):
        build(MnistUsps, tmp_path, target={"domain": "mnist"})


def test_a_share_out_of_range(tmp_path):
    with pytest.raises(
        DataError, match=r"must lie between 0 and 1, got 1\.5; .*data\.val_fraction="
    ):
        build(MnistUsps, tmp_path, val_fraction=1.5)


def test_download_of_the_photographs(tmp_path, monkeypatch):
    digits_npz(tmp_path / "mnist.npz")

    def extract(archive, folder, *, inside):
        assert (archive.name, folder.name, inside) == ("BSR_bsds500.tgz", "BSR", "BSR")
        photos(folder / "BSDS500/data/images/train")
        return folder

    monkeypatch.setattr(mnist, "fetch", lambda url, path, **kwargs: path)
    monkeypatch.setattr(mnist, "extract", extract)
    assert "3 photographs" in found(MnistToMnistM, tmp_path, download=True)["target"].note


@pytest.mark.parametrize("name", ["mnist_mnistm", "mnist_usps"])
def test_the_config_names_every_setting(root, name):
    from tl_lightning.config.compose import compose
    from tl_lightning.config.validation import check as validation
    from tl_lightning.training import build as building

    overrides = [f"data={name}", f"data.root={root}", "data.batch_size=8"]
    data = building.build_data(validation.check(compose(overrides)))
    data.discover()
    assert data.counts()["source/val"] == 5


@pytest.mark.real
def test_real_mnist_to_mnistm():
    real_data("bsds500")
    data = build(MnistToMnistM, real_data("digits"), target={"domain": "mnistm"})
    data.discover()
    assert list(data.counts().values()) == [55_000, 5_000, 10_000] * 2
    target = data.found["target"]
    assert "200 photographs" in target.note
    assert target.train.pictures.mean() == pytest.approx(107.1, abs=0.2)  # MNIST's own: 33.3.
    start = time.monotonic()
    build(MnistToMnistM, real_data("digits")).discover()
    assert time.monotonic() - start < 15  # From the cache, on any machine.


@pytest.mark.real
def test_real_usps():
    data = build(MnistUsps, real_data())
    data.discover()
    counts = data.counts()
    assert counts["target/train"] + counts["target/val"] == 7291
    assert counts["target/test"] == 2007
