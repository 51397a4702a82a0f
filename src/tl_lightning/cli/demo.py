"""The command ``tl-demo``: a page to try a trained model on."""

from __future__ import annotations

from tl_lightning.cli.common import plain_command
from tl_lightning.cli.serve import serving_options, start
from tl_lightning.cli.usage import SERVES, Usage

__all__ = ["demo"]

USAGE = Usage(
    ("demo.py checkpoint=<run or file.ckpt> [<option>=<value> ...]",),
    "Serve a page on this machine: choose, drop or paste an image, or enter a text, and see the "
    "likeliest classes with calibrated probabilities, what the prediction depends on (Grad-CAM), "
    "the nearest labelled samples of the source, and whether the model should rather abstain.",
    serving_options(),
    ("demo.py checkpoint=runs/a precision=0.9",),
    SERVES,
)


def demo() -> None:
    """Serve a page to try a model on: ``tl-demo checkpoint=<run or file>``."""
    plain_command(lambda arguments: start(arguments, demo=True), USAGE)
