"""Published models are loaded from the Hugging Face hub, or one sentence says why not."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from helpers import Payload
from layouts import serving
from tl_lightning.api.run import load
from tl_lightning.checkpoints.published import FILES
from tl_lightning.checkpoints.warm_start import checkpoint_of
from tl_lightning.errors import CheckpointError
from tl_lightning.inference.publish import publish

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(trained, tmp_path_factory.mktemp("hub") / "digits")


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve the model ``me/digits`` as the hub does, beside a pickle; yield the requests."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    files["pytorch_model.bin"] = pickle.dumps(Payload(tmp_path / "executed"))
    files["other/x.py"] = b"raise SystemExit"
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> tuple[int, bytes, dict[str, str]]:
            path = unquote(self.path).partition("?")[0]
            asked.append(path)
            api, name = "/api/models/me/digits", path.rpartition("/")[2]
            if path in (api, f"{api}/revision/main", f"{api}/revision/v1"):
                siblings = [{"rfilename": one} for one in files]
                found = {"id": "me/digits", "sha": COMMIT, "siblings": siblings}
                return 200, json.dumps(found).encode(), {"Content-Type": "application/json"}
            if path == f"{api}/tree/{COMMIT}":
                tree = [{"type": "file", "path": one, "size": len(data),
                         "oid": hashlib.sha1(data).hexdigest()}
                        for one, data in files.items()]  # fmt: skip
                return 200, json.dumps(tree).encode(), {"Content-Type": "application/json"}
            if path.startswith(f"/me/digits/resolve/{COMMIT}/") and name in files:
                etag = hashlib.sha1(files[name]).hexdigest()
                return 200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            code = "RevisionNotFound" if path.startswith(f"{api}/revision") else "RepoNotFound"
            return 404, b"", {"X-Error-Code": code}

        def do_HEAD(self) -> bytes:
            status, content, headers = self.answer()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            return content

        def do_GET(self) -> None:
            self.wfile.write(self.do_HEAD())

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with serving(Handler) as address:
        at(monkeypatch, address)
        yield asked


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Set the address of the hub."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    name = "HUGGINGFACE_CO_URL_TEMPLATE"
    rest = getattr(constants, name).partition("/{repo_id}")
    monkeypatch.setattr(constants, name, address + "".join(rest[1:]))


def test_a_model_on_the_hub_is_loaded(hub: list[str], folder: Path, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load("me/digits")(images), load(folder)(images))
    assert not [path for path in hub if path.endswith((".bin", ".py"))]
    snapshot = checkpoint_of(Path("me/digits@v1")).parent
    assert {file.name for file in snapshot.iterdir()} <= set(FILES)
    assert "/api/models/me/digits/revision/v1" in hub
    assert not (tmp_path / "executed").exists()


def test_a_revision_is_an_argument(hub: list[str]) -> None:
    load("me/digits", revision="v1")
    assert "/api/models/me/digits/revision/v1" in hub
    with pytest.raises(
        CheckpointError, match=r"checkpoint=me/digits@v2 .*: it has no such revision"
    ):
        load("me/digits", revision="v2")


def test_a_local_folder_wins(hub: list[str], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "me").mkdir()
    folder_copy = tmp_path / "me" / "digits"
    folder_copy.mkdir()
    for file in folder.iterdir():
        (folder_copy / file.name).write_bytes(file.read_bytes())
    load("me/digits")
    assert hub == []
    with pytest.raises(CheckpointError, match=r"me/digit is neither a checkpoint nor the folder"):
        load("me/digit")  # misspelt, since there is a folder me: nothing is asked of the hub
    assert hub == []


def test_a_model_that_does_not_exist(hub: list[str]) -> None:
    words = r"checkpoint=me/cats is neither a file or folder here .*: it does not exist there, or"
    with pytest.raises(CheckpointError, match=words):
        load("me/cats")


def test_a_model_of_another_library(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_lightning.checkpoints.hub.is_published", lambda folder: False)
    with pytest.raises(CheckpointError, match=r"but was not published by tl_lightning; set check"):
        load("me/digits")


def test_without_a_network_there_is_one_sentence(hub: list[str], monkeypatch) -> None:
    load("me/digits")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        at(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
    load("me/digits")  # downloaded before
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached, and it was not downl"):
        load("me/cats")
