"""The server process: its socket, its connections and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from h11 import IDLE
from uvicorn.protocols.http.h11_impl import H11Protocol

from tl_lightning.errors import ConfigError
from tl_lightning.inference.serving.limits import LOOPBACK
from tl_lightning.inference.serving.settings import ServeSettings

__all__ = ["address", "bound", "hosts_of", "is_loopback", "serve", "server_of"]

#: Largest number of connections; more get 503.
CONNECTIONS = 512


def bound(settings: ServeSettings) -> socket.socket:
    """Return a socket bound to the server's address, which does not accept connections yet.

    Raises:
        ConfigError: If the host is not an address of this machine, or the port cannot be used.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )  # fmt: skip
    except (OSError, UnicodeError):
        raise ConfigError(
            f"host={host} is not a name or address of this machine; set host=127.0.0.1"
        ) from None
    family, kind, protocol, _, where = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        # Two sockets may be bound until one of them listens.
        opened.listen(2048)
    except OSError as error:
        opened.close()
        reason = str(error.strerror)
        if error.errno in _UNAVAILABLE:
            message = f"host={host} is not an address of this machine; set host=127.0.0.1"
        else:
            message = (
                f"cannot listen at port={port} of {host}: {reason.lower()}; set port=<another one>"
                ", or port=0 for any free one"
            )
        raise ConfigError(message) from None
    return opened


def _errors(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_UNAVAILABLE = _errors("EADDRNOTAVAIL", "WSAEADDRNOTAVAIL")


def address(opened: socket.socket) -> str:
    """Return the address of a bound socket for a browser."""
    host, port = opened.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(opened: socket.socket) -> bool:
    """Return whether only programs on this machine can connect."""
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def hosts_of(opened: socket.socket, settings: ServeSettings) -> tuple[str, ...] | None:
    """Return the names under which a server at loopback answers; None for others: any name."""
    if not is_loopback(opened):
        return None
    own = settings.host.lower()
    return tuple(dict.fromkeys((*LOOPBACK, f"[{own}]" if ":" in own else own)))


class _Protocol(H11Protocol):  # type: ignore[misc]
    """Closes connections on which no complete head of a request arrives in time.

    uvicorn has a limit for connections between two requests only.
    """

    head_s = 60.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait as long as no request is complete."""
        super().data_received(data)
        if self.conn.their_state is IDLE:
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.conn.their_state is IDLE and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()


def serve(app: Any, opened: socket.socket, settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests that have arrived.

    Raises:
        KeyboardInterrupt: After a second Ctrl-C, which does not wait for them.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # It has a line about every form that is not valid.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    server = server_of(app, settings)
    server.run(sockets=[opened])
    if server.force_exit:
        raise KeyboardInterrupt


def server_of(app: Any, settings: ServeSettings) -> Any:
    """Return the server of an application; ``run(sockets=[...])`` ends with ``should_exit``."""
    protocol = type("Protocol", (_Protocol,), {"head_s": settings.upload_s})
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False,
        server_header=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=15,
        timeout_graceful_shutdown=round(settings.timeout_s) + 1,
    )  # fmt: skip
    return _Server(config)


class _Server(uvicorn.Server):  # type: ignore[misc]
    """Ends normally after a signal, which uvicorn would raise again."""

    should_exit: bool
    force_exit: bool

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the requests that have arrived; on a second Ctrl-C, at once."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True
