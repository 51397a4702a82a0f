import numpy as np
import pytest
from PIL import Image

from layouts import digit_arrays, mnistm_png
from tl_lightning.data.io.mnistm_files import find_mnistm, fingerprint, read_mnistm
from tl_lightning.errors import DataError


@pytest.fixture
def folder(tmp_path):
    mnistm_png(tmp_path)
    return tmp_path


def colour_npz(path):
    arrays = digit_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = np.repeat(arrays[name][..., None], 3, axis=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def relist(folder, change):
    path = folder / "mnist_m_train_labels.txt"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("where", [".", "digits", "mnist_m", "MNIST-M", "mnistm"])
def test_the_published_images_are_read_in_the_order_of_their_lists(tmp_path, where):
    arrays = mnistm_png(tmp_path / where)
    digits = read_mnistm(find_mnistm(tmp_path))
    for name, expected in arrays.items():
        assert np.array_equal(getattr(digits, name), expected)


def test_npz_comes_before_images_and_the_root_before_its_folders(tmp_path):
    assert find_mnistm(tmp_path) is None
    mnistm_png(tmp_path / "mnist_m")
    assert find_mnistm(tmp_path) == tmp_path / "mnist_m"
    arrays = colour_npz(tmp_path / "mnist_m" / "mnistm.npz")
    assert find_mnistm(tmp_path) == tmp_path / "mnist_m" / "mnistm.npz"
    mnistm_png(tmp_path)
    assert find_mnistm(tmp_path) == tmp_path
    digits = read_mnistm(tmp_path / "mnist_m" / "mnistm.npz")
    assert np.array_equal(digits.x_train, arrays["x_train"])


def test_a_pickle_alone_is_an_error_that_says_how_to_convert_it(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "keras_mnistm.pkl").write_bytes(b"never opened")
    message = (
        r"digits/keras_mnistm\.pkl is a pickle, which could run any code and is not read; convert "
        r"it to .*digits/mnistm\.npz as described in conf/data/mnist_mnistm\.yaml, or remove it"
    )
    with pytest.raises(DataError, match=message):
        find_mnistm(tmp_path)
    colour_npz(tmp_path / "digits" / "mnistm.npz")
    assert find_mnistm(tmp_path) == tmp_path / "digits" / "mnistm.npz"


def test_grey_images_in_the_npz_are_an_error(tmp_path):
    np.savez(tmp_path / "mnistm.npz", **digit_arrays())
    message = (
        r"mnistm\.npz does not contain .*x_train is uint8 \(60, 28, 28\), not uint8 \(N, H, W, 3\)"
    )
    with pytest.raises(DataError, match=message):
        read_mnistm(tmp_path / "mnistm.npz")


@pytest.mark.parametrize("name", ["mnist_m_train_labels.txt", "mnist_m_test"])
def test_an_incomplete_set_is_an_error(folder, name):
    (folder / name).rename(folder / "elsewhere")
    message = (
        rf"{name} of the published MNIST-M is missing beside the rest.*extract mnist_m\.tar\.gz"
    )
    with pytest.raises(DataError, match=message):
        read_mnistm(find_mnistm(folder))


@pytest.mark.parametrize("line", ["a.png", "a.png 10", "a.png x", "a.png 1 2"])
def test_a_line_without_a_label_is_an_error(folder, line):
    relist(folder, lambda text: f"{text}{line}\n")
    message = (
        rf"labels\.txt contains the line '{line}', not '<file name> <label>' with a label of 0"
    )
    with pytest.raises(DataError, match=message):
        read_mnistm(folder)


def test_images_that_are_missing_or_of_another_size_are_errors(folder):
    relist(folder, lambda text: text + "absent.png 3\n")
    message = r"1 of 25 images listed in .*labels\.txt are not in .*mnist_m_train: absent\.png; "
    with pytest.raises(DataError, match=message):
        read_mnistm(folder)
    Image.new("RGB", (30, 28)).save(folder / "mnist_m_train" / "absent.png")
    message = r"absent\.png has 28 x 30 pixels, but \d+\.png has 32 x 32; extract mnist_m\.tar\.gz"
    with pytest.raises(DataError, match=message):
        read_mnistm(folder)
    relist(folder, lambda text: "\n")
    with pytest.raises(DataError, match=r"0 of 0 images .*: the list is empty; "):
        read_mnistm(folder)
    (folder / "mnist_m_train_labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read the list .*labels\.txt: "):
        read_mnistm(folder)


def test_the_fingerprint_follows_every_file(folder):
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    image = next((folder / "mnist_m_test").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    second = fingerprint(folder)
    assert second != first
    relist(folder, lambda text: text + "more.png 1\n")
    assert fingerprint(folder) != second
