import time

import numpy as np
import pytest
import torch

from layouts import digits_npz, mnistm_png, photos, real_data, svhn_mat
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules import mnist
from tl_lightning.data.datamodules.mnist import MNISTDataModule
from tl_lightning.data.datamodules.mnistm import binarised, blend
from tl_lightning.data.datasets import open_image
from tl_lightning.data.io.idx import read_mnist, read_usps
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.errors import ConfigError, DataError
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


def build(root, target="mnistm", **kwargs):
    given = target if target is None or isinstance(target, dict) else {"domain": target}
    settings = {
        "name": "digits",
        "batch_size": 8,
        "eval_batch_size": 16,
        "steps_per_epoch": None,
        "sampling": "uniform",
        "target_sampling": "uniform",
        "num_workers": 0,
        "augment": "none",
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "seed": 0,
        "pin_memory": False,
        "root": str(root),
        "download": False,
        "val_fraction": 1 / 12,
        "source": {"domain": "mnist"},
        "target": given,
    }
    return MNISTDataModule(**{**settings, **kwargs})


def found(*args, **kwargs):
    data = build(*args, **kwargs)
    data.discover()
    return data.found


def test_mnist_to_mnistm_pixels_labels_and_splits(root):
    both = found(root)
    digits = read_mnist(root, False)
    for domain in both.values():
        assert domain.classes == tuple("0123456789")
        assert (len(domain.train), len(domain.val), len(domain.test)) == (55, 5, 20)
        labels = np.concatenate([domain.train.labels, domain.val.labels])
        assert np.array_equal(labels, digits.y_train)
        assert labels.dtype == np.int64
        assert domain.train.samples.shape == (55, 28, 28, 3)
        assert domain.train.samples.dtype == np.uint8
        assert domain.train.names[:2] == ["train/00000", "train/00001"]
    source, target = both["source"], both["target"]
    assert np.array_equal(source.val.samples[..., 1], digits.x_train[55:])
    images = [
        open_image(path).permute(1, 2, 0).numpy()
        for path in sorted((root / "bsds500" / "train").glob("*.jpg"))
    ]
    expected = blend(binarised(digits.x_train), images, seed=0)
    assert np.array_equal(target.train.samples, expected[:55])
    assert np.array_equal(target.test.samples, blend(binarised(digits.x_test), images, seed=1))
    assert source.note == ""
    assert target.note.startswith(
        "MNIST-M was generated from 3 photographs of BSDS500 as described"
    )


def test_strokes_of_mnistm_are_inverted_patches_up_to_their_faint_edges():
    rng = np.random.default_rng(0)
    digits = rng.choice(np.array([0, 1, 90, 255], dtype=np.uint8), (5, 8, 8))
    images = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)]
    patches = blend(np.zeros_like(digits), images, seed=3)
    made = blend(binarised(digits), images, seed=3)
    assert np.array_equal(made, np.where(digits[..., None] > 0, 255 - patches, patches))


def test_published_mnistm_is_used_in_place_of_a_generated_one(root, cache, monkeypatch):
    arrays = mnistm_png(root / "mnist_m")
    target = found(root)["target"]
    assert target.note == f"MNIST-M is the published set, read from {root / 'mnist_m'}"
    assert (len(target.train), len(target.val), len(target.test)) == (22, 2, 20)
    assert np.array_equal(target.test.labels, arrays["y_test"])
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float(),
        (28, 28),
        mode="bilinear",
        antialias=True,
    )
    got = target.test.samples.transpose(0, 3, 1, 2).astype(np.float32)
    assert np.abs(got - expected.numpy()).max() <= 0.5
    assert len(list(cache.glob("mnistm-published-*.npz"))) == 1

    def not_cached(*args, **kwargs):
        raise AssertionError("decoded twice")

    monkeypatch.setattr(mnist, "read_mnistm", not_cached)
    assert np.array_equal(found(root)["target"].train.samples, target.train.samples)


def test_published_npz_is_used(root, cache):
    arrays = {name: np.zeros((20, 28, 28, 3), np.uint8) for name in ("x_train", "x_test")}
    arrays |= {name: np.arange(20, dtype=np.uint8) % 10 for name in ("y_train", "y_test")}
    np.savez(root / "mnistm.npz", **arrays)
    target = found(root)["target"]
    assert target.note == f"MNIST-M is the published set, read from {root / 'mnistm.npz'}"
    assert not target.test.samples.any()
    assert not cache.exists() or not list(cache.glob("*.npz"))


