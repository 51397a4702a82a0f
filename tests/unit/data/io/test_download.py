import errno
import hashlib
import io
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tl_lightning.data.io import download as module
from tl_lightning.data.io.download import download
from tl_lightning.errors import DataError
from tl_lightning.utils.files import locked

CONTENT = bytes(range(256)) * 400
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
SOURCE = {"elsewhere": "the moon"}


class Server(ThreadingHTTPServer):
    """Serve CONTENT; ``interruptions`` responses break half-way, ``resumes`` enables ranges."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.interruptions = 0
        self.resumes = True
        self.status = 200
        self.requested: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        byte_range = self.headers.get("Range")
        server.requested.append(byte_range)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if byte_range and server.resumes:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.interruptions:
            server.interruptions -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server, path, **kwargs):
    return download(
        server.url, path, **{"checksum": SHA256, "size": len(CONTENT), **SOURCE, **kwargs}
    )


def test_file_is_downloaded_once(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert fetch(server, path) == path
    assert path.read_bytes() == CONTENT
    assert not path.with_name("file.bin.part").exists()
    fetch(server, path)
    assert server.requested == [None]


def test_md5_and_unknown_size_are_supported(server, tmp_path):
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    assert fetch(server, tmp_path / "f", checksum=checksum, size=None).read_bytes() == CONTENT


def test_interrupted_connection_is_resumed(server, tmp_path):
    server.interruptions = 2
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.requested == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_partial_file_of_another_process_is_resumed(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.requested == ["bytes=1000-"]


def test_download_restarts_if_server_does_not_support_ranges(server, tmp_path):
    server.resumes = False
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_complete_partial_file_is_renamed(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_partial_file_of_another_version_is_discarded(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.requested == ["bytes=1000-", None]


def test_repeatedly_interrupted_connection(server, tmp_path):
    server.interruptions = 99
    message = (
        r"cannot download http.*: the connection broke; [\d,]+ bytes are kept and the next "
        r"attempt resumes there; get it from the moon and put it at .*/f$"
    )
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path / "f")
    server.interruptions = 0
    assert fetch(server, tmp_path / "f").read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    message = (
        r"is not the expected file: sha256 [0-9a-f]{64}, expected 00; it was removed; "
        r"get it from the moon and put it at .*/f$"
    )
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path / "f", checksum="sha256:00")
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "f.part").exists()


def test_wrong_size(server, tmp_path):
    with pytest.raises(DataError, match="not the expected file: 102,400 bytes, expected 5;"):
        fetch(server, tmp_path / "f", size=5)


def test_wrong_existing_file_is_refused_and_kept(server, tmp_path):
    (tmp_path / "f").write_bytes(b"half")
    with pytest.raises(
        DataError, match=r"/f is not the file from http.*: 4 bytes, expected 102,400; r"
    ):
        fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"half"
    assert server.requested == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4)])
def test_dead_link(server, tmp_path, status, requests):
    server.status = status
    message = (
        rf"cannot download http.*/file\.bin: HTTP {status} .*; "
        r"get it from the moon and put it at .*/f$"
    )
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path / "f")
    assert len(server.requested) == requests


def test_unreachable_server(server, tmp_path):
    server.server_close()
    with pytest.raises(
        DataError, match=r"cannot download http.*: URLError: .*; get it from the moon"
    ):
        fetch(server, tmp_path / "f")


def test_other_url_schemes_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="cannot download file:/etc/hosts: not an http or https add"
    ):
        download("file:/etc/hosts", tmp_path / "f", checksum=SHA256, size=None, **SOURCE)


def test_full_disk(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_fetch", full)
    with pytest.raises(
        DataError, match=r"the disk is full: .*/f\.part has 0 bytes and is kept; free some"
    ):
        fetch(server, tmp_path / "f")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*/file: .*; set data\.root="):
        download("http://127.0.0.1/x", tmp_path / "file" / "f", checksum="", size=1, **SOURCE)


def test_concurrent_downloads_send_one_request(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(server, tmp_path / "f")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requested == [None]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_lock_is_exclusive(tmp_path):
    seen = Counter()

    def work():
        with locked(tmp_path / "x"):
            seen["inside"] += 1
            seen["max"] = max(seen["max"], seen["inside"])
            seen["inside"] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["max"] == 1


def test_terminal_shows_progress_bar(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", screen := Terminal())
    fetch(server, tmp_path / "file.bin")
    assert "file.bin" in screen.getvalue()
