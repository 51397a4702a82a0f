"""The command ``tl-export``: write a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import options_of, plain_command
from tl_lightning.cli.usage import CHECKPOINT, Usage
from tl_lightning.errors import ConfigError
from tl_lightning.utils.text import printable

__all__ = ["export"]

_KEYS = (
    "checkpoint", "out", "format", "precision", "resize", "abstain", "samples", "count", "max_loss",
    "allow",
)  # fmt: skip


USAGE = Usage(
    ("export.py checkpoint=<run or file.ckpt> out=<new folder or file> [<option>=<value> ...]",),
    "Write the network with normalisation and calibrated probabilities for other programs. The "
    "file is compared with the checkpoint on real samples, and kept only if it agrees; see "
    "docs/export.md.",
    {
        "Model": CHECKPOINT,
        "Output": {
            "out": "new folder, or new file with the suffix of the format",
            "format": "onnx, torch_export or safetensors (default: onnx)",
            "precision": "float32, float16, bfloat16 or int8 (default: float32)",
            "resize": "whether the network resizes images: auto, true or false (default: auto)",
            "abstain": "such as 0.95: store the probability from which that fraction is right",
        },
        "Comparison": {
            "samples": "folder of images, or file of texts or vectors (default: those of the run)",
            "count": "number of samples to compare on (default: 200)",
            "max_loss": "largest loss of a reduced precision, from 0 to 1",
        },
    },
    (
        "export.py checkpoint=runs/a out=exported",
        "export.py checkpoint=runs/a out=model.pt2 format=torch_export",
    ),
)


def export() -> None:
    """Write a model file: ``tl-export checkpoint=<run or file> out=<folder>``."""
    plain_command(_export, USAGE)


def _export(arguments: list[str]) -> None:
    given = options_of(arguments, _KEYS)
    for key, hint in (("checkpoint", "<run folder or file.ckpt>"), ("out", "<new folder or file>")):
        if not given.get(key):
            raise ConfigError(f"{key} is missing; set {key}={hint}")
    from tl_lightning.evaluation.nodes import allowed_classes
    from tl_lightning.inference.export.settings import Settings, require_packages

    chosen: dict[str, Any] = {
        key: given[key] for key in ("format", "precision", "resize") if key in given
    }
    numbers = {"abstain": (float, "0.95"), "count": (int, "200"), "max_loss": (float, "0.02")}
    chosen |= {
        key: _number(key, given[key], kind, example)
        for key, (kind, example) in numbers.items()
        if key in given
    }
    samples = Path(given["samples"]).expanduser() if given.get("samples") else None
    settings = Settings(
        out=Path(given["out"]).expanduser(), samples=samples, allow=allowed_classes(arguments),
        **chosen,
    )  # fmt: skip
    require_packages(settings.format)
    check_place(given["checkpoint"])  # the next import takes seconds
    from tl_lightning.inference.export.write import export_model

    for line in report(export_model(given["checkpoint"], settings)):
        print(printable(line))
    print(f"exported: {settings.out}")


def _number(key: str, text: str, kind: Any, example: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={text} is not a number; set {key}={example}") from None


def report(description: dict[str, Any]) -> list[str]:
    """Return what was compared, and with what result, in lines.

    Args:
        description: Content of ``model.json``.
    """
    parity = description["parity"]
    lines = [f"compared on {parity['float32']['samples']} samples: {parity['samples_are']}"]
    for precision, found in parity.items():
        if precision == "samples_are":
            continue
        lines.append(
            f"{precision}: probabilities differ by at most "
            f"{found['max_difference_of_probabilities']:.1e}, the same class for "
            f"{100 * found['same_class']:.1f} % of the samples"
        )
        if "accuracy_of_export" in found and precision != "float32":
            before, after = (found[f"accuracy_of_{name}"] for name in ("checkpoint", "export"))
            lines.append(
                f"{precision}: accuracy {100 * after:.1f} %, that of the checkpoint "
                f"{100 * before:.1f} %"
            )
        if "speed" in found:
            speed = found["speed"]
            lines.append(
                f"{precision}: {speed['per_second']:.0f} samples/s in batches of {speed['batch']} "
                f"on {speed['threads']} CPU thread(s), {speed['speed']:.2f} times as fast as "
                "float32"
            )
    return lines