def test_svhn_is_resized_and_a_domain_of_either_side(root, monkeypatch):
    arrays = svhn_mat(root / "svhn")
    monkeypatch.setattr(mnist, "CHUNK", 7)
    source = found(root, "mnist", source={"domain": "svhn"})["source"]
    assert (source.name, len(source.train), len(source.val)) == ("svhn", 37, 3)
    assert source.train.samples.shape == (37, 28, 28, 3)
    assert np.array_equal(source.test.labels, arrays["y_test"])
    assert found(root, "svhn")["target"].test.samples.mean() == pytest.approx(127.5, abs=3)


def test_mnistm_is_cached(root, cache, monkeypatch):
    first = found(root)["target"]
    cached = list(cache.glob("*.npz"))
    assert len(cached) == 1
    assert [p.suffix for p in cache.iterdir() if p not in cached] == [".lock"]

    def not_cached(*args, **kwargs):
        raise AssertionError("generated twice")

    monkeypatch.setattr(mnist, "blend", not_cached)
    again = found(root)["target"]
    assert np.array_equal(first.train.samples, again.train.samples)
    monkeypatch.undo()
    monkeypatch.setenv("TL_CACHE", str(cache))
    cached[0].write_bytes(cached[0].read_bytes()[:1000])
    repaired = found(root)["target"]
    assert np.array_equal(first.train.samples, repaired.train.samples)
    photos(root / "bsds500" / "train", 4)
    found(root)
    assert len(list(cache.glob("*.npz"))) == 2


def test_default_cache_is_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("TL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mnist.cache_root() == tmp_path / ".cache" / "tl_lightning"


def test_unwritable_cache_is_an_error(root, cache, monkeypatch):
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"cannot write to .*/cache: .*TL_CACHE"):
        found(root)
    cache.unlink()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        DataError, match=r"cannot save MNIST-M to .*: No space.*free some.*TL_CACHE"
    ):
        found(root)


def test_domains_have_independent_sample_orders(root):
    """Digit i is the same in both domains, which batches must not reveal."""
    from tl_lightning.data.samplers.domain import DomainSampler

    orders = [
        [i for i, _ in DomainSampler(size=55, batch_size=11, num_batches=5, seed=0, domain=d)]
        for d in (0, 1)
    ]
    assert sum(a == b for a, b in zip(*orders, strict=True)) < 8


def test_target_validation_batches_have_no_labels(root):
    data = build(root)
    data.discover()
    data.prepare(ModelNeeds(InputSpec(28, (0.5,) * 3, (0.5,) * 3)))
    source, target = (next(iter(loader)) for loader in data.val_dataloader())
    assert source["inputs"].shape == (5, 3, 28, 28)
    assert "labels" in source
    assert "labels" not in target
    assert "labels" in next(iter(data.test_dataloader()[1]))


def test_usps_is_resized(root):
    target = found(root, "usps")["target"]
    raw = read_usps(root, False)
    assert (len(target.train), len(target.val), len(target.test)) == (37, 3, 20)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(raw.x_test)[:, None].float(), (28, 28), mode="bilinear"
    )
    got = target.test.samples.transpose(0, 3, 1, 2).astype(np.float32)
    assert np.abs(got - expected.numpy()).max() <= 0.5


def test_usps_to_mnist_and_source_alone(root):
    both = found(root, "mnist", source={"domain": "usps"})
    assert (both["source"].name, both["target"].name) == ("usps", "mnist")
    assert list(found(root, None)) == ["source"]


@pytest.mark.parametrize("folder", mnist.BSDS_FOLDERS)
@pytest.mark.parametrize("beside", [False, True])
def test_photographs_are_found(tmp_path, folder, beside):
    root = tmp_path / "root"
    digits_npz(root / "mnist.npz")
    photos((tmp_path if beside else root) / folder, 5)
    assert "5 photographs" in found(root)["target"].note


