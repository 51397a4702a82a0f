"""A disk that is full when results are written: a message, nothing lost, and the rest later."""

from __future__ import annotations

import errno
import json

import pytest
from omegaconf import OmegaConf

from helpers import config
from tl_lightning.cli import train as command
from tl_lightning.errors import DataError
from tl_lightning.reporting.run import page
from tl_lightning.sweeps.page_writer import PageWriter
from tl_lightning.training import fit as training
from tl_lightning.training import results


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(*args, **kwargs):
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    training.fit(config("model=source_only"), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["write_text", "write_bytes"])
def test_page(finished, monkeypatch, name):
    path = page.write_page(finished)
    before = path.read_bytes()
    message = (
        r"the disk of .* is full, so its page was not written; the run is complete and its "
        r"report\.json and checkpoints are intact: free some disk space and run tl-report .*"
    )
    with monkeypatch.context() as patched:
        patched.setattr(page, name, full)
        with pytest.raises(DataError, match=message):
            page.write_page(finished)
        patched.setattr(page, name, broken)
        with pytest.raises(OSError, match="Input/output"):
            page.write_page(finished)
    assert path.read_bytes() == before
    path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(page, "write_bytes", broken)
        with pytest.raises(OSError, match="Input/output"):
            page.write_page(finished)
    assert not path.exists(), "a sweep writes the figures again only if there is no page"
    assert json.loads((finished / "report.json").read_text())["status"] == "finished"
    assert page.write_page(finished) == path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["write_json", "write_predictions", "np.savez_compressed"])
def test_results(tmp_path, monkeypatch, name):
    message = (
        r"the disk of .* is full, so the results were not written; the checkpoints are intact: "
        r"free some disk space and repeat the command with resume=auto hydra\.run\.dir="
    )
    with monkeypatch.context() as patched:
        patched.setattr(f"{results.__name__}.{name}", full)
        with pytest.raises(DataError, match=message):
            training.fit(config("model=source_only"), tmp_path)
    assert not (tmp_path / "report.json").exists()
    assert not list(tmp_path.glob("*.tmp*"))
    report = training.fit(config("model=source_only", "resume=auto"), tmp_path)
    assert report["status"] == "finished"
    page.write_page(tmp_path)


@pytest.mark.slow
def test_job_of_a_sweep_gets_its_page_later(finished, monkeypatch, capsys):
    """A job that was killed before its page, or whose disk was full, is not trained again."""
    path = page.write_page(finished)
    path.unlink()
    monkeypatch.setattr(command, "page_writer", PageWriter(background=False))
    monkeypatch.setattr(command, "wholly_finished", lambda folder, cfg: json.loads(
        (finished / "report.json").read_text()))  # fmt: skip
    cfg = OmegaConf.create(config("model=source_only"))
    with monkeypatch.context() as patched:
        patched.setattr(page, "write_text", full)
        command._job(cfg, finished, True, [])
    assert "so its page was not written" in capsys.readouterr().err
    assert not path.exists()
    command._job(cfg, finished, True, [])
    written = path.stat().st_mtime_ns
    command._job(cfg, finished, True, [])
    assert path.stat().st_mtime_ns == written
