"""The command ``tl-serve``: answer requests over HTTP with a trained model."""

from __future__ import annotations

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import options_of, plain_command
from tl_lightning.cli.usage import CHECKPOINT, SERVES, Usage
from tl_lightning.config.reference import choice_of
from tl_lightning.errors import ConfigError

__all__ = ["serve", "serving_options", "start"]

#: Settings of ``conf/serve/default.yaml`` by section of the help text.
_SECTIONS = {
    "Server": ("host", "port"),
    "Predictions": ("precision", "top"),
    "Speed": ("max_batch", "max_wait_ms", "threads"),
    "Limits": (
        "max_queue", "max_inputs", "max_mb", "max_buffered_mb", "max_pixels", "max_characters",
        "upload_s", "timeout_s",
    ),
}  # fmt: skip


def serving_options() -> dict[str, dict[str, str]]:
    """Return the options of ``tl-serve`` and ``tl-demo`` with their comments, by section."""
    known = {item.path.rpartition(".")[2]: item for item in choice_of("serve", "default").settings}
    found: dict[str, dict[str, str]] = {"Model": CHECKPOINT}
    for title, names in _SECTIONS.items():
        found[title] = {
            name: f"{known[name].comment} (default: {known[name].default})" for name in names
        }
    return found


USAGE = Usage(
    ("serve.py checkpoint=<run or file.ckpt> [<option>=<value> ...]",),
    "Answer POST /predict with JSON (images as base64, texts or vectors) or files of a form, and "
    "GET /health, /model and /metrics. Stops on SIGTERM or Ctrl-C once requests are answered.",
    serving_options(),
    ("serve.py checkpoint=runs/a port=8080 precision=0.95",),
    SERVES,
)


def serve() -> None:
    """Serve a model: ``tl-serve checkpoint=<run or file>``."""
    plain_command(lambda arguments: start(arguments, demo=False), USAGE)


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
    check_place(checkpoint)  # the next imports take seconds
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