def test_missing_datasets_are_errors_with_the_paths_tried(tmp_path):
    message = (
        rf"MNIST \(mnist\.npz or the four idx files.*not found with data\.root={tmp_path}; tried: "
        rf"{tmp_path} \(other files\), {tmp_path}/digits \(absent\).*or data\.download=true"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    digits_npz(tmp_path / "mnist.npz")
    with pytest.raises(
        DataError, match=r"USPS \(usps\.npz, or usps\.bz2 and usps\.t\.bz2\) not found"
    ):
        found(tmp_path, "usps")
    message = (
        rf"photographs of BSDS500.*not found.*{tmp_path}/bsds500/train \(absent\).*fetch 71 MB"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path)


def test_invalid_domains_are_errors(tmp_path):
    message = r"data\.target\.domain=emnist is not one of mnist, mnistm, usps, svhn, digits; did"
    with pytest.raises(DataError, match=message):
        build(tmp_path, "emnist")
    message = r"data\.source\.domain=minst is not one of .*; did you mean 'mnist'\?"
    with pytest.raises(DataError, match=message):
        build(tmp_path, source={"domain": "minst"})
    with pytest.raises(DataError, match=r"data\.source has no key 'root'; valid: domain"):
        build(tmp_path, source={"domain": "mnist", "root": "x"})
    with pytest.raises(DataError, match=r"data\.target lacks domain; set data\.target\.domain="):
        build(tmp_path, {})
    with pytest.raises(
        DataError, match=r"domain are both mnist; set another data\.target\.domain, or"
    ):
        build(tmp_path, "mnist")
    with pytest.raises(DataError, match=r"source\.domain=\[usps,usps\] must name at least one set"):
        build(tmp_path, source={"domain": ["usps", "usps"]})
    with pytest.raises(DataError, match=r"source\.domain=\[\] must name at least one set"):
        build(tmp_path, source={"domain": []})


def test_several_sets_keep_their_names(root):
    source = found(root, source={"domain": ["mnist", "usps", "digits"]})["source"]
    assert source.name == "mnist+usps+digits"
    assert source.domains == ("mnist", "usps", "digits")
    alone = {name: found(root, source={"domain": name})["source"] for name in source.domains}
    for split, part in source.splits().items():
        for number, (name, one) in enumerate(alone.items()):
            own = one.splits()[split]
            kept = part.subset(np.flatnonzero(part.domains == number).tolist())
            assert kept.names == [f"{name}/{other}" for other in own.names]
            assert np.array_equal(kept.samples, own.samples)
            assert np.array_equal(kept.labels, own.labels)
            assert own.domains is None


def test_incomplete_or_unknown_augmentation_is_an_error(tmp_path):
    complete = {"shift": 1, "zoom": 0.1, "shear": 0.1, "contrast": 0.5, "invert": 0.5}
    message = r"data\.augment has no key 'rotate'; valid: contrast, invert, shear, shift, zoom"
    with pytest.raises(DataError, match=message):
        build(tmp_path, augment={**complete, "rotate": 1})
    del complete["zoom"]
    with pytest.raises(
        DataError, match=r"data\.augment lacks zoom; set data\.augment\.zoom=<value>"
    ):
        build(tmp_path, augment=complete)


@pytest.mark.parametrize("fraction", [0, 1.5])
def test_fraction_out_of_range_is_an_error(fraction):
    message = rf"data\.val_fraction={fraction} is not a number in \(0, 1\]; set data\.val_fraction="
    with pytest.raises(ConfigError, match=message):
        validation.check(compose(["data=mnist_usps", f"data.val_fraction={fraction}"]))


def test_photographs_are_downloaded(tmp_path, monkeypatch):
    digits_npz(tmp_path / "mnist.npz")

    def extract(archive, folder, *, inside):
        assert (archive.name, folder.name, inside) == ("BSR_bsds500.tgz", "BSR", "BSR")
        photos(folder / "BSDS500/data/images/train")
        return folder

    monkeypatch.setattr(mnist, "fetch", lambda url, path, **kwargs: path)
    monkeypatch.setattr(mnist, "extract", extract)
    assert "3 photographs" in found(tmp_path, download=True)["target"].note


@pytest.mark.parametrize("name", ["mnist_mnistm", "mnist_usps"])
def test_configuration_builds_the_data_module(root, name):
    overrides = [f"data={name}", f"data.root={root}", "data.batch_size=8"]
    data = validation.check(compose(overrides)).data.build()
    data.discover()
    assert data.counts()["source/val"] == 5


@pytest.mark.slow
@pytest.mark.real
def test_real_mnist_to_mnistm_counts_and_mean():
    real_data("bsds500")
    data = build(real_data("digits"))
    data.discover()
    assert list(data.counts().values()) == [55_000, 5_000, 10_000] * 2
    target = data.found["target"]
    assert "200 photographs" in target.note
    assert target.train.samples.mean() == pytest.approx(114.8, abs=0.2)  # 33.3 for MNIST.
    start = time.monotonic()
    build(real_data("digits")).discover()
    assert time.monotonic() - start < 15  # From the cache, on any machine.


@pytest.mark.real
def test_real_usps_counts():
    data = build(real_data(), "usps")
    data.discover()
    counts = data.counts()
    assert counts["target/train"] + counts["target/val"] == 7291
    assert counts["target/test"] == 2007
