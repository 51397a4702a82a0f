"""Limits of a request that hold before its body is read, and headers of every response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from tl_lightning.inference.serving.refusal import Refusal, busy
from tl_lightning.inference.serving.settings import MEGABYTE, ServeSettings

__all__ = ["Limits", "refused"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Of every response. A page may set a policy of its own.
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
#: Seconds for which the rest of a refused body is read and discarded: a connection that is closed
#: while the client still sends may lose the answer.
LINGER_S = 2.0
#: Names under which a server that listens at loopback may be addressed.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def refused(refusal: Refusal) -> JSONResponse:
    """Return the response of a refusal."""
    return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)


class Limits:
    """ASGI middleware: size and duration of bodies, the sum of all bodies, and host names.

    A body is counted as it arrives, so that nothing more than the limit is held, also without a
    ``Content-Length``.

    Args:
        app: The application.
        settings: Those of the server.
        hosts: Accepted values of the header ``Host`` without port; None: any. A web page of another
            origin could otherwise reach a server at loopback through a name of its own (DNS
            rebinding).
        on_answer: Called with the status of every response.
    """

    def __init__(
        self, app: Any, settings: ServeSettings, hosts: tuple[str, ...] | None,
        on_answer: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.app = app
        self.settings = settings
        self.hosts = hosts
        self.on_answer = on_answer
        #: Bytes of all bodies that are held now.
        self.held = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive, send)
        try:
            problem = self._problem(scope) or body.announced()
            if problem is not None:
                await refused(problem)(scope, body.receive, body.send)
                return
            await self.app(scope, body.receive, body.send)
        finally:
            self.held -= body.held

    def _problem(self, scope: Message) -> Refusal | None:
        if self.hosts is None:
            return None
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode(
            "latin-1"
        )
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() in self.hosts:
            return None
        return Refusal(
            421, "unknown_host", f"this server answers only as {' or '.join(self.hosts)}"
        )


class _Body:
    """The body of one request."""

    def __init__(self, limits: Limits, scope: Message, receive: Receive, send: Send) -> None:
        self.limits = limits
        self.settings = limits.settings
        self.incoming, self.outgoing = receive, send
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() else None
        #: Whether there is more to receive.
        self.more = bool(self.length) or b"transfer-encoding" in headers
        self.received = self.held = 0
        self.end = time.monotonic() + self.settings.upload_s

    @property
    def most(self) -> int:
        """Limit of a body in bytes."""
        return round(self.settings.max_mb * MEGABYTE)

    def announced(self) -> Refusal | None:
        """Return why a body is refused whose length is known, before any of it is read."""
        return None if self.length is None else self._reserve(self.length)

    def _reserve(self, size: int) -> Refusal | None:
        """Count bytes as held, or return why they cannot be."""
        if size > self.most:
            return Refusal(
                413, "body_too_large",
                f"the body is larger than {self.settings.max_mb:g} MB; send smaller files or fewer",
            )  # fmt: skip
        more = max(0, size - self.held)
        if self.limits.held + more > self.settings.max_buffered_mb * MEGABYTE:
            return busy("busy", "other requests fill the memory for uploads; try again in a moment")
        self.limits.held += more
        self.held += more
        return None

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            Refusal: If the body becomes too large (413) or takes too long (408).
        """
        if not self.more:
            return await self.incoming()
        try:
            async with asyncio.timeout(self.end - time.monotonic()):
                message = await self.incoming()
        except TimeoutError:
            raise Refusal(
                408, "upload_too_slow",
                f"the body did not arrive within {self.settings.upload_s:g} s",
            ) from None  # fmt: skip
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.more = message.get("more_body", False)
            problem = self._reserve(self.received)
            if problem is not None:
                raise problem
        else:  # disconnected
            self.more = False
        return message

    async def send(self, message: Message) -> None:
        """Send a response with the headers of every response; end the connection if it has to."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            headers += [pair for pair in HEADERS.items() if pair[0] not in names]
            if self.more:
                headers.append((b"connection", b"close"))
            self.limits.on_answer(message["status"])
            message = {**message, "headers": headers}
        elif self.more and not message.get("more_body", False):
            await self.outgoing({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self.outgoing(message)

    async def _discard(self) -> None:
        """Read the rest of the body for a short time."""
        try:
            async with asyncio.timeout(LINGER_S):
                while self.more:
                    message = await self.incoming()
                    self.more = message.get("more_body", False)
        except TimeoutError:
            pass
