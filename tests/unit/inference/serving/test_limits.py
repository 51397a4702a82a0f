"""Slow, large, many and vanishing requests, and the end of the server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPO
from serving import Client, served, settings, small
from tl_lightning.cli.serve import start
from tl_lightning.errors import ConfigError
from tl_lightning.inference.serving.server import bound, hosts_of, is_loopback

VECTOR = {"vectors": [[1, 2, 3, 4]]}


def slowly(model: Any, seconds: float, entered: threading.Event | None = None) -> None:
    """Let every batch of a model take a while."""
    task = model.module.task.forward

    def slow(features: Any) -> Any:
        if entered is not None:
            entered.set()
        time.sleep(seconds)
        return task(features)

    model.module.task.forward = slow


def head(client: Client, length: str, kind: str = "application/json") -> bytes:
    lines = [
        "POST /predict HTTP/1.1", f"Host: 127.0.0.1:{client.port}", f"Content-Type: {kind}", length,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answered(client: Client, *parts: bytes, pause: float = 0.0) -> tuple[int, Any]:
    """Send parts of a request until the server answers; return status and body."""
    with socket.create_connection(("127.0.0.1", client.port), 20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except ConnectionError:
            pass
        response = http.client.HTTPResponse(connection)
        response.begin()
        content = response.read()
    return response.status, json.loads(content) if content else None


# -- size --------------------------------------------------------------------------------
def test_a_large_body_is_refused_before_it_is_read() -> None:
    with served(small("vectors"), max_mb=0.1) as client:
        status, body = answered(client, head(client, "Content-Length: 1000000000"))
        assert (status, body["error"]) == (413, "body_too_large")
        wait_until(lambda: client.service.worker.inside == 0)


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with served(small("vectors"), max_mb=0.1) as client:
        begin = head(client, "Transfer-Encoding: chunked")
        status, body = answered(client, begin, *[chunk] * 40)
        assert (status, body["error"]) == (413, "body_too_large")
        fine = b"%x\r\n%s\r\n0\r\n\r\n" % (29, b'{"vectors": [[1, 2, 3, 4.0]]}')
        assert answered(client, begin, fine)[0] == 200


def test_all_bodies_together_are_bounded() -> None:
    with served(small("vectors"), max_mb=0.1, max_buffered_mb=0.15) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as first:
            first.sendall(head(client, "Content-Length: 90000"))
            time.sleep(0.2)
            padded = json.dumps(VECTOR).encode() + b" " * 80_000
            status, body = client.json(padded)
            assert (status, body["error"]) == (503, "busy")
            assert int(client.headers["retry-after"]) >= 1
        wait_until(lambda: client.json(padded)[0] == 200)


# -- time --------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_slow_body_is_given_up() -> None:
    with served(small("vectors"), upload_s=0.5) as client:
        started = time.monotonic()
        status, body = answered(
            client, head(client, "Content-Length: 1000"), *[b"a"] * 8, pause=0.1
        )
        assert (status, body["error"]) == (408, "upload_too_slow")
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_slow_head_is_given_up_also_in_a_kept_connection() -> None:
    with served(small("vectors"), upload_s=0.5) as client:
        assert answered(client, *[b"G", b"E", b"T"] * 3, pause=0.1)[0] == 408
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        connection.sock.sendall(b"GET /hea")
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


@pytest.mark.slow
def test_a_slow_model_is_reported_and_not_ready_while_it_hangs() -> None:
    model = small("vectors")
    slowly(model, 2.0)
    with served(model, timeout_s=0.2) as client:
        status, body = client.json(VECTOR)
        assert (status, body["error"]) == (504, "too_slow")
        wait_until(lambda: client.get("/health")[0] == 503, 1.5)
        wait_until(lambda: client.get("/health")[0] == 200)


# -- number ------------------------------------------------------------------------------
def test_requests_are_predicted_in_batches_and_keep_their_answers() -> None:
    model = small("vectors")
    slowly(model, 0.05)
    rows = np.random.default_rng(0).normal(size=(60, 4)).round(3).tolist()
    with served(model, max_batch=8) as client, ThreadPoolExecutor(12) as pool:
        many = [Client(client.port, client.service) for _ in rows]
        found = list(pool.map(lambda one, row: one.json({"vectors": [row]}), many, rows))
        counts = client.service.worker.counts
        assert counts.samples == 60
        assert 60 / 8 <= counts.batches < 30
    assert [status for status, _ in found] == [200] * 60
    expected = small("vectors").outputs(model.vectors(np.array(rows, np.float32))).logits
    labels = [model.classes[k] for k in expected.argmax(axis=1)]
    assert [body["predictions"][0]["label"] for _, body in found] == labels


@pytest.mark.slow
def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    model = small("vectors")
    entered = threading.Event()
    slowly(model, 0.5, entered)
    with served(model, max_queue=2, max_batch=1, max_inputs=2) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(
                Client(client.port, client.service).json, {"vectors": [[1] * 4] * 2}
            )
            entered.wait(10)
            status, body = client.json(VECTOR)
            assert (status, body["error"]) == (503, "busy")
            assert client.headers["retry-after"] == "1"
            assert first.result()[0] == 200
        assert client.json(VECTOR)[0] == 200


@pytest.mark.slow
def test_samples_of_clients_that_have_gone_are_not_predicted() -> None:
    model = small("vectors")
    entered = threading.Event()
    slowly(model, 0.5, entered)
    body = json.dumps(VECTOR).encode()
    with served(model, max_batch=1) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(Client(client.port, client.service).json, VECTOR)
            entered.wait(10)
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", client.port)) as connection:
                    connection.sendall(head(client, f"Content-Length: {len(body)}") + body)
            assert first.result()[0] == 200
        wait_until(lambda: client.service.worker.inside == 0)
        assert client.service.worker.counts.samples <= 2
        assert client.json(VECTOR)[0] == 200


def test_a_failing_model_is_an_error_without_a_traceback() -> None:
    model = small("vectors")

    def fail(features: Any) -> Any:
        raise RuntimeError("secret of this machine")

    task = model.module.task
    working, task.forward = task.forward, fail  # type: ignore[method-assign]
    with served(model) as client:
        status, body = client.json(VECTOR)
        assert (status, body["error"]) == (500, "internal_error")
        assert "secret" not in json.dumps(body)
        task.forward = working  # type: ignore[method-assign]
        assert client.json(VECTOR)[0] == 200


# -- address -----------------------------------------------------------------------------
def test_a_web_page_cannot_use_the_server_under_another_name() -> None:
    with served(small("vectors")) as client:
        for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", ""):
            answer = client.ask("GET", "/health", headers={"Host": host})
            assert (answer[0], answer[1]["error"]) == (421, "unknown_host")
        for host in ("localhost", f"LOCALHOST:{client.port}", "[::1]:80", "127.0.0.1"):
            assert client.ask("GET", "/health", headers={"Host": host})[0] == 200


def test_only_loopback_is_restricted_to_names() -> None:
    own = settings(host="0.0.0.0")
    with bound(own) as opened:
        assert not is_loopback(opened)
        assert hosts_of(opened, own) is None


def test_a_port_in_use_and_other_machines_addresses_are_errors() -> None:
    with bound(settings()) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen at port={port} of 127.*port=0 for"):
            bound(settings(port=port))
    for host in ("no.such.host.invalid", "203.0.113.7"):
        with pytest.raises(ConfigError, match=rf"host={host} is not .* of this machine; set host="):
            bound(settings(host=host))


# -- end ---------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_inside_are_answered_after_a_signal(number: int, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(REPO / 'tests')!r})\n"
        "from serving import *\n"
        "from tl_lightning.inference.serving.server import address, serve\n"
        "from tl_lightning.inference.serving.start import *\n"
        "own = settings()\nmodel = small('vectors')\ntask = model.module.task.forward\n"
        "model.module.task.forward = lambda x: (time.sleep(1.5), task(x))[1]\n"
        "service = Service(Model.of(model, None), own)\nopened = bound(own)\n"
        "print(opened.getsockname()[1], flush=True)\nserve(create_app(service), opened, own)\n"
        "print('ended')\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        client = Client(int(process.stdout.readline()), None)  # type: ignore[arg-type]
        wait_until(lambda: client.get("/health")[0] == 200, 60)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.json, VECTOR)
            time.sleep(0.5)
            process.send_signal(number)
            assert answer.result()[0] == 200
        assert process.wait(20) == 0
        assert process.stdout.read() == "ended\n"
    with pytest.raises(ConnectionRefusedError):
        client.get("/health")


def wait_until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except ConnectionError:
            pass
        assert time.monotonic() < end
        time.sleep(0.02)


# -- command -----------------------------------------------------------------------------
@pytest.mark.parametrize(("arguments", "message"), [
    (["prot=8000"], "prot is not an option; did you mean 'port'"),
    ([], r"checkpoint is missing; set checkpoint=<run folder or file\.ckpt>"),
    (["port=1", "port=2"], "port is given more than once; set port only once"),
    (["checkpoint=a", "port=http"], "port=http is not a whole number; set port=8000"),
    (["checkpoint=a", "port=70000"], "port=70000 is more than 65535; set port=8000"),
    (["checkpoint=a", "max_batch=0"], "max_batch=0 is not above 0; set max_batch=32"),
    (["checkpoint=a", "timeout_s=inf"], "timeout_s=inf is not a finite number"),
    (["checkpoint=a", "timeout_s=-1"], "timeout_s=-1 is less than 0"),
    (["checkpoint=a", "max_mb=0"], "max_mb=0 is not above 0"),
    (["checkpoint=a", "precision=95"], "precision=95 is not a fraction between 0 and 1; set prec"),
    (["checkpoint=a", "host="], "host= is empty"),
    (["checkpoint=a", "max_mb=500"], "max_mb=500.0 is more than max_buffered_mb=200, so that such"),
    (["checkpoint=a", "max_pixels=999999999"], "max_pixels=999999999 is more than 178956970"),
    (["checkpoint=a", "port=0"], "checkpoint=a is neither a checkpoint nor the folder of a run"),
])  # fmt: skip
def test_arguments_that_are_not_valid(arguments: list[str], message: str) -> None:
    from tl_lightning.errors import TransferError

    with pytest.raises(TransferError, match=message):
        start(arguments, demo=False)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"serve\.py needs the package {package}; run pip install 'tl_lightning\[serve\]'"
    with pytest.raises(ConfigError, match=message):
        start(["checkpoint=a"], demo=False)
