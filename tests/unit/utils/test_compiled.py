"""C files that are compiled when they are first used."""

from __future__ import annotations

import shutil

import pytest

from tl_lightning.utils.compiled import compiled

SOURCE = "int changed(int x) { return 2 * x; }\n"
with_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.c"
    path.write_text(SOURCE)
    return path


@with_compiler
def test_compiled_once_for_each_version_of_the_file(source, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "new" / "folder"
    assert compiled(source, folder).changed(21) == 42
    assert len(list(folder.iterdir())) == 1
    source.write_text(SOURCE.replace("2 *", "3 *"))
    assert compiled(source, folder).changed(21) == 63
    monkeypatch.setenv("CC", "false")  # fails if it is called
    assert compiled(source, folder).changed(21) == 63
    source.write_text(SOURCE.replace("2 *", "4 *"))
    assert compiled(source, folder) is None


@with_compiler
def test_a_compiler_may_have_arguments(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CC", "env LANG=C cc")
    assert compiled(source, tmp_path / "folder").changed(21) == 42


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "cc '"])
def test_no_library_without_a_working_compiler(source, tmp_path, monkeypatch, compiler) -> None:
    monkeypatch.setenv("CC", compiler)
    assert compiled(source, tmp_path / "folder") is None
    assert list(tmp_path.glob("folder/*")) == []


@with_compiler
def test_no_library_if_the_file_does_not_compile(source, tmp_path) -> None:
    source.write_text("not C")
    assert compiled(source, tmp_path / "folder") is None
    assert list((tmp_path / "folder").iterdir()) == []


@with_compiler
def test_what_others_may_write_is_not_loaded(source, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "folder"
    assert compiled(source, folder) is not None
    monkeypatch.setenv("CC", "no-such-compiler")
    (library,) = folder.iterdir()
    for path in (folder, library):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        assert compiled(source, folder) is None
        path.chmod(mode)
    assert compiled(source, folder) is not None


@with_compiler
def test_a_damaged_library_is_compiled_again(source, tmp_path) -> None:
    compiled(source, tmp_path / "first")
    (library,) = (tmp_path / "first").iterdir()
    folder = tmp_path / "second"
    folder.mkdir(mode=0o700)
    damaged = folder / library.name
    damaged.write_bytes(b"damaged")
    damaged.chmod(0o700)
    assert compiled(source, folder).changed(21) == 42
