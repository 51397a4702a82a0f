"""Settings of an export, checked before work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tl_lightning.config.paths import folder_problem
from tl_lightning.errors import ConfigError, nearest

__all__ = ["FORMATS", "PRECISIONS", "RESIZE", "SUFFIXES", "Settings", "require_packages"]

#: File suffix by format.
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
FORMATS = tuple(SUFFIXES)
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
RESIZE = ("auto", "true", "false")


@dataclass(frozen=True)
class Settings:
    """What to export and how.

    Attributes:
        out: New folder, or new file with the suffix of the format: then only the model is written.
        format: ``onnx``, ``torch_export`` or ``safetensors``.
        precision: Of weights and computation; inputs and outputs do not depend on it.
        resize: Whether the network resizes and crops images of any size; auto: if it can do so
            exactly as in training.
        abstain: Fraction of the predictions that should be right, for the threshold; None for none.
        samples: Folder of images, or file of texts or vectors, to compare with the checkpoint on;
            None: those of the run.
        count: Number of samples to compare on.
        max_loss: Largest loss of a reduced precision, see :func:`.parity.check_loss`; None: its
            defaults.
        allow: Full names of additional classes that the checkpoint's configuration may build.

    Raises:
        ConfigError: If they are not valid; lists all problems.
    """

    out: Path
    format: str = "onnx"
    precision: str = "float32"
    resize: str = "auto"
    abstain: float | None = None
    samples: Path | None = None
    count: int = 200
    max_loss: float | None = None
    allow: Sequence[str] = ()

    def __post_init__(self) -> None:
        problems = [
            f"{key}={value} is not supported; {nearest(value, choices)}"
            for key, value, choices in (
                ("format", self.format, FORMATS), ("precision", self.precision, PRECISIONS),
                ("resize", self.resize, RESIZE),
            )
            if value not in choices
        ]  # fmt: skip
        if not problems:
            problems += self._combinations()
        problems += self._ranges()
        if problem := self._place():
            problems.append(problem)
        if problems:
            raise ConfigError(problems)

    @property
    def file(self) -> Path | None:
        """The only file to write; None if a folder is written."""
        return self.out if self.out.suffix in SUFFIXES.values() else None

    def _combinations(self) -> list[str]:
        found = []
        if self.precision == "int8" and self.format != "onnx":
            found.append(
                f"precision=int8 is not supported with format={self.format}; set format=onnx"
            )
        if self.precision == "bfloat16" and self.format == "onnx":
            found.append(
                "precision=bfloat16 is not supported with format=onnx, as ONNX Runtime computes no "
                "convolutions in it on a CPU; set precision=float16, or format=torch_export"
            )
        if self.resize == "true" and self.format != "torch_export":
            found.append(
                f"resize=true is not supported with format={self.format}, whose resizing is not "
                "that of training; set format=torch_export, or resize images as in "
                "preprocessing.json and predict_numpy.py of the exported folder"
            )
        return found

    def _ranges(self) -> list[str]:
        found = []
        if self.abstain is not None and not 0 < self.abstain < 1:
            found.append(
                f"abstain={self.abstain:g} is not a fraction between 0 and 1; set abstain=0.95"
            )
        if self.count < 1:
            found.append(f"count={self.count} must be at least 1; set count=200")
        if self.max_loss is not None and not 0 <= self.max_loss <= 1:
            found.append(f"max_loss={self.max_loss:g} must be between 0 and 1; set max_loss=0.02")
        return found

    def _place(self) -> str | None:
        out = self.out
        if self.file is not None and self.format in SUFFIXES:
            if out.suffix != SUFFIXES[self.format]:
                return (
                    f"out={out} has the suffix {out.suffix}, but format={self.format} is written "
                    f"as {SUFFIXES[self.format]}; set out=<folder or file>"
                    f"{SUFFIXES[self.format]}"
                )
            if out.exists():
                return f"out={out} exists; set out=<another file>, or move it away"
            return folder_problem(out.absolute().parent, "out")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            return f"out={out} exists and is not empty; set out=<another folder>"
        return folder_problem(out.absolute(), "out")


#: Packages of the extra ``export``.
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages(format: str) -> None:
    """Raise ConfigError if a package that a format needs is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if format == "onnx" and missing:
        raise ConfigError(
            f"format=onnx requires the packages {', '.join(missing)}; run "
            "pip install 'tl_lightning[export]', or set format=torch_export"
        )
