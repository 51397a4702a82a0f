"""The Hugging Face hub is not waited for where it cannot be reached."""

from __future__ import annotations

import socket
import time

import pytest

from layouts import served
from tl_lightning.backbones.hub import hub_access
from tl_lightning.backbones.vision import TimmBackbone
from tl_lightning.errors import CheckpointError

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def unreachable(monkeypatch) -> None:
    """Set the hub's address to a port that nobody listens on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


def test_only_local_files_are_used_while_the_hub_cannot_be_reached(unreachable) -> None:
    with hub_access():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
    with pytest.raises(ZeroDivisionError), hub_access():
        raise ZeroDivisionError
    assert not constants.is_offline_mode()


def test_a_hub_that_answers_is_used(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with served({}) as address:  # it answers that the page does not exist
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with hub_access():
            assert not constants.is_offline_mode()


def test_a_network_without_weights_is_an_error_within_seconds(unreachable, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="pretrained weights of backbone vit_tiny_patch16_2"):
        TimmBackbone(
            name="vit_tiny_patch16_224", pretrained=True, weights=None, size=None, lr_factor=0.1,
            grad_checkpointing=False, freeze_bn=False,
        )  # fmt: skip
    assert time.monotonic() - started < 20
