"""Access to the Hugging Face hub that does not wait for a network that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hub_access"]

#: Seconds to wait for an answer of the hub.
TIMEOUT = 5.0


@contextmanager
def hub_access() -> Iterator[None]:
    """Use only files on this machine if the hub cannot be reached.

    The hub's client repeats each of several requests with growing pauses, about a minute in total,
    also for files that it has cached. One short request tells whether that is worthwhile.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode() or _reachable(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _reachable(address: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=TIMEOUT)  # with the client's settings of proxies
    except Exception:  # its HTTP library differs between versions, and so do the errors
        return False
    return True
