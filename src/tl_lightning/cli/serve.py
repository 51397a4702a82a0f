"""The command ``tl-serve``: answer requests over HTTP with a trained model."""

from __future__ import annotations

from tl_lightning.cli.common import options_of, plain_command
from tl_lightning.errors import ConfigError

__all__ = ["serve", "start"]

_USAGE = (
    "usage: serve.py checkpoint=<run folder or file.ckpt> [host=127.0.0.1] [port=8000]\n"
    "                [precision=<0 to 1>] [max_batch=32] [max_wait_ms=5] [max_mb=20]\n"
    "                [max_pixels=50000000] [timeout_s=30] [allow=[<import path of a class>]]\n"
    "Answers POST /predict with JSON (images as base64, texts or vectors) or files of a form;\n"
    "GET /health, /model and /metrics. precision=0.95 abstains where the class is not certain\n"
    "enough. All settings are in conf/serve/default.yaml."
)


def serve() -> None:
    """Serve a model: ``tl-serve checkpoint=<run or file>``."""
    plain_command(lambda arguments: start(arguments, demo=False), _USAGE)


def start(arguments: list[str], demo: bool) -> None:
    """Check the arguments of ``tl-serve`` or ``tl-demo``, and start the server.

    Raises:
        ConfigError: If an argument is not valid, or a package is missing.
    """
    from tl_lightning.inference.serving.settings import SERVE_KEYS, ServeSettings

    keys = ("checkpoint", "allow", *SERVE_KEYS)
    given = options_of(arguments, keys)
    checkpoint = given.pop("checkpoint", "")
    if not checkpoint:
        raise ConfigError("checkpoint is missing; set checkpoint=<run folder or file.ckpt>")
    given.pop("allow", None)
    settings = ServeSettings.of(given)
    _check_packages("demo.py" if demo else "serve.py")
    from tl_lightning.evaluation.nodes import allowed_classes
    from tl_lightning.inference.serving.start import run_server

    run_server(checkpoint, settings, allowed_classes(arguments), demo)


def _check_packages(command: str) -> None:
    """Raise ConfigError if a package of the extra ``serve`` is missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{command} needs the package {error.name}; run pip install 'tl_lightning[serve]'"
        ) from None
