"""Reading of an exported ONNX model: only numpy, Pillow and onnxruntime are needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tl_lightning.errors import CheckpointError, ConfigError, DataError
from tl_lightning.inference.export.predict_numpy import prepared
from tl_lightning.utils.files import read_json

__all__ = ["ExportedModel", "load_exported", "session"]


def session(file: Path, threads: int = 0) -> Any:
    """Return ONNX Runtime's session of a file, on the CPU.

    Args:
        file: The file.
        threads: Number of threads; 0: one per core.

    Raises:
        ConfigError: If onnxruntime is not installed.
        CheckpointError: If the file cannot be loaded.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"reading {file.name} requires onnxruntime ({error}); run "
            "pip install 'tl_lightning[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has its own types without a common base
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} cannot be loaded by ONNX Runtime ({reason}); export the model again"
        ) from error


@dataclass(frozen=True)
class ExportedModel:
    """An exported ONNX model with its description.

    Attributes:
        network: ONNX Runtime's session.
        description: Content of ``model.json``.
    """

    network: Any
    description: dict[str, Any]

    @classmethod
    def open(cls, place: str | Path, threads: int = 0) -> Self:
        """Load a folder written by ``tl-export format=onnx``, or its file ``model.onnx``.

        Args:
            place: The folder or file.
            threads: Number of threads; 0: one per core.

        Raises:
            CheckpointError: If it is not such a folder or file.
        """
        file = Path(place).expanduser()
        if file.is_dir():
            file /= str(read_json(file / "model.json").get("file"))
        if file.suffix != ".onnx" or not file.is_file():
            raise CheckpointError(
                f"{place} is not a model exported by tl-export format=onnx; pass its folder or its "
                "file model.onnx"
            )
        network = session(file, threads)
        text = network.get_modelmeta().custom_metadata_map.get("tl_lightning")
        if text is None:
            raise CheckpointError(
                f"{file} was not written by tl-export, as its metadata have no entry tl_lightning; "
                "export a checkpoint with tl-export"
            )
        return cls(network, json.loads(text))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return tuple(self.description["classes"])

    @property
    def threshold(self) -> float | None:
        """Probability below which the model abstains; None if none was asked for."""
        found = self.description["abstain"]
        return None if found is None else float(found["threshold"])

    def image(self, file: Path) -> NDArray[np.uint8]:
        """Return the input ``(1, 3, S, S)`` for an image file.

        Raises:
            DataError: If the model does not classify images.
        """
        rules = self.description["input"].get("preprocessing")
        if rules is None:
            raise DataError(
                f"the exported model classifies {self.description['input']['kind']}, not images; "
                "pass an array of its inputs"
            )
        pixels: NDArray[np.uint8] = prepared(file, rules)
        return pixels

    def __call__(self, inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name for a batch of inputs."""
        names = [output.name for output in self.network.get_outputs()]
        return dict(zip(names, self.network.run(names, {"inputs": inputs}), strict=True))


def load_exported(place: str | Path, threads: int = 0) -> ExportedModel:
    """Load an exported ONNX model, see :meth:`ExportedModel.open`."""
    return ExportedModel.open(place, threads)
