"""tl-serve under load and under attack, over loopback: latencies, status codes, memory.

    python benchmarks/serve_load.py checkpoint=<run> images=<folder> [requests=2000] [clients=16]
                                    [part=load|attacks|all]
                                    [any setting of tl-serve]

Starts the server as its own process. The load sends one image file per request over kept
connections; every answer must name a class of the model and be the same for the same file. Then
come requests that a server must survive. After each, ``/health`` must answer and the resident
memory of the server (its peak, reset before each case where Linux allows it) is read. Needs Linux
for memory.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
MARK = "b0undary"
#: Of the attacked server, so that the slow clients do not take a minute.
UPLOAD_S = 10
GIGABYTE = 1_000_000_000


# -- server ------------------------------------------------------------------------------
class Server:
    """A tl-serve process at a free port."""

    def __init__(self, checkpoint: str, settings: list[str]) -> None:
        started = time.perf_counter()
        command = [sys.executable, str(REPO / "scripts" / "serve.py"), f"checkpoint={checkpoint}"]
        self.process = subprocess.Popen(
            [*command, "port=0", *settings], stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        for line in self.process.stderr or ():
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("".join(self.lines))
        threading.Thread(
            target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True
        ).start()
        while not self.alive():
            time.sleep(0.05)
        self.seconds = time.perf_counter() - started

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def alive(self) -> bool:
        try:
            return ask(self.connect(10), "GET", "/health")[0] == 200
        except OSError:
            return False

    def reset_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) // 1000  # type: ignore[index]

    def counts(self) -> dict[str, str]:
        text = ask(self.connect(), "GET", "/metrics", raw=True)[1].decode()
        return dict(line.split(" ") for line in text.splitlines() if not line.startswith("#"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None,
    headers: dict[str, str] | None = None, raw: bool = False,
) -> tuple[int, Any]:  # fmt: skip
    """Return status and body of a response; also where the server answers before the body ends."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer is read anyway
        connection.request(method, path, body, headers or {}, encode_chunked=True)
    if connection.sock is None:
        return 0, None
    response = http.client.HTTPResponse(connection.sock, method=method)
    response.begin()
    content = response.read()
    if response.will_close:
        connection.close()
    connection._HTTPConnection__state = "Idle"  # type: ignore[attr-defined]
    return response.status, content if raw else json.loads(content or b"null")


def form(content: bytes, name: str = "a.jpg") -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an upload."""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{MARK}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={MARK}"}


# -- load --------------------------------------------------------------------------------
def load(server: Server, files: list[bytes], requests: int, clients: int) -> None:
    """Send requests from several clients and print the distribution of their seconds."""
    labels: dict[int, set[str]] = {}
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    lock = threading.Lock()
    todo = iter(range(requests))

    def client() -> None:
        connection = server.connect()
        while True:
            with lock:
                number = next(todo, None)
            if number is None:
                return
            body, headers = form(files[number % len(files)])
            started = time.perf_counter()
            status, answer = ask(connection, "POST", "/predict", body, headers)
            took = time.perf_counter() - started
            with lock:
                statuses[status] += 1
                seconds.append(took)
                if status == 200:
                    label = answer["predictions"][0]["classes"][0]["name"]
                    labels.setdefault(number % len(files), set()).add(label)

    before, started = server.counts(), time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    after = server.counts()
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    batches = int(after["tl_batches_total"]) - int(before["tl_batches_total"])
    differing = sum(len(found) > 1 for found in labels.values())
    print(
        f"{requests} requests, {clients} at a time: {wall:.1f} s, "
        f"{requests / wall:.0f} per second; "
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, largest {1000 * ordered[-1]:.0f} ms\n"
        f"answers by status: {dict(statuses)}; lost: {requests - sum(statuses.values())}; "
        f"files with different classes: {differing} of {len(labels)}; samples per batch "
        f"{requests / max(1, batches):.1f}; peak memory {server.peak_mb()} MB; load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


# -- attacks -----------------------------------------------------------------------------
def png(width: int, height: int) -> bytes:
    """Return a valid grey PNG of zeros."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(
            ">I", zlib.crc32(name + content)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def upload(server: Server, content: bytes, name: str = "a.jpg") -> int:
    body, headers = form(content, name)
    return ask(server.connect(), "POST", "/predict", body, headers)[0]


def sent_json(server: Server, value: Any) -> int:
    headers = {"content-type": "application/json"}
    return ask(server.connect(), "POST", "/predict", json.dumps(value), headers)[0]


