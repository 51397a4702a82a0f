"""Only folders and files that this package has written and marked are removed."""

from __future__ import annotations

import os
import stat

import pytest

from tl_lightning.errors import DataError
from tl_lightning.utils.owned import MARK, draft_folder, is_owned, own, publish, remove_owned

FILES = ("data.bin", "*.part")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def filled(folder):
    own(folder)
    for name in ("data.bin", "1.part", "2.part"):
        (folder / name).write_text(name)
    return folder


def test_an_owned_folder_is_removed_with_its_files(tmp_path):
    remove_owned(filled(tmp_path / "a"), FILES)
    assert names(tmp_path) == []
    remove_owned(tmp_path / "a", FILES)


@pytest.mark.parametrize("other", ["notes.txt", "sub/data.bin", "data.bin.old"])
def test_files_of_others_stay_and_keep_their_folder(tmp_path, other):
    folder = filled(tmp_path / "a")
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_text("mine")
    remove_owned(folder, FILES)
    assert (folder / other).read_text() == "mine"
    assert names(folder) == sorted([MARK, other.split("/")[0]])


def test_a_folder_of_others_is_left_alone(tmp_path):
    folder = filled(tmp_path / "a")
    (folder / MARK).unlink()
    remove_owned(folder, FILES)
    assert len(names(folder)) == 3


def test_links_are_not_followed(tmp_path):
    folder = filled(tmp_path / "a")
    (tmp_path / "link").symlink_to(folder)
    assert not is_owned(tmp_path / "link")
    remove_owned(tmp_path / "link", FILES)
    assert len(names(folder)) == 4
    (tmp_path / "precious").write_text("mine")
    (folder / "3.part").symlink_to(tmp_path / "precious")
    remove_owned(folder, FILES)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_with_other_contents_is_not_marked(tmp_path):
    (tmp_path / "thesis.doc").write_text("mine")
    message = (
        r"exists, but was not written by tl_lightning; move it away, or set another folder for the "
        r"cache \(cache\.dir or the environment variable TL_CACHE\)"
    )
    with pytest.raises(DataError, match=message):
        own(tmp_path)
    assert names(tmp_path) == ["thesis.doc"]
    assert is_owned(own(own(tmp_path / "new" / "folder")))


def test_a_draft_is_as_accessible_as_other_folders_and_published_whole(tmp_path):
    before = os.umask(0o027)
    try:
        draft = draft_folder(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(draft.stat().st_mode) == 0o750
    (draft / "data.bin").write_text("new")
    publish(draft, tmp_path / "a", "data.bin")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == sorted([MARK, "data.bin"])


def test_publishing_keeps_the_files_of_others(tmp_path, monkeypatch):
    folder = own(tmp_path / "a")
    (folder / "notes.txt").write_text("mine")
    draft = filled(tmp_path / "a.x.tmp")
    moved = []
    plain = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: moved.append(new.name) or plain(old, new))
    publish(draft, folder, "1.part")
    assert moved[-1] == "1.part"
    assert names(tmp_path) == ["a"]
    assert (folder / "notes.txt").read_text() == "mine"
    draft = filled(tmp_path / "b.x.tmp")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data.bin").write_text("mine")
    with pytest.raises(DataError, match="was not written by tl_lightning"):
        publish(draft, tmp_path / "b", "data.bin")
    assert (tmp_path / "b" / "data.bin").read_text() == "mine"
