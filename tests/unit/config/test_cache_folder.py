"""A cache that another user has written is not an error; this user gets a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tl_lightning.config import cache_folder as module
from tl_lightning.config.schema import CacheConfig, cache_root


@pytest.fixture
def access(tmp_path, monkeypatch):
    """Folders of another user; everything else is writable."""
    foreign: set[Path] = set()
    module.writable_cache.cache_clear()
    monkeypatch.setattr(module, "_writable", lambda path: Path(path) not in foreign)
    monkeypatch.setattr(module, "_user", lambda: "eve")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TL_CACHE", str(tmp_path / "cache"))
    yield foreign
    module.writable_cache.cache_clear()


@pytest.mark.parametrize("exists", [False, True])
def test_an_own_cache_is_used(tmp_path, access, exists, capsys):
    if exists:
        (tmp_path / "cache" / "images" / "x").mkdir(parents=True)
    assert cache_root() == CacheConfig().root == tmp_path / "cache"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["images", "images/folder-x", "streams"])
def test_a_cache_with_folders_of_another_user(tmp_path, access, name, capsys):
    (tmp_path / "cache" / name).mkdir(parents=True)
    access.add(tmp_path / "cache" / name)
    for _ in range(2):
        assert cache_root() == CacheConfig().root == tmp_path / "cache" / "cache-eve"
    note = capsys.readouterr().err
    assert note.count("note: caches are written to ") == 1
    assert f"as {tmp_path / 'cache'} contains folders of another user" in note


def test_a_folder_that_is_not_writable_itself(tmp_path, access):
    (tmp_path / "cache").mkdir()
    access |= {tmp_path / "cache"}
    own = tmp_path / "home" / ".cache" / "tl_lightning"
    assert CacheConfig(dir=str(tmp_path / "cache")).root == own
    assert CacheConfig(dir=str(tmp_path / "cache" / "new")).root == own


def test_no_folder_is_writable(tmp_path, access):
    (tmp_path / "cache").mkdir()
    access |= {tmp_path, tmp_path / "cache"}
    assert cache_root() == tmp_path / "cache"


def test_folders_of_other_users_do_not_matter(tmp_path, access):
    (tmp_path / "cache" / "cache-adam" / "images").mkdir(parents=True)
    access |= {tmp_path / "cache" / "cache-adam", tmp_path / "cache" / "cache-adam" / "images"}
    assert cache_root() == tmp_path / "cache"


RUN = """
from tl_lightning.config.schema import cache_root
from tl_lightning.utils.files import locked
with locked(cache_root() / "images" / "x"):
    print(cache_root().name)
"""


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv",
)
def test_second_user(tmp_path):
    """Run without the privilege of root to write the files of others."""
    (tmp_path / "cache" / "images").mkdir(parents=True)
    for path in (tmp_path / "cache", tmp_path / "cache" / "images"):
        os.chown(path, 65534, 65534)
    (tmp_path / "cache").chmod(0o1777)
    privileges = "-dac_override,-dac_read_search,-fowner"
    child = subprocess.run(
        ["setpriv", f"--bounding-set={privileges}", f"--inh-caps={privileges}",
         sys.executable, "-c", RUN],
        env={**os.environ, "TL_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert child.stdout.startswith("cache-")
    assert "folders of another user" in child.stderr
