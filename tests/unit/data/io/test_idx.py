import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from layouts import digits_idx, digits_npz, svhn_mat, usps_bz2
from tl_lightning.data.io.idx import read_mnist, read_svhn, read_usps
from tl_lightning.errors import DataError


@pytest.mark.parametrize("folder", [".", "digits", "MNIST", "mnist", "MNIST/raw", "raw"])
@pytest.mark.parametrize("file_format", ["npz", "idx", "gz", "dotted"])
def test_read_mnist_in_all_formats(tmp_path, folder, file_format):
    path = tmp_path / "root" / folder
    arrays = (
        digits_npz(path / "mnist.npz")
        if file_format == "npz"
        else digits_idx(path, packed=file_format == "gz", dotted=file_format == "dotted")
    )
    digits = read_mnist(tmp_path / "root", False)
    for name, expected in arrays.items():
        assert np.array_equal(getattr(digits, name), expected)


@pytest.mark.parametrize("folder", [".", "USPS", "usps", "digits"])
def test_read_usps_in_torchvision_format(tmp_path, folder):
    arrays = usps_bz2(tmp_path / "root" / folder)
    digits = read_usps(tmp_path / "root", False)
    for name, expected in arrays.items():
        got = getattr(digits, name)
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).max() <= 1
        assert got.dtype == np.uint8


@pytest.mark.parametrize("folder", [".", "SVHN", "svhn", "digits"])
def test_read_svhn_in_torchvision_format(tmp_path, folder):
    arrays = svhn_mat(tmp_path / "root" / folder)
    digits = read_svhn(tmp_path / "root", False)
    for name, expected in arrays.items():
        got = getattr(digits, name)
        assert np.array_equal(got, expected)
        assert got.dtype == np.uint8


def test_corrupt_svhn(tmp_path):
    svhn_mat(tmp_path)
    path = tmp_path / "train_32x32.mat"
    pixels, labels = np.zeros((32, 32, 3, 5), np.uint8), np.ones((5, 1), np.uint8)
    with pytest.raises(DataError, match=r"SVHN \(train_32x32\.mat and test_32x32\.mat\) not found"):
        read_svhn(tmp_path / "other", False)
    savemat(path, {"X": pixels})
    message = r"train_32x32\.mat does not contain .*X has shape \(32, 32, 3, 5\) and y \(\), not "
    with pytest.raises(DataError, match=message):
        read_svhn(tmp_path, False)
    savemat(path, {"X": pixels[..., 0], "y": labels})
    with pytest.raises(DataError, match=r"X has shape \(32, 32, 3\) and y \(5, 1\), not \(32, 32"):
        read_svhn(tmp_path, False)
    savemat(path, {"X": pixels.transpose(2, 0, 1, 3), "y": labels})
    message = r"x_train is uint8 \(5, 3, 32, 32\), not uint8 \(N, H, W, 3\)"
    with pytest.raises(DataError, match=message):
        read_svhn(tmp_path, False)
    savemat(path, {"X": pixels, "y": labels + 10})
    with pytest.raises(DataError, match="y_train has labels 11 to 11, not 0 to 9"):
        read_svhn(tmp_path, False)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cannot read .*train_32x32\.mat: "):
        read_svhn(tmp_path, False)


def test_corrupt_npz(tmp_path):
    path = tmp_path / "mnist.npz"
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(DataError, match=r"cannot read .*/mnist\.npz: "):
        read_mnist(tmp_path, False)
    path.write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"cannot read .*/mnist\.npz: .*; remove it and get another"
    ):
        read_mnist(tmp_path, False)
    arrays = digits_npz(path)
    np.savez(path, x_train=arrays["x_train"])
    message = (
        r"mnist\.npz does not contain the expected digits: y_train is missing; x_test is missing"
    )
    with pytest.raises(DataError, match=message):
        read_mnist(tmp_path, False)
    np.savez(path, **{**arrays, "x_train": arrays["x_train"] / 255.0})
    with pytest.raises(
        DataError, match=r"x_train is float64 \(60, 28, 28\), not uint8 \(N, H, W\)"
    ):
        read_mnist(tmp_path, False)
    np.savez(path, **{**arrays, "y_test": arrays["y_test"][:3]})
    message = r"y_test has shape \(3,\) for x_test of \(20, 28, 28\)"
    with pytest.raises(DataError, match=message):
        read_mnist(tmp_path, False)
    np.savez(path, **{**arrays, "y_test": arrays["y_test"] + 1})
    with pytest.raises(DataError, match="y_test has labels 1 to 10, not 0 to 9"):
        read_mnist(tmp_path, False)


def test_corrupt_idx(tmp_path):
    digits_idx(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot read .*t10k-images-idx3-ubyte: cannot reshape"):
        read_mnist(tmp_path, False)
    path.write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"cannot read .*t10k-images-idx3-ubyte: begins with b'<htm'"
    ):
        read_mnist(tmp_path, False)
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(b"x" * 99)[:20])
    with pytest.raises(DataError, match=r"cannot read .*ubyte\.gz: "):
        read_mnist(tmp_path, False)


def test_corrupt_usps(tmp_path):
    usps_bz2(tmp_path)
    (tmp_path / "usps.bz2").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"cannot read USPS in .*; remove usps\.bz2 and usps\.t\.bz2"
    ):
        read_usps(tmp_path, False)


@pytest.mark.parametrize("name", ["MNIST", "USPS", "SVHN"])
def test_download_by_torchvision(tmp_path, monkeypatch, name):
    import torchvision.datasets

    read = {"MNIST": read_mnist, "USPS": read_usps, "SVHN": read_svhn}[name]
    library = getattr(torchvision.datasets, name)

    def dead(*args, **kwargs):
        raise RuntimeError("Error downloading the file")

    monkeypatch.setattr(torchvision.datasets, name, dead)
    message = (
        rf"cannot download {name} .*: Error downloading the file; download it manually, put it in "
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, True)

    def fetch(root, train=True, download=False, split=""):
        if not download:
            return library(root, train=train)
        if name == "MNIST":
            digits_idx(Path(root) / "MNIST" / "raw")
        elif name == "SVHN":
            svhn_mat(Path(root))
        else:
            usps_bz2(Path(root))
        return None

    monkeypatch.setattr(torchvision.datasets, name, fetch)
    assert len(read(tmp_path, True).x_test) == 20