def zeros(total: int) -> Iterator[bytes]:
    block = bytes(1 << 20)
    for _ in range(total // len(block)):
        yield block


class Endless(io.RawIOBase):
    """A file of a given size that exists nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, 1 << 20 if size < 0 else size)
        self.left -= size
        return bytes(size)


def announced(server: Server) -> int:
    _, headers = form(b"")
    headers["content-length"] = str(GIGABYTE)
    return ask(server.connect(), "POST", "/predict", Endless(GIGABYTE), headers)[0]


def chunked(server: Server) -> int:
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    return ask(server.connect(), "POST", "/predict", zeros(GIGABYTE), headers)[0]


def slow(server: Server, start: bytes) -> int:
    """Send a byte per 0.2 s until the server answers; return the status."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(start)
        connection.settimeout(0.2)
        for _ in range(500):
            try:
                answer = connection.recv(1000)
                return int(answer.split()[1]) if answer else 0
            except TimeoutError:
                connection.sendall(b"a")
    return -1


def slow_body(server: Server) -> int:
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\ncontent-length: 9999\r\n"
    return slow(server, f"{head}content-type: application/json\r\n\r\n".encode())


def slow_head(server: Server) -> int:
    return slow(server, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nx: ")


def gone(server: Server, content: bytes, whole: bool) -> int:
    """Cut 50 connections, within the body or after it; return how many."""
    body, headers = form(content)
    for _ in range(50):
        connection = server.connect()
        connection.putrequest("POST", "/predict")
        for name, value in {**headers, "content-length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body if whole else body[: len(body) // 2])
        # With this option, closing sends a reset, as for a process that is killed.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return 50


def together(number: int, work: Callable[[int], int]) -> str:
    with ThreadPoolExecutor(number) as pool:
        found = Counter(pool.map(work, range(number)))
    return ", ".join(f"{count} x {status}" for status, count in sorted(found.items()))


def attacks(server: Server, files: list[bytes]) -> None:
    """Print what the server answers to requests that it must survive."""
    huge, large = png(30_000, 30_000), png(7_000, 7_000)
    noise = random.Random(0).randbytes(19_000_000)
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("a 30,000 x 30,000 PNG", lambda: upload(server, huge, "a.png")),
        ("16 of them at once", lambda: together(16, lambda _: upload(server, huge, "a.png"))),
        ("a 7,000 x 7,000 PNG (49 million pixels)", lambda: upload(server, large, "a.png")),
        ("16 of them at once", lambda: together(16, lambda _: upload(server, large, "a.png"))),
        ("a body of 1 GB, announced", lambda: announced(server)),
        ("a body of 1 GB, chunked", lambda: chunked(server)),
        ("32 bodies of 19 MB at once", lambda: together(32, lambda _: upload(server, noise))),
        ("a text file named .jpg", lambda: upload(server, b"not an image\n" * 100)),
        ("half of a JPEG", lambda: upload(server, files[0][: len(files[0]) // 2])),
        ("a path instead of bytes", lambda: sent_json(server, {"images": ["/etc/passwd"]})),
        ("an address instead of bytes", lambda: sent_json(server, {"images": ["http://localhost/"]})),
        ("a slow body", lambda: slow_body(server)),
        ("a slow head", lambda: slow_head(server)),
        ("50 clients killed within the body", lambda: gone(server, noise[:500_000], False)),
        ("50 clients killed while they wait", lambda: gone(server, files[0], True)),
    ]  # fmt: skip
    print(
        "\n| request | status | seconds | peak memory in MB | alive after it |\n"
        "|---|---|---:|---:|---|"
    )
    for name, case in cases:
        server.reset_peak()
        started = time.perf_counter()
        status = case()
        took = time.perf_counter() - started
        alive = "yes" if server.alive() and server.process.poll() is None else "NO"
        print(f"| {name} | {status} | {took:.1f} | {server.peak_mb()} | {alive} |", flush=True)
    started = time.perf_counter()
    while (
        waiting := int(server.counts()["tl_samples_waiting"])
    ) and time.perf_counter() < started + 20:
        time.sleep(0.05)
    print(f"\nsamples of killed clients after {time.perf_counter() - started:.1f} s: {waiting}")


def stopped(server: Server, files: list[bytes]) -> None:
    """Send SIGTERM while 16 requests are inside, and print what became of them."""
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(upload, server, files[k % len(files)]) for k in range(16)]
        while int(server.counts()["tl_samples_waiting"]) < 8 and not all(a.done() for a in answers):
            pass
        code = server.stop()
        found = Counter(answer.result() for answer in answers)
    print(f"SIGTERM while 16 requests are inside: {dict(found)}, exit code {code}")


def main() -> None:
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    checkpoint, folder = given.pop("checkpoint"), Path(given.pop("images"))
    requests, clients = (
        int(given.pop(key, default)) for key, default in (("requests", 2000), ("clients", 16))
    )
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // 200)]]
    part = given.pop("part", "all")
    settings = [f"{key}={value}" for key, value in given.items()]
    server = Server(checkpoint, [*settings, f"upload_s={UPLOAD_S}"])
    try:
        print(
            f"ready after {server.seconds:.1f} s, {server.peak_mb()} MB; {len(files)} image files"
        )
        if part in ("load", "all"):
            load(server, files, requests, clients)
        if part in ("attacks", "all"):
            attacks(server, files)
        stopped(server, files)
    finally:
        server.process.kill()
    print("log of the server:", *("".join(server.lines).splitlines() or ["nothing"]), sep="\n  ")


if __name__ == "__main__":
    main()
