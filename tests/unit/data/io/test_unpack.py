import io
import stat
import tarfile
import zipfile

import pytest

from tl_lightning.data.io.download import extract
from tl_lightning.errors import DataError


def tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            if kind == "file":
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.SYMTYPE if kind == "symlink" else tarfile.LNKTYPE
                info.linkname = content
                archive.addfile(info)
    return path


def test_tar_is_unpacked(tmp_path):
    archive = tar(tmp_path / "a.tar", ("Images/x/1.jpg", b"1", "file"), ("Images/y", b"2", "file"))
    extract(archive, tmp_path / "all")
    assert (tmp_path / "all/Images/x/1.jpg").read_bytes() == b"1"
    extract(archive, tmp_path / "Images", inside="Images")
    assert (tmp_path / "Images/y").read_bytes() == b"2"
    assert extract(tmp_path / "gone.tar", tmp_path / "Images") == tmp_path / "Images"
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")} == {
        "a.tar",
        "all",
        "Images",
    }


def test_zip_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/1.txt", "1")
    assert (extract(tmp_path / "a.zip", tmp_path / "out", inside="in") / "1.txt").read_text() == "1"


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x", "file"),
        ("a/../../evil", b"x", "file"),
        ("link", "/etc/hosts", "symlink"),
        ("a/link", "../../evil", "symlink"),
        ("hard", "../evil", "hardlink"),
    ],
)
def test_tar_member_outside_the_folder_is_refused(tmp_path, member):
    inner = tmp_path / "deep"
    inner.mkdir()
    archive = tar(inner / "a.tar", ("fine", b"1", "file"), member)
    with pytest.raises(DataError, match=r"would be written outside .*; do not trust this archive"):
        extract(archive, inner / "out")
    remaining = {path.name for path in tmp_path.rglob("*") if not path.name.endswith(".lock")}
    assert remaining == {"deep", "a.tar"}


def test_absolute_path_in_a_tar_is_unpacked_inside_the_folder(tmp_path):
    outside = tmp_path / "evil"
    extract(tar(tmp_path / "a.tar", (str(outside), b"x", "file")), tmp_path / "out")
    assert not outside.exists()
    assert (tmp_path / "out" / str(outside).lstrip("/")).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil"])
def test_zip_member_outside_the_folder_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="would be written outside"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/hosts")
    with pytest.raises(DataError, match="contains 'link', which would be written outside"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_corrupt_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"cannot unpack .*/a\.tar: .*; remove it and try again, or"
    ):
        extract(tmp_path / "a.tar", tmp_path / "out")


def test_archive_without_the_expected_folder(tmp_path):
    archive = tar(tmp_path / "a.tar", ("other/1", b"1", "file"))
    with pytest.raises(DataError, match=r"a\.tar contains no folder 'Images'; remove it"):
        extract(archive, tmp_path / "Images", inside="Images")
    assert not (tmp_path / "Images").exists()
