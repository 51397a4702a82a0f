"""A real server on loopback for tests, and small models to serve."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from tiny_texts import Letters
from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.serving.answers import Model
from tl_lightning.inference.serving.app import Service, create_app
from tl_lightning.inference.serving.server import bound, hosts_of, server_of
from tl_lightning.inference.serving.settings import ServeSettings
from tl_lightning.models.base import TransferModule
from tl_lightning.types import TextSpec, VectorSpec

MARK = "boundary"
#: Of the images of the three classes in the tests of the page.
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def settings(**given: Any) -> ServeSettings:
    return ServeSettings.of({"port": "0", **{key: str(value) for key, value in given.items()}})


class Client:
    """Sends requests to a server and returns status and body."""

    def __init__(self, port: int, service: Service) -> None:
        self.port = port
        self.service = service
        self.headers: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        connection.close()
        json_body = self.headers.get("content-type", "").startswith("application/json")
        return response.status, json.loads(content) if json_body else content

    def get(self, path: str) -> tuple[int, Any]:
        return self.ask("GET", path)

    def json(self, value: Any, path: str = "/predict") -> tuple[int, Any]:
        """Send a value as JSON, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value)
        return self.ask("POST", path, body, {"content-type": "application/json"})

    def files(self, *contents: bytes, path: str = "/predict", **fields: str) -> tuple[int, Any]:
        """Send files in a form."""
        parts = [f'name="file"; filename="{k}.png"\r\n\r\n'.encode() + one
                 for k, one in enumerate(contents)]  # fmt: skip
        parts += [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
        head = f"--{MARK}\r\nContent-Disposition: form-data; ".encode()
        body = b"".join(head + part + b"\r\n" for part in parts) + f"--{MARK}--\r\n".encode()
        return self.ask(
            "POST", path, body, {"content-type": f"multipart/form-data; boundary={MARK}"}
        )


@contextmanager
def served(
    predictor: Predictor, page: bool = False, precision: float | None = None, **given: Any
) -> Iterator[Client]:
    """Serve a model at a free port of loopback."""
    own = settings(**given)
    service = Service(Model.of(predictor, precision), own)
    with bound(own) as opened:
        app = create_app(service, hosts_of(opened, own))
        if page:
            from tl_lightning.inference.serving.demo import add_demo

            add_demo(app, service)
        with _running(server_of(app, own), opened):
            yield Client(opened.getsockname()[1], service)


@contextmanager
def _running(server: Any, opened: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Task:
    """Features and logits of a model that takes every sample for one of its classes."""

    rejection = None

    def __init__(self, forward: Callable[[Any], Any]) -> None:
        self.forward = forward

    def __call__(self, features: Any) -> Any:
        return self.forward(features)

    def rejects(self, features: Any, logits: Any) -> None:
        return None


def small(kind: str, classes: int = 3) -> Predictor:
    """Return a model of texts or vectors with random weights."""
    generator = torch.Generator().manual_seed(0)
    if kind == "texts":
        spec: Any = TextSpec(max_length=6, tokenizer=cast(Any, Letters()))
        table = torch.randn(512, 4, generator=generator)
        extract: Any = lambda ids: (table[ids.clamp(min=0) % 512] * (ids >= 0)[..., None]).sum(1)  # noqa: E731
    else:
        spec, extract = VectorSpec(width=4), lambda rows: rows
    weight = torch.randn(4, classes, generator=generator)
    module = SimpleNamespace(
        backbone=SimpleNamespace(input_spec=spec), classes=tuple("abcdefgh"[:classes]),
        device="cpu", set_batch_domains=lambda parts: None, extract=extract,
        task=Task(lambda features: (features, features @ weight)),
    )  # fmt: skip
    config = {
        "model": {"name": "dann"}, "data": {"name": kind, "root": "/home/me/secret"}, "seed": 0,
        "method": {"dann": {}}, "backbone": {"name": "/home/me/bert", "_target_": "a.TextBackbone"},
    }  # fmt: skip
    reliability = record(classes)
    stored = StoredModel(
        config, module.classes, {}, {}, {}, {}, {"fingerprint": "f"}, reliability
    )  # fmt: skip
    file = Path(__file__)  # something with a checksum
    return Predictor(file, stored, cast(TransferModule, module))


def record(classes: int) -> dict[str, Any]:
    """Return outputs on source validation, nine tenths of which are right, and more confident."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % classes
    logits = rng.normal(size=(300, classes))
    wrong = np.arange(300) % 10 == 0
    logits[np.arange(300), np.where(wrong, labels + 1, labels) % classes] += np.where(wrong, 2, 6)
    features = rng.normal(size=(300, 4)).astype(np.float32)
    return {
        "logits": torch.from_numpy(logits).half(), "labels": torch.from_numpy(labels),
        "features": torch.from_numpy(features).half(),
        "feature_labels": torch.from_numpy(labels), "temperature": 1.5, "adapted": False,
    }  # fmt: skip
