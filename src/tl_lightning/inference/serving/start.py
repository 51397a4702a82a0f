"""From a checkpoint and settings to a running server."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.serving.answers import Model
from tl_lightning.inference.serving.app import Service, create_app
from tl_lightning.inference.serving.server import address, bound, hosts_of, is_loopback, serve
from tl_lightning.inference.serving.settings import ServeSettings
from tl_lightning.utils.console import say

__all__ = ["run_server"]


def run_server(
    checkpoint: str, settings: ServeSettings, allow: Sequence[str] = (), demo: bool = False
) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C.

    Args:
        checkpoint: A checkpoint or run folder.
        settings: Of the server.
        allow: Full names of additional classes that the checkpoint's configuration may build.
        demo: Whether ``/`` is a page to try the model on.

    Raises:
        ConfigError: If the host or port cannot be used, the precision cannot be assured, or the
            page does not support the model.
        CheckpointError: If the checkpoint cannot be loaded.
    """
    # Larger images are refused by their header; a line about each would only fill the log.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    opened = bound(settings)  # before loading, which takes seconds
    try:
        service = loaded(checkpoint, settings, allow)
        app = create_app(service, hosts_of(opened, settings))
        if demo:
            from tl_lightning.inference.serving.demo import add_demo

            add_demo(app, service)
        where = address(opened)
        what = "open" if demo else "POST to"
        path = "/" if demo else "/predict"
        say(f"{service.model.name} ({service.model.predictor.kind}): {what} {where}{path}")
        if not is_loopback(opened):
            say(
                f"note: host={settings.host} can be reached from other machines, without login "
                "and encryption; put a proxy with both in front, or set host=127.0.0.1"
            )
        say("stop with Ctrl-C")
        serve(app, opened, settings)
    finally:
        opened.close()
    counts = service.worker.counts
    say(f"stopped: {counts.samples} samples predicted in {counts.batches} batches")


def loaded(checkpoint: str, settings: ServeSettings, allow: Sequence[str]) -> Service:
    """Return a service whose model has predicted once, so that the first request is not slower."""
    predictor = Predictor.open(checkpoint, allow)
    predictor.needs_classes("serving")
    service = Service(Model.of(predictor, settings.precision), settings)
    sample = _samples[predictor.kind](predictor)
    predictor.outputs(sample)
    return service


def _image(predictor: Predictor) -> torch.Tensor:
    size = predictor.spec.size
    return torch.zeros(1, 3, size, size, dtype=torch.uint8)


def _text(predictor: Predictor) -> torch.Tensor:
    return predictor.tokens(["a"])[0]


def _vector(predictor: Predictor) -> torch.Tensor:
    return torch.zeros(1, predictor.spec.width)


_samples: dict[str, Callable[[Predictor], torch.Tensor]] = {
    "images": _image, "texts": _text, "vectors": _vector,
}  # fmt: skip
