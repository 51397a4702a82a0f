"""The command ``tl-demo``: a page to try a trained model on."""

from __future__ import annotations

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.serve import start

__all__ = ["demo"]

_USAGE = (
    "usage: demo.py checkpoint=<run folder or file.ckpt> [port=8000] [precision=<0 to 1>]\n"
    "               [any other setting of serve.py]\n"
    "Serves a page on this machine: choose, drop or paste an image, or enter a text, and see the\n"
    "likeliest classes with calibrated probabilities, what the prediction depends on (Grad-CAM),\n"
    "the nearest labelled samples of the source, and whether the model should rather abstain."
)


def demo() -> None:
    """Serve a page to try a model on: ``tl-demo checkpoint=<run or file>``."""
    plain_command(lambda arguments: start(arguments, demo=True), _USAGE)
