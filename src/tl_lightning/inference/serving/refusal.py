"""The answer to a request that cannot be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Refusal", "busy"]

#: Seconds after which a client should try again.
RETRY_S = 1


class Refusal(Exception):
    """Ends a request with an error status and a JSON body.

    Args:
        status: HTTP status.
        code: Short name of the reason, which programs can rely on.
        message: What is wrong and what is accepted, for people; must not name anything of this
            machine.
        index: Which input of the request it is about, counted from 0.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        index: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.index = index
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body: ``error``, ``message`` and, for one input of several, ``index``."""
        found: dict[str, Any] = {"error": self.code, "message": self.message}
        return found if self.index is None else {**found, "index": self.index}

    def at(self, index: int) -> Refusal:
        """Return the same refusal, about one input of the request."""
        return Refusal(self.status, self.code, self.message, index, self.headers)


def busy(code: str, message: str) -> Refusal:
    """Return a refusal after which the client should try again."""
    return Refusal(503, code, message, headers={"Retry-After": str(RETRY_S)})
